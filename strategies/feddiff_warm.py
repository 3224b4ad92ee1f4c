"""FedDiff as a start for federated averaging: one shot, then `federation.rounds - 1` rounds of FedAvg from its classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from ..core.records import Layout
from .feddiff import FedDiffOptions
from .generative import Generative, GenerativeOptions
from .options import Setting


class FedDiffWarmOptions(FedDiffOptions):
    """FedDiff in the first round, FedAvg from its classifier in all others; `[train]` is both the server's and the clients'."""

    one_shot: ClassVar = False
    not_private_because: ClassVar = "its rounds would need a budget beside the one shot's"
    name: Literal["feddiff-warm"] = "feddiff-warm"  # type: ignore[assignment]

    def build(self, setting: Setting) -> Generative:
        """Make the Flower strategy."""
        return WarmStart(setting, self)


class WarmStart(Generative):
    """Round 1 is FedDiff's, every other one FedAvg's."""

    def __init__(self, setting: Setting, options: GenerativeOptions) -> None:
        super().__init__(setting, options)
        self.round = 1

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Ask for uploads in round 1, for updates of the classifier later."""
        self.round = server_round
        if server_round == 1:
            return super().configure_train(server_round, arrays, config, grid)
        return FedAvg.configure_train(self, server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Make the classifier in round 1, average later."""
        if server_round == 1:
            return super().aggregate_train(server_round, replies)
        return FedAvg.aggregate_train(self, server_round, replies)

    def expects(self, client: int) -> Layout | None:
        """Return the layout of an upload in round 1; later, updates look like what was sent."""
        return super().expects(client) if self.round == 1 else None

    def artifacts(self) -> Mapping[str, bytes]:
        """Return what round 1 made, after it."""
        return self._files if self.round == 1 else {}
