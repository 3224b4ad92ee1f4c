"""Policies of Linux that find hot pages by hint faults: AutoNUMA tiering and TPP.

Every scan period the next stretch of the address space is walked and its slow pages are marked; the next access to a marked
page faults. AutoNUMA (`numa_balancing = 2`) promotes at the first fault if it comes soon after the mark, sooner than a
threshold that is adapted so that promotions meet a rate limit. TPP (Maruf et al., ASPLOS 2023) has no threshold: the first
fault activates a page, the second promotes it; and it demotes early, so that some fast memory is always free. Both promote in
the thread that faults, page by page.

Ours: pages are promoted at the end of the epoch of their fault; a scan period halves after one in which slow pages faulted and
grows by half after one in which none did.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....core.options import Options
from ..constants import constant
from ..memory import FAST, MARKED, UNTOUCHED
from .base import Policy, System

_Milliseconds = Annotated[float, Field(gt=0, le=1e9)]
_Bytes = Annotated[float, Field(gt=0, le=1e15)]


class HintFaultOptions(Options):
    """Scanning."""

    scan_delay_ms: _Milliseconds = constant("hint_faults.scan_delay_ms")
    """Before the first scan."""
    scan_bytes: _Bytes = constant("hint_faults.scan_bytes")
    """Stretch of a scan."""
    scan_period_min_ms: _Milliseconds = constant("hint_faults.scan_period_min_ms")
    """Between scans, at least."""


class AutoNumaOptions(HintFaultOptions):
    """AutoNUMA's settings."""

    scan_period_max_ms: _Milliseconds = constant("autonuma.scan_period_max_ms")
    """Between scans, at most."""
    hot_threshold_ms: _Milliseconds = constant("autonuma.hot_threshold_ms")
    """From mark to fault, for a page to be hot: to begin with, and half of the most it can become."""
    rate_limit_bytes_per_s: _Bytes = constant("autonuma.rate_limit_bytes_per_s")
    """Promotions aimed at."""


class TppOptions(HintFaultOptions):
    """TPP's settings."""

    scan_period_max_ms: _Milliseconds = constant("tpp.scan_period_max_ms")
    """Between scans, at most."""
    headroom_share: Annotated[float, Field(ge=0, lt=1)] = constant("tpp.headroom_share")
    """Fast memory kept free."""


class HintFaults(Policy, ABC):
    """Marks pages and collects faults; which faults lead to promotion is the subclasses' matter."""

    def __init__(self, system: System, options: AutoNumaOptions | TppOptions) -> None:
        super().__init__(system)
        self._min_ps, self._max_ps = (round(ms * 1e9) for ms in (options.scan_period_min_ms, options.scan_period_max_ms))
        self._period_ps = self._min_ps
        self._next_scan_ps = round(options.scan_delay_ms * 1e9)
        self._stretch = max(1, round(system.pages(options.scan_bytes)))
        self._cursor = 0
        self._faulted = False
        self.marked_ps_P = np.zeros(system.machine.pages, np.int64)
        self._faults: list[NDArray[np.int64]] = []

    def observe(self, start: int, stop: int, start_ps: int, faults_N: NDArray[np.int64]) -> None:
        """Collect faults."""
        if len(faults_N):
            self._faults.append(faults_N.copy())

    def tick(self, position: int, now_ps: int, elapsed_ps: int) -> None:
        """Handle the epoch's faults, then scan if it is time."""
        system = self.system
        if self._faults:
            faults_N = np.concatenate(self._faults)
            self._faults = []
            self._faulted = True
            system.costs.work("fault", len(faults_N) * system.machine.scale * constant("cost.hint_fault_ns"))
            system.memory.promote(system.memory.nominate(self.hot(faults_N, now_ps)))
        if now_ps >= self._next_scan_ps:
            self._scan(now_ps)

    @abstractmethod
    def hot(self, faults_N: NDArray[np.int64], now_ps: int) -> NDArray[np.int64]:
        """Return the pages to promote of those that faulted."""

    def _scan(self, now_ps: int) -> None:
        system, memory = self.system, self.system.memory
        stretch = min(self._stretch, system.machine.pages)
        pages_N = (self._cursor + np.arange(stretch)) % system.machine.pages
        self._cursor = (self._cursor + stretch) % system.machine.pages
        system.costs.scan(stretch)
        slow_N = pages_N[memory.state_P[pages_N] & (FAST | UNTOUCHED) == 0]
        memory.state_P[slow_N] |= MARKED
        self.marked_ps_P[slow_N] = now_ps
        period_ps = self._period_ps // 2 if self._faulted else self._period_ps * 3 // 2
        self._faulted = False
        self._period_ps = min(self._max_ps, max(self._min_ps, period_ps))
        self._next_scan_ps = now_ps + self._period_ps


class AutoNuma(HintFaults):
    """Linux' NUMA balancing in memory tiering mode."""

    def __init__(self, system: System) -> None:
        options = system.request.autonuma
        super().__init__(system, options)
        self._reference_ps = self._threshold_ps = round(options.hot_threshold_ms * 1e9)
        self._limit = system.pages(options.rate_limit_bytes_per_s) * options.scan_period_max_ms / 1000
        self._next_adaptation_ps = self._max_ps
        self._candidates = 0

    def hot(self, faults_N: NDArray[np.int64], now_ps: int) -> NDArray[np.int64]:
        """Return the pages whose fault came soon enough; all of them while fast memory has ample room."""
        memory, machine = self.system.memory, self.system.machine
        if memory.free > max(machine.fast_pages // 64, self.system.pages(2**30)):
            return faults_N
        soon_N = faults_N[now_ps - self.marked_ps_P[faults_N] < self._threshold_ps]
        self._candidates += len(soon_N)
        if now_ps >= self._next_adaptation_ps:
            self._adapt(now_ps)
        return soon_N

    def _adapt(self, now_ps: int) -> None:
        """Change the threshold by an eighth of what it was at first, where candidates miss the limit by a tenth."""
        step_ps = 2 * self._reference_ps // 16
        if self._candidates > 1.1 * self._limit:
            self._threshold_ps = max(step_ps, self._threshold_ps - step_ps)
        elif self._candidates < 0.9 * self._limit:
            self._threshold_ps = min(2 * self._reference_ps, self._threshold_ps + step_ps)
        self._candidates = 0
        self._next_adaptation_ps = now_ps + self._max_ps


class Tpp(HintFaults):
    """Transparent page placement."""

    def __init__(self, system: System) -> None:
        options = system.request.tpp
        super().__init__(system, options)
        self._headroom = int(options.headroom_share * system.machine.fast_pages)
        self._active_P = np.zeros(system.machine.pages, np.bool_)

    def hot(self, faults_N: NDArray[np.int64], now_ps: int) -> NDArray[np.int64]:
        """Return the pages that had faulted before; the others are active now."""
        active_N = self._active_P[faults_N]
        self._active_P[faults_N] = ~active_N
        return faults_N[active_N]

    def tick(self, position: int, now_ps: int, elapsed_ps: int) -> None:
        """Handle faults, scan, and demote early, once slow memory is in use at all."""
        super().tick(position, now_ps, elapsed_ps)
        memory = self.system.memory
        if memory.slow_used and memory.free < self._headroom:
            memory.demote(self._headroom - memory.free)
