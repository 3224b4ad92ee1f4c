"""Synthetic traces.

Each generator is a function of its options, a number of pages and a number of accesses, and of a random stream. Where hotness
is to be scattered over the address space, pages are permuted. `phases` equal parts of the trace each have their own hot pages.

Shapes: N = accesses, P = pages, F = phases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field

from ...core.options import Options
from ..simulator import HwsimError, Job
from .constants import constant
from .traces import PIECE, Trace, pieces

Generator = Literal["gups", "zipf", "pointer_chase", "scan", "dlrm", "search", "gather", "phase_shift", "adversary"]
_Part = Literal["gups", "zipf", "pointer_chase", "scan"]
Pages = NDArray[np.int32]
_Probability = Annotated[float, Field(ge=0, le=1)]
_Share = Annotated[float, Field(gt=0, lt=1)]
_Exponent = Annotated[float, Field(ge=0, le=5)]
_Phases = Annotated[int, Field(ge=1, le=10_000)]


class GupsOptions(Options):
    """Random updates, most of them in one contiguous hot window."""

    hot_share: _Share = constant("generator.gups_hot_share")
    """The window, of all pages."""
    hot_probability: _Probability = constant("generator.gups_hot_probability")
    """Updates in it."""
    hot_start: _Probability = constant("generator.gups_hot_start")
    """Where it begins; later phases put it anywhere."""
    phases: _Phases = 1
    """Positions of the window."""


class ZipfOptions(Options):
    """Pages by Zipf's law: the r-th is accessed in proportion to r^-alpha."""

    alpha: _Exponent = 0.9
    """Exponent."""
    layout: Literal["scattered", "contiguous"] = "scattered"
    """Where hot pages are: anywhere, or side by side, the hottest first (and, in later phases, from anywhere on)."""
    phases: _Phases = 1
    """Each has other hot pages."""


class ChaseOptions(Options):
    """Dependent loads along two cycles, one through a hot part of the pages and one through the rest."""

    hot_share: _Share = 1 / 3
    """The hot part, scattered."""
    hot_probability: _Probability = 0.9
    """Accesses that follow the hot cycle."""


class ScanOptions(Options):
    """Through all pages, again and again."""

    stride: Annotated[int, Field(ge=1, le=2**24)] = 1
    """Pages from one to the next."""


class DlrmOptions(Options):
    """Recommendation: rows gathered from embedding tables, each by a Zipf law of its own, and a small model always in use."""

    tables: Annotated[int, Field(ge=1, le=1000)] = 8
    """Embedding tables, of equal size."""
    pooling: Annotated[int, Field(ge=1, le=1000)] = 20
    """Rows of each table that a sample gathers."""
    alpha: _Exponent = 1.05
    """Exponent of rows."""
    rows_per_page: Annotated[int, Field(ge=1, le=4096)] = 16
    """Rows that share a page: 64 numbers of 4 bytes make 16 of them 4096."""
    model_share: _Share = 0.01
    """The model, of all pages."""
    model_accesses: Annotated[int, Field(ge=0, le=100_000)] = 16
    """Pages of it that a sample touches."""


class SearchOptions(Options):
    """Binary searches on a grid whose pages are shuffled, each followed by gathers from a large table, as in XSBench."""

    grid_share: _Share = 0.05
    """The grid, of all pages."""
    gathers: Annotated[int, Field(ge=0, le=1000)] = 4
    """Accesses to the table after each search."""


class GatherOptions(Options):
    """Vertices gathered along streamed edges, as in PageRank: degrees by a power law, vertices after edges in memory."""

    alpha: _Exponent = 0.9
    """Exponent of degrees."""
    vertex_share: _Share = 0.1
    """Vertices, of all pages."""
    vertices_per_page: Annotated[int, Field(ge=1, le=4096)] = 64
    """Vertices that share a page: lines of one."""
    edges_per_access: Annotated[int, Field(ge=1, le=1000)] = 16
    """Edges in a line, each of which gathers a vertex."""


class PhaseShiftOptions(Options):
    """One generator after the other, on the same pages."""

    generators: list[_Part] = Field(default_factory=lambda: list[_Part](["zipf", "scan", "gups"]), min_length=1, max_length=100)
    """Each has an equal part of the trace."""


class AdversaryOptions(Options):
    """Two sets of pages used in turn, each somewhat larger than fast memory: whatever is promoted comes too late."""

    set_share: Annotated[float, Field(gt=0, le=0.5)] = 0.35
    """A set, of all pages."""
    phases: _Phases = 20
    """Turns."""


class SyntheticOptions(Options):
    """A synthetic workload; of the generators' own options those of `generator` matter."""

    generator: Generator
    """What makes the trace."""
    pages: Annotated[int, Field(ge=2, le=2**40)] = constant("generator.gups_pages")
    """The footprint, before scaling."""
    accesses: Annotated[int, Field(ge=1, le=2**26)] = 10_000_000
    """Accesses to simulate, each of which stands for `scale`."""
    write_fraction: _Probability = 0.0
    """Accesses that are writes (write-backs; a store's line fill is a read)."""
    gups: GupsOptions = GupsOptions()
    zipf: ZipfOptions = ZipfOptions()
    pointer_chase: ChaseOptions = ChaseOptions()
    scan: ScanOptions = ScanOptions()
    dlrm: DlrmOptions = DlrmOptions()
    search: SearchOptions = SearchOptions()
    gather: GatherOptions = GatherOptions()
    phase_shift: PhaseShiftOptions = PhaseShiftOptions()
    adversary: AdversaryOptions = AdversaryOptions()


class Stream:
    """Random numbers and slices of large arrays, in pieces between which the job can end.

    Parameters
    ----------
    rng : Generator
    job : Job
    piece : int
        Numbers at most between two looks at the job; changes nothing in them.
    """

    def __init__(self, rng: np.random.Generator, job: Job = Job(), piece: int = PIECE) -> None:  # noqa: B008 - immutable
        self.rng, self._job, self._piece = rng, job, piece

    def each(self, count: int, width: int = 1) -> Iterator[slice]:
        """Yield slices of `count` rows, each row `width` numbers."""
        return pieces(self._job, count, width, self._piece)

    def random(self, count: int) -> NDArray[np.float32]:
        """Draw from [0, 1), shape (N,)."""
        out_N = np.empty(count, np.float32)
        for part in self.each(count):
            self.rng.random(dtype=np.float32, out=out_N[part])
        return out_N

    def integers(self, low: int, high: int, count: int) -> Pages:
        """Draw from `low` to `high` - 1, shape (N,)."""
        out_N = np.empty(count, np.int32)
        for part in self.each(count):
            out_N[part] = self.rng.integers(low, high, part.stop - part.start, np.int32)
        return out_N


def generate(
    options: SyntheticOptions,
    pages: int,
    page_bytes: int,
    seed: int,
    job: Job = Job(),  # noqa: B008 - immutable
    piece: int = PIECE,
) -> Trace:
    """Make a trace on `pages` simulated pages.

    Raises
    ------
    HwsimError
        CANCELLED or DEADLINE_EXCEEDED by the job, which is looked at every `piece` accesses or so; RESOURCE_EXHAUSTED if its
        tables are too large.
    """
    stream = Stream(np.random.default_rng([seed, *options.generator.encode()]), job, piece)
    pages_N = _make(options.generator, options, pages, options.accesses, stream)
    writes_N = np.zeros(options.accesses, np.uint8)
    if options.write_fraction:
        chance_N = stream.random(options.accesses)
        for part in stream.each(options.accesses):
            writes_N[part] = chance_N[part] < options.write_fraction
    return Trace(pages_N, writes_N, pages, page_bytes, order="address")


def _make(name: str, options: SyntheticOptions, pages: int, accesses: int, stream: Stream) -> Pages:
    if name == "phase_shift":
        out_N = np.empty(accesses, np.int32)
        parts = options.phase_shift.generators
        for generator, part in zip(parts, _phases(accesses, len(parts)), strict=True):
            out_N[part] = _make(generator, options, pages, part.stop - part.start, stream)
        return out_N
    return _GENERATORS[name](getattr(options, name), pages, accesses, stream)


def _phases(accesses: int, phases: int) -> list[slice]:
    """Divide a trace into equal parts."""
    ends = [accesses * phase // phases for phase in range(phases + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def _part(share: float, pages: int) -> int:
    """Return how many pages a share is: at least one, and not all."""
    return min(pages - 1, max(1, round(share * pages)))


def gups(options: GupsOptions, pages: int, accesses: int, stream: Stream) -> Pages:
    """Return pages of random updates, shape (N,)."""
    hot = _part(options.hot_share, pages)
    starts_F = stream.rng.integers(0, pages - hot + 1, options.phases)
    starts_F[0] = min(round(options.hot_start * pages), pages - hot)
    chance_N = stream.random(accesses)
    within_N, out_N = stream.integers(0, hot, accesses), stream.integers(0, pages, accesses)
    for start, phase in zip(starts_F, _phases(accesses, options.phases), strict=True):
        _shift(within_N[phase], start, stream)
    for part in stream.each(accesses):
        np.copyto(out_N[part], within_N[part], where=chance_N[part] < options.hot_probability)
    return out_N


def zipf(options: ZipfOptions, pages: int, accesses: int, stream: Stream) -> Pages:
    """Return pages by Zipf's law, shape (N,)."""
    out_N = draw(zipf_weights(pages, options.alpha), accesses, stream)
    for number, phase in enumerate(_phases(accesses, options.phases)):
        if options.layout == "scattered":
            place_P = stream.rng.permutation(pages).astype(np.int32)
        else:
            start = stream.rng.integers(pages) if number else 0
            place_P = np.roll(np.arange(pages, dtype=np.int32), -start)
        rank_N = out_N[phase]
        for part in stream.each(len(rank_N)):
            rank_N[part] = place_P[rank_N[part]]
    return out_N


def pointer_chase(options: ChaseOptions, pages: int, accesses: int, stream: Stream) -> Pages:
    """Return pages of two interleaved walks along random cycles, shape (N,)."""
    order = stream.rng.permutation(pages).astype(np.int32)
    hot = _part(options.hot_share, pages)
    chance_N, out_N = stream.random(accesses), np.empty(accesses, np.int32)
    walked = 0
    for part in stream.each(accesses):
        hot_N = chance_N[part] < options.hot_probability
        hot_steps_N = walked + np.cumsum(hot_N)
        steps_N = np.arange(part.start + 1, part.stop + 1) - hot_steps_N
        out_N[part] = np.where(hot_N, order[:hot][hot_steps_N % hot], order[hot:][steps_N % (pages - hot)])
        walked = hot_steps_N[-1]
    return out_N


def scan(options: ScanOptions, pages: int, accesses: int, stream: Stream) -> Pages:
    """Return pages one after the other, shape (N,)."""
    out_N = np.empty(accesses, np.int32)
    for part in stream.each(accesses):
        out_N[part] = np.arange(part.start, part.stop) * options.stride % pages
    return out_N


def dlrm(options: DlrmOptions, pages: int, accesses: int, stream: Stream) -> Pages:
    """Return pages of samples, each: rows of every table, then the model; shape (N,). The model comes last in memory."""
    model = _part(options.model_share, pages)
    table = max(1, (pages - model) // options.tables)
    lookups = options.tables * options.pooling
    samples = -(-accesses // (lookups + options.model_accesses))
    out_ST = np.empty((samples, lookups + options.model_accesses), np.int32)
    for t in range(options.tables):
        weights_P = _pooled(table, options.rows_per_page, options.alpha, stream.rng)
        start = min(t * table, pages - model - table) if pages - model >= table else 0
        rows_SL = draw(weights_P, samples * options.pooling, stream).reshape(samples, options.pooling)
        for part in stream.each(samples, options.pooling):
            out_ST[part, t * options.pooling : (t + 1) * options.pooling] = start + rows_SL[part]
    for part in stream.each(samples, options.model_accesses + 1):
        turn_N = np.arange(part.start * options.model_accesses, part.stop * options.model_accesses)
        out_ST[part, lookups:] = (pages - model + turn_N % model).reshape(part.stop - part.start, -1)
    return out_ST.ravel()[:accesses]


def search(options: SearchOptions, pages: int, accesses: int, stream: Stream) -> Pages:
    """Return pages of searches and gathers, shape (N,)."""
    grid = _part(options.grid_share, pages)
    order = stream.rng.permutation(pages).astype(np.int32)
    levels = grid.bit_length()
    lookups = -(-accesses // (levels + options.gathers))
    target_L = stream.rng.integers(0, grid, lookups)
    found_LT = stream.integers(grid, pages, lookups * options.gathers).reshape(lookups, options.gathers)
    out_LT = np.empty((lookups, levels + options.gathers), np.int32)
    for part in stream.each(lookups, levels + options.gathers):
        target = target_L[part]
        low, high = np.zeros(len(target), np.int64), np.full(len(target), grid)
        for level in range(levels):  # a search that has ended stays on the page it has found
            middle = (low + high) // 2
            out_LT[part, level] = order[middle]
            right = target >= middle
            low, high = np.where(right, middle, low), np.where(right, high, middle)
        out_LT[part, levels:] = order[found_LT[part]]
    return out_LT.ravel()[:accesses]


def gather(options: GatherOptions, pages: int, accesses: int, stream: Stream) -> Pages:
    """Return pages of streamed edges and gathered vertices, shape (N,)."""
    vertices = _part(options.vertex_share, pages)
    edges = pages - vertices
    turns = -(-accesses // (options.edges_per_access + 1))
    out_ET = np.empty((turns, options.edges_per_access + 1), np.int32)
    weights_P = _pooled(vertices, options.vertices_per_page, options.alpha, stream.rng)
    drawn_ET = draw(weights_P, turns * options.edges_per_access, stream).reshape(turns, -1)
    for part in stream.each(turns, options.edges_per_access + 1):
        out_ET[part, 0] = np.arange(part.start, part.stop) * (edges * _PASSES) // turns % edges
        out_ET[part, 1:] = edges + drawn_ET[part]
    return out_ET.ravel()[:accesses]


def adversary(options: AdversaryOptions, pages: int, accesses: int, stream: Stream) -> Pages:
    """Return pages of the two sets in turn, shape (N,)."""
    size = max(1, int(options.set_share * pages))
    out_N = stream.integers(0, size, accesses)
    for number, phase in enumerate(_phases(accesses, options.phases)):
        _shift(out_N[phase], pages - (1 + number % 2) * size, stream)
    return out_N


def _shift(pages_N: Pages, by: int, stream: Stream) -> None:
    for part in stream.each(len(pages_N)):
        pages_N[part] += by


_MOST_ITEMS = 2**26
_PASSES = 16  # PageRank's iterations: how often the edges are streamed
_GENERATORS: dict[str, Callable[..., Pages]] = {
    "gups": gups,
    "zipf": zipf,
    "pointer_chase": pointer_chase,
    "scan": scan,
    "dlrm": dlrm,
    "search": search,
    "gather": gather,
    "adversary": adversary,
}


def zipf_weights(count: int, alpha: float) -> NDArray[np.float64]:
    """Return r^-alpha for r = 1 to `count`."""
    return np.arange(1, count + 1, dtype=np.float64) ** -alpha


def _pooled(pages: int, items: int, alpha: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the weights of pages that hold `items` things each, which are scattered and follow Zipf's law."""
    if pages * items > _MOST_ITEMS:
        raise HwsimError(
            f"scale: {pages} pages of {items} items each; at most {_MOST_ITEMS} items, so choose a larger scale",
            "RESOURCE_EXHAUSTED",
            "scale",
        )
    return rng.permutation(zipf_weights(pages * items, alpha)).reshape(pages, items).sum(axis=1)


def draw(weights_P: NDArray[np.float64], count: int, stream: Stream) -> Pages:
    """Draw indices in proportion to their weights, shape (N,), by the alias method (Vose 1991)."""
    accept_P, alias_P = _alias(weights_P * (len(weights_P) / weights_P.sum()))
    index_N, chance_N = stream.integers(0, len(weights_P), count), stream.random(count)
    for part in stream.each(count):
        drawn = index_N[part]
        np.copyto(drawn, alias_P[drawn], where=chance_N[part] >= accept_P[drawn])
    return index_N


@njit(nogil=True, cache=True)
def _alias(weights_P):
    n = len(weights_P)
    accept_P, alias_P = np.ones(n), np.arange(n).astype(np.int32)
    small, large = np.empty(n, np.int64), np.empty(n, np.int64)
    smalls = larges = 0
    for i in range(n):
        if weights_P[i] < 1:
            small[smalls] = i
            smalls += 1
        else:
            large[larges] = i
            larges += 1
    while smalls and larges:
        smalls -= 1
        light, heavy = small[smalls], large[larges - 1]
        accept_P[light], alias_P[light] = weights_P[light], heavy
        weights_P[heavy] -= 1 - weights_P[light]
        if weights_P[heavy] < 1:
            larges -= 1
            small[smalls] = heavy
            smalls += 1
    return accept_P, alias_P
