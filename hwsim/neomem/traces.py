"""Traces: the accesses that reach memory, and the files and the store they come from.

A trace is a sequence of page numbers with a flag for writes: reads are line fills (of loads, and of stores, which fetch their
line), writes are write-backs. `llc` makes one of byte addresses.

Shapes: N = accesses, P = pages.
"""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..simulator import HwsimError, Job
from .constants import constant

MAX_ACCESSES = 2**28
"""Accesses of a trace at most."""
LINE_BYTES = constant("cost.line_bytes")
ACCESS_BYTES = 5
"""What an access of a trace takes in memory: a page number and a flag."""
PIECE = 2**18
"""Elements worked on between two looks at whether to go on; changes nothing else. A multiple of 8."""


def pieces(job: Job, count: int, width: int = 1, piece: int = PIECE) -> Iterator[slice]:
    """Yield slices of `count` rows, each row `width` elements, and before each of them let the job end.

    Raises
    ------
    HwsimError
        CANCELLED or DEADLINE_EXCEEDED.
    """
    looking = Job(job.deadline, job.cancelled)  # how much is done, is not known here
    rows = max(1, piece // width)
    for start in range(0, count, rows):
        looking.step()
        yield slice(start, min(start + rows, count))


@dataclass(frozen=True, eq=False)
class Trace:
    """Accesses to memory.

    Attributes
    ----------
    pages_N : array of int32, shape (N,)
        Page numbers, from 0.
    writes_N : array of uint8, shape (N,)
        1 for writes.
    pages : int
        The footprint; page numbers are below.
    page_bytes : int
        What a page is.
    access_bytes : int
        What one access moves: a line, or a page where the trace tells of whole pages.
    order : {"address", "trace"}
        Pages are allocated in order of their numbers before the trace begins, as arrays that a program initialises are, or
        one by one as the trace touches them.
    """

    pages_N: NDArray[np.int32]
    writes_N: NDArray[np.uint8]
    pages: int
    page_bytes: int = 4096
    access_bytes: int = LINE_BYTES
    order: Literal["address", "trace"] = "trace"

    def __len__(self) -> int:
        return len(self.pages_N)

    @cached_property
    def sha256(self) -> str:
        """The digest of everything above."""
        return self.digest(Job())

    def digest(self, job: Job) -> str:
        """Return `sha256`; the job can end the work, as in `pieces`."""
        digest = hashlib.sha256(f"{self.pages} {self.page_bytes} {self.access_bytes} {self.order}\n".encode())
        for part in pieces(job, len(self)):
            digest.update(np.ascontiguousarray(self.pages_N[part], "<i4").data)
        for part in pieces(job, len(self)):
            digest.update(np.packbits(self.writes_N[part]).data)
        return digest.hexdigest()

    def repeated(self, times: int, job: Job = Job()) -> Trace:  # noqa: B008 - immutable
        """Return the trace, one time after the other; the job can end the work, as in `pieces`."""
        if times == 1:
            return self
        pages_TN, writes_TN = np.empty((times, len(self)), np.int32), np.empty((times, len(self)), np.uint8)
        for part in pieces(job, times, len(self)):
            pages_TN[part], writes_TN[part] = self.pages_N, self.writes_N
        return replace(self, pages_N=pages_TN.ravel(), writes_N=writes_TN.ravel())

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.pages_N.nbytes + self.writes_N.nbytes


def trace_of_pages(
    pages_N: NDArray[np.integer], writes_N: NDArray[np.uint8] | None, pages: int | None = None, page_bytes: int = 4096
) -> Trace:
    """Make a trace of page numbers that come from outside.

    Raises
    ------
    HwsimError
        INVALID_ARGUMENT if it is empty, has a negative page, or not one flag an access; OUT_OF_RANGE for a page that is not
        below `pages`; RESOURCE_EXHAUSTED if it is too long.
    """
    if not len(pages_N):
        raise HwsimError("trace: empty; at least one access is needed", field="trace")
    if len(pages_N) > MAX_ACCESSES:
        raise HwsimError(f"trace: {len(pages_N)} accesses; at most {MAX_ACCESSES}", "RESOURCE_EXHAUSTED", "trace")
    if writes_N is not None and len(writes_N) != len(pages_N):
        raise HwsimError(f"trace: {len(pages_N)} accesses and {len(writes_N)} write flags; give one each", field="trace")
    low, high = int(pages_N.min()), int(pages_N.max())
    if low < 0:
        raise HwsimError(f"trace: page {low} is negative; pages count from 0", field="trace")
    if high >= (2**31 if pages is None else pages):
        raise HwsimError(f"trace: page {high} is not below total_pages = {pages or 2**31}", "OUT_OF_RANGE", "total_pages")
    flags_N = np.zeros(len(pages_N), np.uint8) if writes_N is None else np.asarray(writes_N, bool).view(np.uint8)
    return Trace(pages_N.astype(np.int32), flags_N, pages or high + 1, page_bytes)


def renumber(keys_N: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """Number what may be far apart in order of first appearance; return the numbers, shape (N,), and how many there are."""
    _, first, inverse = np.unique(keys_N, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse], len(first)


def load(path: Path, page_bytes: int = 4096) -> Trace:
    """Read a trace file: `.npz` with `pages` and maybe `writes`, or raw little-endian integers as `.i32` or `.i64`.

    Raises
    ------
    HwsimError
        NOT_FOUND if there is no such file; INVALID_ARGUMENT if it is not what its name says, or as in `trace_of_pages`.
    """
    kinds = {".i32": "<i4", ".i64": "<i8"}
    if not path.is_file():
        raise HwsimError(f"trace = {str(path)!r}: no such file", "NOT_FOUND", "trace")
    if path.suffix in kinds:
        return trace_of_pages(integers(path.read_bytes(), kinds[path.suffix]), None, None, page_bytes)
    if path.suffix != ".npz":
        raise HwsimError(f"trace = {str(path)!r}: choose a .npz, .i32 or .i64 file", field="trace")
    try:
        with np.load(path, allow_pickle=False) as file:
            pages_N, writes_N = file["pages"], file.get("writes")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise HwsimError(f"trace = {str(path)!r}: not an .npz file with an array `pages`: {error}", field="trace") from None
    if pages_N.ndim != 1 or not np.issubdtype(pages_N.dtype, np.integer):
        raise HwsimError(f"trace = {str(path)!r}: `pages` must be one row of integers", field="trace")
    return trace_of_pages(pages_N, writes_N, None, page_bytes)


def save(trace: Trace, path: Path) -> None:
    """Write an `.npz` file that `load` reads."""
    np.savez_compressed(path, pages=trace.pages_N, writes=trace.writes_N)


def integers(content: bytes | bytearray, dtype: str) -> NDArray[np.integer]:
    """Read raw integers.

    Raises
    ------
    HwsimError
        INVALID_ARGUMENT if the length is not a multiple of theirs.
    """
    size = np.dtype(dtype).itemsize
    if len(content) % size:
        raise HwsimError(f"trace: {len(content)} bytes are no multiple of {size}, the size of an element", field="trace")
    return np.frombuffer(content, dtype)


class TraceStore:
    """Traces by their id, in memory, as many as fit; those not used for longest go first. Safe to use from several threads."""

    def __init__(self, limit_bytes: int = 2**31) -> None:
        self.limit_bytes = limit_bytes
        self._traces: OrderedDict[str, Trace] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, trace: Trace) -> str:
        """Keep a trace; return its id, which is its digest.

        Raises
        ------
        HwsimError
            RESOURCE_EXHAUSTED if it is larger than the store.
        """
        if trace.nbytes > self.limit_bytes:
            raise HwsimError(f"trace: {trace.nbytes} bytes; the store has {self.limit_bytes}", "RESOURCE_EXHAUSTED", "trace")
        with self._lock:
            self._traces[trace.sha256] = trace
            self._traces.move_to_end(trace.sha256)
            while sum(kept.nbytes for kept in self._traces.values()) > self.limit_bytes:
                self._traces.popitem(last=False)
        return trace.sha256

    def get(self, trace_id: str) -> Trace:
        """Return a trace.

        Raises
        ------
        HwsimError
            NOT_FOUND if there is none of this id, or no longer.
        """
        with self._lock:
            if trace_id not in self._traces:
                raise HwsimError(f"trace_id = {trace_id!r}: no such trace; upload it (again)", "NOT_FOUND", "trace_id")
            self._traces.move_to_end(trace_id)
            return self._traces[trace_id]


@njit(nogil=True, cache=True)
def count_pages(pages_N, counts_P):
    """Add to each page's count."""
    for page in pages_N:
        counts_P[page] += 1
