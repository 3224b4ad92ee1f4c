"""The profiler in the device, against a plain model of it and against what its sketch promises."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedcosim.hwsim.neomem.memory import FAST, SLOW
from fedcosim.hwsim.neomem.neoprof import EDGES_B, NeoProf, NeoProfOptions, h3, h3_matrix

PAGES = 64
SMALL = NeoProfOptions(columns=64, fifo_entries=8)
EDGES = [
    *[0, 1, 2, 3, 4, 5, 6, 7],
    *[8, 10, 12, 14, 16, 18, 20, 22],
    *[24, 28, 32, 36, 40, 44, 48, 52],
    *[56, 64, 72, 80, 88, 96, 104, 112],
    *[120, 136, 152, 168, 184, 200, 216, 232],
    *[248, 280, 312, 344, 376, 408, 440, 472],
    *[504, 568, 632, 696, 760, 824, 888, 952],
    *[1016, 1144, 1272, 1400, 1528, 1656, 1784, 1912],
]
keys = st.integers(0, 2**32 - 1)
streams = arrays(np.int32, st.integers(1, 300), elements=st.integers(0, PAGES - 1))


def feed(device: NeoProf, pages: object, writes: object = None, state: object = None) -> None:
    pages_N = np.asarray(pages, np.int32)
    writes_N = np.zeros(len(pages_N), np.uint8) if writes is None else np.asarray(writes, np.uint8)
    device.feed(pages_N, writes_N, np.full(PAGES, SLOW, np.uint8) if state is None else np.asarray(state, np.uint8))


def hot_pages(device: NeoProf) -> list[int]:
    return device.pop_hotpages(device.nr_hotpages()).tolist()


def histogram(device: NeoProf) -> list[int]:
    device.start_hist()
    return [device.pop_hist() for _ in range(device.nr_hist())]


def without_repeats(pages: list[int], channels: int = 2) -> list[int]:
    last: dict[int, int] = {}
    kept = []
    for page in pages:
        if last.get(page % channels) != page:
            kept.append(page)
        last[page % channels] = page
    return kept


class PlainDevice:
    """The device in a few lines of Python: what the sketch, the hot bits and the FIFO do, access by access."""

    def __init__(self, columns_PD: np.ndarray, theta: int, fifo: int, limit: int, wraps: bool) -> None:
        self.columns_PD, self.theta, self.fifo, self.limit, self.wraps = columns_PD, theta, fifo, limit, wraps
        self.counts: Counter[tuple[int, int]] = Counter()
        self.hot: set[tuple[int, int]] = set()
        self.waiting: deque[int] = deque()
        self.dropped = 0

    def access(self, page: int) -> None:
        cells = list(enumerate(self.columns_PD[page].tolist()))
        for cell in cells:
            full = self.counts[cell] == self.limit
            self.counts[cell] = (0 if self.wraps else self.limit) if full else self.counts[cell] + 1
        if min(self.counts[cell] for cell in cells) > self.theta and not self.hot.issuperset(cells):
            self.hot.update(cells)
            if len(self.waiting) < self.fifo:
                self.waiting.append(page)
            else:
                self.dropped += 1


@given(a=keys, b=keys, seed=st.integers(0, 1000))
def test_h3_is_linear_over_xor(a, b, seed):
    """What makes it an H3 family: h(a xor b) = h(a) xor h(b), and so h(0) = 0."""
    matrix = h3_matrix(seed, 4, 2048)
    h_a, h_b, h_ab, h_0 = h3(np.array([a, b, a ^ b, 0], np.int64), matrix)
    assert np.array_equal(h_ab, h_a ^ h_b)
    assert not h_0.any()
    assert max(h_a.max(), h_b.max(), h_ab.max()) < 2048


def test_rows_hash_differently():
    """Rows that agree would make D rows worth one."""
    columns_PD = h3(np.arange(10_000), h3_matrix(1, 2, 4096))
    assert (columns_PD[:, 0] == columns_PD[:, 1]).mean() < 0.001


@given(
    pages=streams,
    theta=st.integers(0, 5),
    bits=st.integers(1, 4),
    overflow=st.sampled_from(["saturate", "wrap"]),
    rows=st.integers(1, 4),
)
def test_device_does_what_a_plain_model_does(pages, theta, bits, overflow, rows):
    """Counts, reports in their order, and losses, for any stream and geometry."""
    options = SMALL.model_copy(update={"rows": rows, "counter_bits": bits, "overflow": overflow})
    device = NeoProf(options, np.arange(PAGES))
    device.set_threshold(theta)
    feed(device, pages)
    columns_PD = h3(np.arange(PAGES), h3_matrix(options.hash_seed, rows, 64))
    plain = PlainDevice(columns_PD, theta, 8, 2**bits - 1, overflow == "wrap")
    for page in without_repeats(pages.tolist()):
        plain.access(page)
    assert {cell: int(device.counts_DW[cell]) for cell in plain.counts} == dict(plain.counts)
    assert hot_pages(device) == list(plain.waiting)
    assert device.dropped == plain.dropped


@given(pages=streams, data=st.data())
def test_sketch_never_under_estimates_what_it_was_fed(pages, data):
    """Fed are reads without repeats; against raw accesses the claim would be false."""
    writes = data.draw(arrays(np.uint8, len(pages), elements=st.integers(0, 1)))
    device = NeoProf(SMALL, np.arange(PAGES))
    feed(device, pages, writes)
    exact = Counter(without_repeats(pages[writes == 0].tolist()))
    assert device.fed == exact.total()
    assert device.fed + device.duplicates == (writes == 0).sum()
    assert all(estimate >= exact[page] for page, estimate in enumerate(device.estimate(np.arange(PAGES))))


def test_repeats_of_a_page_count_once():
    """A page that is streamed through would look as hot as it has lines."""
    device = NeoProf(SMALL, np.arange(PAGES))
    feed(device, [4] * 58_000)
    assert device.estimate(np.array([4])) == 1
    assert device.duplicates == 57_999


def test_error_is_bounded_as_the_theory_says():
    """At 4 pages a column and 10 M accesses: classical bound 2N/W, and the median bound of section 4."""
    columns, pages, accesses = 4096, 16_384, 10_000_000
    stream_N = np.random.default_rng(3).integers(0, pages, accesses, np.int32)
    device = NeoProf(NeoProfOptions(columns=columns, counter_bits=32, dedup=False), np.arange(pages))
    device.set_threshold(2**32 - 2)
    device.feed(stream_N, np.zeros(accesses, np.uint8), np.full(pages, SLOW, np.uint8))
    error_P = device.estimate(np.arange(pages)).astype(np.int64) - np.bincount(stream_N, minlength=pages)
    assert (error_P >= 0).all()
    assert (error_P > 2 * accesses / columns).mean() <= 0.25
    assert (error_P > np.median(device.counts_DW[0])).mean() <= 0.25 + 0.02


def test_pages_that_collide_with_none_are_counted_exactly():
    """Where two pages share no column there is nothing to over-estimate by."""
    columns_PD = h3(np.arange(PAGES), h3_matrix(SMALL.hash_seed, 2, 64))
    _, chosen = np.unique(columns_PD[:, 0], return_index=True)
    device = NeoProf(SMALL.model_copy(update={"dedup": False}), np.arange(PAGES))
    feed(device, np.random.default_rng(0).permutation(np.repeat(chosen, 5)))
    assert len(chosen) > 5
    assert (device.estimate(chosen) == 5).all()


def test_histogram_has_the_hardware_s_edges():
    """Eight groups of eight bins of doubling width."""
    assert EDGES_B.tolist() == EDGES


@pytest.mark.parametrize(
    ("value", "bin_"), [(0, 0), (7, 7), (8, 8), (9, 8), (23, 15), (24, 16), (1911, 62), (1912, 63), (65535, 63)]
)
def test_histogram_puts_counts_into_their_bins(value, bin_):
    """Lower edges belong to the bin, and the last has no end."""
    device = NeoProf(SMALL.model_copy(update={"dedup": False}), np.arange(PAGES))
    device.set_threshold(65535)
    feed(device, [5] * value)
    bins = histogram(device)
    expected = [64] + [0] * 63
    expected[0] -= 1
    expected[bin_] += 1
    assert bins == expected


@given(pages=streams)
def test_histogram_counts_every_counter(pages):
    """Zero counters too: the threshold's quantile is one of all counters."""
    device = NeoProf(SMALL, np.arange(PAGES))
    feed(device, pages)
    assert sum(histogram(device)) == 64


def test_page_is_reported_when_it_passes_the_threshold_once_a_clear():
    """The comparison is strict: on access theta + 1, not theta; and a report is not repeated."""
    device = NeoProf(SMALL, np.arange(PAGES))
    device.set_threshold(3)
    feed(device, [7, 1, 7, 1, 7, 1][::1])
    assert hot_pages(device) == []
    device = NeoProf(SMALL.model_copy(update={"dedup": False}), np.arange(PAGES))
    device.set_threshold(3)
    for access in range(1, 10):
        feed(device, [7])
        assert hot_pages(device) == ([7] if access == 4 else [])
    device.set_threshold(3)
    feed(device, [7] * 4)
    assert hot_pages(device) == [7]


def test_reports_beyond_the_fifo_are_counted_and_stay_lost_until_a_clear():
    """The hardware has no back-pressure, and the hot bits of a lost page remain set."""
    device = NeoProf(NeoProfOptions(columns=4096, fifo_entries=8, dedup=False), np.arange(PAGES))
    feed(device, range(20))
    assert device.nr_hotpages() == 8
    assert device.dropped == 12
    assert hot_pages(device) == list(range(8))
    feed(device, range(20))
    assert hot_pages(device) == []
    device.reset()
    feed(device, range(12, 20))
    assert hot_pages(device) == list(range(12, 20))


def test_set_threshold_clears_all_but_the_state_monitor_and_reset_clears_that_too():
    """The register map: 0x300 keeps the bandwidth counters, 0x200 does not."""
    device = NeoProf(SMALL, np.arange(PAGES))
    device.pass_time(0.01, 0.5, 0.25)
    feed(device, [1, 2, 3])
    device.start_hist()
    state = device.state_counts()
    device.set_threshold(9)
    assert (device.theta, device.nr_hotpages(), device.nr_hist()) == (9, 0, 0)
    assert not device.counts_DW.any()
    assert device.state_counts() == state != (0, 0, 0)
    assert device.nr_inputs() == 3
    feed(device, [1, 2, 3])
    device.reset()
    assert device.state_counts() == (0, 0, 0)
    assert device.nr_inputs() == 0
    assert not device.counts_DW.any()
    assert device.theta == 9


def test_state_monitor_samples_every_101_cycles():
    """10 ms at 400 MHz are 4 M cycles."""
    device = NeoProf(SMALL, np.arange(PAGES))
    device.pass_time(0.01, 0.5, 0.25)
    assert device.state_counts() == (39604, 19802, 9901)
    device.set_state_interval(0)
    assert device.state_counts() == (0, 0, 0)
    device.pass_time(1e-6, 1.0, 1.0)
    assert device.state_counts() == (400, 400, 400)


def test_device_sees_reads_of_slow_memory_only():
    """It sits behind the CXL link, and counts no writes."""
    state = [FAST if page < 32 else SLOW for page in range(PAGES)]
    device = NeoProf(SMALL, np.arange(PAGES))
    feed(device, [1, 40, 2, 50], [0, 0, 0, 1], state)
    assert device.fed == 1
    device = NeoProf(SMALL.model_copy(update={"count_writes": True}), np.arange(PAGES))
    feed(device, [1, 40, 2, 50], [0, 0, 0, 1], state)
    assert device.fed == 2


def test_counting_pauses_while_the_histogram_is_read():
    """A counter a cycle: 524288 of them take 1.3 ms, in which accesses pass unseen."""
    device = NeoProf(NeoProfOptions(dedup=False), np.arange(PAGES))
    device.start_hist(now_ps=0)
    pages_N, state_P = np.arange(64, dtype=np.int32), np.full(PAGES, SLOW, np.uint8)
    device.feed(pages_N, np.zeros(64, np.uint8), state_P, start_ps=0, cost_ps=(100_000_000, 1))
    assert device.fed == 64 - 14  # 1310.72 us of accesses that take 100 us each


@settings(max_examples=20)
@given(interval=st.integers(1, 9))
def test_sampling_looks_at_one_cycle_in_interval_plus_one(interval):
    """The sampler is one of time, so it takes accesses as if at random."""
    device = NeoProf(SMALL.model_copy(update={"dedup": False}), np.arange(PAGES))
    device.set_page_sample_interval(interval)
    feed(device, np.arange(20_000) % PAGES)
    expected = 20_000 / (interval + 1)
    assert abs(device.fed - expected) < 5 * expected**0.5


def test_popping_more_than_waits_is_an_error():
    """The host reads the count first."""
    with pytest.raises(IndexError, match="1 hot pages asked for, 0 wait"):
        NeoProf(SMALL, np.arange(PAGES)).pop_hotpage()
