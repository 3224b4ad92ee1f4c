"""The two tiers: where each page is, which pages of fast memory are cold, and moving pages between tiers.

Cold pages are found as Linux finds them, by two lists: pages enter the inactive list; a page met at its tail that was used
since it was last looked at becomes active, else it is demoted; the active list's tail refills the inactive list. Pages are
demoted where promotions need the room (`zone_reclaim_mode`, `demotion_enabled`), a watermark beyond what is needed.

Ours: room is made at once, by the one who promotes.

Shapes: N = accesses or pages in question, P = pages.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .constants import constant
from .cost import Costs
from .machine import Machine

SLOW, FAST, UNTOUCHED, MARKED = 0, 1, 2, 4
"""A page's state: the tier is the lowest bit; flags for a page not allocated yet, and for one whose next access is to fault."""
_INACTIVE, _ACTIVE = 1, 2


class Memory:
    """Pages of a run.

    Parameters
    ----------
    machine : Machine
    costs : Costs
        What migrations are charged to.

    Attributes
    ----------
    state_P : array of uint8, shape (P,)
    last_P : array of int32, shape (P,)
        Tick of each page's last access.
    promoted, demoted, ping_pong, failed : int
        Pages moved up; moved down; nominated after a demotion; nominated in vain.
    """

    def __init__(self, machine: Machine, costs: Costs) -> None:
        pages = machine.pages
        self.machine, self.costs = machine, costs
        self.state_P = np.full(pages, UNTOUCHED, np.uint8)
        self.last_P = np.full(pages, -1, np.int32)
        self.demoted_P = np.zeros(pages, np.bool_)
        self.tick = 0
        self.promoted = self.demoted = self.ping_pong = self.failed = 0
        self.free = machine.fast_pages
        self.slow_used = 0
        self._lists = _Lists(pages)
        gib = machine.fast_pages * machine.scale * machine.page_bytes / constant("lru.inactive_bytes")
        self._active_ratio = max(1, int((100 * gib) ** 0.5))
        self._watermark = int(np.ceil(constant("lru.watermark_share") * machine.fast_pages))

    def allocated(self, pages_N: NDArray[np.int64]) -> None:
        """Enter pages that have just been touched for the first time; `state_P` says where they are."""
        fast_N = pages_N[self.state_P[pages_N] & FAST == FAST]
        self.free -= len(fast_N)
        self.slow_used += len(pages_N) - len(fast_N)
        self._lists.enter(fast_N, self.tick)

    def allocate(self, pages_N: NDArray[np.int64]) -> None:
        """Allocate untouched pages in this order: fast memory first."""
        self.state_P[pages_N[: self.free]] = FAST
        self.state_P[pages_N[self.free :]] = SLOW
        self.allocated(pages_N)

    def nominate(self, pages_N: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the pages that are in slow memory; among them, those that had been demoted count as ping-pong, once each."""
        slow_N = pages_N[self.state_P[pages_N] & (FAST | UNTOUCHED) == 0]
        back_N = slow_N[self.demoted_P[slow_N]]
        self.ping_pong += len(back_N)
        self.demoted_P[back_N] = False
        return slow_N

    def promote(self, pages_N: NDArray[np.integer], batch: int = 1) -> int:
        """Move distinct pages of slow memory up, demoting cold ones where there is no room; return how many could be moved.

        Parameters
        ----------
        pages_N : array, shape (N,)
            Most urgent first.
        batch : int
            Pages, as they are on the machine, that are moved with one TLB shoot-down.
        """
        if not len(pages_N):
            return 0
        if self.free < len(pages_N):
            self.demote(len(pages_N) - self.free + self._watermark, vacating=len(pages_N))
        moved_N = pages_N[: self.free]
        self.state_P[moved_N] = FAST
        self._lists.enter(moved_N, self.tick)
        self.free -= len(moved_N)
        self.slow_used -= len(moved_N)
        self.promoted += len(moved_N)
        self.failed += len(pages_N) - len(moved_N)
        self.costs.migrate(len(moved_N), batch)
        return len(moved_N)

    def demote(self, count: int, vacating: int = 0) -> None:
        """Move up to `count` cold pages down, as far as slow memory has room; `vacating` of its pages are about to leave."""
        room = self.machine.slow_pages - self.slow_used + vacating
        cold_N = self._lists.reclaim(min(count, room), self.last_P, self.tick, self._active_ratio)
        self.state_P[cold_N] = SLOW
        self.demoted_P[cold_N] = True
        self.free += len(cold_N)
        self.slow_used += len(cold_N)
        self.demoted += len(cold_N)
        self.costs.migrate(len(cold_N), constant("cost.demote_batch"))

    def place(self, pages_N: NDArray[np.integer], charged: bool) -> None:
        """Exchange the content of fast memory for these pages of the allocated ones, at a cost or, as a thought, at none."""
        wanted_P = np.zeros(len(self.state_P), np.bool_)
        wanted_P[pages_N] = True
        allocated_P = self.state_P & UNTOUCHED == 0
        fast_P = self.state_P & FAST == FAST
        up_N = np.flatnonzero(wanted_P & allocated_P & ~fast_P)
        leaving_N = np.flatnonzero(~wanted_P & fast_P)
        down_N = leaving_N[: max(0, len(up_N) - self.free)]
        up_N = up_N[: self.free + len(down_N)]
        self.state_P[down_N], self.state_P[up_N] = SLOW, FAST
        self._lists.leave(down_N)
        self._lists.enter(up_N, self.tick)
        self.free += len(down_N) - len(up_N)
        self.slow_used += len(down_N) - len(up_N)
        self.promoted += len(up_N)
        self.demoted += len(down_N)
        if charged:
            self.costs.migrate(len(up_N) + len(down_N), constant("cost.migrate_batch"))


class _Lists:
    """The active and the inactive list, doubly linked through arrays; two more entries are the lists' heads."""

    def __init__(self, pages: int) -> None:
        self.next_P = np.full(pages + 2, -1, np.int32)
        self.prev_P = np.full(pages + 2, -1, np.int32)
        self.next_P[pages:] = self.prev_P[pages:] = [pages, pages + 1]
        self.list_P = np.zeros(pages, np.uint8)
        self.checked_P = np.zeros(pages, np.int32)
        self.sizes = np.zeros(3, np.int64)

    def enter(self, pages_N: NDArray[np.integer], tick: int) -> None:
        _enter(pages_N, tick, self.next_P, self.prev_P, self.list_P, self.checked_P, self.sizes)

    def leave(self, pages_N: NDArray[np.integer]) -> None:
        _leave(pages_N, self.next_P, self.prev_P, self.list_P, self.sizes)

    def reclaim(self, count: int, last_P: NDArray[np.int32], tick: int, ratio: int) -> NDArray[np.int64]:
        cold_N = np.empty(max(0, count), np.int64)
        lists = self.next_P, self.prev_P, self.list_P, self.checked_P, self.sizes
        return cold_N[: _reclaim(cold_N, last_P, tick, ratio, *lists)]


@njit(nogil=True, cache=True)
def _link(page, which, next_P, prev_P, list_P, sizes):
    head = len(list_P) + which - 1
    first = next_P[head]
    next_P[head], prev_P[page], next_P[page], prev_P[first] = page, head, first, page
    list_P[page] = which
    sizes[which] += 1


@njit(nogil=True, cache=True)
def _unlink(page, next_P, prev_P, list_P, sizes):
    before, after = prev_P[page], next_P[page]
    next_P[before], prev_P[after] = after, before
    sizes[list_P[page]] -= 1
    list_P[page] = 0


@njit(nogil=True, cache=True)
def _enter(pages_N, tick, next_P, prev_P, list_P, checked_P, sizes):
    for page in pages_N:
        checked_P[page] = tick
        _link(page, _INACTIVE, next_P, prev_P, list_P, sizes)


@njit(nogil=True, cache=True)
def _leave(pages_N, next_P, prev_P, list_P, sizes):
    for page in pages_N:
        _unlink(page, next_P, prev_P, list_P, sizes)


@njit(nogil=True, cache=True)
def _reclaim(cold_N, last_P, tick, ratio, next_P, prev_P, list_P, checked_P, sizes):
    """Fill `cold_N` from the inactive list's tail; a page is spared at most once a call, so the end is sure to come."""
    found, tails = 0, len(list_P)
    while found < len(cold_N) and sizes[_INACTIVE] + sizes[_ACTIVE] > 0:
        while sizes[_INACTIVE] * ratio < sizes[_ACTIVE] or sizes[_INACTIVE] == 0:
            page = prev_P[tails + _ACTIVE - 1]
            _unlink(page, next_P, prev_P, list_P, sizes)
            checked_P[page] = tick
            _link(page, _INACTIVE, next_P, prev_P, list_P, sizes)
        page = prev_P[tails + _INACTIVE - 1]
        _unlink(page, next_P, prev_P, list_P, sizes)
        if last_P[page] > checked_P[page]:
            checked_P[page] = tick
            _link(page, _ACTIVE, next_P, prev_P, list_P, sizes)
        else:
            cold_N[found] = page
            found += 1
    return found
