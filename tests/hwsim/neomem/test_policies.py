"""What sets the policies apart: their limits, each on a trace on which it shows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from neomem_runs import of_trace, simulation, synthetic

from fedcosim.hwsim.neomem import constants
from fedcosim.hwsim.neomem.memory import MARKED
from fedcosim.hwsim.neomem.policies.oracles import hottest
from fedcosim.hwsim.simulator import Job

SECOND_PS = 10**12


def promotions_by_second(run) -> np.ndarray:
    """Return pages promoted in each full second of a run."""
    totals = [0]
    for _ in run.steps():
        while run.clock_ps >= len(totals) * SECOND_PS:
            totals.append(run.system.memory.promoted)
    return np.diff(totals)


@given(pages_N=arrays(np.int32, st.integers(1, 100), elements=st.integers(0, 20)), count=st.integers(0, 25))
def test_hottest_are_the_most_accessed_and_ties_go_to_low_numbers(pages_N, count):
    """By sorting pairs."""
    pairs = sorted((-int((pages_N == page).sum()), page) for page in set(pages_N.tolist()))
    assert hottest(pages_N, 21, count).tolist() == [page for _, page in pairs[:count]]


def libcachesim_hits(cache, pages: list[int]) -> int:
    """Feed a cache of libCacheSim, telling it when each page comes again."""
    libcachesim = pytest.importorskip("libcachesim")
    again, following = [], {}
    for time in range(len(pages) - 1, -1, -1):
        again.append(following.get(pages[time], 2**62))
        following[pages[time]] = time
    hits = 0
    for time, (page, next_time) in enumerate(zip(pages, reversed(again), strict=True)):
        request = libcachesim.Request()
        request.obj_id, request.obj_size, request.clock_time, request.next_access_vtime = page, 1, time, next_time
        hits += cache.get(request)
    return hits


@pytest.mark.parametrize("generator", ["zipf", "gups", "search"])
def test_static_oracle_hits_what_libcachesim_does(generator):
    """Hot pages alone fit a cache of their number: all but the first access to each hit there, and those too in our memory.

    Belady's cache, whose contents change and which must admit what it is asked for, beats any such choice with a place more.
    """
    libcachesim = pytest.importorskip("libcachesim")
    run = simulation(synthetic(generator), "oracle_static")
    pages, room = run.system.trace.pages_N.tolist(), run.system.machine.fast_pages
    counts = Counter(pages)
    hot = set(sorted(counts, key=lambda page: (-counts[page], page))[:room])
    run.finish(Job())
    ours = int(run.counts[1].sum())
    assert ours == libcachesim_hits(libcachesim.LRU(cache_size=room), [page for page in pages if page in hot]) + len(hot) > room
    assert ours - len(hot) <= libcachesim_hits(libcachesim.Belady(cache_size=room + 1), pages)


def test_first_touch_fills_fast_memory_in_order_and_moves_nothing():
    """In order of the trace, where it says so."""
    request, store = of_trace(np.array([5, 3, 5, 0, 1, 2, 4] * 3))
    run = simulation(request, "first_touch", store)
    outcome = run.finish(Job())
    assert outcome.moves["promoted"] == 0
    assert np.flatnonzero(run.system.memory.state_P & 1).tolist() == [3, 5]


def test_pebs_takes_no_more_samples_than_its_collector_manages():
    """One a second of 16 a second at most, at this scale: each promotes a page at most."""
    request = synthetic(accesses=200_000, scale=1024, pebs={"period": 1, "samples_per_s": 16_384})
    assert 0 < promotions_by_second(simulation(request, "pebs")).max() <= 17


def test_pte_scan_waits_for_its_period_and_keeps_its_quota():
    """Nothing in 5 s, then 64 pages a second at this scale: 256 MiB."""
    by_second = promotions_by_second(simulation(synthetic(accesses=400_000, scale=1024), "pte_scan"))
    assert by_second[:5].sum() == 0
    assert 0 < by_second.max() <= 65


def test_autonuma_marks_only_slow_pages_of_one_stretch_at_a_time():
    """8 GiB after a second here: 2048 pages, of which the first third of memory is fast and is not marked."""
    run = simulation(synthetic(accesses=60_000, scale=1024, autonuma={"scan_bytes": 2**33}), "autonuma")
    marked_P = next(m for _ in run.steps() if (m := run.system.memory.state_P & MARKED).any())
    assert np.flatnonzero(marked_P).tolist() == list(range(run.system.machine.fast_pages, 2048))
    assert 1 <= run.clock_ps / SECOND_PS < 1.02


def test_tpp_needs_two_faults_where_autonuma_needs_one():
    """So it promotes nothing on the first pass over the address space."""
    quick = {"scan_delay_ms": 100, "scan_period_min_ms": 100, "scan_period_max_ms": 100, "scan_bytes": 2**36}
    first: dict[str, int] = {}
    for policy in ("autonuma", "tpp"):
        run = simulation(synthetic(accesses=60_000, scale=1024, **{policy: quick}), policy)
        for _ in run.steps():
            if run.system.memory.promoted and policy not in first:
                first[policy] = run.clock_ps
    assert first["autonuma"] < first["tpp"]


def test_memtis_keeps_what_is_sampled_most():
    """On a still Zipf trace it comes near the static oracle."""
    request = synthetic("zipf", 3_000_000, scale=1024, own={"zipf": {"alpha": 1.1}})
    memtis, oracle = (simulation(request, policy).finish(Job()) for policy in ("memtis", "oracle_static"))
    assert memtis.total_ps < 1.15 * oracle.total_ps


def test_neomem_promotes_the_hot_window():
    """After some seconds nearly all of it is in fast memory."""
    run = simulation(synthetic(accesses=1_500_000, scale=1024))
    run.finish(Job())
    pages = run.system.machine.pages
    window = slice(round(0.5 * pages), round(0.5 * pages) + round(0.113 * pages))
    assert (run.system.memory.state_P[window] & 1).mean() > 0.9


def test_every_constant_has_unit_kind_and_source():
    """Numbers without a source are opinions."""
    kinds = {"rtl", "paper", "artifact", "kernel", "measured", "derived", "fitted", "ours"}

    def check(table: dict, path: str) -> None:
        for name, entry in table.items():
            if "value" not in entry:
                check(entry, f"{path}{name}.")
                continue
            assert entry.keys() == {"value", "unit", "kind", "source"}, path + name
            assert entry["kind"] in kinds, path + name
            assert entry["unit"], path + name
            assert entry["source"], path + name

    check(constants.constants(), "")


def test_fit_is_that_of_the_two_logs():
    """646 and 1975 ns an update of 32 threads, at 118 and 430 ns: two equations, two unknowns."""
    all_local_ns, none_ns = 32 / 0.0495, 32 / 0.0162
    k = (none_ns - all_local_ns) / (430 - 118)
    assert constants.constant("access.default.k") == pytest.approx(k, rel=0.002)
    assert constants.constant("access.default.c0_ns") == pytest.approx(all_local_ns - 118 * k, rel=0.01)
