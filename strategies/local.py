"""Local training, no federation: the floor every personalised method must clear."""

from __future__ import annotations

from typing import ClassVar, Literal

from flwr.serverapp.strategy import FedAvg

from .options import StrategyOptions


class LocalOptions(StrategyOptions):
    """Every parameter stays on its client: nothing is sent and nothing averaged.

    A client trains in the rounds in which it is sampled, as often as it would under any other strategy with the same seed.
    """

    flower: ClassVar = FedAvg
    averages: ClassVar = True
    local: ClassVar = ("*",)
    name: Literal["local"] = "local"
