"""The ReRAM simulator: what a model on crossbars needs, and how accurate it is; or, without data, what it will need.

"functional" runs every bit line of real samples. "stats" needs a list of layers only and answers in microseconds a layer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ..simulator import HwsimError, Job
from . import energy, stats
from .adc import Adc, AdcOptions, Trq, fixed
from .calibrate import CalibrationOptions, Choice, Layer, calibrate
from .crossbar import QUIET, CrossbarOptions
from .functional import Functional, Samples
from .phases import Shape
from .report import Findings, ReramReport, assemble
from .request import LayerShape, ReramRequest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LayerShape", "ReramReport", "ReramRequest", "Samples", "estimate", "estimate_stats"]

MOST_MACS = 2**53  # what counts in a report can hold exactly
_OF_SHAPES = ("kind", "inputs", "outputs", "groups", "positions", "count", "input_gradient")


def estimate(
    request: ReramRequest, job: Job = QUIET, model: nn.Module | None = None, data: Samples | None = None
) -> ReramReport:
    """Answer a request.

    Parameters
    ----------
    model, data
        For "functional"; the caller knows where names lead.

    Raises
    ------
    HwsimError
        If something is missing, does not fit, is too large, or the job is over.
    """
    check(request)
    if request.mode == "stats":
        return estimate_stats(request, job)
    if model is None or data is None:
        raise HwsimError("mode = 'functional': a model and data are needed; or choose 'stats' and give layers", field="mode")
    return Functional(request, job, model, data).report()


def check(request: ReramRequest) -> None:
    """Refuse what needs neither a model nor data to be wrong.

    Raises
    ------
    HwsimError
        If the energy model has no figure for these converters, or settings make no converter.
    """
    energy.conversion_j(request.energy, request.crossbar.full_bits)
    for i, parameters in enumerate(request.adc.trq):
        Trq(parameters).check(request.crossbar, f"adc.trq.{i}")


def estimate_stats(request: ReramRequest, job: Job = QUIET) -> ReramReport:
    """Estimate from shapes and densities alone.

    Raises
    ------
    HwsimError
        If there are no layers, too many multiply-accumulates for a report, or densities are not one share a bit.
    """
    crossbar = request.crossbar
    mapped = [layer for layer in request.layers if layer.kind != "digital"]
    if not mapped:
        raise HwsimError("layers: none that crossbars could hold; give at least one that is not 'digital'", field="layers")
    shapes = [
        Shape(name=layer.name or f"layer {i}", **{field: getattr(layer, field) for field in _OF_SHAPES})
        for i, layer in enumerate(mapped)
    ]
    if sum(layer.macs for layer in request.layers) >= MOST_MACS:
        raise HwsimError(f"layers: a sample needs {MOST_MACS:.3g} multiply-accumulates or more", "RESOURCE_EXHAUSTED", "layers")
    warnings = ["mode = 'stats': an estimate from independent bits, no converter was simulated and no accuracy is known"]
    settled = fixed(request.adc, crossbar, len(mapped))
    warnings += settled[1] if settled else []
    choices, uniform, levels = [], [], []
    asked, baseline = request.adc.model_dump_json(), request.baseline.model_dump_json()
    for i, layer in enumerate(mapped):
        job.step(i / len(mapped))
        densities = _densities(layer, i, crossbar)
        own = settled[0][i] if settled else None
        choices.append(_expected(layer.inputs, *densities, crossbar, asked, own, request.calibration.error))
        uniform.append(_expected(layer.inputs, *densities, crossbar, baseline, None, request.calibration.error))
        levels.append(stats.histogram(layer.inputs, *densities, crossbar).levels)
    if any(not (layer.activation_density and layer.weight_density) for layer in mapped):
        warnings.append("layers: densities of bits are the defaults where none are given")
    unmapped = sum(layer.macs for layer in request.layers if layer.kind == "digital")
    stored = sum(shape.crossbars(crossbar) for shape in shapes)
    names = [f"{layer.name or layer.kind}: digital" for layer in request.layers if layer.kind == "digital"]
    findings = Findings(shapes, choices, uniform, stored, unmapped, names, warnings, levels, [None] * len(shapes))
    job.step(1.0)
    return assemble(request, findings)


def _densities(layer: LayerShape, at: int, crossbar: CrossbarOptions) -> tuple[tuple[float, ...], tuple[float, ...]]:
    default_x, default_w = stats.default_densities(crossbar)
    given = ((layer.activation_density, default_x, "activation"), (layer.weight_density, default_w, "weight"))
    for densities, default, name in given:
        if densities:
            stats.check_densities(densities, len(default), f"layers.{at}.{name}_density")
    return tuple(layer.activation_density) or default_x, tuple(layer.weight_density) or default_w


@lru_cache(maxsize=4096)
def _expected(
    inputs: int,
    activation_A: tuple[float, ...],
    weight_S: tuple[float, ...],
    crossbar: CrossbarOptions,
    adc: str,
    given: tuple[Adc, ...] | None,
    error: float,
) -> Choice:
    """Return the converters, given or found by options (as JSON), of a layer with these densities; clients share layers."""
    options = AdcOptions.model_validate_json(adc)
    histogram = stats.histogram(inputs, activation_A, weight_S, crossbar)
    if given:
        return Layer(histogram, [[one] for one in given], options.zero_skip).cheapest(0)
    layer = Layer.search(histogram, options, crossbar)
    return calibrate([layer], CalibrationOptions(error=error)).choices[0]
