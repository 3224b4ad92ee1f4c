"""The simulator: a trace runs on a machine, epoch by epoch, under a policy.

The threads go as fast as memory lets them. A compiled kernel takes accesses until the epoch's time is over, then the policy
moves pages, and what that costs is added to the clock before the next epoch begins.

Shapes: N = accesses, P = pages, T = epochs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..simulator import HwsimError, Job
from . import machine
from .constants import VERSION, constant, digest
from .cost import KINDS, Costs, Load, energy_j
from .machine import Machine
from .memory import FAST, MARKED, SLOW, UNTOUCHED, Memory
from .policies import POLICIES, PolicyName, System
from .policies.neomem import NeoMem
from .report import CostBreakdown, NeoMemReport, PolicyFactors, Provenance, Series, SketchReport
from .request import NeoMemRequest
from .traces import LINE_BYTES, Trace, TraceStore
from .workload import workload

BATCH = 2**18
"""Accesses between two looks at whether to go on; changes nothing else."""
_STEPS = 32
_POINTS = 240
_MOST_PS = 2**62  # the clock has 63 bits


def estimate(request: NeoMemRequest, job: Job, traces: TraceStore) -> NeoMemReport:
    """Simulate a workload under a policy, and under those it is compared with.

    Raises
    ------
    HwsimError
        INVALID_ARGUMENT if the warm-up leaves nothing, or if more than 53 days would pass; CANCELLED, DEADLINE_EXCEEDED; and
        what `workload.workload`, `machine.build` and `training.generate` raise.
    """
    work = workload(request, traces)
    built = machine.build(request.platform, work.pages, work.scale, work.access, request.tick_ms)
    job.step()
    trace = work.trace(job)
    if request.warmup_accesses >= len(trace):
        raise HwsimError(
            f"warmup_accesses = {request.warmup_accesses}: the trace has {len(trace)} accesses; choose fewer",
            field="warmup_accesses",
        )
    names: list[PolicyName] = list(dict.fromkeys((request.policy, "all_fast", "first_touch", *request.against)))
    runs: dict[str, Outcome] = {}
    for i, name in enumerate(names):
        runs[name] = Simulation(request, name, trace, built).finish(job, i / len(names), 1 / len(names))
    return _report(request, built, trace, trace.digest(job), runs)


@dataclass(frozen=True)
class Outcome:
    """What a run came to, after its warm-up.

    Attributes
    ----------
    counts : array of int64, shape (2, 2)
        Accesses to slow and to fast memory, reads and writes.
    cost_ps : dict of str to int
        Time by kind.
    moves : dict of str to int
        Pages promoted, demoted, ping_pong, failed, and moved in all.
    stolen_s : float
        CPU time of the kernel's work.
    epochs_TF : array of float64, shape (T, 9)
        Of each epoch: begin and end (ps), accesses to slow and fast memory, latencies there (ns), faults, threshold, share.
    sketch : SketchReport
    """

    counts: NDArray[np.int64]
    cost_ps: dict[str, int]
    moves: dict[str, int]
    stolen_s: float
    epochs_TF: NDArray[np.float64]
    sketch: SketchReport

    @property
    def total_ps(self) -> int:
        """Time it took."""
        return sum(self.cost_ps.values())


class Simulation:
    """One run of a trace under a policy.

    Parameters
    ----------
    request : NeoMemRequest
    policy : PolicyName
        In place of the request's.
    trace : Trace
    built : Machine
    batch : int
        Accesses at most in one call of the kernel; changes nothing in the outcome.

    Attributes
    ----------
    system : System
    position, clock_ps : int
        The next access and its time.
    """

    def __init__(self, request: NeoMemRequest, policy: PolicyName, trace: Trace, built: Machine, batch: int = BATCH) -> None:
        if policy == "all_fast":
            built = replace(built, fast_pages=built.pages)
        elif policy == "all_slow":
            built = replace(built, fast_pages=0, slow_pages=built.pages)
        costs = Costs(built)
        self.system = System(request, built, Memory(built, costs), costs, Load(built), trace)
        self.policy = POLICIES[policy](self.system)
        self.batch = batch
        self.position = self.clock_ps = 0
        self._counts = (0, 0, 0, 0)
        self._epochs: list[tuple[float, ...]] = []
        self._settled = (0, self._counts, 0)
        self._latency_ns = self.system.load.latency_ns
        self._touched_P = np.empty(built.pages, np.int64)
        self._faults_P = np.empty(built.pages, np.int64)
        self._start = self._snapshot()
        self.policy.place()

    @property
    def counts(self) -> NDArray[np.int64]:
        """Accesses so far to slow and to fast memory, reads and writes, shape (2, 2)."""
        return np.array(self._counts, np.int64).reshape(2, 2)

    def finish(self, job: Job, done: float = 0.0, share: float = 1.0) -> Outcome:
        """Run to the end of the trace, telling `job` of progress from `done` on, `share` in all."""
        warmup = self.system.request.warmup_accesses
        before, stepped = self._start, 0
        for i, _ in enumerate(self.steps()):
            if 0 < self.position == warmup:
                before = self._snapshot()
            if self.position - stepped >= BATCH or i % _STEPS == 0:
                stepped = self.position
                job.step(done + share * self.position / len(self.system.trace))
        after = self._snapshot()
        return Outcome(
            counts=after[0] - before[0],
            cost_ps={kind: after[1][kind] - before[1][kind] for kind in KINDS},
            moves={name: after[2][name] - before[2][name] for name in after[2]},
            stolen_s=after[3] - before[3],
            epochs_TF=np.array(self._epochs[before[4] :], np.float64),
            sketch=self._sketch(),
        )

    def steps(self) -> Iterator[None]:
        """Advance the run, by a part of an epoch or to the end of one, at each iteration."""
        system, trace = self.system, self.system.trace
        warmup = system.request.warmup_accesses
        next_ps = self._begin_epoch()
        while self.position < len(trace):
            limit = min(self.policy.horizon(self.position), len(trace))
            if self.position < warmup:
                limit = min(limit, warmup)
            self._advance(min(limit, self.position + self.batch), next_ps)
            time_is_up = self.clock_ps >= next_ps
            if time_is_up:
                self._settle_load()
            if time_is_up or self.position == limit:
                self._end_epoch()
                next_ps = self._begin_epoch()
            yield

    def _begin_epoch(self) -> int:
        """Let what was charged pass; return when the epoch ends, which leaves time for one access at least."""
        self._epoch = (self.clock_ps, self._counts)
        self._epoch_faults = 0
        self.clock_ps += self.system.costs.take()
        if self.clock_ps + max(self.system.load.cost_ps) > _MOST_PS:
            raise HwsimError(
                f"platform: {self.position} accesses take {self.clock_ps / 1e12:.3g} s of simulated time; at "
                f"most {_MOST_PS / 1e12:.3g} s can pass, so choose a faster machine or a smaller footprint",
                field="platform",
            )
        tick_ps = self.system.machine.tick_ps
        return (self.clock_ps // tick_ps + 1) * tick_ps

    def _advance(self, stop: int, until_ps: int) -> None:
        """Let the kernel take accesses, and show them to the policy."""
        system, memory = self.system, self.system.memory
        start, start_ps = self.position, self.clock_ps
        slow_ps, fast_ps = system.load.cost_ps
        self.position, touched, faults, fast, writes, fast_writes = _run(
            system.trace.pages_N,
            system.trace.writes_N,
            start,
            stop,
            start_ps,
            until_ps,
            slow_ps,
            fast_ps,
            memory.state_P,
            memory.last_P,
            memory.tick,
            memory.free,
            self._touched_P,
            self._faults_P,
        )
        count = self.position - start
        slow_writes, (a, b, c, d) = writes - fast_writes, self._counts
        self._counts = (a + count - fast - slow_writes, b + slow_writes, c + fast - fast_writes, d + fast_writes)
        self.clock_ps += system.costs.accesses(count - fast, fast, system.load)
        self._epoch_faults += faults
        if touched:
            memory.allocated(self._touched_P[:touched])
        self.policy.observe(start, self.position, start_ps, self._faults_P[:faults])

    def _settle_load(self) -> None:
        """Let the tiers' load follow what a tick's time has moved, migrations among it."""
        system, (begun_ps, counts, moved) = self.system, self._settled
        self._settled = (self.clock_ps, self._counts, system.costs.moved_pages)
        size = system.machine.access.bytes * system.machine.scale
        # a migrated page is read on one tier and written on the other; as many go up as down, or nearly
        copied = (system.costs.moved_pages - moved) * system.machine.page_bytes * system.machine.scale / 2
        slow_read, slow_written, fast_read, fast_written = (
            (now - before) * size + copied for now, before in zip(self._counts, counts, strict=True)
        )
        system.load.observe((slow_read, fast_read), (slow_written, fast_written), (self.clock_ps - begun_ps) * 1e-12)

    def _end_epoch(self) -> None:
        """Note what the epoch came to, and let the policy act."""
        system, (begun_ps, before) = self.system, self._epoch
        slow = self._counts[0] + self._counts[1] - before[0] - before[1]
        fast = self._counts[2] + self._counts[3] - before[2] - before[3]
        latency_ns = self._latency_ns
        self._epochs.append((begun_ps, self.clock_ps, slow, fast, *latency_ns, self._epoch_faults, *self.policy.state()))
        self._latency_ns = system.load.latency_ns
        if self.position < len(system.trace):
            self.policy.tick(self.position, self.clock_ps, self.clock_ps - begun_ps)
        system.memory.tick += 1

    def _snapshot(self) -> tuple[NDArray[np.int64], dict[str, int], dict[str, int], float, int]:
        memory, costs = self.system.memory, self.system.costs
        moves = {name: getattr(memory, name) for name in ("promoted", "demoted", "ping_pong", "failed")}
        moves["moved"] = costs.moved_pages
        return self.counts, dict(costs.total_ps), moves, costs.stolen_s, len(self._epochs)

    def _sketch(self) -> SketchReport:
        if not isinstance(self.policy, NeoMem):
            return SketchReport(counted=0, duplicates=0, fifo_dropped=0, updates=0, error_bound_median=0.0, error_bound_max=0)
        device, bounds = self.policy.device, self.policy.daemon.error_bounds
        return SketchReport(
            counted=device.fed,
            duplicates=device.duplicates,
            fifo_dropped=device.dropped,
            updates=len(bounds),
            error_bound_median=float(np.median(bounds)) if bounds else 0.0,
            error_bound_max=max(bounds, default=0),
        )


@njit(nogil=True, cache=True)
def _run(
    pages_N,
    writes_N,
    position,
    stop,
    clock_ps,
    until_ps,
    slow_ps,
    fast_ps,
    state_P,
    last_P,
    tick,
    free,
    touched_P,
    faults_P,
):
    """Take accesses until `stop` or until time is up; return where it ended, and how many were what."""
    touched = faults = fast = writes = fast_writes = 0
    while position < stop and clock_ps < until_ps:
        page = pages_N[position]
        state = state_P[page]
        if state > FAST:  # rare: not allocated yet, or marked
            if state & UNTOUCHED:
                state = FAST if free > 0 else SLOW
                free -= state
                touched_P[touched] = page
                touched += 1
            else:
                state &= ~MARKED
                faults_P[faults] = page
                faults += 1
            state_P[page] = state
        last_P[page] = tick
        write = writes_N[position]
        fast += state
        writes += write
        fast_writes += state & write
        clock_ps += fast_ps if state else slow_ps
        position += 1
    return position, touched, faults, fast, writes, fast_writes


def _report(request: NeoMemRequest, built: Machine, trace: Trace, trace_sha256: str, runs: dict[str, Outcome]) -> NeoMemReport:
    own = runs[request.policy]
    slow, fast = own.counts.sum(axis=1).tolist()
    sim_s, moves = own.total_ps * 1e-12, own.moves
    latency_ns = _latencies(own.epochs_TF)
    profiled_s = sim_s if request.policy == "neomem" else 0.0
    low_j, high_j = energy_j((slow, fast), built, moves["moved"], own.stolen_s, profiled_s)
    return NeoMemReport(
        policy=request.policy,
        accesses=slow + fast,
        sim_s=sim_s,
        accesses_per_s=(slow + fast) * built.scale / sim_s,
        latency_ns_mean=latency_ns[0],
        latency_ns_p50=latency_ns[1],
        latency_ns_p99=latency_ns[2],
        fast_hit_ratio=fast / (slow + fast),
        fast_hit_ratio_reads=_ratio(own.counts[:, 0]),
        fast_hit_ratio_writes=_ratio(own.counts[:, 1]),
        slowdown_vs_all_fast=own.total_ps / runs["all_fast"].total_ps,
        speedup=PolicyFactors(**{name: run.total_ps / own.total_ps for name, run in runs.items() if name != request.policy}),
        promoted_pages=moves["promoted"],
        demoted_pages=moves["demoted"],
        ping_pong_pages=moves["ping_pong"],
        failed_pages=moves["failed"],
        migrated_bytes_per_s=moves["moved"] * built.page_bytes * built.scale / sim_s,
        footprint_pages=built.pages,
        fast_pages=built.fast_pages,
        cost_breakdown=CostBreakdown(**{f"{kind}_s": ps * 1e-12 for kind, ps in own.cost_ps.items()}),
        sketch=own.sketch,
        energy_low_j=low_j,
        energy_high_j=high_j,
        series=_series(own.epochs_TF, built.scale),
        provenance=Provenance(
            model_version=VERSION,
            constants_sha256=digest(),
            request_sha256=hashlib.sha256(request.model_dump_json().encode()).hexdigest(),
            trace_sha256=trace_sha256,
            seed=request.seed,
            scale=built.scale,
        ),
        warnings=_warnings(request, built, trace, sim_s),
    )


def _ratio(counts: NDArray[np.int64]) -> float | None:
    slow, fast = counts.tolist()
    return fast / (slow + fast) if slow + fast else None


def _latencies(epochs_TF: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return mean, median and 99th percentile of the latencies of accesses."""
    _, _, slow_T, fast_T, slow_ns_T, fast_ns_T, faults_T, _, _ = epochs_TF.T
    counts = np.concatenate([slow_T - faults_T, fast_T, faults_T])
    values_ns = np.concatenate([slow_ns_T, fast_ns_T, slow_ns_T + constant("cost.hint_fault_ns")])
    order = np.argsort(values_ns, kind="stable")
    below = np.cumsum(counts[order])
    p50, p99 = (float(values_ns[order][np.searchsorted(below, share * below[-1])]) for share in (0.5, 0.99))
    return float(counts @ values_ns / below[-1]), p50, p99


def _series(epochs_TF: NDArray[np.float64], scale: int) -> Series:
    """Return the run in stretches of as many epochs each."""
    epochs = len(epochs_TF)
    points = min(_POINTS, epochs)
    starts = np.arange(points) * epochs // points
    begin_ps, end_ps, slow_T, fast_T, _, _, _, theta_T, p_T = epochs_TF.T
    ends = np.append(starts[1:], epochs) - 1
    slow, fast = np.add.reduceat(slow_T, starts), np.add.reduceat(fast_T, starts)
    return Series(
        time_s=(end_ps[ends] * 1e-12).tolist(),
        accesses_per_s=((slow + fast) * scale / (end_ps[ends] - begin_ps[starts]) * 1e12).tolist(),
        fast_hit_ratio=(fast / (slow + fast)).tolist(),
        theta=theta_T[ends].tolist(),
        p=p_T[ends].tolist(),
    )


def _warnings(request: NeoMemRequest, built: Machine, trace: Trace, sim_s: float) -> list[str]:
    warnings = ["all figures are modelled"]
    period_s = request.neomem.value("threshold_period_s", request.profile)
    if request.policy == "neomem" and sim_s < 2 * period_s:
        warnings.append(
            f"{sim_s:.3g} s are simulated, and NeoMem adapts its threshold every {period_s:g} s: give a longer trace"
        )
    if built.pages <= built.fast_pages:
        warnings.append("the footprint fits fast memory: no policy can gain")
    if request.training is not None:
        warnings.append("a training step touches nearly all pages equally often: tiering has little to gain")
    if request.trace_id is not None and trace.access_bytes > LINE_BYTES:
        warnings.append(
            "the trace tells of whole pages, no cache has taken from it what it would keep: slow-downs are too large"
        )
        if request.compute_seconds is None and request.access.c0_ns is None:
            warnings.append("compute_seconds is absent: the workload is taken to do little but move memory")
    if built.fast_pages < 100:
        warnings.append(
            f"{built.fast_pages} pages of fast memory are simulated: the figures are coarse; choose a smaller scale"
        )
    return warnings
