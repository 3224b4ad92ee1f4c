"""The app: what all routes share, and how they are put together."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...core.errors import FedcosimError
from ...hwsim.client import ENDPOINT, TOKEN, Client, connect
from ..architectures import example
from ..architectures import names as model_names
from ..jobs import Jobs
from ..store import Store
from ..trained import Trained
from . import auth, catalogue, experiments, pages, problems, streams

LARGEST_BODY_BYTES = 2**20
ESTIMATE_S = 120.0
"""Most time for one answer of a hardware simulator."""
SUMMARY = "Launch, watch and compare federated learning experiments, and ask what they would cost on other hardware."


def simulators() -> Client:
    """Return the hardware simulators: those that the environment names, or some in this process."""
    here: dict[str, Any] = {"models": example, "model_names": model_names(), "trained": Trained(), "deadline_s": ESTIMATE_S}
    return connect(os.environ.get(ENDPOINT), os.environ.get(TOKEN), **here)


@dataclass(frozen=True)
class Service:
    """What the routes work with.

    Attributes
    ----------
    tokens : mapping, optional
        Who may do what; None: everybody everything, on this computer only.
    hwsim : Client
        Whom hardware estimates are asked from.
    """

    store: Store
    jobs: Jobs
    tokens: Mapping[str, auth.Token] | None = None
    hwsim: Client = field(default_factory=simulators)


def create_app(service: Service) -> FastAPI:
    """Make the app.

    Parameters
    ----------
    service : Service
        Started with the app, and stopped with it; its jobs go on.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.jobs.start()
        yield
        await run_in_threadpool(service.jobs.close)
        service.store.close()

    app = FastAPI(
        title="fedcosim", summary=SUMMARY, version=version("fedcosim"), lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service, app.state.tokens = service, service.tokens
    problems.install(app)
    for routes in (experiments.router, streams.router, catalogue.router):
        app.include_router(routes, prefix="/v1", responses=problems.RESPONSES)
    _operations(app, service)
    pages.add_to(app)
    app.add_middleware(BodyLimit, most=LARGEST_BODY_BYTES)
    return app


def _operations(app: FastAPI, service: Service) -> None:
    """Add what operators and orchestrators ask for; open to everybody, tells nothing of any experiment."""
    registry = CollectorRegistry()
    requests = Counter("fedcosim_http_requests", "Requests", ("method", "route", "status"), registry=registry)
    states = Gauge("fedcosim_experiments", "Experiments by status", ("status",), registry=registry)

    @app.middleware("http")
    async def count(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        route = getattr(request.scope.get("route"), "path", "none")
        requests.labels(request.method, route, response.status_code).inc()
        return response

    @app.get("/healthz", tags=["operations"])
    def healthz() -> dict[str, str]:
        """Say that this process lives."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operations"], responses={503: problems.RESPONSES[503]})
    def readyz() -> dict[str, str]:
        """Say that the database and Ray answer."""
        service.store.check()
        try:
            service.jobs.check()
        except (RuntimeError, OSError) as error:
            raise problems.ProblemError(503, f"Ray does not answer: {error}") from None
        return {"status": "ready"}

    @app.get("/metrics", tags=["operations"])
    def metrics() -> Response:
        """Return figures for Prometheus."""
        try:
            for status, number in service.store.counts().items():
                states.labels(status).set(number)
        except FedcosimError:
            states.clear()
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class BodyLimit:
    """Middleware: reads a request's body, and refuses it as soon as it is too large, before anybody parses it."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        size = int(declared) if declared.isdigit() else 0
        messages: deque[Message] = deque()
        while size <= self.most:
            messages.append(await receive())
            size = sum(len(message.get("body", b"")) for message in messages)
            if not messages[-1].get("more_body"):
                break
        if size > self.most:
            await problems.response(413, f"the body is larger than {self.most} bytes")(scope, receive, send)
            return

        async def again() -> Message:
            return messages.popleft() if messages else await receive()

        await self.app(scope, again, send)
