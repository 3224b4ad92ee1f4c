"""What every strategy says about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from flwr.serverapp.strategy import Strategy

from ..clients.models import ModelOptions
from ..core.options import Options


class StrategyOptions(Options):
    """Base of what `[strategy]` accepts; a subclass adds its fields, its `name`, and `flower`, the Flower class it sets up.

    Attributes
    ----------
    flower : callable
        The Flower `Strategy` class; called with the options' fields by name and the exact cohort size.
    averages : bool
        The strategy only ever uses the weighted mean of its replies, so replies may be averaged on the way to it.
    local : tuple of str
        Anchored module paths whose parameters stay on the client; every other parameter is shared.
    """

    flower: ClassVar[Callable[..., Strategy]]
    averages: ClassVar[bool] = False
    local: ClassVar[tuple[str, ...]] = ()

    def adapt(self, model: ModelOptions) -> ModelOptions:
        """Return the model this strategy trains, given the model the spec names."""
        return model

    def check(self, per_round: int) -> list[str]:
        """Return sentences on what is wrong with these options for cohorts of `per_round` clients."""
        return []

    def build(self, clients: int, per_round: int) -> Strategy:
        """Make the Flower strategy; it samples exactly `per_round` of `clients` and evaluates all."""
        fields = self.model_dump(include=self._constructor_fields())
        return self.flower(
            fraction_train=per_round / clients,
            min_train_nodes=per_round,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            **fields,
        )

    def _constructor_fields(self) -> set[str]:
        return set(type(self).model_fields) - {"name"}
