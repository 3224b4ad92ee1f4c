"""Ask simulators, in this process or over gRPC: the same requests, reports and errors either way."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from ..core.errors import SpecError
from ..core.options import Options, choose
from .service import PACKAGE
from .simulator import HwsimError, Job, Report
from .simulators import SIMULATORS, Simulator, load
from .wire import decode, encode, fingerprint

if TYPE_CHECKING:
    from .neomem.traces import Trace

ENDPOINT, TOKEN = "FEDCOSIM_HWSIM_ENDPOINT", "FEDCOSIM_HWSIM_TOKEN"
"""Environment variables: which services a process asks where nothing else is said, and what it identifies itself with."""


class Client(Protocol):
    """Somebody who answers requests."""

    def estimate(self, simulator: str, request: Options) -> Any:
        """Return the named simulator's report on a request.

        Raises
        ------
        HwsimError
            If there is none.
        """

    def upload(self, trace: Trace) -> str:
        """Hand a memory trace over; return the name by which requests to `neomem` can refer to it."""


class LocalClient:
    """Simulators in this process.

    Parameters
    ----------
    deadline_s : float, optional
        Most time for one request; as long as it takes when absent.
    resources
        What simulators are made with: `models`.
    """

    def __init__(self, deadline_s: float | None = None, **resources: Any) -> None:
        self._deadline_s, self._resources = deadline_s, resources
        self._made: dict[str, Simulator] = {}

    def estimate(self, simulator: str, request: Options) -> Any:
        """Answer here and now."""
        job = Job() if self._deadline_s is None else Job(time.monotonic() + self._deadline_s)
        return self._simulator(simulator).estimate(request, job)

    def upload(self, trace: Trace) -> str:
        """Keep the trace here."""
        return self._simulator("neomem").traces.add(trace)  # type: ignore[attr-defined]

    def _simulator(self, name: str) -> Simulator:
        if name not in self._made:
            self._made[name] = load(name).make(**self._resources)
        return self._made[name]


@dataclass
class RemoteClient:
    """Simulators behind a gRPC endpoint.

    Attributes
    ----------
    endpoint : str
        `host:port`.
    token : str, optional
        Sent as `authorization: Bearer <token>`.
    root_ca : bytes, optional
        PEM; makes the connection TLS, and this the authority that the server's certificate must be of.
    deadline_s : float
        For one attempt.
    patience_s : float
        How long a server that is away or busy is asked again, after waits that it may name itself. After that was in vain,
        requests of the next `patience_s` seconds are tried once.
    """

    endpoint: str
    token: str | None = None
    root_ca: bytes | None = None
    deadline_s: float = 120.0
    patience_s: float = 30.0
    _channel: grpc.Channel | None = field(default=None, repr=False)
    _impatient_until: float = field(default=0.0, repr=False)

    def estimate(self, simulator: str, request: Options) -> Any:
        """Ask, again if need be."""
        cls = load(simulator)
        messages, stubs = (import_module(f"{PACKAGE}.{simulator}_{kind}") for kind in ("pb2", "pb2_grpc"))
        message = encode(request, getattr(messages, cls.Request.__name__)())
        stub = getattr(stubs, f"{cls.service}Stub")(self._connected())
        patience_s = self.patience_s if time.monotonic() > self._impatient_until else 0.0
        retrying = Retrying(
            retry=retry_if_exception(_is_transient), stop=stop_after_delay(patience_s), wait=_as_told, reraise=True
        )
        try:
            answer = retrying(_call, stub.Estimate, message, self.deadline_s, self._metadata())
        except RemoteError as error:
            if _is_transient(error):
                self._impatient_until = time.monotonic() + self.patience_s
            raise
        return decode(answer, cls.Report)

    def upload(self, trace: Trace) -> str:
        """Send the trace, in pieces with checksums."""
        from .neomem.upload import parts_of

        stub = import_module(f"{PACKAGE}.neomem_pb2_grpc").NeoMemStub(self._connected())
        receipt = _call(stub.UploadTrace, parts_of(trace), self.deadline_s, self._metadata())
        return receipt.trace_id

    def _metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def _connected(self) -> grpc.Channel:
        if self._channel is None:
            options = [("grpc.max_reconnect_backoff_ms", 5000)]  # else two minutes, which is longer than our patience
            if self.root_ca is None:
                self._channel = grpc.insecure_channel(self.endpoint, options)
            else:
                self._channel = grpc.secure_channel(self.endpoint, grpc.ssl_channel_credentials(self.root_ca), options)
        return self._channel

    def close(self) -> None:
        """Hang up."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class RemoteError(HwsimError):
    """What a server said, with its hint when to come again."""

    retry_after_s: float | None = None


def _call(method: Callable, message: Any, deadline_s: float, metadata: list[tuple[str, str]]) -> Any:
    try:
        return method(message, timeout=deadline_s, metadata=metadata)
    except grpc.RpcError as error:
        raise _translated(error) from None


def _translated(error: grpc.RpcError) -> RemoteError:
    field, retry_after_s = "", None
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        request, hint = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(request) and request.field_violations:
            field = request.field_violations[0].field
        elif detail.Unpack(hint):
            retry_after_s = hint.retry_delay.ToTimedelta().total_seconds()
    translated = RemoteError(error.details() or "no details", error.code().name, field)
    translated.retry_after_s = retry_after_s
    return translated


def _is_transient(error: BaseException) -> bool:
    """Say whether to ask again: servers that are busy say when, requests that are too large are so for ever."""
    if not isinstance(error, RemoteError):
        return False
    return error.code == "UNAVAILABLE" or (error.code == "RESOURCE_EXHAUSTED" and error.retry_after_s is not None)


_usual_wait = wait_random_exponential(multiplier=0.1, max=5.0)


def _as_told(state: RetryCallState) -> float:
    """Wait at least as long as the server asked for, with some randomness so that callers do not come back together."""
    error = state.outcome.exception() if state.outcome else None
    return max(getattr(error, "retry_after_s", None) or 0.0, _usual_wait(state))


class CachedClient:
    """Remembers answers by the request's fingerprint; with a folder, all processes that share it ask once between them.

    Parameters
    ----------
    client : Client
        Who is asked what is not known yet.
    folder : Path, optional
        Where answers are kept.
    """

    def __init__(self, client: Client, folder: Path | None = None) -> None:
        self._client, self._folder = client, folder
        self._known: dict[str, Report] = {}
        self._lock = threading.Lock()

    def estimate(self, simulator: str, request: Options) -> Any:
        """Answer from memory, or from the folder, or ask."""
        key = f"{simulator}-{fingerprint(request)}"
        with self._lock:
            if key not in self._known:
                self._known[key] = self._shared(key, simulator, request)
            return self._known[key]

    def upload(self, trace: Trace) -> str:
        """Hand it on."""
        return self._client.upload(trace)

    def _shared(self, key: str, simulator: str, request: Options) -> Report:
        if self._folder is None:
            return self._client.estimate(simulator, request)
        self._folder.mkdir(parents=True, exist_ok=True)
        answer = self._folder / f"{key}.json"
        with (self._folder / f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the first one asks, others wait for its answer
            if answer.exists():
                return load(simulator).Report.model_validate_json(answer.read_text(encoding="utf-8"))
            report = self._client.estimate(simulator, request)
            partial = answer.with_suffix(".part")
            partial.write_text(report.model_dump_json(), encoding="utf-8")
            partial.replace(answer)
            return report


class RoutedClient:
    """Each simulator behind an endpoint of its own.

    Parameters
    ----------
    clients : mapping of str to Client
        Whom to ask, by the simulator's name.
    """

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = dict(clients)

    def estimate(self, simulator: str, request: Options) -> Any:
        """Ask the one that has the simulator."""
        return self._with(simulator).estimate(simulator, request)

    def upload(self, trace: Trace) -> str:
        """Send the trace to whom requests to `neomem` go."""
        return self._with("neomem").upload(trace)

    def _with(self, simulator: str) -> Client:
        if simulator not in self._clients:
            raise HwsimError(
                f"simulator {simulator!r}: no endpoint is given for it; {choose(simulator, self._clients)}", "NOT_FOUND"
            )
        return self._clients[simulator]


def connect(
    endpoint: str | None = None,
    token: str | None = None,
    root_ca: Path | None = None,
    patience_s: float = 30.0,
    **resources: Any,
) -> Client:
    """Return simulators at an endpoint, or in this process if there is none.

    Parameters
    ----------
    endpoint : str, optional
        `host:port` of a service with all of them, or `roofline=host:port,neomem=host:port` for one a service.

    Raises
    ------
    SpecError
        If the authority's certificate cannot be read, or the endpoint names no simulator that there is.
    """
    if endpoint is None:
        return LocalClient(**resources)
    try:
        authority = root_ca.read_bytes() if root_ca else None
    except OSError as error:
        raise SpecError(f"{root_ca}: cannot be read ({error.strerror}); give a PEM file") from None
    if "=" not in endpoint:
        return RemoteClient(endpoint, token, authority, patience_s=patience_s)
    routes = dict(part.strip().partition("=")[::2] for part in endpoint.split(","))
    if unknown := sorted(routes.keys() - SIMULATORS.keys()):
        raise SpecError(f"endpoint {endpoint!r}: {unknown[0]!r} is no simulator; {choose(unknown[0], SIMULATORS)}")
    return RoutedClient({name: RemoteClient(at, token, authority, patience_s=patience_s) for name, at in routes.items()})
