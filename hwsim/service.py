"""One gRPC server that hosts any of the simulators, with the standard health and reflection services beside them.

Work is done in the handlers' threads, as many at once as `Limits.concurrency`; what comes on top is refused at once with a
hint when to come again, so that nothing queues for ever and threads are left to answer health checks.
"""

from __future__ import annotations

import hmac
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from ..core.errors import SpecError
from .simulator import HwsimError, Job
from .simulators import Simulator
from .v1 import common_pb2
from .wire import decode, encode

PACKAGE = "fedcosim.hwsim.v1"
_LAST_WORDS_S = 0.5  # for answers that are on their way when the server ends
_LONGEST_MESSAGE_BYTES = 1000  # a status travels in headers, of which gRPC takes 8 KiB, three times and encoded
_LARGEST_MESSAGE_BYTES = 4 * 2**20  # gRPC's own limit
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes
    ----------
    concurrency : int
        Requests that are worked on at once.
    deadline_s : float
        Time for a request that names no deadline, and the most for one that does.
    spare_threads : int
        Threads that are left for health checks and refusals while all work is going on.
    """

    concurrency: int = 2
    deadline_s: float = 120.0
    spare_threads: int = 16


@dataclass(frozen=True)
class Tls:
    """The server's certificate chain and key, PEM; with `client_ca`, clients must show a certificate of that authority."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None

    @classmethod
    def read(cls, certificate: Path, key: Path, client_ca: Path | None = None) -> Tls:
        """Read PEM files.

        Raises
        ------
        SpecError
            If one cannot be read.
        """
        try:
            return cls(certificate.read_bytes(), key.read_bytes(), client_ca.read_bytes() if client_ca else None)
        except OSError as error:
            raise SpecError(f"{error.filename}: cannot be read ({error.strerror}); give a PEM file") from None


class Host:
    """A server with its simulators.

    Parameters
    ----------
    simulators : mapping of str to Simulator
        By name.
    address : str
        `host:port`; port 0 takes a free one, see `port`.
    token : str, optional
        What callers must present as `authorization: Bearer <token>`; health checks need none.
    metrics_port : int, optional
        Where Prometheus finds `/metrics`, on the same host; 0 takes a free one, see the attribute of that name.

    Raises
    ------
    SpecError
        If the address cannot be listened on.
    """

    def __init__(
        self,
        simulators: Mapping[str, Simulator],
        address: str,
        limits: Limits = Limits(),  # noqa: B008 - immutable
        tls: Tls | None = None,
        token: str | None = None,
        metrics_port: int | None = None,
    ) -> None:
        gate, metrics = _Gate(limits.concurrency), _Metrics()
        threads = ThreadPoolExecutor(limits.concurrency + limits.spare_threads, thread_name_prefix="hwsim")
        self._server = grpc.server(threads, interceptors=[_Token(token)] if token else [])
        self._health = health.HealthServicer()
        self._gate, self._simulators = gate, list(simulators.values())
        self._names = [f"{PACKAGE}.{simulator.service}" for simulator in simulators.values()]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for name, simulator in simulators.items():
            messages, stubs = (import_module(f"{PACKAGE}.{name}_{kind}") for kind in ("pb2", "pb2_grpc"))
            servicer = _Servicer(name, simulator, messages, limits, gate, metrics)
            getattr(stubs, f"add_{simulator.service}Servicer_to_server")(servicer, self._server)
        reflection.enable_server_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self.port = self._listen(address, tls)
        self._metrics_server = None if metrics_port is None else metrics.served(address.rpartition(":")[0], metrics_port)
        self.metrics_port = self._metrics_server and self._metrics_server.server_port

    def _listen(self, address: str, tls: Tls | None) -> int:
        try:
            if tls is None:
                return self._server.add_insecure_port(address)
            pair = [(tls.key, tls.certificate)]
            wants_client = tls.client_ca is not None
            return self._server.add_secure_port(address, grpc.ssl_server_credentials(pair, tls.client_ca, wants_client))
        except RuntimeError:
            raise SpecError(f"{address}: cannot be listened on; choose another address or port") from None

    def start(self) -> None:
        """Answer health checks, let simulators compile what they need, then serve, and say so to health checks."""
        self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._server.start()
        for simulator in self._simulators:
            simulator.warm_up()
        self._gate.open()
        self._say(health_pb2.HealthCheckResponse.SERVING)

    def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *self._names):
            self._health.set(name, status)

    def stop(self, grace_s: float = 10.0) -> None:
        """Take nothing new, finish what is in work (for so many seconds), and end; health checks are told meanwhile."""
        self._gate.close()
        self._health.enter_graceful_shutdown()
        self._gate.emptied(grace_s)
        self._server.stop(_LAST_WORDS_S).wait()
        if self._metrics_server is not None:
            self._metrics_server.shutdown()
            self._metrics_server.server_close()


class _Servicer:
    """The methods of one simulator's service."""

    def __init__(self, name: str, simulator: Simulator, messages: Any, limits: Limits, gate: _Gate, metrics: _Metrics) -> None:
        self.name, self.simulator, self.limits, self.gate, self.metrics = name, simulator, limits, gate, metrics
        self._report = getattr(messages, simulator.Report.__name__)
        self._progress = getattr(messages, f"{simulator.Report.__name__}Progress")

    def Estimate(self, request: Message, context: grpc.ServicerContext) -> Message:  # noqa: N802 - gRPC's name
        """Answer a request."""
        with self._work("Estimate", context) as job:
            return self._answer(request, job)

    def Simulate(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:  # noqa: N802
        """Answer a request and tell on the way how much is done."""
        said: queue.SimpleQueue[Message | BaseException] = queue.SimpleQueue()
        with self._work("Simulate", context) as job:
            telling = Job(job.deadline, job.cancelled, lambda done: said.put(self._progress(done=done)))

            def work() -> None:
                try:
                    said.put(self._progress(report=self._answer(request, telling)))
                except BaseException as error:
                    said.put(error)

            threading.Thread(target=work, name="hwsim-simulate", daemon=True).start()
            while True:
                message = said.get()
                if isinstance(message, BaseException):
                    raise message
                yield message
                if message.WhichOneof("what") == "report":
                    return

    def UploadTrace(self, parts: Iterator[Message], context: grpc.ServicerContext) -> Message:  # noqa: N802
        """Take a trace in, which requests can name from then on."""
        with self._work("UploadTrace", context) as job:
            trace_id, accesses = self.simulator.receive(parts, job)
            return common_pb2.TraceReceipt(trace_id=trace_id, accesses=accesses)

    def GetCapabilities(self, request: Message, context: grpc.ServicerContext) -> Message:  # noqa: N802
        """Say what this simulator is and what its requests can choose from."""
        choices = {name: common_pb2.Choices(names=names) for name, names in self.simulator.capabilities().items()}
        return common_pb2.Capabilities(
            simulator=self.name,
            version=version("fedcosim"),
            choices=choices,
            concurrency=self.limits.concurrency,
            deadline_s=self.limits.deadline_s,
            limits={"message_bytes": _LARGEST_MESSAGE_BYTES} | self.simulator.limits(),
        )

    def _answer(self, request: Message, job: Job) -> Message:
        report = self.simulator.estimate(decode(request, self.simulator.Request), job)
        return encode(report, self._report())

    @contextmanager
    def _work(self, method: str, context: grpc.ServicerContext) -> Iterator[Job]:
        """Let work be done if there is room; whatever goes wrong becomes a status."""
        started = time.perf_counter()
        remaining = context.time_remaining()
        allowed_s = self.limits.deadline_s if remaining is None else min(remaining, self.limits.deadline_s)
        code = "OK"
        try:
            with self.gate.entered(), self.metrics.running.labels(self.name).track_inprogress():
                yield Job(time.monotonic() + allowed_s, lambda: not context.is_active())
        except HwsimError as error:
            code = error.code
            _abort(context, error, self.gate.retry_after_s if isinstance(error, _NotNowError) else None)
        except GeneratorExit:
            code = "CANCELLED"
            raise
        except Exception as error:
            code = "INTERNAL"
            log.exception("%s.%s failed", self.name, method)
            _abort(context, HwsimError(f"the simulator failed: {type(error).__name__}: {error}", "INTERNAL"), None)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.requests.labels(self.name, method, code).inc()
            self.metrics.seconds.labels(self.name, method).observe(seconds)


def _abort(context: grpc.ServicerContext, error: HwsimError, retry_after_s: float | None) -> None:
    """End a call with a status that says which field is at fault and when to come again (google.rpc's error details)."""
    message = str(error).encode()[:_LONGEST_MESSAGE_BYTES].decode(errors="ignore")
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=message)
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message)
        status.details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    if retry_after_s is not None:
        hint = error_details_pb2.RetryInfo()
        hint.retry_delay.FromMilliseconds(int(retry_after_s * 1000))
        status.details.append(_packed(hint))
    context.abort_with_status(rpc_status.to_status(status))


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


class _NotNowError(HwsimError):
    """The request is refused for now, whatever it is."""


_STARTING = "the server is starting; ask again"


class _Gate:
    """Lets so many requests in at once, and none before it was opened and after it was closed."""

    def __init__(self, room: int) -> None:
        self._room, self._rooms, self._usual_s = threading.Semaphore(room), room, 0.1
        self._closed = _STARTING

    @contextmanager
    def entered(self) -> Iterator[None]:
        if self._closed:
            raise _NotNowError(self._closed, "UNAVAILABLE")
        if not self._room.acquire(blocking=False):
            raise _NotNowError(f"all workers are busy; try again in {self.retry_after_s:.2f} s", "RESOURCE_EXHAUSTED")
        started = time.perf_counter()
        try:
            yield
        finally:
            self._usual_s += 0.1 * (time.perf_counter() - started - self._usual_s)
            self._room.release()

    @property
    def retry_after_s(self) -> float:
        """How long it will usually be until there is room."""
        return min(5.0, max(0.02, self._usual_s))

    def open(self) -> None:
        """Let callers in, unless it was closed meanwhile."""
        if self._closed == _STARTING:
            self._closed = ""

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = "the server is shutting down; ask another one"

    def emptied(self, grace_s: float) -> None:
        """Return when all have left, or so many seconds have passed."""
        end = time.monotonic() + grace_s
        for _ in range(self._rooms):
            self._room.acquire(timeout=max(0.0, end - time.monotonic()))


@dataclass
class _Metrics:
    """What Prometheus is told."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.requests = Counter(
            "fedcosim_hwsim_requests", "Requests by status", ["simulator", "method", "code"], registry=self.registry
        )
        self.seconds = Histogram("fedcosim_hwsim_seconds", "Time of requests", ["simulator", "method"], registry=self.registry)
        self.running = Gauge("fedcosim_hwsim_running", "Requests in work", ["simulator"], registry=self.registry)

    def served(self, host: str, port: int) -> WSGIServer:
        """Start to serve them."""
        try:
            return start_http_server(port, host, registry=self.registry)[0]
        except OSError as error:
            raise SpecError(f"metrics port {port}: cannot be listened on ({error.strerror}); choose another one") from None


class _Token(grpc.ServerInterceptor):
    """Refuses callers without the token; health checks, which orchestrators make, need none."""

    def __init__(self, token: str) -> None:
        self._wanted = f"Bearer {token}".encode()

    def intercept_service(self, continuation: Callable, call: grpc.HandlerCallDetails):
        """Let a call through or not."""
        given = next((value for key, value in call.invocation_metadata if key == "authorization"), "")
        if call.method.startswith(f"/{health.SERVICE_NAME}/") or hmac.compare_digest(str(given).encode(), self._wanted):
            return continuation(call)
        handler = continuation(call)

        def refuse(_request: object, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "authorization: missing or wrong; send 'Bearer <token>'")

        kind = _KINDS[bool(handler and handler.request_streaming), bool(handler and handler.response_streaming)]
        return kind(refuse)


_KINDS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def build(names: Sequence[str], **resources: Any) -> dict[str, Simulator]:
    """Make simulators by name; each takes what it needs of the resources.

    Raises
    ------
    HwsimError
        NOT_FOUND for an unknown name.
    """
    from .simulators import load

    return {name: load(name).make(**resources) for name in names}
