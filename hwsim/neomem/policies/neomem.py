"""NeoMem: the profiler in the device tells which pages are hot, the daemon when to listen and what to move.

Ours: where a page lies in the device is drawn at random, as pages that are neighbours in a program are not in physical memory
(an H3 hash, being linear, would let neighbours collide all or not at all). Hot pages that the quota or the one migration
thread has no time for wait in the host, oldest first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..constants import constant
from ..daemon import Daemon
from ..memory import SLOW
from ..neoprof import NeoProf
from .base import Policy, System

_MMIO_NS = constant("cost.mmio_ns")


class NeoMem(Policy):
    """Device and daemon."""

    def __init__(self, system: System) -> None:
        super().__init__(system)
        request, machine = system.request, system.machine
        frames_P = np.random.default_rng(request.seed).permutation(machine.pages)
        self.device = NeoProf(request.neoprof, frames_P, machine.scale)
        self.daemon = Daemon(self.device, request.neomem, request.profile, system.pages(1))
        self._interval_ps = round(request.neomem.value("interval_ms", request.profile) * 1e9)
        self._next_ps = self._interval_ps
        self._looked_ps = 0
        self._waiting_N = np.empty(0, np.int64)
        self._waits_P = np.zeros(machine.pages, np.bool_)
        self._time = 0.0  # pages that the migration thread could have moved and has not
        self._pages_per_ps = 1 / (machine.scale * constant("cost.migrate_ns") * 1000)

    def observe(self, start: int, stop: int, start_ps: int, faults_N: NDArray[np.int64]) -> None:
        """Let the device see the accesses."""
        system = self.system
        pages_N, writes_N = system.trace.pages_N[start:stop], system.trace.writes_N[start:stop]
        self.device.feed(pages_N, writes_N, system.memory.state_P, start_ps, system.load.cost_ps)

    def tick(self, position: int, now_ps: int, elapsed_ps: int) -> None:
        """Let the device's clock run; wake the daemon if its interval is over."""
        self.device.pass_time(elapsed_ps * 1e-12, *self.system.load.busy)
        if now_ps < self._next_ps:
            return
        self._next_ps = now_ps // self._interval_ps * self._interval_ps + self._interval_ps
        before = self.device.mmio_reads
        self._migrate(now_ps)
        popped = self.device.mmio_reads - before - 1
        self.daemon.update(now_ps)
        others = self.device.mmio_reads - before - popped
        # at scale S a hot page stands for S, each of which is read; the other registers are read as often as they are
        self.system.costs.work("mmio", (popped * self.system.machine.scale + others) * _MMIO_NS)

    def _migrate(self, now_ps: int) -> None:
        """Take in what is reported; promote what time and quota allow."""
        memory = self.system.memory
        reported_N = self.daemon.collect()
        if len(reported_N):
            ping_pongs = memory.ping_pong
            hot_N = memory.nominate(reported_N)
            self.daemon.account(0, memory.ping_pong - ping_pongs)
            new_N = hot_N[~self._waits_P[hot_N]]
            self._waits_P[new_N] = True
            self._waiting_N = np.concatenate([self._waiting_N, new_N])
        self._time = min(self._time, 1.0) + (now_ps - self._looked_ps) * self._pages_per_ps
        self._looked_ps = now_ps
        count = min(len(self._waiting_N), self.daemon.allowance, int(self._time))
        if count:
            chosen_N, self._waiting_N = self._waiting_N[:count], self._waiting_N[count:]
            self._waits_P[chosen_N] = False
            self._time -= count
            moved = memory.promote(chosen_N[memory.state_P[chosen_N] == SLOW], constant("cost.migrate_batch"))
            self.daemon.account(moved, 0)

    def state(self) -> tuple[float, float]:
        """Return threshold and share."""
        return float(self.daemon.theta), self.daemon.p
