"""The virtual clock: durations by hand, who is dropped, waiting, and going on where a record ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcosim.clients.cost import Cost
from fedcosim.clients.fleet import ALWAYS, Fleet, HardwareOptions, Link, Presence
from fedcosim.core.errors import RoundError
from fedcosim.server.clock import Clock, Part, restored

NAN = math.nan
LINK = Link(uplink_bits_per_s=8e6, downlink_bits_per_s=80e6, round_trip_s=0.5)


def clock(clients: int = 4, per_round: int = 4, presence=None, links=None, **fields) -> Clock:
    options = HardwareOptions(devices={"raspberry-pi-5": 1}, **fields)
    equipment = Fleet(["raspberry-pi-5"] * clients, links or [LINK] * clients, presence or [ALWAYS] * clients)
    return Clock(options, equipment, per_round)


def deadline(seconds: float, **fields) -> Clock:
    return clock(rounds="deadline", deadline_s=seconds, **fields)


def parts(*totals_s: float) -> list[Part]:
    """Clients 0, 1, ... that take so long, all of it computing, a joule and two for each."""
    return [Part(client, 0.0, total_s, 0.0, 1.0, 2.0) for client, total_s in enumerate(totals_s)]


def test_a_client_downloads_computes_and_uploads():
    """By hand: 8 Mbit at 80 Mbit/s, 3 s, 16 Mbit at 8 Mbit/s, two round trips."""
    part = clock().part(2, Cost(3.0, 4.0, 5.0, 6.0), down_bytes=10**6, up_bytes=2 * 10**6)
    assert part == Part(2, pytest.approx(0.1 + 0.5), 3.0, pytest.approx(2.0 + 0.5), 4.0, 5.0)
    assert part.total_s == pytest.approx(6.1)


def test_a_slower_uplink_raises_the_upload_alone():
    slow = Link(LINK.uplink_bits_per_s / 10, LINK.downlink_bits_per_s, LINK.round_trip_s)
    ticking = clock(links=[LINK, slow])
    fast, late = (ticking.part(client, Cost(3.0, 4.0, 5.0, 6.0), 10**6, 10**6) for client in (0, 1))
    assert (late.download_s, late.compute_s) == (fast.download_s, fast.compute_s)
    assert late.upload_s - fast.upload_s == pytest.approx(9.0)


@given(seconds=st.lists(st.tuples(*[st.floats(0, 1e5)] * 3), min_size=1, max_size=8))
def test_waiting_for_all_lasts_as_long_as_the_slowest(seconds):
    ticking = clock(len(seconds))
    timing = ticking.close([Part(client, *times, 1.0, 2.0) for client, times in enumerate(seconds)])
    assert timing.sim_s == max(down + compute + up for down, compute, up in seconds) == ticking.now_s
    assert timing.straggler.total_s == timing.sim_s
    assert (timing.dropped, timing.waited_s) == ({}, 0)
    assert (timing.energy_low_j, timing.energy_high_j) == (len(seconds), 2 * len(seconds))


@given(totals=st.lists(st.integers(1, 20), min_size=1, max_size=12), limit=st.integers(1, 20))
def test_a_deadline_drops_exactly_those_above_it(totals, limit):
    timing = deadline(limit, clients=len(totals)).close(parts(*totals))
    late = {client for client, total in enumerate(totals) if total > limit}
    assert timing.dropped.keys() == late
    assert timing.sim_s == (limit if late else max(totals))
    assert timing.energy_high_j == 2 * len(totals)  # who works in vain works too


def test_who_is_dropped_is_told_why():
    timing = deadline(2.5).close(parts(1, 3, 2, 2.5))
    assert timing.dropped == {1: "its update took 3 s; hardware.deadline_s = 2.5"}
    assert timing.straggler.client == 3
    assert timing.sim_s == 2.5


@given(totals=st.lists(st.integers(1, 6), min_size=1, max_size=12), per_round=st.integers(1, 12), order=st.randoms())
def test_over_selection_keeps_the_first_and_among_equals_the_lowest_ids(totals, per_round, order):
    """The oracle sorts; the order in which replies come in must not matter."""
    replies = parts(*totals)
    order.shuffle(replies)
    timing = clock(len(totals), per_round, rounds="over-select", over_select=0.5).close(replies)
    ranking = sorted(range(len(totals)), key=lambda client: (totals[client], client))
    assert timing.dropped.keys() == set(ranking[per_round:])
    assert timing.sim_s == totals[ranking[:per_round][-1]]
    assert timing.straggler.client == ranking[:per_round][-1]


def test_who_leaves_before_the_update_is_in_is_dropped():
    there = [ALWAYS, Presence(((0, 10),), 100), Presence(((0, 9),), 100), Presence(((0, 50), (50, 60)), 100)]
    timing = clock(presence=there).close(parts(10, 10, 10, 55))
    assert timing.dropped == {2: "went away 9 s into the round; its update would have taken 10 s"}
    assert timing.sim_s == 55


def test_over_selection_counts_those_who_stayed():
    there = [Presence(((0, 1),), 100), ALWAYS, ALWAYS, ALWAYS]
    timing = clock(4, 2, presence=there, rounds="over-select", over_select=1).close(parts(2, 5, 3, 4))
    assert timing.dropped.keys() == {0, 1}
    assert timing.sim_s == 4


def test_the_round_waits_for_clients():
    """Two of three are wanted: at 20 one is there, at 30 two, for 5 s."""
    there = [Presence(((20, 90),), 100), Presence(((30, 35),), 100), Presence(((60, 70),), 100)]
    ticking = clock(3, 2, presence=there)
    assert ticking.present([0, 1, 2]) == [0, 1]
    assert ticking.now_s == 30
    timing = ticking.close(parts(4, 6))
    assert timing.dropped.keys() == {1}
    assert (timing.waited_s, timing.sim_s, ticking.now_s) == (30, 34, 34)
    assert ticking.present([0, 1, 2]) == [0, 1]  # not yet gone
    assert ticking.close(parts(2)).sim_s == 2
    assert ticking.present([0, 1, 2]) == [0, 2]
    assert ticking.now_s == 60


def test_more_are_waited_for_where_more_are_asked():
    there = [ALWAYS, ALWAYS, Presence(((20, 90),), 100)]
    ticking = clock(3, 2, presence=there, rounds="over-select", over_select=0.5)
    assert ticking.present([0, 1, 2]) == [0, 1, 2]
    assert ticking.now_s == 20


def test_clients_who_never_meet_end_the_run():
    there = [Presence(((0, 50),), 100), Presence(((50, 100),), 100)]
    with pytest.raises(RoundError, match=r"hardware\.trace: never are 2 clients there at once .*federation\.per_round"):
        clock(2, 2, presence=there).present([0, 1])


def test_who_is_never_there_is_waited_for_in_vain():
    with pytest.raises(RoundError, match=r"never are 1 clients there at once \(0 at 0 s\)"):
        clock(1, 1, presence=[Presence((), 100)]).present([0])


def test_an_unknown_cost_decides_nothing():
    """Neither late nor first: the known ones are judged as if alone, but an unknown one takes a place of the cohort."""
    unknown = clock().part(2, Cost(NAN, NAN, NAN, NAN), 10, 10)
    nothing_told = clock().part(3, None, 10, 10)
    mixed = [*parts(1, 3), unknown, nothing_told]
    timing = deadline(2).close(mixed)
    assert timing.dropped.keys() == {1}
    assert (timing.energy_low_j, timing.energy_high_j) == (2, 4)
    timing = clock(per_round=3, rounds="over-select", over_select=0.5).close(mixed)
    assert timing.dropped.keys() == {1}


def test_without_any_known_cost_there_is_no_time():
    ticking = clock()
    timing = ticking.close([ticking.part(0, None, 10, 10)])
    assert (timing.sim_s, timing.energy_low_j, timing.energy_high_j, timing.straggler) == (None, None, None, None)
    assert ticking.now_s == 0


def test_waiting_counts_even_where_no_cost_is_known():
    ticking = clock(1, 1, presence=[Presence(((20, 90),), 100)])
    ticking.present([0])
    assert ticking.close([ticking.part(0, None, 10, 10)]).sim_s == 20
    assert ticking.now_s == 20


@given(totals=st.lists(st.lists(st.floats(0.01, 40), min_size=3, max_size=3), min_size=1, max_size=6), kept=st.integers(0, 6))
def test_a_restored_clock_goes_on_as_if_never_stopped(totals, kept):
    """To the last digit, waits included; the lines are those of a record."""
    there = [Presence(((0, 30), (50, 70)), 100), Presence(((10, 60),), 90), ALWAYS]

    def play(ticking, rounds):
        for round_totals in rounds:
            present = ticking.present([0, 1, 2])
            timing = ticking.close([part for part in parts(*round_totals) if part.client in present])
            yield {"sim_s": timing.sim_s, "waited": timing.waited_s, "dropped": timing.dropped, "now": ticking.now_s}

    fresh = lambda: clock(3, 2, presence=there)  # noqa: E731
    lines = list(play(fresh(), totals))
    assert list(play(restored(fresh(), lines[:kept]), totals[kept:])) == lines[kept:]
