"""Workloads: where a request's trace comes from, how large it is, how it waits for memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..simulator import HwsimError, Job
from . import generators, training
from .machine import Access, auto_scale
from .request import NeoMemRequest
from .traces import LINE_BYTES, MAX_ACCESSES, Trace, TraceStore


@dataclass(frozen=True)
class Workload:
    """A trace that is still to be made.

    Attributes
    ----------
    scale, pages : int
        What a simulated page stands for, and how many there are.
    access : Access
        How the workload waits for memory.
    trace : callable
        Makes the trace, unless the job ends.
    """

    scale: int
    pages: int
    access: Access
    trace: Callable[[Job], Trace]


def workload(request: NeoMemRequest, traces: TraceStore) -> Workload:
    """Return the request's workload.

    Raises
    ------
    HwsimError
        NOT_FOUND if the trace is not in the store; INVALID_ARGUMENT if its pages have another size than the platform's;
        RESOURCE_EXHAUSTED if it would be repeated too often.
    """
    if request.training is not None:
        return _training(request, request.training)
    if request.synthetic is not None:
        return _synthetic(request, request.synthetic)
    return _uploaded(request, traces.get(request.trace_id or ""))


def _uploaded(request: NeoMemRequest, trace: Trace) -> Workload:
    if trace.page_bytes != request.platform.page_bytes:
        raise HwsimError(
            f"platform.page_bytes = {request.platform.page_bytes}: the trace has pages of {trace.page_bytes} bytes",
            field="platform.page_bytes",
        )
    if len(trace) * request.repeats > MAX_ACCESSES:
        raise HwsimError(
            f"repeats = {request.repeats}: makes {len(trace) * request.repeats} accesses; choose at most "
            f"{MAX_ACCESSES // len(trace)}",
            "RESOURCE_EXHAUSTED",
            "repeats",
        )
    kind = "default" if trace.access_bytes == LINE_BYTES else "training"
    scale, own = request.scale or 1, {}
    if request.compute_seconds is not None:
        own["c0_ns"] = _c0_ns(request, request.compute_seconds, len(trace) * scale)
    access = Access.settle(request.access, kind, trace.access_bytes, **own)
    return Workload(scale, trace.pages, access, lambda job: trace.repeated(request.repeats, job))


def _synthetic(request: NeoMemRequest, options: generators.SyntheticOptions) -> Workload:
    scale = request.scale or auto_scale(options.pages)
    pages, page_bytes = max(2, options.pages // scale), request.platform.page_bytes
    access = Access.settle(request.access, options.generator, LINE_BYTES)
    return Workload(scale, pages, access, lambda job: generators.generate(options, pages, page_bytes, request.seed, job))


def _training(request: NeoMemRequest, options: training.TrainingOptions) -> Workload:
    page_bytes = request.platform.page_bytes
    scale = request.scale or auto_scale(training.footprint_pages(options, page_bytes))
    touches = training.touches_per_step(options, page_bytes * scale) * scale
    c0_ns = _c0_ns(request, options.compute_seconds_per_step, touches)
    access = Access.settle(request.access, "training", page_bytes, c0_ns=c0_ns)
    pages = training.footprint_pages(options, page_bytes * scale)
    return Workload(scale, pages, access, lambda job: training.generate(options, page_bytes, scale, job))


def _c0_ns(request: NeoMemRequest, compute_s: float, accesses: int) -> float:
    """Spread compute time of all threads evenly over accesses."""
    return compute_s * 1e9 * request.platform.value("threads") / accesses
