"""FedPer: a shared body and a personal head.

Source: Arivazhagan et al., arXiv:1912.00818. Body and head train together; the server averages bodies only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from flwr.serverapp.strategy import FedAvg

from .options import StrategyOptions


class FedPerOptions(StrategyOptions):
    """The classification head stays on the client; everything else is averaged."""

    flower: ClassVar = FedAvg
    averages: ClassVar = True
    local: ClassVar = ("head",)
    name: Literal["fedper"] = "fedper"
