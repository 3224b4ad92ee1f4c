"""Errors as RFC 9457 problem details: one shape for everything that goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ...core.errors import FedcosimError, RunError, SpecError
from ...hwsim.simulator import HwsimError
from ..store import StoreError, TakenKeyError

HTTP_OF_GRPC = {
    "INVALID_ARGUMENT": 422,
    "OUT_OF_RANGE": 422,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 409,
    "UNIMPLEMENTED": 501,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
CODES: list[tuple[type[FedcosimError], int]] = [(SpecError, 422), (TakenKeyError, 409), (StoreError, 503), (RunError, 409)]


class Problem(BaseModel):
    """What went wrong."""

    type: str = "about:blank"
    title: str
    """The status in words."""
    status: int
    detail: str
    """What is wrong, in a sentence."""
    errors: list[str] = []
    """One sentence a problem, each naming the field, its value and what is allowed."""


class ProblemError(Exception):
    """Ends a request with a problem."""

    def __init__(self, status: int, detail: str, errors: Sequence[str] = (), **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.headers = status, detail, list(errors), headers


def response(status: int, detail: str, errors: Sequence[str] = (), headers: dict[str, str] | None = None) -> JSONResponse:
    """Make the response."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors))
    return JSONResponse(problem.model_dump(), status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Let an app answer every error with a problem."""

    @app.exception_handler(ProblemError)
    async def _problem(_: Request, error: ProblemError) -> JSONResponse:
        return response(error.status, error.detail, error.errors, error.headers)

    @app.exception_handler(FedcosimError)
    async def _ours(_: Request, error: FedcosimError) -> JSONResponse:
        if isinstance(error, HwsimError):
            return response(HTTP_OF_GRPC.get(error.code, 500), str(error), [f"{error.field}: {error}"] if error.field else [])
        status = next((code for kind, code in CODES if isinstance(error, kind)), 500)
        problems = error.problems if isinstance(error, SpecError) else []
        return response(
            status, str(error), problems, {"Retry-After": "2"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
        )

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        sentences = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return response(422, sentences[0], sentences)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return response(error.status_code, str(error.detail), headers=dict(error.headers or {}))


RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": HTTPStatus(code).phrase} for code in (401, 403, 404, 409, 413, 422, 503)
}
"""For OpenAPI."""
