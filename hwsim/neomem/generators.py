"""Synthetic traces.

Each generator is a function of its options, a number of pages and a number of accesses, and of a random stream. Where hotness
is to be scattered over the address space, pages are permuted. `phases` equal parts of the trace each have their own hot pages.

Shapes: N = accesses, P = pages, F = phases.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field

from ...core.options import Options
from .constants import constant
from .traces import Trace

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


def generate(options: SyntheticOptions, pages: int, page_bytes: int, seed: int) -> Trace:
    """Make a trace on `pages` simulated pages."""
    rng = np.random.default_rng([seed, *options.generator.encode()])
    pages_N = _make(options.generator, options, pages, options.accesses, rng)
    writes_N = np.zeros(options.accesses, np.uint8)
    if options.write_fraction:
        writes_N = (rng.random(options.accesses, np.float32) < options.write_fraction).view(np.uint8)
    return Trace(pages_N, writes_N, pages, page_bytes, order="address")


def _make(name: str, options: SyntheticOptions, pages: int, accesses: int, rng: np.random.Generator) -> Pages:
    if name == "phase_shift":
        parts = options.phase_shift.generators
        return np.concatenate(
            [_make(part, options, pages, n, rng) for part, n in zip(parts, _shares(accesses, len(parts)), strict=True)]
        )
    return _GENERATORS[name](getattr(options, name), pages, accesses, rng)


def _shares(accesses: int, parts: int) -> list[int]:
    ends = [accesses * part // parts for part in range(parts + 1)]
    return [end - start for start, end in pairwise(ends)]


def _part(share: float, pages: int) -> int:
    """Return how many pages a share is: at least one, and not all."""
    return min(pages - 1, max(1, round(share * pages)))


def gups(options: GupsOptions, pages: int, accesses: int, rng: np.random.Generator) -> Pages:
    """Return pages of random updates, shape (N,)."""
    hot = _part(options.hot_share, pages)
    starts_F = rng.integers(0, pages - hot + 1, options.phases)
    starts_F[0] = min(round(options.hot_start * pages), pages - hot)
    starts_N = np.repeat(starts_F.astype(np.int32), _shares(accesses, options.phases))
    hot_N = rng.random(accesses, np.float32) < options.hot_probability
    within_N = rng.integers(0, hot, accesses, np.int32)
    return np.where(hot_N, starts_N + within_N, rng.integers(0, pages, accesses, np.int32))


def zipf(options: ZipfOptions, pages: int, accesses: int, rng: np.random.Generator) -> Pages:
    """Return pages by Zipf's law, shape (N,)."""
    rank_N = draw(zipf_weights(pages, options.alpha), accesses, rng)
    parts = []
    for phase, part_N in enumerate(np.split(rank_N, np.cumsum(_shares(accesses, options.phases))[:-1])):
        if options.layout == "scattered":
            parts.append(rng.permutation(pages).astype(np.int32)[part_N])
        else:
            start = rng.integers(pages) if phase else 0
            parts.append(((part_N + start) % pages).astype(np.int32))
    return np.concatenate(parts)


def pointer_chase(options: ChaseOptions, pages: int, accesses: int, rng: np.random.Generator) -> Pages:
    """Return pages of two interleaved walks along random cycles, shape (N,)."""
    order = rng.permutation(pages).astype(np.int32)
    hot = _part(options.hot_share, pages)
    hot_N = rng.random(accesses, np.float32) < options.hot_probability
    hot_steps_N = np.cumsum(hot_N)
    steps_N = np.arange(1, accesses + 1) - hot_steps_N
    return np.where(hot_N, order[:hot][hot_steps_N % hot], order[hot:][steps_N % (pages - hot)])


def scan(options: ScanOptions, pages: int, accesses: int, rng: np.random.Generator) -> Pages:
    """Return pages one after the other, shape (N,)."""
    return (np.arange(accesses) * options.stride % pages).astype(np.int32)


def dlrm(options: DlrmOptions, pages: int, accesses: int, rng: np.random.Generator) -> Pages:
    """Return pages of samples, each: rows of every table, then the model; shape (N,). The model comes last in memory."""
    model = _part(options.model_share, pages)
    table = max(1, (pages - model) // options.tables)
    lookups = options.tables * options.pooling
    samples = -(-accesses // (lookups + options.model_accesses))
    out_ST = np.empty((samples, lookups + options.model_accesses), np.int32)
    for t in range(options.tables):
        weights_P = _pooled(table, options.rows_per_page, options.alpha, rng)
        start = min(t * table, pages - model - table) if pages - model >= table else 0
        rows = draw(weights_P, samples * options.pooling, rng).reshape(samples, options.pooling)
        out_ST[:, t * options.pooling : (t + 1) * options.pooling] = start + rows
    out_ST[:, lookups:] = pages - model + np.arange(samples * options.model_accesses).reshape(samples, -1) % model
    return out_ST.ravel()[:accesses]


def search(options: SearchOptions, pages: int, accesses: int, rng: np.random.Generator) -> Pages:
    """Return pages of searches and gathers, shape (N,)."""
    grid = _part(options.grid_share, pages)
    order = rng.permutation(pages).astype(np.int32)
    levels = grid.bit_length()
    lookups = -(-accesses // (levels + options.gathers))
    low, high = np.zeros(lookups, np.int64), np.full(lookups, grid)
    target = rng.integers(0, grid, lookups)
    out_LT = np.empty((lookups, levels + options.gathers), np.int32)
    for level in range(levels):  # a search that has ended stays on the page it has found
        middle = (low + high) // 2
        out_LT[:, level] = order[middle]
        right = target >= middle
        low, high = np.where(right, middle, low), np.where(right, high, middle)
    out_LT[:, levels:] = order[rng.integers(grid, pages, (lookups, options.gathers))]
    return out_LT.ravel()[:accesses]


def gather(options: GatherOptions, pages: int, accesses: int, rng: np.random.Generator) -> Pages:
    """Return pages of streamed edges and gathered vertices, shape (N,)."""
    vertices = _part(options.vertex_share, pages)
    edges = pages - vertices
    turns = -(-accesses // (options.edges_per_access + 1))
    out_ET = np.empty((turns, options.edges_per_access + 1), np.int32)
    out_ET[:, 0] = np.arange(turns) * (edges * _PASSES) // turns % edges
    weights_P = _pooled(vertices, options.vertices_per_page, options.alpha, rng)
    out_ET[:, 1:] = edges + draw(weights_P, turns * options.edges_per_access, rng).reshape(turns, -1)
    return out_ET.ravel()[:accesses]


def adversary(options: AdversaryOptions, pages: int, accesses: int, rng: np.random.Generator) -> Pages:
    """Return pages of the two sets in turn, shape (N,)."""
    size = max(1, int(options.set_share * pages))
    turn_N = np.repeat(np.arange(options.phases, dtype=np.int32) % 2, _shares(accesses, options.phases))
    return pages - (1 + turn_N) * size + rng.integers(0, size, accesses, np.int32)


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
    return rng.permutation(zipf_weights(pages * items, alpha)).reshape(pages, items).sum(axis=1)


def draw(weights_P: NDArray[np.float64], count: int, rng: np.random.Generator) -> Pages:
    """Draw indices in proportion to their weights, shape (N,), by the alias method (Vose 1991)."""
    accept_P, alias_P = _alias(weights_P * (len(weights_P) / weights_P.sum()))
    index_N = rng.integers(0, len(weights_P), count, np.int32)
    return np.where(rng.random(count, np.float32) < accept_P[index_N], index_N, alias_P[index_N])


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
