"""A client of the REST API, for Python and for the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from ..core.errors import FedcosimError, SpecError

RECONNECT_S = 1.0
PATIENCE_S = 30.0
"""How long a service may be away while somebody follows an experiment."""


class ServerError(FedcosimError):
    """The service refused, or cannot be reached.

    Attributes
    ----------
    status : int
        HTTP status; 0 where there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Launches and watches experiments at a service.

    Parameters
    ----------
    server : str
        Its address, `http://host:8000`.
    token : str, optional
        A bearer token.

    Raises
    ------
    SpecError
        From every method: what was asked for is not valid (HTTP 422).
    ServerError
        From every method: the service refused for another reason, or cannot be reached.
    """

    def __init__(self, server: str, token: str | None = None, timeout_s: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._server = server
        self._http = httpx.Client(base_url=f"{server.rstrip('/')}/v1", headers=headers, timeout=timeout_s)

    def submit(self, spec: str | Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
        """Queue an experiment, given as TOML text or as nested fields; return it.

        Parameters
        ----------
        key : str, optional
            An Idempotency-Key: the same key and spec give the same experiment, however often they are sent.
        """
        headers = {"Idempotency-Key": key} if key else {}
        if isinstance(spec, str):
            headers["Content-Type"] = "application/toml"
            return self._call("POST", "/experiments", content=spec.encode(), headers=headers)
        return self._call("POST", "/experiments", json=dict(spec), headers=headers)

    def experiments(self, status: Sequence[str] = (), name: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """Return experiments, newest first."""
        query = {"status": list(status), "limit": limit, **({"name": name} if name else {})}
        return self._call("GET", "/experiments", params=query)["experiments"]

    def get(self, experiment_id: str) -> dict[str, Any]:
        """Return one experiment."""
        return self._call("GET", f"/experiments/{experiment_id}")

    def stop(self, experiment_id: str) -> dict[str, Any]:
        """End an experiment."""
        return self._call("POST", f"/experiments/{experiment_id}/stop")

    def resume(self, experiment_id: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
        """Go on with an experiment that has ended."""
        return self._call("POST", f"/experiments/{experiment_id}/resume", json={"set": list(overrides)})

    def clone(self, experiment_id: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
        """Queue the same experiment again, with changes."""
        return self._call("POST", f"/experiments/{experiment_id}/clone", json={"set": list(overrides)})

    def rounds(self, experiment_id: str, after: int = 0) -> list[dict[str, Any]]:
        """Return complete rounds."""
        return self._call("GET", f"/experiments/{experiment_id}/rounds", params={"after": after})

    def logs(self, experiment_id: str) -> str:
        """Return what the experiment's job has printed so far."""
        return self._request("GET", f"/experiments/{experiment_id}/logs").text

    def follow(self, experiment_id: str, what: str = "events") -> Iterator[tuple[str, Any]]:
        """Yield events (kind, data) as they come, until the experiment has ended; a lost connection is taken up again.

        Parameters
        ----------
        what : {"events", "logs/stream"}
            Events of the run, or lines that its job prints.
        """
        last, heard = "", time.monotonic()
        while True:
            headers = {"Last-Event-ID": last} if last else {}
            try:
                with self._http.stream("GET", f"/experiments/{experiment_id}/{what}", headers=headers, timeout=60) as response:
                    if response.status_code >= httpx.codes.BAD_REQUEST:
                        response.read()
                        self._check(response)
                    for event in _parse(response.iter_lines()):
                        last, heard = event.get("id", last), time.monotonic()
                        if event.get("event") == "end":
                            return
                        yield event.get("event", "message"), json.loads(event["data"])
            except httpx.TransportError as error:
                if time.monotonic() > heard + PATIENCE_S:
                    raise ServerError(f"{self._server}: cannot be reached ({error})") from None
            time.sleep(RECONNECT_S)

    def _call(self, method: str, path: str, **parts: Any) -> Any:
        return self._request(method, path, **parts).json()

    def _request(self, method: str, path: str, **parts: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **parts)
        except httpx.TransportError as error:
            raise ServerError(f"{self._server}: cannot be reached ({error}); is `fedcosim serve` running there?") from None
        self._check(response)
        return response

    def _check(self, response: httpx.Response) -> None:
        if response.status_code < httpx.codes.BAD_REQUEST:
            return
        try:
            problem = response.json()
        except ValueError:
            problem = {"detail": response.text[:200]}
        if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise SpecError(problem.get("errors") or [problem["detail"]])
        raise ServerError(f"{problem.get('detail')} (HTTP {response.status_code})", response.status_code)


def _parse(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Yield server-sent events as their fields."""
    event: dict[str, str] = {}
    for line in lines:
        if not line:
            if "data" in event:
                yield event
            event = {}
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            event[field] = value.removeprefix(" ")
