"""What every simulator has in common: typed requests and reports, errors with a status code, work that can be stopped.

A simulator is a function ``estimate(request, job) -> report``. Requests are `Options` (validated, immutable) and reports are
`Report`s, wherever the work is done: in this process, or in a gRPC service that turns both into messages of the same fields.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ..core.errors import FedcosimError

Code = Literal[
    "INVALID_ARGUMENT",
    "OUT_OF_RANGE",
    "FAILED_PRECONDITION",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
    "UNAVAILABLE",
    "UNAUTHENTICATED",
    "INTERNAL",
]
"""The gRPC status codes that simulators use; the names are gRPC's, so that a service needs no table of its own."""

_BAD_INPUT = {"INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION", "NOT_FOUND", "UNIMPLEMENTED", "DATA_LOSS"}


class HwsimError(FedcosimError):
    """A simulator cannot answer.

    Parameters
    ----------
    message : str
        A sentence: field, value, what is wrong, what is allowed.
    code : Code
        The gRPC status it becomes on the wire.
    field : str
        Dotted name of the request's field at fault; empty if it is none of them.
    """

    def __init__(self, message: str, code: Code = "INVALID_ARGUMENT", field: str = "") -> None:
        super().__init__(message)
        self.code, self.field = code, field
        self.exit_code = 2 if code in _BAD_INPUT else 1


class Report(BaseModel):
    """Base of all answers: plain numbers with units in their names, lists and reports inside reports."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return self.model_dump(mode="json")


def _never() -> bool:
    return False


def _silent(done: float) -> None:
    pass


@dataclass(frozen=True)
class Job:
    """What work that takes time asks now and then (at least every 100 ms): whether to go on.

    Attributes
    ----------
    deadline : float or None
        On `time.monotonic`'s clock.
    cancelled : callable
        True once nobody waits for the answer any more.
    progress : callable
        Told the share of the work that is done, 0 to 1.
    """

    deadline: float | None = None
    cancelled: Callable[[], bool] = _never
    progress: Callable[[float], None] = _silent

    def step(self, done: float = 0.0) -> None:
        """Say how much is done; stop if nobody wants the rest.

        Raises
        ------
        HwsimError
            CANCELLED or DEADLINE_EXCEEDED.
        """
        if self.cancelled():
            raise HwsimError("the caller cancelled the request", "CANCELLED")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise HwsimError("the request's deadline has passed", "DEADLINE_EXCEEDED")
        self.progress(done)
