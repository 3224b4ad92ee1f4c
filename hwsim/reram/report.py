"""What the ReRAM simulator answers, and how shares of bit lines become counts, energy, time and area."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..simulator import Report
from . import energy, phases
from .adc import Trq, TrqParameters
from .calibrate import Choice, Trial
from .phases import Shape
from .request import ReramRequest

SUSPICIOUS_REDUCTION = 5.0


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
    error_measured: float | None = None
    """Likewise, on calibration samples."""
    energy_adc_j: float
    latency_s: float


class ReramProvenance(Report):
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
    price: float | None = None
    """Predicted error over power that one step less of every conversion was worth; none if nothing was calibrated."""
    accuracy_float: float | None = None
    """On test samples, of the model as it is; like the others absent without labels."""
    accuracy_int: float | None = None
    """With integer weights and activations."""
    accuracy_crossbar: float | None = None
    """With these converters."""
    accuracy_uniform: float | None = None
    """With calibrated uniform ones."""
    trials: list[Trial]
    """What calibration tried on tuning data, in that order."""
    trials_uniform: list[Trial]
    """Likewise, of uniform converters."""
    clipped: float
    clip_fraction: float
    energy_j: dict[str, float]
    """By component; the low end where published figures differ."""
    energy_upper_j: dict[str, float]
    """Likewise, the high end."""
    energy_low_j: float
    """Of all components."""
    energy_high_j: float
    energy_reduction: float
    """Total of lossless converters over this one's, both low ends."""
    tile_power_w: float
    """Of one ISAAC tile, busy all the time, if its converters' power falls by `reduction`."""
    latency_s: float
    write_s: float
    """Of the latency, what writing cells takes."""
    crossbars: int
    area_mm2: float
    areas_mm2: dict[str, float]
    """By component."""
    macs: int
    """Of one sample."""
    mapped_mac_fraction: float
    unmapped: list[str]
    layers: list[LayerReport]
    trq: list[TrqParameters]
    """Each layer's, or each column's, to ask for the same again; empty for other kinds."""
    warnings: list[str]
    provenance: ReramProvenance


@dataclass(frozen=True)
class Findings:
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
    trials: Sequence[Trial] = ()
    trials_uniform: Sequence[Trial] = ()
    samples: tuple[int, int, int] = (0, 0, 0)


def assemble(request: ReramRequest, findings: Findings) -> ReramReport:
    """Turn shares into counts, energy, time and area."""
    crossbar, workload = request.crossbar, request.workload
    shapes, choices = list(findings.shapes), list(findings.choices)
    if workload.phase == "train":
        back = [pair for pair in zip(shapes, choices, strict=True) if pair[0].input_gradient]
        shapes += [shape.transposed() for shape, _ in back]
        choices += [choice for _, choice in back]
    works = [phases.work(shape, choice, crossbar, workload) for shape, choice in zip(shapes, choices, strict=True)]
    lines = [shape.conversions(crossbar) * workload.passes for shape in shapes]
    operations = sum(count * choice.steps for count, choice in zip(lines, choices, strict=True))
    clipped = sum(count * choice.clipped for count, choice in zip(lines, choices, strict=True))
    full = sum(lines) * crossbar.full_bits
    mean, reduction = operations / sum(lines), full / max(operations, 1)
    uniform, own = (_mean_steps(part, lines) for part in (findings.uniform, findings.choices))
    mapped = sum(shape.macs for shape in findings.shapes)
    cells = sum(shape.cells(crossbar) for shape in shapes)
    parts = _energy(request, works, choices, phases.digital_macs(mapped, findings.unmapped_macs, workload), cells)
    low_j, high_j = sum(parts[0].values()), sum(parts[1].values())
    lossless_j = sum(lines) * energy.conversion_j(request.energy, crossbar.full_bits)
    crossbars = findings.stored + sum(shape.crossbars(crossbar) for shape in shapes[len(findings.shapes) :])
    areas = energy.areas(crossbars, crossbar)
    write_s = workload.writes * energy.write_s(crossbar)
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
        reduction_vs_calibrated_uniform=uniform / own if own else 1.0,
        price=findings.price,
        accuracy_float=findings.accuracy_float,
        accuracy_int=findings.accuracy_int,
        accuracy_crossbar=findings.accuracy_crossbar,
        accuracy_uniform=findings.accuracy_uniform,
        trials=list(findings.trials),
        trials_uniform=list(findings.trials_uniform),
        clipped=clipped,
        clip_fraction=clipped / sum(lines),
        energy_j=parts[0],
        energy_upper_j=parts[1],
        energy_low_j=low_j,
        energy_high_j=high_j,
        energy_reduction=(low_j - parts[0]["adc"] + lossless_j) / low_j,
        tile_power_w=energy.tile_power_w(reduction),
        latency_s=energy.latency_s(works, crossbar, request.energy.schedule) + write_s,
        write_s=write_s,
        crossbars=crossbars,
        area_mm2=sum(areas.values()),
        areas_mm2=areas,
        macs=mapped + findings.unmapped_macs,
        mapped_mac_fraction=mapped / (mapped + findings.unmapped_macs),
        unmapped=findings.unmapped,
        layers=_rows(request, findings),
        trq=[adc.parameters for choice in findings.choices for adc in choice.adcs if isinstance(adc, Trq)],
        warnings=[*findings.warnings, *_warnings(request, findings, reduction, clipped / sum(lines))],
        provenance=_provenance(request, findings.samples),
    )


def _mean_steps(choices: Sequence[Choice], lines: Sequence[int]) -> float:
    """Return the steps of a bit line of the forward pass, whose layers come first."""
    forward = lines[: len(choices)]
    return sum(choice.steps * n for choice, n in zip(choices, forward, strict=True)) / sum(forward)


def _energy(
    request: ReramRequest, works: Sequence[energy.Work], choices: Sequence[Choice], digital_macs: int, cells: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return low and high ends of all components, the converters first."""
    crossbar = request.crossbar
    adc_j = sum(
        work.lines * energy.line_j(choice, request.energy, crossbar.full_bits)
        for work, choice in zip(works, choices, strict=True)
    )
    totals = {"adc": adc_j}
    for work in works:
        for name, value in energy.array_j(work, crossbar).items():
            totals[name] = totals.get(name, 0.0) + value
    ranges = {"digital": energy.digital_j(digital_macs), "write": energy.write_j(cells * request.workload.writes)}
    low, high = ({name: ends[end] for name, ends in ranges.items()} for end in (0, 1))
    return totals | low, totals | high


def _rows(request: ReramRequest, findings: Findings) -> list[LayerReport]:
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


def _warnings(request: ReramRequest, findings: Findings, reduction: float, clip_fraction: float) -> list[str]:
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


def _provenance(request: ReramRequest, samples: tuple[int, int, int]) -> ReramProvenance:
    calibration, tuning, test = samples
    return ReramProvenance(
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
