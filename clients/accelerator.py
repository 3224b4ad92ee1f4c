"""ReRAM crossbars beside a client's processor: what they do of a training step, and what is left to the processor.

On crossbars are products with weights: forward, and backward for gradients of inputs, on crossbars that hold the transposed
weights. The processor does the rest: gradients of weights, products of two activations, everything element by element, and
the optimizer. Its memory traffic of activations stays, for crossbars read and write there; only weights are not read for
products that crossbars do. Neither works while the other does: times add up. After a step the new weights are written into
the cells, or, if the crossbars may lag behind, once a round.

A recorded step tells the operators of all its products together, so what crossbars do is taken from each in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ..core.options import Options
from ..hwsim.client import Client
from ..hwsim.roofline.workload import Operator, Workload
from ..hwsim.simulator import HwsimError
from .work import Work

if TYPE_CHECKING:
    from ..hwsim.reram.report import ReramReport
    from ..hwsim.reram.request import LayerShape, ReramRequest


class CrossbarHardware(Options):
    """ReRAM crossbars and their converters, the same for every client: `[hardware.reram]`."""

    adc: Literal["ideal", "uniform_calibrated", "trq"] = "trq"
    """Converters: lossless ones, or uniform or twin-range ones that are chosen for expected bit lines."""
    encoding: Literal["offset", "differential"] = "offset"
    """How signed weights are stored."""
    cell_bits: Literal[1, 2, 4, 8] = 1
    """Bits of a cell."""
    rows: Annotated[int, Field(ge=1, le=1024)] = 128
    """Word lines of a crossbar."""
    energy_model: Literal["isaac", "cdac_weighted", "murmann", "neurosim"] = "isaac"
    """Whose figures the converters' energy has."""
    write: Literal["step", "round"] = "step"
    """When new weights are written: after every step, or once for all of a client's training, which is a lower bound."""

    @model_validator(mode="after")
    def _converters_have_figures(self) -> CrossbarHardware:
        from ..hwsim.reram.simulator import check

        try:
            check(self.request([], 1))
        except HwsimError as error:
            raise ValueError(f"hardware.reram.rows = {self.rows}: with cell_bits = {self.cell_bits}, {error}") from None
        return self

    def request(self, layers: list[LayerShape], batch_size: int) -> ReramRequest:
        """Return the question what one step of training takes, its write included."""
        from ..hwsim.reram.request import ReramRequest

        fields = {
            **{"mode": "stats", "layers": layers, "adc": {"kind": self.adc}, "energy": {"model": self.energy_model}},
            "crossbar": {"encoding": self.encoding, "cell_bits": self.cell_bits, "rows": self.rows},
            "workload": {"phase": "train", "samples": batch_size, "batch_size": batch_size, "reprogram": "step"},
        }
        return ReramRequest.model_validate(fields)


@dataclass(frozen=True)
class Spent:
    """Time and energy of crossbars."""

    compute_s: float = 0.0
    energy_low_j: float = 0.0
    energy_high_j: float = 0.0


class Crossbars:
    """Prices what crossbars do of a client's work."""

    def __init__(self, options: CrossbarHardware, client: Client) -> None:
        self._options, self._client = options, client
        self._known: dict[object, ReramReport] = {}

    def spent(self, done: Iterable[Work]) -> Spent:
        """Sum up what some work takes.

        Raises
        ------
        HwsimError
            If the simulator has no answer.
        """
        seconds = low_j = high_j = 0.0
        for work in done:
            if not work.layers:
                continue
            step, writes = self._step(work), work.steps if self._options.write == "step" else 1
            seconds += (step.latency_s - step.write_s) * work.steps + step.write_s * writes
            low_j += _energy_j(step.energy_j, work.steps, writes)
            high_j += _energy_j(step.energy_upper_j, work.steps, writes)
        return Spent(seconds, low_j, high_j)

    def _step(self, work: Work) -> ReramReport:
        if work.key not in self._known:
            layers = [layer.shape(work.recorded_samples) for layer in work.layers]
            self._known[work.key] = self._client.estimate("reram", self._options.request(layers, work.batch_size))
        return self._known[work.key]


def _energy_j(parts: dict[str, float], steps: int, writes: int) -> float:
    """Return the energy of some steps; "digital" is what the processor does, and its device's model knows better."""
    here = math.fsum(value for name, value in parts.items() if name not in ("digital", "write"))  # in whatever order they come
    return here * steps + parts["write"] * writes


def without_crossbars(work: Work) -> Workload:
    """Return what is left of a step for the processor."""
    kept = {
        "forward": _kept(work, "forward", sum(layer.macs for layer in work.layers)),
        "backward": _kept(work, "backward", sum(layer.macs for layer in work.layers if layer.input_gradient)),
    }
    return work.step.model_copy(update={"operators": tuple(_left(op, kept.get(op.phase, 1.0)) for op in work.step.operators)})


def _kept(work: Work, phase: str, macs: int) -> float:
    """Return the share of a phase's arithmetic that is not on crossbars; `macs` are those of all recorded samples."""
    flops = sum(op.count * op.flops for op in work.step.operators if op.phase == phase)
    on_crossbars = 2 * macs * work.batch_size / work.recorded_samples
    return max(0.0, 1 - on_crossbars / flops) if flops else 1.0


def _left(operator: Operator, share: float) -> Operator:
    if not operator.flops:
        return operator
    amounts = ("flops", "load_weight_bytes")
    return operator.model_copy(update={name: round(getattr(operator, name) * share) for name in amounts})
