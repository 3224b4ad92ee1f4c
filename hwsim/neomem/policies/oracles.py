"""Oracles: policies that know the future. Ties go to the lowest page number.

`oracle_static` starts with the pages most accessed in the whole trace in fast memory. `oracle_epoch` moves those most accessed
in the next so many accesses there before each such epoch, and pays for it; `oracle_free` does not pay: an upper bound.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....core.options import Options
from ..constants import constant
from ..memory import FAST, SLOW
from ..traces import count_pages
from .base import Policy, System


class OracleOptions(Options):
    """How far oracles see."""

    epoch_accesses: Annotated[int, Field(ge=1, le=2**28)] = constant("oracle.epoch_accesses")
    """Accesses of an epoch."""


def hottest(pages_N: NDArray[np.integer], pages: int, count: int) -> NDArray[np.int64]:
    """Return the `count` pages accessed most, of those accessed at all."""
    counts_P = np.zeros(pages, np.int64)
    count_pages(pages_N, counts_P)
    top = np.argsort(-counts_P, kind="stable")[:count]
    return top[counts_P[top] > 0]


class OracleStatic(Policy):
    """The best placement that never changes."""

    def place(self) -> None:
        """Allocate everything at once, the hottest pages first."""
        machine, memory = self.system.machine, self.system.memory
        top = hottest(self.system.trace.pages_N, machine.pages, machine.fast_pages)
        rest = np.setdiff1d(np.arange(machine.pages), top)
        memory.allocate(np.concatenate([top, rest]))


class OracleEpoch(Policy):
    """The best placement for each epoch, at the price of migration."""

    charged = True

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._epoch = system.request.oracle.epoch_accesses
        self._placed = 0

    def place(self) -> None:
        """Allocate all pages, as first touch would, and move those of the first epoch."""
        self.system.memory.allocate(np.arange(self.system.machine.pages))
        self._move(0)

    def horizon(self, position: int) -> int:
        """Return where the next epoch begins."""
        return min(len(self.system.trace), (position // self._epoch + 1) * self._epoch)

    def tick(self, position: int, now_ps: int, elapsed_ps: int) -> None:
        """Move pages if an epoch begins."""
        if position % self._epoch == 0 and position != self._placed and position < len(self.system.trace):
            self._move(position)

    def _move(self, position: int) -> None:
        machine, memory = self.system.machine, self.system.memory
        self._placed = position
        coming_N = self.system.trace.pages_N[position : position + self._epoch]
        memory.place(hottest(coming_N, machine.pages, machine.fast_pages), self.charged)


class OracleFree(OracleEpoch):
    """The best placement for each epoch, for nothing."""

    charged = False


class AllFast(Policy):
    """A bound: fast memory has room for all."""

    def place(self) -> None:
        """Put everything into fast memory."""
        self.system.memory.state_P.fill(FAST)


class AllSlow(Policy):
    """A bound: there is no fast memory."""

    def place(self) -> None:
        """Put everything into slow memory."""
        self.system.memory.state_P.fill(SLOW)
