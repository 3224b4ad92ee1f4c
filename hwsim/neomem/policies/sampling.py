"""Policies that sample load misses by processor events: PEBS as the paper's artifact uses it, and one in the manner of Memtis.

PEBS: every sampled page that lies in slow memory is promoted at once, page by page; one thread collects, which limits samples a
second. Memtis (Lee et al., SOSP 2023): samples are counted per page, counts are halved now and then, a histogram of their
logarithms says from which count on pages fill fast memory, and threads promote and demote twice a second; the sampling period
is adapted to a budget of CPU time.

Ours: samples are equally far apart in the trace, from a random start; a write in their place is no load and gives none.
Memtis demotes by the kernel's lists here, as all policies do, and not by its own histogram.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....core.options import Options
from ..constants import constant
from ..memory import FAST
from .base import Policy, System

_Count = Annotated[int, Field(ge=1, le=2**40)]


class PebsOptions(Options):
    """Sampling, with the artifact's limits."""

    period: _Count = constant("pebs.period")
    """Load misses of a thread from one sample to the next."""
    monitored_threads: Annotated[int, Field(ge=1, le=4096)] = constant("pebs.monitored_threads")
    """Threads that are sampled."""
    samples_per_s: Annotated[float, Field(gt=0, le=1e12)] = constant("pebs.samples_per_s")
    """What the collecting thread manages; more are lost."""


class MemtisOptions(Options):
    """Memtis' settings."""

    period: _Count = constant("memtis.period")
    """Loads from one sample to the next, at first and at least."""
    cooling_samples: _Count = constant("memtis.cooling_samples")
    """Samples after which counts are halved."""
    adaptation_samples: _Count = constant("memtis.adaptation_samples")
    """Samples after which threshold and period are adapted."""
    migration_period_ms: Annotated[float, Field(gt=0, le=1e9)] = constant("memtis.migration_period_ms")
    """Between migrations."""
    migration_bytes_per_s: Annotated[float, Field(gt=0, le=1e15)] = constant("memtis.migration_bytes_per_s")
    """Promotions allowed."""
    cpu_share: Annotated[float, Field(gt=0, le=1)] = constant("memtis.cpu_share")
    """Of one CPU, for sampling."""


class Sampler(Policy):
    """Samples every `stride`-th access."""

    def __init__(self, system: System, stride: int) -> None:
        super().__init__(system)
        self.stride = stride
        self._next = int(np.random.default_rng([system.request.seed, 17]).integers(stride))

    def sampled(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the pages of the samples among some accesses."""
        indices = np.arange(self._next, stop, self.stride)
        if not len(indices):
            return indices
        self._next = int(indices[-1]) + self.stride
        trace = self.system.trace
        return trace.pages_N[indices[trace.writes_N[indices] == 0]].astype(np.int64)


class Pebs(Sampler):
    """Promotes what is sampled."""

    def __init__(self, system: System) -> None:
        options = system.request.pebs
        threads = system.machine.threads
        super().__init__(system, max(1, options.period * threads // min(threads, options.monitored_threads)))
        self._samples_per_ps = options.samples_per_s / system.machine.scale / 1e12
        self._budget = 0.0
        self._pages: list[NDArray[np.int64]] = []

    def observe(self, start: int, stop: int, start_ps: int, faults_N: NDArray[np.int64]) -> None:
        """Take samples."""
        pages_N = self.sampled(start, stop)
        if len(pages_N):
            self._pages.append(pages_N)

    def tick(self, position: int, now_ps: int, elapsed_ps: int) -> None:
        """Promote the slow ones of the samples that the collector has managed to read; taking one costs, read or not."""
        self._budget = min(self._budget, 1.0) + elapsed_ps * self._samples_per_ps
        if not self._pages:
            return
        system, taken_N = self.system, np.concatenate(self._pages)
        self._pages = []
        system.costs.work("sample", len(taken_N) * system.machine.scale * constant("cost.sample_ns"))
        pages_N = taken_N[: int(self._budget)]
        self._budget -= len(pages_N)
        _, first = np.unique(pages_N, return_index=True)
        system.memory.promote(system.memory.nominate(pages_N[np.sort(first)]))


class Memtis(Sampler):
    """Promotes what is sampled often enough to belong to the hottest pages that fit."""

    def __init__(self, system: System) -> None:
        options = system.request.memtis
        super().__init__(system, options.period)
        scale, pages = system.machine.scale, system.machine.pages
        self._least_stride = options.period
        self._counts_P = np.zeros(pages, np.int64)
        self._threshold = 1
        self._to_cooling = self._cooling = max(1, options.cooling_samples // scale)
        self._to_adaptation = self._adaptation = max(1, options.adaptation_samples // scale)
        self._adapted_ps = 0
        self._samples_per_ps = options.cpu_share / constant("cost.sample_ns") / 1000 / scale
        self._period_ps = round(options.migration_period_ms * 1e9)
        self._next_ps = self._period_ps
        self._quota = max(1, round(system.pages(options.migration_bytes_per_s * options.migration_period_ms / 1000)))
        self._samples = 0

    def observe(self, start: int, stop: int, start_ps: int, faults_N: NDArray[np.int64]) -> None:
        """Count samples."""
        pages_N = self.sampled(start, stop)
        if len(pages_N):
            np.add.at(self._counts_P, pages_N, 1)
            self._samples += len(pages_N)

    def tick(self, position: int, now_ps: int, elapsed_ps: int) -> None:
        """Cool, adapt and migrate as they fall due."""
        system = self.system
        system.costs.work("sample", self._samples * system.machine.scale * constant("cost.sample_ns"))
        self._to_cooling -= self._samples
        self._to_adaptation -= self._samples
        self._samples = 0
        if self._to_cooling <= 0:
            self._to_cooling = self._cooling
            self._counts_P //= 2
        if self._to_adaptation <= 0:
            self._adapt(now_ps)
        if now_ps >= self._next_ps:
            self._next_ps = now_ps + self._period_ps
            self._migrate()

    def _adapt(self, now_ps: int) -> None:
        """Set the period to the budget, and the threshold to the lowest power of two from which on pages fit fast memory."""
        rate = self._adaptation / max(1, now_ps - self._adapted_ps)
        self.stride = max(self._least_stride, round(self.stride * rate / self._samples_per_ps))
        self._to_adaptation, self._adapted_ps = self._adaptation, now_ps
        bins = np.bincount(np.minimum(15, np.frexp(self._counts_P)[1]), minlength=16)
        pages_from = np.cumsum(bins[::-1])[::-1]  # with counts from 2^(bin - 1) on
        fitting = np.flatnonzero(pages_from[1:] <= self.system.machine.fast_pages)
        self._threshold = 1 << int(fitting[0]) if len(fitting) else 1 << 15

    def _migrate(self) -> None:
        memory = self.system.memory
        hot_N = np.flatnonzero((self._counts_P >= self._threshold) & (memory.state_P & FAST == 0))
        hot_N = hot_N[np.argsort(-self._counts_P[hot_N], kind="stable")][: self._quota]
        memory.promote(memory.nominate(hot_N), constant("cost.migrate_batch"))
