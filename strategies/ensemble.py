"""The one-shot ensemble: clients train classifiers alone, predictions are the mean of their probabilities.

Source: Guha, Talwalkar, Smith, "One-Shot Federated Learning", arXiv:1902.11175, with all members kept: whoever predicts needs
all of them. The record also gives what single members reach on everybody's data: their mean, and the best, which is chosen
on the evaluated data and thus an upper bound of any choice among local models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from flwr.app import ArrayRecord, Message, MetricRecord

from .oneshot import OneShot
from .options import Setting, StrategyOptions


class EnsembleOptions(StrategyOptions):
    """Every client trains a classifier alone and uploads it once; the mean of their probabilities predicts."""

    one_shot: ClassVar = True
    name: Literal["ensemble"] = "ensemble"

    def build(self, setting: Setting) -> Ensemble:
        """Make the Flower strategy."""
        return Ensemble(setting)


class Ensemble(OneShot):
    """Keeps every upload; arrays are named `<member>/<parameter>`."""

    evaluation: ClassVar = "ensemble"

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Put all members side by side; the metrics are those of Flower's FedAvg."""
        replies = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        _, metrics = super().aggregate_train(server_round, replies)
        members = ArrayRecord()
        for member, reply in enumerate(replies):
            for key, array in next(iter(reply.content.array_records.values())).items():
                members[f"{member}/{key}"] = array
        return members, metrics
