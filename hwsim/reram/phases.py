"""What a client does with its crossbars: evaluate, or train; and whether converters still suit weights that have changed.

Evaluation is one forward pass, all of it simulated. Training is another matter, since no array trains itself: gradients of
inputs are products with the transposed weights, on further crossbars (K and O swapped); gradients of weights are products of
two activations, hence digital; and new weights must be written, at a cost that published figures put two orders of magnitude
apart. Converters are taken to need as many steps on the way back as on the way forth, which nobody has
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ...core.options import Options
from . import energy
from .calibrate import Choice, Histogram, Layer
from .crossbar import CrossbarOptions
from .energy import Work

DRIFT = 0.05


class WorkloadOptions(Options):
    """What is done."""

    phase: Literal["evaluate", "train"] = "evaluate"
    """Forward only; or forward, backward and writing."""
    samples: Annotated[int, Field(ge=1)] = 1
    """That are run, once an epoch."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Times that all samples are run."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Samples of a step, if every step is written."""
    reprogram: Literal["round", "step"] = "round"
    """When training writes the cells: once, as new weights arrive; or after every step, to train in place."""
    rounds: Annotated[int, Field(ge=1)] = 1
    """Over which endurance is counted; all other figures are of one round."""

    @property
    def passes(self) -> int:
        """Samples that are run, those of all epochs."""
        return self.samples * self.epochs

    @property
    def writes(self) -> int:
        """How often all cells are written in a round."""
        if self.phase == "evaluate":
            return 0
        return 1 if self.reprogram == "round" else self.epochs * -(-self.samples // self.batch_size)


@dataclass(frozen=True)
class Shape:
    """One layer's matrix and what runs through it.

    Attributes
    ----------
    inputs, outputs, groups : int
        Of its matrix; the first two of one group.
    positions : int
        Input vectors of one sample.
    count : int
        Layers of this shape.
    input_gradient : bool
        Whether training needs gradients of its inputs.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    groups: int = 1
    positions: int = 1
    count: int = 1
    input_gradient: bool = True

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return self.inputs * self.outputs * self.groups * self.positions * self.count

    def conversions(self, crossbar: CrossbarOptions) -> int:
        """Return the bit lines of one sample."""
        return crossbar.conversions(self.inputs, self.outputs, self.groups) * self.positions * self.count

    def crossbars(self, crossbar: CrossbarOptions) -> int:
        """Return the crossbars it fills."""
        return crossbar.crossbars(self.inputs, self.outputs, self.groups) * self.count

    def cells(self, crossbar: CrossbarOptions) -> int:
        """Return the cells that hold its weights."""
        return self.inputs * self.outputs * self.groups * crossbar.columns_per_output * self.count

    def transposed(self) -> Shape:
        """Return the matrix that takes gradients of outputs to gradients of inputs."""
        return Shape(f"{self.name} (backward)", self.kind, self.outputs, self.inputs, self.groups, self.positions, self.count)


def digital_macs(mapped: int, unmapped: int, workload: WorkloadOptions) -> int:
    """Return multiply-accumulates that no crossbar does: of a step of training, all of the weights' gradients too.

    What is digital forward is digital backward twice, once for each operand.
    """
    one = unmapped if workload.phase == "evaluate" else 3 * unmapped + mapped
    return one * workload.passes


def work(shape: Shape, choice: Choice, crossbar: CrossbarOptions, workload: WorkloadOptions) -> Work:
    """Return what one matrix does in the whole workload."""
    lines = shape.conversions(crossbar) * workload.passes
    vectors = shape.positions * shape.count * workload.passes
    return Work(shape.inputs, shape.outputs, shape.groups, vectors, lines, lines * choice.skipped)


def endurance_warning(workload: WorkloadOptions) -> list[str]:
    """Say so if the weakest published cells would wear out."""
    writes, limit = workload.writes * workload.rounds, energy.endurance_low()
    if writes <= limit:
        return []
    return [
        f"workload.rounds = {workload.rounds}: cells are written {writes:g} times; the weakest published ones take {limit:g}"
    ]


def recalibrate(
    before: Sequence[Histogram], after: Sequence[Histogram], choices: Sequence[Choice], layers: Sequence[Layer], price: float
) -> tuple[list[Choice], list[int]]:
    """Keep each layer's converter unless its bit lines have drifted by more than `DRIFT` in total variation.

    Parameters
    ----------
    before, after : sequence of Histogram
        When the converters were chosen, and now.
    layers : sequence of Layer
        Candidates, judged on `after`.
    price : float
        At which new ones are chosen.

    Returns
    -------
    list of Choice, list of int
        Converters, and which layers have a new one.
    """
    drifted = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old.distance(new) > DRIFT]
    return [layers[i].cheapest(price) if i in drifted else choice for i, choice in enumerate(choices)], drifted
