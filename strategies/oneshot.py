"""One-shot federated learning: every client uploads once, then the server works alone.

What such strategies have in common: a train message of their own (Flower's `train.<action>`, which the ClientApp routes), a
description of what a valid upload looks like, and work on the server that can be spread over the engine's workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from ..core.records import Layout
from .options import Setting, cohort

Compute = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterable[Any]]


def in_turn(function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Call a function for every item here, one after another: what a strategy does on a grid without workers."""
    return (function(*item) for item in items)


class OneShot(FedAvg):
    """Base of one-shot strategies; cohorts and evaluation are those of Flower's FedAvg.

    Attributes
    ----------
    action : str
        Which of the ClientApp's train functions makes the upload; empty: the one that trains the classifier.
    evaluation : str
        Which of its evaluate functions judges what the server made; empty: the one for a classifier.
    sends_model : bool
        Clients start from the server's classifier.
    compute : callable
        Maps a function over argument tuples, results in order; a grid with workers puts its own here.
    """

    action: ClassVar[str] = ""
    evaluation: ClassVar[str] = ""
    sends_model: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(**cohort(setting))  # type: ignore[arg-type]
        self.setting = setting
        self.compute: Compute = in_turn

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Ask the cohort for its uploads."""
        arrays = arrays if self.sends_model else ArrayRecord()
        return _routed(super().configure_train(server_round, arrays, config, grid), self.action)

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Ask all clients to judge what the server made."""
        return _routed(super().configure_evaluate(server_round, arrays, config, grid), self.evaluation)

    def expects(self, client: int) -> Layout | None:
        """Return what a client's upload must look like; None: like the arrays it was sent."""
        return None

    def artifacts(self) -> Mapping[str, bytes]:
        """Return files for the run's directory, by name, after the last aggregation."""
        return {}


def _routed(messages: Iterable[Message], action: str) -> list[Message]:
    """Address messages to one of several functions of the ClientApp."""
    if not action:
        return list(messages)
    return [Message(m.content, m.metadata.dst_node_id, f"{m.metadata.message_type}.{action}") for m in messages]
