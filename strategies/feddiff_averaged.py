"""FedDiff with the clients' U-Nets averaged into one: the ablation that asks whether keeping them apart matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from flwr.app import MetricRecord, RecordDict
from torch import Tensor

from ..clients.uploads import Upload
from ..core.records import WEIGHT_KEY, WeightedMean, array_record, tensors
from .feddiff import FedDiffOptions
from .generative import Generative, Pool
from .options import Setting


class FedDiffAveragedOptions(FedDiffOptions):
    """FedDiff, but images come from the average of the clients' U-Nets: an ablation."""

    name: Literal["feddiff-averaged"] = "feddiff-averaged"  # type: ignore[assignment]

    def check(self, per_round: int) -> list[str]:
        """Return what is wrong: U-Nets of different sizes have no average."""
        if len(set(self.generator.tiers)) == 1:
            return []
        tiers = list(self.generator.tiers)
        return [f"strategy.generator.tiers = {tiers}: only U-Nets of one size can be averaged; choose one tier"]

    def build(self, setting: Setting) -> Generative:
        """Make the Flower strategy."""
        return AveragedGenerators(setting, self)


class AveragedGenerators(Generative):
    """Samples the mean of all generators, weighted by label counts, for every client's classes."""

    def synthesise(self, received: Sequence[Upload]) -> tuple[Pool, float]:
        """Sample the mean in place of every client's own generator."""
        mean = _mean(received)
        return super().synthesise([replace(upload, generator=mean) for upload in received])


def _mean(received: Sequence[Upload]) -> dict[str, Tensor]:
    running = WeightedMean()
    for upload in received:
        weight = MetricRecord({WEIGHT_KEY: max(1.0, float(upload.counts_K.sum()))})
        running.add(RecordDict({"arrays": array_record(upload.generator), "metrics": weight}))
    return tensors(running.content().array_records["arrays"])
