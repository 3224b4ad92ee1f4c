"""What the NeoMem simulator answers."""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from ..simulator import Report


class PolicyFactors(Report):
    """A number for each policy that was compared with."""

    first_touch: float | None = None
    autonuma: float | None = None
    tpp: float | None = None
    pte_scan: float | None = None
    pebs: float | None = None
    memtis: float | None = None
    neomem: float | None = None
    oracle_static: float | None = None
    oracle_epoch: float | None = None
    oracle_free: float | None = None
    all_fast: float | None = None
    all_slow: float | None = None

    @model_serializer(mode="wrap")
    def _compared(self, everything: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out policies that were not."""
        return {name: value for name, value in everything(self).items() if value is not None}


class CostBreakdown(Report):
    """Where simulated time went; the sum is `sim_s`."""

    access_s: float
    """Accesses, at idle latencies."""
    contention_s: float
    """What load adds to them."""
    fault_s: float
    """Hint faults."""
    sample_s: float
    """Samples of load misses."""
    scan_s: float
    """Walks over page tables."""
    migrate_s: float
    """Copying pages."""
    shootdown_s: float
    """TLB shoot-downs."""
    mmio_s: float
    """Reading the profiler's registers."""


class SketchReport(Report):
    """How the profiler did; all zero for other policies."""

    counted: int
    """Accesses the sketch counted."""
    duplicates: int
    """Reads left out as repeats of their channel's last page."""
    fifo_dropped: int
    """Hot pages lost to a full FIFO."""
    updates: int
    """Updates of the threshold."""
    error_bound_median: float
    """Of the updates: the bound on a count's error that holds with probability 1 - 2^-rows, in accesses."""
    error_bound_max: int
    """The largest of them."""


class Series(Report):
    """How the run went: at most 240 points, each the mean of a stretch of time. Threshold and share are -1 if there is none."""

    time_s: list[float]
    """End of the stretch."""
    accesses_per_s: list[float]
    """Real accesses, all threads together."""
    fast_hit_ratio: list[float]
    """Share of accesses to fast memory."""
    theta: list[float]
    """NeoMem's threshold."""
    p: list[float]
    """Share of the sketch's counters above it."""


class Provenance(Report):
    """What has to be the same for the answer to be the same."""

    model_version: str
    constants_sha256: str
    request_sha256: str
    trace_sha256: str
    seed: int
    scale: int


class NeoMemReport(Report):
    """The figures of one policy on one trace, modelled.

    Pages and accesses are simulated ones, each of which stands for `scale`; times, rates and energies are the real ones.
    """

    policy: str
    accesses: int
    """Accesses, after the warm-up."""
    sim_s: float
    """Time they take."""
    accesses_per_s: float
    """Real accesses in that time, all threads together."""
    latency_ns_mean: float
    """Of an access to memory, hint faults included."""
    latency_ns_p50: float
    latency_ns_p99: float
    fast_hit_ratio: float
    """Share of accesses to fast memory."""
    fast_hit_ratio_reads: float | None = None
    """The same for reads; absent if there are none."""
    fast_hit_ratio_writes: float | None = None
    """The same for writes."""
    slowdown_vs_all_fast: float
    """Time over that with enough fast memory for all."""
    speedup: PolicyFactors
    """Time of other policies over this one's."""
    promoted_pages: int
    demoted_pages: int
    ping_pong_pages: int
    """Pages demoted and then found hot."""
    failed_pages: int
    """Pages to promote for which there was no room."""
    migrated_bytes_per_s: float
    footprint_pages: int
    fast_pages: int
    cost_breakdown: CostBreakdown
    sketch: SketchReport
    energy_low_j: float
    """Least energy of memory, migration, profiler and the kernel's work."""
    energy_high_j: float
    """Most energy of them."""
    series: Series
    provenance: Provenance
    warnings: list[str]
    """What to mind when using the figures."""
