"""Receiving a trace in pieces: a header, numbered chunks with checksums, a trailer with the digest of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field

from ...core.options import Options
from ..simulator import HwsimError, Job
from ..v1 import common_pb2
from ..wire import encode
from . import llc
from .llc import LlcOptions
from .traces import LINE_BYTES, MAX_ACCESSES, Trace, integers, trace_of_pages

MAX_CHUNK_BYTES = 2**20


class TraceHeader(Options):
    """What is to come: little-endian integers, then, where `write_bitmap`, a bit an access, the first in the lowest bit."""

    format: Literal["int32", "int64"] = "int32"
    """The integers."""
    content: Literal["pages", "addresses"] = "pages"
    """Page numbers of accesses that reach memory, or byte addresses of all accesses, which go through a cache first."""
    page_bytes: Annotated[int, Field(ge=64, le=2**30)] = 4096
    """A power of two."""
    total_accesses: Annotated[int, Field(ge=1)]
    """How many accesses there are."""
    total_pages: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """The footprint, for content `pages`; absent: the largest page and one."""
    access_bytes: Annotated[int, Field(ge=1, le=2**30)] = LINE_BYTES
    """What one access moves, for content `pages`: a line, or a page where the trace tells of whole pages."""
    write_bitmap: bool = False
    """Bits that tell writes follow."""
    llc: LlcOptions = LlcOptions()
    """The cache that addresses go through."""


class TraceUpload:
    """One upload: `chunk` for every chunk in turn, then `finish`.

    Parameters
    ----------
    header : TraceHeader
    most_accesses : int
        For which there is room.

    Raises
    ------
    HwsimError
        INVALID_ARGUMENT for pages of a size that is no power of two; RESOURCE_EXHAUSTED for more accesses than there is room.
    """

    def __init__(self, header: TraceHeader, most_accesses: int = MAX_ACCESSES) -> None:
        if header.page_bytes & (header.page_bytes - 1):
            raise HwsimError(
                f"header.page_bytes = {header.page_bytes}: not a power of two; 4096 is usual", field="header.page_bytes"
            )
        if header.total_accesses > most_accesses:
            raise HwsimError(
                f"header.total_accesses = {header.total_accesses}: at most {most_accesses} fit here; send a shorter trace",
                "RESOURCE_EXHAUSTED",
                "header.total_accesses",
            )
        self.header = header
        self._element = np.dtype("<i4" if header.format == "int32" else "<i8")
        bitmap_bytes = -(-header.total_accesses // 8) if header.write_bitmap else 0
        self._expected = header.total_accesses * self._element.itemsize + bitmap_bytes
        self._content = bytearray()
        self._digest = hashlib.sha256()
        self._next = 0

    def chunk(self, seq: int, content: bytes, crc32c: int) -> None:
        """Take the next piece.

        Raises
        ------
        HwsimError
            INVALID_ARGUMENT for a number out of order, a wrong checksum, or more than the header said; RESOURCE_EXHAUSTED for a
            chunk above 1 MiB.
        """
        if seq != self._next:
            raise HwsimError(f"chunk.seq = {seq}: chunk {self._next} is next; send each once, in order", field="chunk.seq")
        if len(content) > MAX_CHUNK_BYTES:
            raise HwsimError(f"chunk.data: {len(content)} bytes; at most {MAX_CHUNK_BYTES}", "RESOURCE_EXHAUSTED", "chunk.data")
        if (actual := checksum(content)) != crc32c:
            raise HwsimError(
                f"chunk.crc32c = {crc32c}: chunk {seq} has {actual}; it was damaged on its way", field="chunk.crc32c"
            )
        if len(self._content) + len(content) > self._expected:
            raise HwsimError(
                f"header.total_accesses = {self.header.total_accesses}: makes {self._expected} bytes, and more have come",
                field="header.total_accesses",
            )
        self._content += content
        self._digest.update(content)
        self._next += 1

    def finish(self, sha256: str, count: int, job: Job = Job()) -> Trace:  # noqa: B008 - immutable
        """Check the whole and return the trace.

        Parameters
        ----------
        sha256 : str
            Of all chunks, in hexadecimal digits.
        count : int
            Accesses sent.

        Raises
        ------
        HwsimError
            INVALID_ARGUMENT if digest or length is another, or what `traces.trace_of_pages` and `llc.trace_of_addresses` raise.
        """
        if self._digest.hexdigest() != sha256.lower():
            raise HwsimError(f"trailer.sha256 = {sha256!r}: what came has {self._digest.hexdigest()!r}", field="trailer.sha256")
        if count != self.header.total_accesses:
            raise HwsimError(f"trailer.count = {count}: the header said {self.header.total_accesses}", field="trailer.count")
        if len(self._content) != self._expected:
            raise HwsimError(f"trailer: {len(self._content)} bytes came, {self._expected} were to come", field="trailer.count")
        size = count * self._element.itemsize
        elements_N = integers(memoryview(self._content)[:size], self._element.str)
        writes_N = None
        if self.header.write_bitmap:
            bits = np.frombuffer(self._content, np.uint8, offset=size)
            writes_N = np.unpackbits(bits, count=count, bitorder="little")
        return self._trace(elements_N, writes_N, job)

    def _trace(self, elements_N: NDArray[np.integer], writes_N: NDArray[np.uint8] | None, job: Job) -> Trace:
        header = self.header
        if header.content == "pages":
            trace = trace_of_pages(elements_N, writes_N, header.total_pages, header.page_bytes)
            return replace(trace, access_bytes=header.access_bytes)
        return llc.trace_of_addresses(elements_N.astype(np.int64), writes_N, header.llc, header.page_bytes, job)


def parts_of(trace: Trace) -> Iterator[common_pb2.TraceChunk]:
    """Yield a trace as the messages that `TraceUpload` puts together again."""
    content = trace.pages_N.astype("<i4").tobytes() + np.packbits(trace.writes_N, bitorder="little").tobytes()
    header = TraceHeader(
        page_bytes=trace.page_bytes,
        total_accesses=len(trace),
        total_pages=trace.pages,
        access_bytes=trace.access_bytes,
        write_bitmap=True,
    )
    yield common_pb2.TraceChunk(header=encode(header, common_pb2.TraceHeader()))
    for seq, start in enumerate(range(0, len(content), MAX_CHUNK_BYTES)):
        data = content[start : start + MAX_CHUNK_BYTES]
        yield common_pb2.TraceChunk(data=common_pb2.TraceData(seq=seq, data=data, crc32c=checksum(data)))
    digest = hashlib.sha256(content).hexdigest()
    yield common_pb2.TraceChunk(trailer=common_pb2.TraceTrailer(sha256=digest, count=len(trace)))


def _table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _table()


def checksum(content: bytes) -> int:
    """Return the CRC-32C (Castagnoli; RFC 3720, appendix B.4) of some bytes."""
    return int(_crc32c(np.frombuffer(content, np.uint8), _TABLE))


@njit(nogil=True, cache=True)
def _crc32c(content, table):
    crc = np.uint32(0xFFFFFFFF)
    for byte in content:
        crc = table[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)
