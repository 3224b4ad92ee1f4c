"""The cache filter, against a cache of ordered dictionaries and against libCacheSim."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedcosim.hwsim.neomem import generators
from fedcosim.hwsim.neomem.llc import LlcOptions, filter_lines, trace_of_addresses
from fedcosim.hwsim.simulator import HwsimError


def plain_cache(lines: list[int], writes: list[int], sets: int, ways: int) -> list[tuple[int, int]]:
    """Return what reaches memory: (line, write)."""
    cache: list[OrderedDict[int, bool]] = [OrderedDict() for _ in range(sets)]
    out = []
    for line, write in zip(lines, writes, strict=True):
        lru = cache[line % sets]
        if line in lru:
            lru[line] |= bool(write)
            lru.move_to_end(line)
            continue
        out.append((line, 0))
        if len(lru) == ways:
            victim, dirty = lru.popitem(last=False)
            if dirty:
                out.append((victim, 1))
        lru[line] = bool(write)
    return out


@given(
    lines=arrays(np.int64, st.integers(1, 300), elements=st.integers(0, 40)),
    sets=st.integers(1, 5),
    ways=st.integers(1, 6),
    data=st.data(),
)
def test_what_reaches_memory_is_what_a_plain_cache_lets_through(lines, sets, ways, data):
    """Misses as reads, dirty lines that leave as writes, in order."""
    writes = data.draw(arrays(np.uint8, len(lines), elements=st.integers(0, 1)))
    out_M, flags_M = filter_lines(lines, writes, LlcOptions(bytes=sets * ways * 64, ways=ways))
    assert list(zip(out_M.tolist(), flags_M.tolist(), strict=True)) == plain_cache(lines.tolist(), writes.tolist(), sets, ways)


def test_large_cache_lets_as_much_through_as_a_plain_one():
    """100 000 accesses to a cache of usual shape."""
    rng = np.random.default_rng(5)
    lines = rng.zipf(1.2, 100_000) % 50_000
    writes = rng.integers(0, 2, 100_000, dtype=np.uint8)
    out_M, flags_M = filter_lines(lines, writes, LlcOptions(bytes=2**18, ways=16))
    expected = plain_cache(lines.tolist(), writes.tolist(), 256, 16)
    assert (len(out_M), int(flags_M.sum())) == (len(expected), sum(write for _, write in expected))


@pytest.mark.parametrize("generator", ["zipf", "gups", "search"])
def test_misses_of_one_set_are_libcachesim_s(generator):
    """With one set the filter is an LRU cache of lines, as theirs is of objects of size 1."""
    libcachesim = pytest.importorskip("libcachesim")
    options = generators.SyntheticOptions(generator=generator, accesses=50_000)
    lines = generators.generate(options, 2000, 4096, 1).pages_N.astype(np.int64)
    cache = libcachesim.LRU(cache_size=300)
    hits = 0
    for time, line in enumerate(lines.tolist()):
        request = libcachesim.Request()
        request.obj_id, request.obj_size, request.clock_time = line, 1, time
        hits += cache.get(request)
    out_M, _ = filter_lines(lines, np.zeros(len(lines), np.uint8), LlcOptions(bytes=300 * 64, ways=300))
    assert len(lines) - len(out_M) == hits > 0


def test_pages_are_numbered_as_they_first_appear():
    """Addresses lie far apart; pages must not."""
    trace = trace_of_addresses(np.array([2**40, 2**20, 2**40 + 64, 5]), None, LlcOptions(bytes=0))
    assert trace.pages_N.tolist() == [0, 1, 0, 2]
    assert trace.pages == 3


@pytest.mark.parametrize(("addresses", "message"), [([], "empty"), ([4096, -1], "address -1 is negative")])
def test_addresses_that_are_none_are_refused(addresses, message):
    """Before they go through the cache."""
    with pytest.raises(HwsimError, match=message):
        trace_of_addresses(np.array(addresses, np.int64), None, LlcOptions())
