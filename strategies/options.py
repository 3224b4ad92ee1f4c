"""What every strategy says about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from flwr.serverapp.strategy import Strategy

from ..clients.data.multimodal import Samples
from ..clients.data.silos import SiloType
from ..clients.models import ModelOptions
from ..clients.privacy import PrivacyOptions
from ..clients.tasks.classification import TrainOptions
from ..core.options import Options


@dataclass(frozen=True)
class Setting:
    """What the server's side of a strategy may know of an experiment: everything but samples.

    Attributes
    ----------
    clients : int
        Clients that have training data.
    per_round : int
        How many of them take part in a round.
    shape_CHW : tuple of int
        One image, where images are classified.
    classes : int
        Number of classes, there.
    types : mapping of str to SiloType
        The client types, where there are several modalities.
    public : Samples, optional
        Pairs that everybody has, there.
    """

    seed: int
    clients: int
    per_round: int
    model: ModelOptions
    train: TrainOptions
    shape_CHW: tuple[int, int, int] = (0, 0, 0)
    classes: int = 0
    privacy: PrivacyOptions | None = None
    types: Mapping[str, SiloType] = field(default_factory=dict)
    public: Samples | None = None


class StrategyOptions(Options):
    """Base of what `[strategy]` accepts; a subclass adds its fields, its `name`, and `flower`, the Flower class it sets up.

    Attributes
    ----------
    flower : callable
        The Flower `Strategy` class; called with the options' fields by name and the exact cohort size.
    averages : bool
        The strategy only ever uses the weighted mean of its replies, so replies may be averaged on the way to it.
    one_shot : bool
        Clients upload once; `federation.rounds` must be 1.
    own_uploads : bool
        Clients upload models of their own instead of updates of the one that they were sent.
    task : str
        The kind of task that the strategy is for.
    typed : bool
        Clients of different types are sent models of different shapes.
    not_private_because : str, optional
        Why the strategy cannot be combined with `[privacy]`; None: it can.
    local : tuple of str
        Anchored module paths whose parameters stay on the client; every other parameter is shared.
    """

    flower: ClassVar[Callable[..., Strategy]]
    averages: ClassVar[bool] = False
    one_shot: ClassVar[bool] = False
    own_uploads: ClassVar[bool] = False
    task: ClassVar[str] = "classification"
    typed: ClassVar[bool] = False
    not_private_because: ClassVar[str | None] = None
    local: ClassVar[tuple[str, ...]] = ()

    def adapt(self, model: ModelOptions) -> ModelOptions:
        """Return the model this strategy trains, given the model the spec names."""
        return model

    def check(self, per_round: int) -> list[str]:
        """Return sentences on what is wrong with these options for cohorts of `per_round` clients."""
        return []

    def fits(self, shape_CHW: tuple[int, int, int], classes: int, clients: int) -> None:
        """Raise a SpecError if these options cannot be used for such images; called before anything starts."""

    def batch_sizes(self, train: TrainOptions) -> list[int]:
        """Return the expected batch sizes with which clients train under `[privacy]`."""
        return [train.batch_size]

    def build(self, setting: Setting) -> Strategy:
        """Make the Flower strategy; it samples exactly `setting.per_round` clients and evaluates all."""
        fields = self.model_dump(include=self._constructor_fields())
        return self.flower(**cohort(setting), **fields)

    def _constructor_fields(self) -> set[str]:
        return set(type(self).model_fields) - {"name"}


def cohort(setting: Setting) -> dict[str, float]:
    """Return what Flower's strategies call an exact number of clients a round, and the evaluation of all."""
    return {
        "fraction_train": setting.per_round / setting.clients,
        "min_train_nodes": setting.per_round,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
    }
