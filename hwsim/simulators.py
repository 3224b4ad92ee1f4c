"""The simulators there are, imported when they are used."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, ClassVar, Protocol

from ..core.options import Options, choose
from .simulator import HwsimError, Job, Report

SIMULATORS = {
    "roofline": "roofline.simulator:Roofline",
    "neomem": "neomem.host:NeoMem",
    "reram": "reram.host:Reram",
}


class Simulator(Protocol):
    """What a simulator is to its host: classes of its requests and reports, and one function between them.

    Attributes
    ----------
    service : str
        Its gRPC service in the package `fedcosim.hwsim.v1`.
    Request, Report : type
        What it takes and gives.
    takes_traces : bool
        Whether callers can upload traces that requests refer to.
    """

    service: ClassVar[str]
    Request: ClassVar[type[Options]]
    Report: ClassVar[type[Report]]
    takes_traces: ClassVar[bool]

    @classmethod
    def make(cls, **resources: Any) -> Simulator:
        """Make one from what its host has.

        `models` and `model_names`, to build models; `traces`, a store of memory traces; `trained`, which gives models with
        weights, and data.
        """

    def estimate(self, request: Any, job: Job) -> Any:
        """Answer a request."""

    def receive(self, parts: Iterator[Any], job: Job) -> tuple[str, int]:
        """Take an uploaded trace in, where `takes_traces`; return its name and its accesses."""

    def capabilities(self) -> dict[str, list[str]]:
        """Return what requests can choose from, by field."""

    def limits(self) -> dict[str, int]:
        """Return the largest values that requests and uploads may have, by what they count."""

    def warm_up(self) -> None:
        """Compile what requests will need; a server answers none before that is done."""


def load(name: str) -> type[Simulator]:
    """Return a simulator's class.

    Raises
    ------
    HwsimError
        NOT_FOUND, with the names there are.
    """
    if name not in SIMULATORS:
        raise HwsimError(f"simulator {name!r}: {choose(name, SIMULATORS)}", "NOT_FOUND")
    module, cls = SIMULATORS[name].split(":")
    return getattr(import_module(f".{module}", __package__), cls)
