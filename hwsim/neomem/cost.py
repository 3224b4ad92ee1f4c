"""What things cost: the time of an access, the kernel's work, energy.

An access takes (c0 + max(0, k L - overlap c0)) / threads, and at least what its bytes take on the tier's bus. `access` is that
time at the idle latency; `contention` is what load adds, L(u) = L0 (1 + a u^2 / (1 - u)) with the utilisation u of the epochs
before. Work of kernel threads and of faulting threads takes CPU time from the application's: it is divided by the threads. A
TLB shoot-down interrupts all threads, and its initiator waits for each other core.

Time is counted in whole picoseconds, so that sums are exact and do not depend on their order.
"""

from __future__ import annotations

from .constants import constant
from .machine import Machine

KINDS = ("access", "contention", "fault", "sample", "scan", "migrate", "shootdown", "mmio")
_CONTENTION, _LIMIT, _MEMORY = (constant(f"cost.{name}") for name in ("contention", "utilisation_max", "utilisation_memory"))


class Costs:
    """The account of one run.

    Attributes
    ----------
    total_ps : dict of str to int
        By kind; their sum is the clock.
    pending_ps : int
        Charged and not yet on the clock.
    stolen_s : float
        CPU time taken from the application.
    moved_pages : int
        Pages copied from one tier to the other.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.total_ps = dict.fromkeys(KINDS, 0)
        self.pending_ps = 0
        self.stolen_s = 0.0
        self.moved_pages = 0

    def take(self) -> int:
        """Return what is pending, for the clock."""
        pending, self.pending_ps = self.pending_ps, 0
        return pending

    def accesses(self, slow: int, fast: int, load: Load) -> int:
        """Charge accesses; return the time they take, which the caller puts on the clock."""
        idle_ps = slow * load.idle_ps[0] + fast * load.idle_ps[1]
        cost_ps = slow * load.cost_ps[0] + fast * load.cost_ps[1]
        self.total_ps["access"] += idle_ps
        self.total_ps["contention"] += cost_ps - idle_ps
        return cost_ps

    def work(self, kind: str, cpu_ns: float) -> None:
        """Charge work that one thread does while the others go on."""
        self._charge(kind, cpu_ns / self.machine.threads)
        self.stolen_s += cpu_ns * 1e-9

    def shootdowns(self, count: float) -> None:
        """Charge TLB shoot-downs."""
        if self.machine.threads > 1 and count:
            others = self.machine.threads - 1
            wait_ns = constant("cost.shootdown_per_core_ns") * others
            self._charge("shootdown", count * (constant("cost.shootdown_ns") + wait_ns / self.machine.threads))

    def migrate(self, pages: int, batch: int) -> None:
        """Charge the migration of simulated pages, `batch` real ones at a time."""
        real = pages * self.machine.scale
        self.work("migrate", real * constant("cost.migrate_ns"))
        self.shootdowns(-(-real // batch))
        self.moved_pages += pages

    def scan(self, pages: int) -> None:
        """Charge a walk over the page table entries of simulated pages."""
        real = pages * self.machine.scale
        self.work("scan", real * constant("cost.pte_scan_ns"))
        self.shootdowns(-(-real // constant("cost.pte_scan_batch")))

    def _charge(self, kind: str, ns: float) -> None:
        ps = round(ns * 1000)
        self.total_ps[kind] += ps
        self.pending_ps += ps


class Load:
    """Utilisation of the tiers and what an access takes under it.

    Attributes
    ----------
    idle_ps, cost_ps : (int, int)
        Time between two simulated accesses to slow, and to fast memory: idle, and under the present load.
    latency_ns : (float, float)
        The loaded latency of slow and of fast memory.
    busy : (float, float)
        The shares of the last epoch for which slow memory's bus was reading, and writing.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.busy = (0.0, 0.0)
        self.utilisation = [0.0, 0.0]
        self._bus_ns = tuple(machine.access.bytes / rate * 1e9 for rate in machine.bytes_per_s)
        slow_ns, fast_ns = machine.latency_ns
        self.idle_ps = (self._ps(slow_ns, 0.0), self._ps(fast_ns, 0.0))
        self._settle()

    def observe(self, read_bytes: tuple[float, float], write_bytes: tuple[float, float], seconds: float) -> None:
        """Note what an epoch read from and wrote to slow and fast memory."""
        rates = [seconds * rate for rate in self.machine.bytes_per_s]
        self.busy = (read_bytes[0] / rates[0], write_bytes[0] / rates[0])
        for tier in (0, 1):
            now = (read_bytes[tier] + write_bytes[tier]) / rates[tier]
            self.utilisation[tier] = min(_LIMIT, _MEMORY * self.utilisation[tier] + (1 - _MEMORY) * now)
        self._settle()

    def _settle(self) -> None:
        (slow_ns, fast_ns), (slow_u, fast_u) = self.machine.latency_ns, self.utilisation
        slow_ns *= 1 + _CONTENTION * slow_u**2 / (1 - slow_u)
        fast_ns *= 1 + _CONTENTION * fast_u**2 / (1 - fast_u)
        self.latency_ns = (slow_ns, fast_ns)
        self.cost_ps = (self._ps(slow_ns, self._bus_ns[0]), self._ps(fast_ns, self._bus_ns[1]))

    def _ps(self, latency_ns: float, least_ns: float) -> int:
        """Return the time between two simulated accesses."""
        machine = self.machine
        return max(1, round(max(machine.access.ns(latency_ns, machine.threads), least_ns) * machine.scale * 1000))


def energy_j(
    accesses_by_tier: tuple[int, int], machine: Machine, moved_pages: int, stolen_s: float, profiled_s: float
) -> tuple[float, float]:
    """Return the least and the most energy that memory and tiering took.

    Parameters
    ----------
    accesses_by_tier : (int, int)
        Simulated accesses to slow and to fast memory.
    moved_pages : int
        Simulated pages migrated: each is read on one tier and written on the other.
    stolen_s : float
        CPU time of the kernel's work.
    profiled_s : float
        Time that the profiler ran.
    """
    slow, fast = (count * machine.access.bytes * machine.scale * 8 for count in accesses_by_tier)
    moved = moved_pages * machine.page_bytes * machine.scale * 8
    fixed = (slow + moved) * constant("energy.cxl_j_per_bit")
    fixed += stolen_s * constant("energy.core_w") + profiled_s * constant("energy.neoprof_w")
    low, high = ((slow + fast + 2 * moved) * constant(f"energy.dram_{end}_j_per_bit") for end in ("low", "high"))
    return fixed + low, fixed + high
