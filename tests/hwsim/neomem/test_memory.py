"""Tiers and lists, against a model with plain Python lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedcosim.hwsim.neomem.cost import Costs
from fedcosim.hwsim.neomem.machine import Access, Machine
from fedcosim.hwsim.neomem.memory import FAST, SLOW, Memory

PAGES = 40


def memory(fast: int, slow: int = PAGES) -> Memory:
    access = Access(143, 4.26, 0, 64)
    machine = Machine(1, 32, 4096, PAGES, fast, slow, (430, 118), (42.6e9, 153.6e9), access, 10**10)
    return Memory(machine, Costs(machine))


class PlainLists:
    """Two lists; the end is the tail."""

    def __init__(self) -> None:
        self.inactive: list[int] = []
        self.active: list[int] = []
        self.checked: dict[int, int] = {}

    def enter(self, page: int, tick: int) -> None:
        self.checked[page] = tick
        self.inactive.insert(0, page)

    def reclaim(self, count: int, last: np.ndarray, tick: int) -> list[int]:
        cold: list[int] = []
        while len(cold) < count and self.inactive + self.active:
            while len(self.inactive) < len(self.active) or not self.inactive:
                self.enter(self.active.pop(), tick)
            page = self.inactive.pop()
            if last[page] > self.checked[page]:
                self.checked[page] = tick
                self.active.insert(0, page)
            else:
                cold.append(page)
        return cold


@given(
    fast=st.integers(0, PAGES),
    rounds=st.lists(
        st.tuples(st.sets(st.integers(0, PAGES - 1)), st.lists(st.integers(0, PAGES - 1), unique=True)), max_size=20
    ),
)
def test_moves_are_those_of_plain_lists_and_keep_the_books(fast, rounds):
    """Capacity is never exceeded, no page is lost, and moves explain the change of what is in fast memory."""
    actual, lists, in_fast = memory(fast), PlainLists(), set(range(fast))
    actual.allocate(np.arange(PAGES))
    for page in range(fast):
        lists.enter(page, 0)
    for used, wanted in rounds:
        actual.tick += 1
        actual.last_P[list(used)] = actual.tick
        nominated = actual.nominate(np.array(wanted, np.int64))
        assert nominated.tolist() == [page for page in wanted if page not in in_fast]
        actual.promote(nominated)
        if len(nominated) > fast - len(in_fast):
            need = len(nominated) - (fast - len(in_fast)) + int(np.ceil(0.001 * fast))
            in_fast -= set(lists.reclaim(need, actual.last_P, actual.tick))
        for page in nominated.tolist()[: fast - len(in_fast)]:
            in_fast.add(page)
            lists.enter(page, actual.tick)
        assert set(np.flatnonzero(actual.state_P == FAST)) == in_fast
        assert len(in_fast) == fast - actual.free <= fast
        assert actual.slow_used == PAGES - len(in_fast)
        assert actual.promoted - actual.demoted == len(in_fast) - fast
        assert actual.ping_pong <= actual.demoted


def test_pages_in_use_are_spared():
    """A cold page goes before one that was used since it was last looked at."""
    m = memory(10)
    m.allocate(np.arange(PAGES))
    m.tick = 1
    m.last_P[:9] = 1
    m.promote(np.array([30]))
    assert m.state_P[9] == SLOW
    assert (m.state_P[:9] == FAST).sum() == 8  # the watermark takes one more


def test_demotion_ends_where_slow_memory_is_full():
    """With no slot left below, what is promoted makes the only room."""
    m = memory(10, slow=30)
    m.allocate(np.arange(PAGES))
    m.demote(5)
    assert m.demoted == 0
    m.promote(np.array([20, 21]))
    assert (m.promoted, m.demoted, m.free, m.slow_used) == (2, 2, 0, 30)


def test_page_comes_back_as_ping_pong_once():
    """The flag that demotion sets is cleared when it has been counted."""
    m = memory(1)
    m.allocate(np.arange(PAGES))
    m.promote(m.nominate(np.array([5])))
    m.nominate(np.array([0]))
    m.nominate(np.array([0]))
    assert m.ping_pong == 1
