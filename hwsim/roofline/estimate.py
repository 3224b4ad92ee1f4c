"""A workload on a device: time, what bounds it, energy, and whether it fits.

Source: Williams, Waterman and Patterson, CACM 52(4), 2009; per operator as in arXiv:2402.16363, section 3: the time of an
operator is the larger of arithmetic over peak rate and bytes over bandwidth, and operators follow one another. Ours:
efficiencies, an overhead an operator, links, training, energy, and memory that has an end.
"""

from __future__ import annotations

from typing import Literal

from ..devices import Device
from ..simulator import HwsimError, Report
from .energy import EnergyModel, energy
from .workload import Operator, Precision, Workload

Bound = Literal["compute", "memory", "link"]
_WIDER: dict[Precision, tuple[Precision, ...]] = {
    "int4": ("int8", "fp16", "bf16", "fp32"),
    "int8": ("fp16", "bf16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "bf16": ("fp16", "fp32"),
    "fp32": (),
}


class OperatorReport(Report):
    """Equal operators of a workload on a device."""

    name: str
    phase: str
    count: int
    flops: int
    """Of one."""
    memory_bytes: int
    """Of one."""
    intensity: float | None = None
    """Operations a byte; None where no bytes move."""
    attainable_flops_per_s: float
    bound: Bound
    time_s: float
    """Of all."""


class MemoryReport(Report):
    """What must be in memory at once, and what there is."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    kv_bytes: int
    inputs_bytes: int
    total_bytes: int
    capacity_bytes: int | None = None
    """None: not limited, or not known."""
    fits: bool
    deficit_bytes: int
    """What is missing; 0 if it fits."""


class RooflineReport(Report):
    """A workload on a device. Times are lower bounds unless the device's efficiencies were measured."""

    device: str
    precision: Precision
    time_s: float
    flops: int
    memory_bytes: int
    load_weight_bytes: int
    load_act_bytes: int
    store_act_bytes: int
    load_kv_bytes: int
    store_kv_bytes: int
    link_bytes: int
    intensity: float | None = None
    bound: Bound
    """What most of the time goes into."""
    peak_flops_per_s: float
    memory_bytes_per_s: float
    memory: MemoryReport
    energy_low_j: float
    energy_high_j: float
    energy_model: EnergyModel
    complete: bool
    """False: some operators do arithmetic that could not be counted."""
    uncounted: list[str]
    operators: list[OperatorReport]
    """The slowest ones, as many as asked for."""
    operators_in_all: int
    warnings: list[str]
    provenance: str
    """What figures the answer rests on."""


def peak_rate(name: str, device: Device, precision: Precision, fallback: bool) -> tuple[Precision, float]:
    """Return what arithmetic is done in, and at what rate.

    Raises
    ------
    HwsimError
        FAILED_PRECONDITION if the device cannot do it, nor anything wider where that is allowed.
    """
    rates = device.peak.model_dump(exclude_none=True)
    for candidate in (precision, *(_WIDER[precision] if fallback else ())):
        if candidate in rates:
            return candidate, rates[candidate]
    hint = ", or set precision_fallback" if not fallback and set(_WIDER[precision]) & rates.keys() else ""
    raise HwsimError(
        f"precision = {precision!r}: device {name!r} has no peak rate for it; choose one of {', '.join(rates)}{hint}",
        "FAILED_PRECONDITION",
        "precision",
    )


def estimate(
    name: str,
    device: Device,
    workload: Workload,
    *,
    energy_model: EnergyModel = "7nm",
    precision_fallback: bool = False,
    most_operators: int = 0,
) -> RooflineReport:
    """Say what a workload takes on a device.

    Parameters
    ----------
    name : str
        Of the device, for the report and messages.
    most_operators : int
        How many rows the report lists, slowest first; 0 for all.

    Raises
    ------
    HwsimError
        FAILED_PRECONDITION if the device lacks a figure that the workload needs.
    """
    precision, peak = peak_rate(name, device, workload.precision, precision_fallback)
    rows = [_row(name, op, device, peak) for op in workload.operators]
    time_s = sum(row.time_s for row in rows)
    sums = {
        field: sum(op.count * getattr(op, field) for op in workload.operators)
        for field in ("load_weight_bytes", "load_act_bytes", "store_act_bytes", "load_kv_bytes", "store_kv_bytes", "link_bytes")
    }
    flops, memory_bytes = workload.flops, workload.memory_bytes
    joules = energy(device, precision, flops, memory_bytes, time_s, energy_model)
    by_bound = {bound: sum(row.time_s for row in rows if row.bound == bound) for bound in ("compute", "memory", "link")}
    slowest = sorted(rows, key=lambda row: -row.time_s)
    return RooflineReport(
        device=name,
        precision=precision,
        time_s=time_s,
        flops=flops,
        memory_bytes=memory_bytes,
        **sums,
        intensity=flops / memory_bytes if memory_bytes else None,
        bound=max(by_bound, key=by_bound.__getitem__),  # type: ignore[arg-type]
        peak_flops_per_s=peak,
        memory_bytes_per_s=device.memory_bytes_per_s,
        memory=_memory(workload, device),
        energy_low_j=joules.low_j,
        energy_high_j=joules.high_j,
        energy_model=energy_model,
        complete=not workload.uncounted,
        uncounted=list(workload.uncounted),
        operators=slowest[:most_operators] if most_operators else rows,
        operators_in_all=len(rows),
        warnings=_warnings(name, device, workload, precision),
        provenance=f"roofline, device {name}: {device.summary}",
    )


def _row(name: str, op: Operator, device: Device, peak: float) -> OperatorReport:
    efficiency, bytes_moved = device.efficiency, op.memory_bytes
    compute_s = op.flops / (peak * efficiency.compute)
    memory_s = bytes_moved / (device.memory_bytes_per_s * efficiency.memory)
    link_s = _link_s(name, op, device)
    time_s = max(compute_s, memory_s) + link_s
    bound: Bound = "link" if link_s > max(compute_s, memory_s) else "memory" if memory_s > compute_s else "compute"
    return OperatorReport(
        name=op.name,
        phase=op.phase,
        count=op.count,
        flops=op.flops,
        memory_bytes=bytes_moved,
        intensity=op.flops / bytes_moved if bytes_moved else None,
        attainable_flops_per_s=op.flops / time_s if time_s else peak,
        bound=bound,
        time_s=op.count * (time_s + efficiency.overhead_s),
    )


def _link_s(name: str, op: Operator, device: Device) -> float:
    if not op.link_bytes:
        return 0.0
    if device.link_bytes_per_s is None:
        raise HwsimError(
            f"llm.tensor_parallel: device {name!r} has no link_bytes_per_s: {op.name!r} needs one; give a custom device",
            "FAILED_PRECONDITION",
            "llm.tensor_parallel",
        )
    return op.link_bytes / device.link_bytes_per_s


def _memory(workload: Workload, device: Device) -> MemoryReport:
    total, capacity = workload.footprint.total_bytes, device.memory_bytes
    deficit = max(0, total - capacity) if capacity is not None else 0
    sizes = dict(workload.footprint)
    return MemoryReport(**sizes, total_bytes=total, capacity_bytes=capacity, fits=deficit == 0, deficit_bytes=deficit)


def _warnings(name: str, device: Device, workload: Workload, precision: Precision) -> list[str]:
    warnings = []
    if precision != workload.precision:
        warnings.append(f"{name} has no {workload.precision} units; {precision} is assumed")
    if device.max_power_w is None:
        warnings.append(f"{name} has no max_power_w; the upper end of the energy leaves out all but arithmetic and memory")
    if workload.uncounted:
        warnings.append(f"arithmetic of {', '.join(workload.uncounted)} is not counted")
    return warnings
