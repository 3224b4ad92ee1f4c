"""The ReRAM simulator: what a model on crossbars needs, and how accurate it is; or, without data, what it will need.

"functional" runs every bit line of real samples. "stats" needs a list of layers only and answers in microseconds a layer.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal, cast

import numpy as np
from pydantic import Field

from ...core.options import Options
from ..simulator import HwsimError, Job, Report, _silent
from . import energy, phases, stats
from .adc import Adc, AdcOptions, Trq, TrqParameters, Uniform, fixed
from .calibrate import Calibration, CalibrationOptions, Choice, Histogram, Layer, Setting, calibrate
from .crossbar import QUIET, CrossbarOptions
from .energy import ComponentArea, ComponentEnergy, EnergyOptions
from .nonideal import NonidealOptions, noisy_cells
from .phases import Shape, WorkloadOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .convert import CrossbarModel, MappedLayer

SUSPICIOUS_REDUCTION = 5.0


class LayerShape(Options):
    """One layer, for "stats"."""

    kind: Literal["conv", "linear", "attention", "digital"] = "linear"
    """What it is; "digital": products of two activations, or anything else that crossbars do not hold."""
    name: str = ""
    """For the report."""
    inputs: Annotated[int, Field(ge=1)]
    """K: length of a dot product, of one group."""
    outputs: Annotated[int, Field(ge=1)]
    """O: outputs of one group."""
    positions: Annotated[int, Field(ge=1)] = 1
    """L: input vectors of one sample."""
    groups: Annotated[int, Field(ge=1)] = 1
    """Matrices side by side that share neither rows nor columns."""
    count: Annotated[int, Field(ge=1)] = 1
    """Layers like this one."""
    activation_density: list[float] = Field(default_factory=list)
    """How often each bit of an activation is set, lowest first; empty: a default."""
    weight_density: list[float] = Field(default_factory=list)
    """How often each bit of a stored weight is set, lowest first; empty: a default."""


class ReramRequest(Options):
    """What is asked."""

    mode: Literal["functional", "stats"] = "functional"
    """Run samples, or estimate from shapes and densities."""
    model: str = ""
    """Whose name stands in the report."""
    data: str = ""
    """Likewise."""
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


class LayerReport(Report):
    """One layer, in the whole workload."""

    name: str
    kind: str
    adc: list[str]
    """What was chosen: one for all columns, or one a column."""
    uniform: list[str]
    """What calibrated uniform converters would be."""
    inputs: int
    outputs: int
    groups: int
    positions: int
    crossbars: int
    row_utilisation: float
    """Share of its crossbars' rows that hold weights."""
    column_utilisation: float
    """Share of its crossbars' columns that hold weights."""
    macs: int
    """Of one sample."""
    conversions: float
    ad_operations: float
    mean_ops: float
    """A/D operations of one bit line, a skipped one counting as none."""
    coarse_fraction: float
    clipped: float
    clip_fraction: float
    skipped_fraction: float
    levels: list[float]
    """Share of bit lines at each level, up to the largest that occurs; of calibration samples, or expected."""
    error_predicted: float
    """Of products, over their power."""
    error_measured: float | None
    """Likewise, on calibration samples."""
    energy_adc_j: float
    latency_s: float


class Provenance(Report):
    """What the figures came from."""

    request_sha256: str
    constants_sha256: str
    adc_energy_model: str
    node_nm: int
    calibration_samples: int
    tuning_samples: int
    test_samples: int
    versions: str


class ReramReport(Report):
    """What is answered: counts, energy and time are of the whole workload."""

    mode: str
    model: str
    data: str
    conversions: float
    """Bit lines that were converted."""
    ad_operations: float
    """Steps that it took."""
    ad_operations_full: float
    """Steps of lossless converters for all bit lines."""
    mean_ops: float
    mean_ops_uniform: float
    """Of uniform converters, calibrated to the same budget, as finely."""
    reduction: float
    """Lossless converters' steps over these."""
    reduction_vs_calibrated_uniform: float
    price: float | None
    """Predicted error over power that one step less of every conversion was worth; none if nothing was calibrated."""
    accuracy_float: float | None
    accuracy_int: float | None
    accuracy_crossbar: float | None
    accuracy_uniform: float | None
    clipped: float
    clip_fraction: float
    energy: list[ComponentEnergy]
    energy_low_j: float
    energy_high_j: float
    energy_reduction: float
    """Total of lossless converters over this one's, both low ends."""
    tile_power_w: float
    """Of one ISAAC tile, busy all the time, if its converters' power falls by `reduction`."""
    latency_s: float
    crossbars: int
    area_mm2: float
    area: list[ComponentArea]
    macs: int
    """Of one sample."""
    mapped_mac_fraction: float
    unmapped: list[str]
    layers: list[LayerReport]
    trq: list[TrqParameters]
    """Each layer's, or each column's, to ask for the same again; empty for other kinds."""
    warnings: list[str]
    provenance: Provenance


@dataclass(frozen=True)
class Samples:
    """What "functional" runs. Labels may be missing; then accuracy is not known.

    Attributes
    ----------
    calibration_x : Tensor
        For ranges of activations and histograms of bit lines.
    tuning_x, tuning_y : Tensor or None
        For the error that is allowed. Not the test's.
    test_x, test_y : Tensor or None
        For what is reported; run once.
    """

    calibration_x: Tensor
    tuning_x: Tensor | None
    tuning_y: Tensor | None
    test_x: Tensor
    test_y: Tensor | None


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
    energy.conversion_j(request.energy, request.crossbar.full_bits)  # refused before work starts
    if request.mode == "stats":
        return estimate_stats(request, job)
    if model is None or data is None:
        raise HwsimError("mode = 'functional': a model and data are needed; or choose 'stats' and give layers", field="mode")
    return _Functional(request, job, model, data).report()


@dataclass(frozen=True)
class _Findings:
    """What a mode found out, for the report.

    Attributes
    ----------
    shapes : list of Shape
    choices : list of Choice
        Converters, with shares as measured or expected.
    unmapped_macs : int
        Of one sample.
    stored : int
        Crossbars of all layers; layers that share weights share them.
    """

    shapes: list[Shape]
    choices: list[Choice]
    uniform: list[Choice]
    stored: int
    unmapped_macs: int
    unmapped: list[str]
    warnings: list[str]
    levels: list[list[float]]
    measured: Sequence[float | None]
    price: float | None = None
    accuracy_float: float | None = None
    accuracy_int: float | None = None
    accuracy_crossbar: float | None = None
    accuracy_uniform: float | None = None
    samples: tuple[int, int, int] = (0, 0, 0)


def estimate_stats(request: ReramRequest, job: Job = QUIET) -> ReramReport:
    """Estimate from shapes and densities alone.

    Raises
    ------
    HwsimError
        If there are no layers, or densities are not one share a bit.
    """
    crossbar = request.crossbar
    mapped = [layer for layer in request.layers if layer.kind != "digital"]
    if not mapped:
        raise HwsimError("layers: none that crossbars could hold; give at least one that is not 'digital'", field="layers")
    shapes = [
        Shape(layer.name or f"layer {i}", layer.kind, layer.inputs, layer.outputs, layer.groups, layer.positions, layer.count)
        for i, layer in enumerate(mapped)
    ]
    warnings = ["mode = 'stats': an estimate from independent bits, no converter was simulated and no accuracy is known"]
    settled = fixed(request.adc, crossbar, len(mapped))
    warnings += settled[1] if settled else []
    choices, uniform, levels = [], [], []
    asked, baseline = request.adc.model_dump_json(), _baseline(request.adc).model_dump_json()
    for i, layer in enumerate(mapped):
        job.step(i / len(mapped))
        densities = _densities(layer, i, crossbar)
        own = settled[0][i] if settled else None
        choices.append(_expected(layer.inputs, *densities, crossbar, asked, own, request.calibration.error))
        uniform.append(_expected(layer.inputs, *densities, crossbar, baseline, None, request.calibration.error))
        levels.append(stats.histogram(layer.inputs, *densities, crossbar).levels)
    if any(not (layer.activation_density and layer.weight_density) for layer in mapped):
        warnings.append("layers: densities of bits are the defaults where none are given")
    unmapped = sum(layer.inputs * layer.outputs * layer.groups * layer.positions * layer.count for layer in request.layers)
    unmapped -= sum(shape.macs for shape in shapes)
    stored = sum(shape.crossbars(crossbar) for shape in shapes)
    names = [f"{layer.name or layer.kind}: digital" for layer in request.layers if layer.kind == "digital"]
    findings = _Findings(shapes, choices, uniform, stored, unmapped, names, warnings, levels, [None] * len(shapes))
    job.step(1.0)
    return _report(request, findings)


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
    return calibrate([layer], CalibrationOptions(error=error), None, 0).choices[0]


def _baseline(options: AdcOptions) -> AdcOptions:
    """Return uniform converters that are calibrated as finely."""
    return AdcOptions(
        kind="uniform_calibrated", granularity=options.granularity, rounding=options.rounding, zero_skip=options.zero_skip
    )


class _Functional:
    """One functional estimate: convert, count, tune, test."""

    def __init__(self, request: ReramRequest, job: Job, model: nn.Module, data: Samples) -> None:
        from .convert import CrossbarModel, MappedConv, ideal_cells

        self.request, self.job, self.data = request, job, data
        self.quiet = replace(job, progress=_silent)
        self._check_data()
        store = ideal_cells if request.nonideal.is_ideal else noisy_cells(request.nonideal)
        self.model: CrossbarModel = CrossbarModel(model, request.crossbar, data.calibration_x, store)
        self.model.session.workers = request.workers
        self.shapes = [
            Shape(
                layer.name,
                "conv" if isinstance(layer, MappedConv) else "linear",
                layer.crossbars.inputs,
                layer.crossbars.outputs,
                layer.crossbars.groups,
                layer.vectors,
            )
            for layer in self.model.layers
        ]
        self._check_size()
        self.warnings: list[str] = []

    def _check_data(self) -> None:
        import torch

        for name in ("calibration_x", "tuning_x", "test_x"):
            x = getattr(self.data, name)
            if x is None:
                continue
            if len(x) == 0:
                raise HwsimError(f"data.{name}: is empty; at least one sample is needed", field="data")
            if not bool(torch.isfinite(x).all()):
                raise HwsimError(f"data.{name}: is not finite", field="data")
        for x, y, name in ((self.data.tuning_x, self.data.tuning_y, "tuning"), (self.data.test_x, self.data.test_y, "test")):
            if y is not None and (x is None or len(x) != len(y)):
                raise HwsimError(f"data.{name}_y: {len(y)} labels for {0 if x is None else len(x)} samples", field="data")

    def _check_size(self) -> None:
        request = self.request
        mapped = self.model.mapped_macs / self.model.macs
        if mapped < request.least_mapped:
            raise HwsimError(
                f"model: {mapped:.3g} of its multiply-accumulates can be in crossbars, least_mapped = {request.least_mapped}; "
                f"not mapped are {', '.join(self.model.unmapped) or 'products outside of modules'}",
                "UNIMPLEMENTED",
                "model",
            )
        sample = sum(shape.conversions(request.crossbar) for shape in self.shapes)
        tuning = 0 if self.data.tuning_x is None else len(self.data.tuning_x)
        needed = sample * (2 * len(self.data.test_x) + 2 * request.calibration.samples + 10 * tuning)
        if needed > request.most_conversions:
            raise HwsimError(
                f"most_conversions = {request.most_conversions:g}: up to {needed:.2g} conversions would be simulated, "
                f"{sample} a sample; give fewer samples, or choose mode 'stats'",
                "RESOURCE_EXHAUSTED",
                "most_conversions",
            )

    def report(self) -> ReramReport:
        """Do everything, in order."""
        request, data, model = self.request, self.data, self.model
        self._observe()
        histograms = self._histograms()
        self.job.step(0.1)
        least = self._accuracy_int(data.tuning_x, data.tuning_y)
        uniform = self._calibrate(_baseline(request.adc), histograms, least)
        accuracy_uniform = _accuracy(self._run(uniform.choices, data.test_x), data.test_y)
        self.job.step(0.4)
        settled = fixed(request.adc, request.crossbar, len(model.layers))
        found = self._given(*settled, histograms) if settled else self._calibrate(request.adc, histograms, least)
        if not found.kept:
            self.warnings.append("calibration: not even the lowest price of a step keeps the budget on tuning data")
        self.job.step(0.7)
        measured = self._measured_errors(found.choices)
        # columns with converters of their own are told apart by a histogram only
        logits = self._run(found.choices, data.test_x, histogram=len(found.choices[0].settings) > 1)
        counted = [_counted(choice, layer) for choice, layer in zip(found.choices, model.layers, strict=True)]
        findings = _Findings(
            self.shapes,
            counted,
            uniform.choices,
            sum(crossbars.crossbars for crossbars in model.stored),
            model.macs - model.mapped_macs,
            model.unmapped,
            self.warnings,
            [histogram.levels for histogram in histograms],
            measured,
            None if settled else found.price,
            _accuracy(model.run_float(data.test_x, self.quiet), data.test_y),
            self._accuracy_int(data.test_x, data.test_y),
            _accuracy(logits, data.test_y),
            accuracy_uniform,
            (len(data.calibration_x), 0 if data.tuning_x is None else len(data.tuning_x), len(data.test_x)),
        )
        self.job.step(1.0)
        return _report(request, findings)

    def _observe(self) -> None:
        self.model.observe(self.data.calibration_x, self.quiet)
        for layer in self.model.layers:
            if layer.low < 0 and self.request.activations == "unsigned":
                raise HwsimError(
                    f"activations = 'unsigned': layer {layer.name} gets inputs down to {layer.low:.3g}; choose 'any'",
                    field="activations",
                )
            if layer.is_dead:
                self.warnings.append(f"layer {layer.name}: calibration data give it nothing but zeros; it returns its bias")

    def _histograms(self) -> list[Histogram]:
        """Count the bit lines of calibration samples with lossless converters."""
        model, crossbar = self.model, self.request.crossbar
        model.set_adcs([[Uniform(crossbar.full_bits)]] * len(model.layers), histogram=True)
        self._run_measured()
        return [layer.histogram() for layer in model.layers]

    def _given(self, adcs: list[tuple[Adc, ...]], warnings: list[str], histograms: list[Histogram]) -> Calibration:
        self.warnings += warnings
        skip = self.request.adc.zero_skip
        layers = [Layer(histogram, [[adc] for adc in own], skip) for histogram, own in zip(histograms, adcs, strict=True)]
        return Calibration([layer.cheapest(0) for layer in layers], 0)

    def _calibrate(self, adc: AdcOptions, histograms: list[Histogram], least: float | None) -> Calibration:
        layers = []
        for histogram in histograms:
            self.quiet.step()
            layers.append(Layer.search(histogram, adc, self.request.crossbar))
        options = self.request.calibration
        if least is None:
            return calibrate(layers, options, None, 0)

        def accuracy(choices: list[Choice]) -> float:
            assert self.data.tuning_x is not None
            return cast(float, _accuracy(self._run(choices, self.data.tuning_x), self.data.tuning_y))

        return calibrate(layers, options, accuracy, least - options.accuracy_budget)

    def _measured_errors(self, choices: list[Choice]) -> list[float]:
        """Run calibration samples through what was chosen: the prediction takes errors as independent."""
        self.model.set_adcs([choice.adcs for choice in choices], self.request.adc.zero_skip)
        self._run_measured()
        return [layer.error_power / layer.power if layer.power else 0.0 for layer in self.model.layers]

    def _run_measured(self) -> None:
        self.model.session.measure = True
        self.model.run(self.data.calibration_x[: self.request.calibration.samples], "crossbar", self.quiet)
        self.model.session.measure = False

    def _run(self, choices: list[Choice], x: Tensor, histogram: bool = False) -> Tensor:
        self.model.set_adcs([choice.adcs for choice in choices], self.request.adc.zero_skip, histogram)
        return self.model.run(x, "crossbar", self.quiet)

    def _accuracy_int(self, x: Tensor | None, y: Tensor | None) -> float | None:
        return None if x is None or y is None else _accuracy(self.model.run(x, "integer", self.quiet), y)


def _accuracy(logits: Tensor, y: Tensor | None) -> float | None:
    """Return the share of samples, or of whatever has a label, whose largest output is the label."""
    return None if y is None else float((logits.argmax(-1) == y).double().mean())


def _counted(choice: Choice, layer: MappedLayer) -> Choice:
    """Replace expected shares by counted ones; errors stay as predicted."""
    tally, skips = layer.tally, choice.skipped > 0
    if tally.histogram_CIY is not None:
        counted = Layer(layer.histogram(), [[adc] for adc in choice.adcs], skips).cheapest(0)
        settings = zip(choice.settings, counted.settings, strict=True)
        return Choice(tuple(replace(new, error=old.error) for old, new in settings))
    (setting,) = choice.settings
    lines, skipped = tally.bit_lines, tally.idle if skips else 0
    operations = setting.adc.coarse_steps * tally.coarse + setting.adc.fine_steps * (lines - skipped - tally.coarse)
    steps, coarse, clipped, skipped_share = (count / lines for count in (operations, tally.coarse, tally.clipped, skipped))
    return Choice((Setting(setting.adc, steps, coarse, clipped, skipped_share, setting.error),))


def _report(request: ReramRequest, findings: _Findings) -> ReramReport:
    """Turn shares into counts, energy, time and area."""
    crossbar, workload = request.crossbar, request.workload
    shapes, choices = list(findings.shapes), list(findings.choices)
    if workload.phase == "train":
        shapes += [shape.transposed() for shape in findings.shapes]
        choices += findings.choices
    works = [phases.work(shape, choice, crossbar, workload) for shape, choice in zip(shapes, choices, strict=True)]
    lines = [shape.conversions(crossbar) * workload.passes for shape in shapes]
    operations = sum(count * choice.steps for count, choice in zip(lines, choices, strict=True))
    clipped = sum(count * choice.clipped for count, choice in zip(lines, choices, strict=True))
    full = sum(lines) * crossbar.full_bits
    uniform = sum(choice.steps * n for choice, n in zip(findings.uniform, lines, strict=False))
    uniform /= sum(lines[: len(findings.shapes)])  # forward only, where it was calibrated
    mean, reduction = operations / sum(lines), full / max(operations, 1)
    mapped = sum(shape.macs for shape in findings.shapes)
    parts = _energy(request, works, choices, mapped, findings.unmapped_macs)
    low_j, high_j = sum(part.low_j for part in parts), sum(part.high_j for part in parts)
    lossless_j = sum(lines) * energy.conversion_j(request.energy, crossbar.full_bits)
    crossbars = findings.stored + sum(shape.crossbars(crossbar) for shape in shapes[len(findings.shapes) :])
    area = energy.areas(crossbars, crossbar)
    return ReramReport(
        mode=request.mode,
        model=request.model,
        data=request.data,
        conversions=sum(work.lines - work.skipped for work in works),
        ad_operations=operations,
        ad_operations_full=full,
        mean_ops=mean,
        mean_ops_uniform=uniform,
        reduction=reduction,
        reduction_vs_calibrated_uniform=uniform / mean if mean else 1.0,
        price=findings.price,
        accuracy_float=findings.accuracy_float,
        accuracy_int=findings.accuracy_int,
        accuracy_crossbar=findings.accuracy_crossbar,
        accuracy_uniform=findings.accuracy_uniform,
        clipped=clipped,
        clip_fraction=clipped / sum(lines),
        energy=parts,
        energy_low_j=low_j,
        energy_high_j=high_j,
        energy_reduction=(low_j - parts[0].low_j + lossless_j) / low_j,
        tile_power_w=energy.tile_power_w(reduction),
        latency_s=_latency_s(request, works),
        crossbars=crossbars,
        area_mm2=sum(part.area_mm2 for part in area),
        area=area,
        macs=mapped + findings.unmapped_macs,
        mapped_mac_fraction=mapped / (mapped + findings.unmapped_macs),
        unmapped=findings.unmapped,
        layers=_rows(request, findings),
        trq=[adc.parameters for choice in findings.choices for adc in choice.adcs if isinstance(adc, Trq)],
        warnings=[*findings.warnings, *_warnings(request, findings, reduction, clipped / sum(lines))],
        provenance=_provenance(request, findings.samples),
    )


def _energy(
    request: ReramRequest, works: Sequence[energy.Work], choices: Sequence[Choice], mapped_macs: int, unmapped_macs: int
) -> list[ComponentEnergy]:
    """Return all components, the converters first."""
    crossbar, workload = request.crossbar, request.workload
    adc_j = sum(
        work.lines * energy.line_j(choice, request.energy, crossbar.full_bits)
        for work, choice in zip(works, choices, strict=True)
    )
    totals = {"adc": adc_j}
    for work in works:
        for name, value in energy.array_j(work, crossbar).items():
            totals[name] = totals.get(name, 0.0) + value
    parts = [ComponentEnergy(name=name, low_j=value, high_j=value) for name, value in totals.items()]
    cells = sum(work.inputs * work.outputs * work.groups for work in works) * crossbar.columns_per_output
    ranges = {
        "digital": energy.digital_j(phases.digital_macs(mapped_macs, unmapped_macs, workload)),
        "write": energy.write_j(cells * workload.writes),
    }
    return parts + [ComponentEnergy(name=name, low_j=low, high_j=high) for name, (low, high) in ranges.items()]


def _latency_s(request: ReramRequest, works: Sequence[energy.Work]) -> float:
    computing_s = energy.latency_s(works, request.crossbar, request.energy.schedule)
    return computing_s + request.workload.writes * energy.write_s(request.crossbar)


def _rows(request: ReramRequest, findings: _Findings) -> list[LayerReport]:
    crossbar, workload = request.crossbar, request.workload
    rows = []
    for i, (shape, choice) in enumerate(zip(findings.shapes, findings.choices, strict=True)):
        work = phases.work(shape, choice, crossbar, workload)
        columns = shape.outputs * crossbar.columns_per_output
        rows.append(
            LayerReport(
                name=shape.name,
                kind=shape.kind,
                adc=[str(adc) for adc in choice.adcs],
                uniform=[str(adc) for adc in findings.uniform[i].adcs],
                inputs=shape.inputs,
                outputs=shape.outputs,
                groups=shape.groups,
                positions=shape.positions,
                crossbars=shape.crossbars(crossbar),
                row_utilisation=shape.inputs / (crossbar.tiles(shape.inputs) * crossbar.rows),
                column_utilisation=columns / (-(-columns // crossbar.columns) * crossbar.columns),
                macs=shape.macs,
                conversions=work.lines - work.skipped,
                ad_operations=work.lines * choice.steps,
                mean_ops=choice.steps,
                coarse_fraction=choice.coarse,
                clipped=work.lines * choice.clipped,
                clip_fraction=choice.clipped,
                skipped_fraction=choice.skipped,
                levels=findings.levels[i],
                error_predicted=choice.error,
                error_measured=findings.measured[i],
                energy_adc_j=work.lines * energy.line_j(choice, request.energy, crossbar.full_bits),
                latency_s=energy.latency_s([work], crossbar, "in_turn"),
            )
        )
    return rows


def _warnings(request: ReramRequest, findings: _Findings, reduction: float, clip_fraction: float) -> list[str]:
    warnings = phases.endurance_warning(request.workload)
    if clip_fraction:
        warnings.append(f"adc: {clip_fraction:.2g} of all bit lines lie beyond their converter's last code and are clipped")
    if findings.unmapped_macs:
        warnings.append(f"model: {findings.unmapped_macs} multiply-accumulates of a sample are digital, not in crossbars")
    if request.workload.phase == "train":
        warnings.append(
            "workload.phase = 'train': gradients of weights are digital, and converters are taken to need as many steps for "
            "gradients as for activations, which was not measured"
        )
    integer, through = findings.accuracy_int, findings.accuracy_crossbar
    if reduction > SUSPICIOUS_REDUCTION and integer is not None and through is not None and integer - through < 0.01:
        warnings.append(f"reduction = {reduction:.3g}: more than {SUSPICIOUS_REDUCTION:g} for less than a point; look closely")
    return warnings


def _provenance(request: ReramRequest, samples: tuple[int, int, int]) -> Provenance:
    calibration, tuning, test = samples
    return Provenance(
        request_sha256=_sha256(request.model_dump_json()),
        constants_sha256=_sha256(repr(energy.constants())),
        adc_energy_model=request.energy.model,
        node_nm=request.energy.node_nm,
        calibration_samples=calibration,
        tuning_samples=tuning,
        test_samples=test,
        versions=f"Python {platform.python_version()}, NumPy {np.__version__}",
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
