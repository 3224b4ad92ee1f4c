"""What a tiering policy is: it sees accesses go by, in its own limited way, and moves pages at the end of each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..cost import Costs, Load
from ..machine import Machine
from ..memory import Memory
from ..traces import Trace

if TYPE_CHECKING:
    from ..request import NeoMemRequest


@dataclass(frozen=True)
class System:
    """What a run is made of, for the policy to use."""

    request: NeoMemRequest
    machine: Machine
    memory: Memory
    costs: Costs
    load: Load
    trace: Trace

    def pages(self, real_bytes: float) -> float:
        """Return how many simulated pages so many bytes are."""
        return real_bytes / (self.machine.page_bytes * self.machine.scale)


class Policy:
    """Base of all policies, and the one that never moves a page (first touch)."""

    def __init__(self, system: System) -> None:
        self.system = system

    def place(self) -> None:
        """Allocate what is allocated before the trace begins."""
        if self.system.trace.order == "address":
            self.system.memory.allocate(np.arange(self.system.machine.pages))

    def horizon(self, position: int) -> int:
        """Return the access, after `position`, before which an epoch has to end."""
        return len(self.system.trace)

    def observe(self, start: int, stop: int, start_ps: int, faults_N: NDArray[np.int64]) -> None:
        """See the accesses from `start` to `stop`, the first of them at `start_ps`, and the marked pages that faulted."""

    def tick(self, position: int, now_ps: int, elapsed_ps: int) -> None:
        """End an epoch: move pages. The next access is `position`."""

    def state(self) -> tuple[float, float]:
        """Return threshold and share, for the record; -1 where there is none."""
        return -1.0, -1.0


class FirstTouch(Policy):
    """First touch: fast memory until it is full, then slow memory; nothing moves."""
