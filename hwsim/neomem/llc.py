"""The last-level cache: which accesses reach memory. Set-associative, least recently used, write-back, write-allocate.

A profiler in memory sees misses only, so a trace of a program's accesses has to go through a cache first: otherwise pages that
live in the cache look hot. A miss is a read, of loads and stores alike; a dirty line that is evicted is a write.

Shapes: N = accesses, M = accesses to memory.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field

from ...core.options import Options
from ..simulator import HwsimError, Job
from .constants import constant
from .traces import LINE_BYTES, Trace, pieces, renumber


class LlcOptions(Options):
    """The cache. Lines have 64 bytes; `bytes` / (64 x `ways`) sets, rounded down, at least one."""

    bytes: Annotated[int, Field(ge=0, le=2**34)] = constant("llc.bytes")
    """Capacity; 0 for no cache."""
    ways: Annotated[int, Field(ge=1, le=2**20)] = constant("llc.ways")
    """Lines a set."""


def trace_of_addresses(
    addresses_N: NDArray[np.int64],
    writes_N: NDArray[np.uint8] | None,
    options: LlcOptions,
    page_bytes: int = 4096,
    job: Job = Job(),  # noqa: B008 - immutable
) -> Trace:
    """Turn byte addresses into a trace: through the cache, pages numbered in order of their first access.

    Raises
    ------
    HwsimError
        INVALID_ARGUMENT if there is no access or a negative address; CANCELLED or DEADLINE_EXCEEDED by the job.
    """
    if not len(addresses_N):
        raise HwsimError("trace: empty; at least one access is needed", field="trace")
    if int(addresses_N.min()) < 0:
        raise HwsimError(f"trace: address {int(addresses_N.min())} is negative", field="trace")
    flags_N = np.zeros(len(addresses_N), np.uint8) if writes_N is None else np.asarray(writes_N, bool).view(np.uint8)
    lines_M, flags_M = addresses_N // LINE_BYTES, flags_N
    if options.bytes:
        lines_M, flags_M = filter_lines(lines_M, flags_N, options, job)
    pages_M, pages = renumber(lines_M * LINE_BYTES // page_bytes)
    return Trace(pages_M, flags_M, pages, page_bytes)


def filter_lines(
    lines_N: NDArray[np.int64],
    writes_N: NDArray[np.uint8],
    options: LlcOptions,
    job: Job = Job(),  # noqa: B008 - immutable
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the lines read from and written to memory, in order, and which of them are writes, shapes (M,).

    Raises
    ------
    HwsimError
        CANCELLED or DEADLINE_EXCEEDED by the job.
    """
    sets = max(1, options.bytes // (LINE_BYTES * options.ways))
    ways = max(1, min(options.ways, options.bytes // LINE_BYTES))
    out_M, flags_M = np.empty(2 * len(lines_N), np.int64), np.empty(2 * len(lines_N), np.uint8)
    tags, dirty = np.full((sets, ways), -1, np.int64), np.zeros((sets, ways), np.bool_)
    count = 0
    for part in pieces(job, len(lines_N)):
        count += _filter(lines_N[part], writes_N[part], tags, dirty, out_M[count:], flags_M[count:])
    return out_M[:count].copy(), flags_M[:count].copy()


@njit(nogil=True, cache=True)
def _filter(lines_N, writes_N, tags, dirty, out_M, flags_M):
    """Keep each set's lines in order of use, the last used first."""
    sets, ways = tags.shape
    count = 0
    for i in range(len(lines_N)):
        line = lines_N[i]
        row, bits = tags[line % sets], dirty[line % sets]
        way = 0
        while way < ways - 1 and row[way] != line and row[way] != -1:
            way += 1
        modified = writes_N[i] != 0
        if row[way] == line:
            modified |= bits[way]
        else:
            out_M[count], flags_M[count] = line, 0
            count += 1
            if row[way] != -1 and bits[way]:
                out_M[count], flags_M[count] = row[way], 1
                count += 1
        for k in range(way, 0, -1):
            row[k], bits[k] = row[k - 1], bits[k - 1]
        row[0], bits[0] = line, modified
    return count
