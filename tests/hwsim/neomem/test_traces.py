"""Traces from files, uploads and the store."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedcosim.hwsim.neomem import Trace, TraceHeader, TraceStore, TraceUpload
from fedcosim.hwsim.neomem.traces import PIECE, load, renumber, save, trace_of_pages
from fedcosim.hwsim.neomem.upload import MAX_CHUNK_BYTES, checksum
from fedcosim.hwsim.simulator import HwsimError, Job

PAGES_N = np.array([3, 1, 4, 1, 5], np.int32)


def upload(sent: bytes, pieces: int = 1, **header: object) -> Trace:
    receiving = TraceUpload(TraceHeader(**{"total_accesses": 5} | header))
    for seq, piece in enumerate(np.array_split(np.frombuffer(sent, np.uint8), pieces)):
        receiving.chunk(seq, piece.tobytes(), checksum(piece.tobytes()))
    return receiving.finish(hashlib.sha256(sent).hexdigest(), receiving.header.total_accesses)


def test_callers_who_leave_end_the_work_on_long_traces():
    """Repeating and digesting look at every 2^18 accesses; what comes of it has nothing to do with pieces."""
    trace, looks = trace_of_pages(np.arange(PIECE + 9) % 7, np.arange(PIECE + 9) % 2), []
    watching = Job(cancelled=lambda: looks.append(None) or False)
    long = trace.repeated(3, watching)
    assert len(looks) == 3
    assert np.array_equal(long.pages_N, np.tile(trace.pages_N, 3))
    assert np.array_equal(long.writes_N, np.tile(trace.writes_N, 3))
    head = hashlib.sha256(b"7 4096 64 trace\n")
    head.update(trace.pages_N.tobytes() + np.packbits(trace.writes_N).tobytes())
    assert trace.digest(watching) == trace.sha256 == head.hexdigest()
    assert len(looks) == 3 + 2 * 2
    for work in (trace.digest, lambda job: trace.repeated(3, job)):
        with pytest.raises(HwsimError, match="cancelled"):
            work(Job(cancelled=lambda: True))


@pytest.mark.parametrize(
    ("content", "crc"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_checksum_is_castagnoli_s(content, crc):
    """Known answers of RFC 3720, appendix B.4."""
    assert checksum(content) == crc


@given(
    pages_N=arrays(np.int32, st.integers(1, 200), elements=st.integers(0, 2**31 - 2)),
    wide=st.booleans(),
    pieces=st.integers(1, 7),
    data=st.data(),
)
def test_upload_arrives_as_it_was_sent(pages_N, wide, pieces, data):
    """Any integers, with write flags, in any pieces."""
    writes_N = data.draw(arrays(np.uint8, len(pages_N), elements=st.integers(0, 1)))
    content = pages_N.astype("<i8" if wide else "<i4").tobytes() + np.packbits(writes_N, bitorder="little").tobytes()
    form = "int64" if wide else "int32"
    trace = upload(content, pieces, format=form, total_accesses=len(pages_N), write_bitmap=True)
    assert np.array_equal(trace.pages_N, pages_N)
    assert np.array_equal(trace.writes_N, writes_N)
    assert trace.pages == pages_N.max() + 1


def test_addresses_go_through_the_cache():
    """Two accesses to a line are one to memory."""
    addresses = np.array([0, 8, 4096, 16, 0], "<i8").tobytes()
    trace = upload(addresses, format="int64", content="addresses")
    assert trace.pages_N.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("seq", "content", "crc", "code", "field"),
    [
        (1, b"abcd", None, "INVALID_ARGUMENT", "chunk.seq"),
        (0, b"abcd", 7, "INVALID_ARGUMENT", "chunk.crc32c"),
        (0, bytes(MAX_CHUNK_BYTES + 1), None, "RESOURCE_EXHAUSTED", "chunk.data"),
        (0, bytes(21), None, "INVALID_ARGUMENT", "header.total_accesses"),
    ],
)
def test_bad_chunks_are_refused(seq, content, crc, code, field):
    """Out of order, damaged, too large, more than announced."""
    with pytest.raises(HwsimError) as error:
        TraceUpload(TraceHeader(total_accesses=5)).chunk(seq, content, checksum(content) if crc is None else crc)
    assert (error.value.code, error.value.field) == (code, field)


def test_chunk_sent_twice_is_refused():
    """A retry must begin again."""
    receiving = TraceUpload(TraceHeader(total_accesses=5))
    receiving.chunk(0, b"abcd", checksum(b"abcd"))
    with pytest.raises(HwsimError, match="chunk 1 is next"):
        receiving.chunk(0, b"abcd", checksum(b"abcd"))


@pytest.mark.parametrize(
    ("content", "digest", "count", "field"),
    [
        (PAGES_N.tobytes(), "0" * 64, 5, "trailer.sha256"),
        (PAGES_N.tobytes(), None, 4, "trailer.count"),
        (PAGES_N.tobytes()[:-3], None, 5, "trailer.count"),
    ],
)
def test_trailer_must_fit_what_came(content, digest, count, field):
    """Digest, count and length."""
    receiving = TraceUpload(TraceHeader(total_accesses=5))
    receiving.chunk(0, content, checksum(content))
    with pytest.raises(HwsimError) as error:
        receiving.finish(digest or hashlib.sha256(content).hexdigest(), count)
    assert (error.value.code, error.value.field) == ("INVALID_ARGUMENT", field)


def test_page_beyond_the_footprint_is_out_of_range():
    """The header's footprint is binding."""
    with pytest.raises(HwsimError, match="page 5 is not below total_pages = 5") as error:
        upload(PAGES_N.tobytes(), total_pages=5)
    assert error.value.code == "OUT_OF_RANGE"


def test_page_size_must_be_a_power_of_two():
    """Otherwise pages would not align."""
    with pytest.raises(HwsimError, match="not a power of two") as error:
        TraceUpload(TraceHeader(total_accesses=1, page_bytes=5000))
    assert error.value.field == "header.page_bytes"


@pytest.mark.parametrize(
    ("pages", "writes", "message"),
    [([], None, "empty"), ([1, -2], None, "page -2 is negative"), ([1, 2], [1], "2 accesses and 1 write flags")],
)
def test_traces_that_are_none_are_refused(pages, writes, message):
    """From whatever source."""
    with pytest.raises(HwsimError, match=message):
        trace_of_pages(np.array(pages, np.int64), None if writes is None else np.array(writes, np.uint8))


def test_files_come_back(tmp_path):
    """An .npz with flags; raw integers of both widths."""
    trace = trace_of_pages(PAGES_N, np.array([0, 1, 0, 0, 1], np.uint8))
    save(trace, tmp_path / "t.npz")
    assert load(tmp_path / "t.npz").sha256 == trace.sha256
    for suffix, dtype in ((".i32", "<i4"), (".i64", "<i8")):
        (tmp_path / f"t{suffix}").write_bytes(PAGES_N.astype(dtype).tobytes())
        assert np.array_equal(load(tmp_path / f"t{suffix}").pages_N, PAGES_N)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"1,2", "choose a .npz, .i32 or .i64 file"),
        ("t.i64", bytes(12), "12 bytes are no multiple of 8"),
        ("t.npz", b"no archive", "not an .npz file"),
        ("t.i32", b"", "empty"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path, name, content, message):
    """By a sentence that says what is wrong."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HwsimError, match=message):
        load(tmp_path / name)


def test_missing_file_is_not_found(tmp_path):
    """And not a traceback."""
    with pytest.raises(HwsimError, match="no such file") as error:
        load(tmp_path / "none.npz")
    assert error.value.code == "NOT_FOUND"


@given(keys=arrays(np.int64, st.integers(1, 100), elements=st.integers(-(2**60), 2**60)))
def test_renumbering_is_by_first_appearance(keys):
    """As a dictionary would do it."""
    seen: dict[int, int] = {}
    expected = [seen.setdefault(key, len(seen)) for key in keys.tolist()]
    numbers, count = renumber(keys)
    assert numbers.tolist() == expected
    assert count == len(seen)


def test_store_lets_go_of_what_was_not_used_longest():
    """Within its limit; a trace larger than that is refused."""
    one, two, three = (trace_of_pages(np.full(100, page, np.int32), None) for page in (1, 2, 3))
    store = TraceStore(limit_bytes=2 * one.nbytes)
    first, second = store.add(one), store.add(two)
    store.get(first)
    store.add(three)
    assert store.get(first) is one
    with pytest.raises(HwsimError, match="no such trace"):
        store.get(second)
    with pytest.raises(HwsimError, match="the store has 1000"):
        TraceStore(limit_bytes=1000).add(trace_of_pages(np.zeros(300, np.int32), None))
