"""PTE scanning (DAMON as the paper's artifact sets it up): accessed bits, read and cleared every few seconds.

A page is hot if its bit was set in the last period: one bit, no counting. Slow ones are promoted in address order, as fast as
the quota allows, until the next period's list replaces what is left of this one's.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from ....core.options import Options
from ..constants import constant
from ..memory import FAST, UNTOUCHED
from .base import Policy, System


class PteScanOptions(Options):
    """DAMON's settings."""

    period_s: Annotated[float, Field(gt=0, le=1e6)] = constant("pte_scan.period_s")
    """Between scans."""
    quota_bytes_per_s: Annotated[float, Field(gt=0, le=1e15)] = constant("pte_scan.quota_bytes_per_s")
    """Promotions allowed."""


class PteScan(Policy):
    """The page table scanner."""

    def __init__(self, system: System) -> None:
        super().__init__(system)
        options = system.request.pte_scan
        self._period_ps = round(options.period_s * 1e12)
        self._next_ps = self._period_ps
        self._scanned_tick = -1
        self._waiting_N = np.empty(0, np.int64)
        self._pages_per_ps = system.pages(options.quota_bytes_per_s) / 1e12
        self._budget = 0.0

    def tick(self, position: int, now_ps: int, elapsed_ps: int) -> None:
        """Scan if it is time; promote what the quota allows."""
        system, memory = self.system, self.system.memory
        if now_ps >= self._next_ps:
            self._next_ps = now_ps + self._period_ps
            touched_P = memory.last_P > self._scanned_tick
            self._scanned_tick = memory.tick
            self._waiting_N = np.flatnonzero(touched_P & (memory.state_P & (FAST | UNTOUCHED) == 0))
            system.costs.scan(system.machine.pages)
            self._budget = 0.0
        if not len(self._waiting_N):
            return
        self._budget += elapsed_ps * self._pages_per_ps
        count = int(self._budget)
        if count:
            self._budget -= count
            chosen_N, self._waiting_N = self._waiting_N[:count], self._waiting_N[count:]
            memory.promote(memory.nominate(chosen_N), constant("cost.migrate_batch"))
