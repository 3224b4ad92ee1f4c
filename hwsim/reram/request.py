"""What can be asked of the ReRAM simulator."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...core.options import Options
from .adc import AdcOptions
from .calibrate import CalibrationOptions
from .crossbar import CrossbarOptions
from .energy import EnergyOptions
from .nonideal import NonidealOptions
from .phases import WorkloadOptions

Size = Annotated[int, Field(ge=1, le=2**40)]


class LayerShape(Options):
    """One layer, for "stats"."""

    kind: Literal["conv", "linear", "attention", "digital"] = "linear"
    """What it is; "digital": products of two activations, or anything else that crossbars do not hold."""
    name: Annotated[str, Field(max_length=200)] = ""
    """For the report."""
    inputs: Size
    """K: length of a dot product, of one group."""
    outputs: Size
    """O: outputs of one group."""
    positions: Size = 1
    """L: input vectors of one sample."""
    groups: Size = 1
    """Matrices side by side that share neither rows nor columns."""
    count: Size = 1
    """Layers like this one."""
    input_gradient: bool = True
    """Whether training needs gradients of its inputs; a first layer's does not."""
    activation_density: list[float] = Field(default_factory=list)
    """How often each bit of an activation is set, lowest first; empty: a default."""
    weight_density: list[float] = Field(default_factory=list)
    """How often each bit of a stored weight is set, lowest first; empty: a default."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return self.inputs * self.outputs * self.groups * self.positions * self.count


class PreparationOptions(Options):
    """Where the weights of a named model come from, for "functional"; the data are always split in the same way."""

    checkpoint: Annotated[str, Field(max_length=200)] = ""
    """Name of a safetensors file in the folder that the simulator's host was told of; trained if empty."""
    trained_on: Annotated[int, Field(ge=1, le=10**8)] = 60_000
    """Samples that training runs, those of all epochs; epochs are whole."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Of first weights and the order of samples."""


class ReramRequest(Options):
    """What is asked."""

    mode: Literal["functional", "stats"] = "functional"
    """Run samples, or estimate from shapes and densities."""
    model: Annotated[str, Field(max_length=100)] = ""
    """One that the simulator's host knows, for "functional"."""
    data: Annotated[str, Field(max_length=100)] = ""
    """What it is trained and tested on, likewise."""
    preparation: PreparationOptions = PreparationOptions()
    """Its weights."""
    layers: list[LayerShape] = Field(default_factory=list)
    """For "stats"."""
    crossbar: CrossbarOptions = CrossbarOptions()
    """Arrays."""
    adc: AdcOptions = AdcOptions()
    """Converters."""
    calibration: CalibrationOptions = CalibrationOptions()
    """How they are chosen."""
    energy: EnergyOptions = EnergyOptions()
    """Whose numbers."""
    nonideal: NonidealOptions = NonidealOptions()
    """Imperfections, for "functional"."""
    workload: WorkloadOptions = WorkloadOptions()
    """What energy, latency and counts are of."""
    activations: Literal["any", "unsigned"] = "any"
    """Whether a layer's inputs may be negative; if so, a zero point is corrected digitally."""
    least_mapped: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of multiply-accumulates that must be in crossbars."""
    most_conversions: Annotated[float, Field(gt=0)] = 1e13
    """Budget of simulated conversions."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads; they change no bit of the result."""

    @property
    def baseline(self) -> AdcOptions:
        """Uniform converters that are calibrated as finely as these."""
        adc = self.adc
        return AdcOptions(
            kind="uniform_calibrated", granularity=adc.granularity, rounding=adc.rounding, zero_skip=adc.zero_skip
        )
