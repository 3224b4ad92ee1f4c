"""NeoProf, the profiler in the CXL device: which pages of slow memory are hot.

A page monitor drops repeats, a Count-Min sketch counts what is left, pages whose estimate passes a threshold are reported
once each into a FIFO, and a histogram of the counters tells the host where to put the threshold (NeoMem, arXiv:2403.18702,
section 4; parameters and behaviour from its hardware description, PKUZHOU/NeoProf_FPGA). The host's side of it is the
register map: each public method from `reset` on is one register.

What follows from the design and is easily missed: only reads count (a store shows as the read that fetches its line); what is
counted is the stream without consecutive repeats, so that against raw access counts the sketch may under-estimate; and counting
pauses while the histogram is read out.

Ours: the device clears by valid bits, one entry at its next use; answers are the same as of clearing at once, as is done here.
Its page monitor sees channels by line addresses, which a trace of pages does not have: a low bit of the page stands for them.

Shapes: N = accesses, P = pages, D = rows of the sketch, W = columns, B = 64 bins.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field, field_validator

from ...core.options import Options
from .constants import constant
from .memory import FAST

BINS = 64
EDGES_B = np.cumsum([0, *np.repeat(2 ** np.arange(8), 8)])[:BINS]
"""Lower edges of the histogram's bins: eight groups of eight, of widths 1, 2, 4 ... 128. The last bin has no upper edge."""
_SATURATED = 2**32 - 1  # of 32-bit registers
_KEY_BITS = 32
_CLOCK_HZ = constant("neoprof.clock_hz")


class NeoProfOptions(Options):
    """The device's parameters, as built; `columns` and `fifo_entries` shrink with the request's scale."""

    rows: Annotated[int, Field(ge=1, le=4)] = constant("neoprof.rows")
    """Rows of the sketch."""
    columns: Annotated[int, Field(ge=64, le=2**24)] = constant("neoprof.columns")
    """Counters a row, a power of two."""
    counter_bits: Annotated[int, Field(ge=1, le=32)] = constant("neoprof.counter_bits")
    """Width of a counter."""
    overflow: Literal["saturate", "wrap"] = "saturate"
    """What a full counter does; the hardware wraps."""
    fifo_entries: Annotated[int, Field(ge=1, le=2**24)] = constant("neoprof.fifo_entries")
    """Hot pages that wait for the host; more are lost."""
    dedup: bool = True
    """Drop a page that equals its channel's last one."""
    count_writes: bool = False
    """Count writes too; the hardware does not."""
    page_sample_interval: Annotated[int, Field(ge=0, le=2**31)] = 0
    """One clock cycle in this many, plus one, is looked at."""
    state_interval: Annotated[int, Field(ge=0, le=2**31)] = constant("neoprof.state_interval")
    """Clock cycles between samples of the bandwidth, less one."""
    hash_seed: Annotated[int, Field(ge=0, lt=2**63)] = constant("neoprof.hash_seed")
    """Of the random bits of the hash functions."""

    @field_validator("columns")
    @classmethod
    def _power_of_two(cls, columns: int) -> int:
        if columns & (columns - 1):
            raise ValueError("not a power of two; choose one from 64 to 16777216")
        return columns


def h3_matrix(seed: int, rows: int, columns: int) -> NDArray[np.uint32]:
    """Draw the random bits of `rows` H3 hash functions into ``range(columns)``, shape (D, 32)."""
    return np.random.default_rng(seed).integers(0, columns, (rows, _KEY_BITS), dtype=np.uint32)


def h3(keys_P: NDArray[np.integer], matrix_DK: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Hash keys: XOR the matrix' entries of the bits that are set; shape (P, D)."""
    return _h3(keys_P.astype(np.uint32), matrix_DK)


@njit(nogil=True, cache=True)
def _h3(keys_P, matrix_DK):
    rows, bits = matrix_DK.shape
    columns_PD = np.zeros((len(keys_P), rows), np.uint32)
    for i in range(len(keys_P)):
        for row in range(rows):
            for bit in range(bits):
                columns_PD[i, row] ^= matrix_DK[row, bit] * ((keys_P[i] >> np.uint32(bit)) & np.uint32(1))
    return columns_PD


class NeoProf:
    """One device.

    Parameters
    ----------
    options : NeoProfOptions
    keys_P : array of integers, shape (P,)
        The page number on the device, which is hashed, of each page.
    scale : int
        By how much everything is shrunk, a power of two.

    Attributes
    ----------
    mmio_reads : int
        Registers the host has read.
    """

    def __init__(self, options: NeoProfOptions, keys_P: NDArray[np.integer], scale: int = 1) -> None:
        self.options = options
        self.columns = max(1, options.columns // scale)
        self.theta = 0
        self.mmio_reads = 0
        columns_PD = h3(keys_P, h3_matrix(options.hash_seed, options.rows, self.columns))
        self._entries_PD = (columns_PD + np.arange(options.rows, dtype=np.uint32) * np.uint32(self.columns)).astype(np.int32)
        self._counts = np.zeros(options.rows * self.columns, np.uint32)
        self._hot = np.zeros(options.rows * self.columns, np.bool_)
        self._last_C = np.full(constant("neoprof.channels"), -1, np.int64)
        self._fifo = np.zeros(max(1, options.fifo_entries // scale), np.int64)
        self._registers = np.zeros(_REGISTERS, np.int64)
        self._registers[_RANDOM] = options.hash_seed
        self._bins: list[int] = []
        self._state = [0, 0, 0]
        self._blind_until_ps = -1

    @property
    def counts_DW(self) -> NDArray[np.uint32]:  # noqa: N802 - a shape suffix
        """The sketch's counters."""
        return self._counts.reshape(self.options.rows, self.columns)

    def estimate(self, pages_P: NDArray[np.integer]) -> NDArray[np.uint32]:
        """Return the sketch's estimate of each page's count."""
        return self._counts[self._entries_PD[pages_P]].min(axis=1)

    @property
    def fed(self) -> int:
        """Accesses counted since the beginning."""
        return int(self._registers[_FED])

    @property
    def duplicates(self) -> int:
        """Reads left out as repeats."""
        return int(self._registers[_DUPLICATES])

    @property
    def dropped(self) -> int:
        """Reports lost to a full FIFO."""
        return int(self._registers[_DROPPED])

    def feed(
        self,
        pages_N: NDArray[np.integer],
        writes_N: NDArray[np.uint8],
        state_P: NDArray[np.uint8],
        start_ps: int = 0,
        cost_ps: tuple[int, int] = (0, 0),
    ) -> None:
        """Let accesses pass by; only those to slow memory reach the device.

        Parameters
        ----------
        pages_N, writes_N : arrays, shape (N,)
            Page numbers, and 1 for writes.
        state_P : array, shape (P,)
            Where pages are (see `memory`).
        start_ps, cost_ps : int, (int, int)
            When the first access is made and how long one to slow and to fast memory takes: for the pauses in counting.
        """
        options = self.options
        limit = 2**options.counter_bits - 1
        after_limit = limit if options.overflow == "saturate" else 0
        start = 0
        if start_ps < self._blind_until_ps:
            start = _pass_by(pages_N, state_P, start_ps, self._blind_until_ps, *cost_ps)
        _feed(
            pages_N[start:],
            writes_N[start:],
            state_P,
            self._entries_PD,
            self._counts,
            self._hot,
            self._last_C,
            self._fifo,
            self._registers,
            self.theta,
            limit,
            after_limit,
            options.dedup,
            options.count_writes,
            options.page_sample_interval,
        )

    def pass_time(self, seconds: float, read_share: float, write_share: float) -> None:
        """Let the state monitor sample for some time, in which the data buses were busy for these shares."""
        samples = round(seconds * _CLOCK_HZ / (self.options.state_interval + 1))
        gained = (samples, round(samples * min(1.0, read_share)), round(samples * min(1.0, write_share)))
        self._state = [min(_SATURATED, old + new) for old, new in zip(self._state, gained, strict=True)]

    def reset(self) -> None:
        """0x200: clear sketch, hot bits, state monitor, both FIFOs and the input counter."""
        self._clear()
        self._state = [0, 0, 0]
        self._registers[_INPUTS] = 0

    def set_threshold(self, theta: int) -> None:
        """0x300: store the threshold; clears sketch, hot bits and both FIFOs, keeps the state monitor."""
        self.theta = theta
        self._clear()

    def set_state_interval(self, cycles: int) -> None:
        """0x400: set the sample interval of the state monitor and clear it."""
        self.options = self.options.model_copy(update={"state_interval": cycles})
        self._state = [0, 0, 0]

    def set_page_sample_interval(self, cycles: int) -> None:
        """0x500: look at one clock cycle in `cycles` + 1 only."""
        self.options = self.options.model_copy(update={"page_sample_interval": cycles})

    def start_hist(self, now_ps: int = 0) -> None:
        """0x600: fill the histogram FIFO from row 0, all counters, zeros too; counting pauses meanwhile, a cycle a counter."""
        bins = np.searchsorted(EDGES_B, self.counts_DW[0], side="right") - 1
        self._bins = np.bincount(bins, minlength=BINS).tolist()
        self._blind_until_ps = now_ps + round(self.options.columns / _CLOCK_HZ * 1e12)

    def nr_hotpages(self) -> int:
        """0x200: return how many hot pages wait."""
        self.mmio_reads += 1
        return int(self._registers[_WAITING])

    def pop_hotpage(self) -> int:
        """0x300: return the hot page that has waited longest; there must be one."""
        return int(self.pop_hotpages(1)[0])

    def pop_hotpages(self, count: int) -> NDArray[np.int64]:
        """Read 0x300 `count` times."""
        self.mmio_reads += count
        head, waiting = self._registers[_HEAD], self._registers[_WAITING]
        if count > waiting:
            raise IndexError(f"{count} hot pages asked for, {waiting} wait")
        popped = self._fifo[(head + np.arange(count)) % len(self._fifo)]
        self._registers[_HEAD] = (head + count) % len(self._fifo)
        self._registers[_WAITING] -= count
        return popped

    def nr_inputs(self) -> int:
        """0x400: return how many accesses were counted since the last reset, at most 2^32 - 1."""
        self.mmio_reads += 1
        return min(_SATURATED, int(self._registers[_INPUTS]))

    def state_counts(self) -> tuple[int, int, int]:
        """0x500 to 0x700: return samples taken, samples with the read bus busy, with the write bus busy."""
        self.mmio_reads += 3
        return self._state[0], self._state[1], self._state[2]

    def pop_hist(self) -> int:
        """0x800: return the next bin; there must be one."""
        self.mmio_reads += 1
        return self._bins.pop(0)

    def nr_hist(self) -> int:
        """0x900: return how many bins wait."""
        self.mmio_reads += 1
        return len(self._bins)

    def _clear(self) -> None:
        self._counts.fill(0)
        self._hot.fill(False)
        self._registers[_WAITING] = 0
        self._bins = []


_HEAD, _WAITING, _DROPPED, _FED, _DUPLICATES, _INPUTS, _RANDOM, _REGISTERS = range(8)


@njit(nogil=True, cache=True)
def _pass_by(pages_N, state_P, now_ps, until_ps, slow_ps, fast_ps):
    for i in range(len(pages_N)):
        if now_ps >= until_ps:
            return i
        now_ps += fast_ps if state_P[pages_N[i]] & FAST else slow_ps
    return len(pages_N)


@njit(nogil=True, cache=True)
def _feed(
    pages_N,
    writes_N,
    state_P,
    entries_PD,
    counts,
    hot,
    last_C,
    fifo,
    registers,
    theta,
    limit,
    after_limit,
    dedup,
    count_writes,
    sample_interval,
):
    channels, rows = len(last_C), entries_PD.shape[1]
    waiting, head, fed, duplicates = registers[_WAITING], registers[_HEAD], 0, 0
    for i in range(len(pages_N)):
        page = pages_N[i]
        if state_P[page] & FAST or (writes_N[i] and not count_writes):
            continue
        if sample_interval and not _sampled(registers, sample_interval):
            continue
        if dedup:
            channel = page % channels
            if last_C[channel] == page:
                duplicates += 1
                continue
            last_C[channel] = page
        fed += 1
        estimate = limit
        for d in range(rows):
            entry = entries_PD[page, d]
            count = counts[entry]
            count = after_limit if count == limit else count + 1
            counts[entry] = count
            estimate = min(estimate, count)
        if estimate > theta:
            reported = True
            for d in range(rows):
                reported &= hot[entries_PD[page, d]]
            if reported:
                continue
            for d in range(rows):
                hot[entries_PD[page, d]] = True
            if waiting < len(fifo):
                fifo[(head + waiting) % len(fifo)] = page
                waiting += 1
            else:
                registers[_DROPPED] += 1
    registers[_WAITING] = waiting
    registers[_FED] += fed
    registers[_INPUTS] += fed
    registers[_DUPLICATES] += duplicates


@njit(nogil=True, cache=True)
def _sampled(registers, interval):
    """Say whether an access falls into a cycle that is looked at: cycles of accesses are as good as random."""
    x = registers[_RANDOM] * 6364136223846793005 + 1442695040888963407
    registers[_RANDOM] = x
    return ((x >> 33) & 0x7FFFFFFF) % (interval + 1) == 0
