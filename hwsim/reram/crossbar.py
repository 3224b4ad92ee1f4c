"""Crossbars: a matrix of whole numbers, sliced into cells, multiplied bit-serially, converter by converter, bit for bit.

A dot product over K inputs is cut into tiles of at most `rows` rows; weights into cells of `cell_bits`; activations into cycles
of `dac_bits`. Every tile, cycle and column gives one bit line, a number from 0 to ``rows (2^v - 1)(2^c - 1)``, which a
converter turns into a digital value; digital logic shifts and adds them (ISAAC, Shafiee et al., ISCA 2016, section 3).

Two encodings of signed weights: "offset" stores ``w + 2^(bits - 1)`` and subtracts ``2^(bits - 1) sum_k x_k`` digitally
(ISAAC's); "differential" stores the magnitudes of positive and of negative weights in columns of their own.

Shapes: N = input vectors, G = groups, K = inputs of a group, O = outputs of a group, T = row tiles, R = rows of a tile,
C = columns of an output (slices, times 2 if differential), I = cycles, B = bits of a cell, W = words, Y = bit-line levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ...core.options import Options
from ..simulator import HwsimError, Job
from . import kernel

MOST_LEVELS = 2**20
CHUNK_CONVERSIONS = 20_000_000  # a worker's time between two looks at the job: some 20 ms
CHUNK_BYTES = 4_000_000  # packed activations of a chunk stay in the cache
QUIET = Job()


class CrossbarOptions(Options):
    """Geometry of the arrays and widths of the numbers."""

    rows: Annotated[int, Field(ge=1, le=1024)] = 128
    """Word lines that are driven at once."""
    columns: Annotated[int, Field(ge=1, le=1024)] = 128
    """Bit lines of one crossbar."""
    cell_bits: Annotated[int, Field(ge=1, le=8)] = 1
    """Bits of a cell: 1, 2, 4 or 8."""
    dac_bits: Annotated[int, Field(ge=1, le=16)] = 1
    """Bits of an activation that one cycle drives; at most activation_bits."""
    weight_bits: Annotated[int, Field(ge=2, le=16)] = 8
    """Width of a weight, sign included."""
    activation_bits: Annotated[int, Field(ge=2, le=16)] = 8
    """Width of an activation, unsigned."""
    encoding: Literal["offset", "differential"] = "offset"
    """How signed weights are stored."""
    adcs_per_crossbar: Annotated[int, Field(ge=1, le=1024)] = 1
    """Converters that share the columns of one crossbar."""
    cycle_ns: Annotated[float, Field(gt=0)] = 100.0
    """Least time of one read; more if the converters need more (ISAAC: 100 ns)."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> CrossbarOptions:
        if self.cell_bits not in (1, 2, 4, 8):
            raise ValueError(f"crossbar.cell_bits = {self.cell_bits}: cells hold 1, 2, 4 or 8 bits")
        if self.dac_bits > self.activation_bits:
            raise ValueError(
                f"crossbar.dac_bits = {self.dac_bits}: more than activation_bits = {self.activation_bits}; "
                f"choose 1 to {self.activation_bits}"
            )
        if self.y_max >= MOST_LEVELS:
            raise ValueError(
                f"crossbar.rows = {self.rows}: with {self.cell_bits} bits a cell and {self.dac_bits} bits a cycle a bit line "
                f"has {self.y_max + 1} levels; at most {MOST_LEVELS} are simulated"
            )
        return self

    @property
    def y_max(self) -> int:
        """Largest value of a bit line."""
        return self.rows * (2**self.dac_bits - 1) * (2**self.cell_bits - 1)

    @property
    def full_bits(self) -> int:
        """Bits of a converter that loses nothing."""
        return self.y_max.bit_length()

    @property
    def slices(self) -> int:
        """Cells that hold one (positive, negative or biased) weight."""
        return -(-(self.weight_bits - (self.encoding == "differential")) // self.cell_bits)

    @property
    def signs(self) -> tuple[int, ...]:
        """Sign of each of the crossbars that hold a weight."""
        return (1, -1) if self.encoding == "differential" else (1,)

    @property
    def columns_per_output(self) -> int:
        """Bit lines that one output needs."""
        return self.slices * len(self.signs)

    @property
    def cycles(self) -> int:
        """Reads for one input vector."""
        return -(-self.activation_bits // self.dac_bits)

    @property
    def offset(self) -> int:
        """What is added to a weight before it is stored."""
        return 2 ** (self.weight_bits - 1) if self.encoding == "offset" else 0

    @property
    def column_weight_C(self) -> np.ndarray:  # noqa: N802 - a shape suffix
        """What a column's bit line counts for: its sign times 2^(c s), int64."""
        return np.array([sign << (self.cell_bits * s) for sign in self.signs for s in range(self.slices)], np.int64)

    def tiles(self, inputs: int) -> int:
        """Return how many row tiles `inputs` rows need."""
        return -(-inputs // self.rows)

    def crossbars(self, inputs: int, outputs: int, groups: int = 1) -> int:
        """Return how many crossbars a matrix fills; groups share none."""
        return groups * self.tiles(inputs) * -(-outputs * self.columns_per_output // self.columns)

    def conversions(self, inputs: int, outputs: int, groups: int = 1) -> int:
        """Return conversions for one input vector."""
        return groups * self.tiles(inputs) * self.cycles * outputs * self.columns_per_output


@dataclass(frozen=True)
class Table:
    """What the converters of each column of an output make of each level of a bit line.

    Attributes
    ----------
    value_CY : ndarray of int64
        Digital value.
    coarse_CY, clipped_CY : ndarray of bool
        It took the coarse range; it was beyond the last code.
    skip_idle : bool
        Cycles that drive no row of a tile are not converted and count as 0.
    """

    value_CY: np.ndarray
    coarse_CY: np.ndarray
    clipped_CY: np.ndarray
    skip_idle: bool = False


@dataclass
class Tally:
    """Counts of everything converted; sums of tallies are tallies.

    Attributes
    ----------
    vectors, bit_lines : int
        Input vectors, and bit lines that they made: conversions, if none is skipped.
    idle : int
        Bit lines of cycles in which no row of their tile was driven.
    coarse, clipped : int
        Conversions of the coarse range, and of values beyond the last code.
    histogram_CIY : ndarray of int64, optional
        Bit lines by column, cycle and level.
    """

    vectors: int = 0
    bit_lines: int = 0
    idle: int = 0
    coarse: int = 0
    clipped: int = 0
    histogram_CIY: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def with_histogram(cls, options: CrossbarOptions) -> Tally:
        """Return an empty tally that keeps a histogram too."""
        return cls(histogram_CIY=np.zeros((options.columns_per_output, options.cycles, options.y_max + 1), np.int64))

    def add(self, other: Tally) -> None:
        """Add the counts of `other`."""
        self.vectors += other.vectors
        self.bit_lines += other.bit_lines
        self.idle += other.idle
        self.coarse += other.coarse
        self.clipped += other.clipped
        if self.histogram_CIY is not None and other.histogram_CIY is not None:
            self.histogram_CIY += other.histogram_CIY


class Crossbars:
    """A matrix, or one for each group, stored in crossbars.

    Parameters
    ----------
    weight_GOK : ndarray of int, shape (G, O, K)
        Whole numbers below 2^(weight_bits - 1) in magnitude.
    options : CrossbarOptions

    Attributes
    ----------
    resolution : int
        Levels that a table for them has for each step of a lossless converter.

    Raises
    ------
    HwsimError
        If a weight is out of range.
    """

    resolution = 1

    def __init__(self, weight_GOK: np.ndarray, options: CrossbarOptions) -> None:
        limit = 2 ** (options.weight_bits - 1)
        if weight_GOK.size and (weight_GOK.max() >= limit or weight_GOK.min() < -limit + (options.offset == 0)):
            raise HwsimError(f"model: weights outside the {options.weight_bits} bits of crossbar.weight_bits", field="model")
        self.options = options
        self.weight_GOK = weight_GOK.astype(np.int64)
        self.groups, self.outputs, self.inputs = weight_GOK.shape
        self.tiles = options.tiles(self.inputs)
        self.conversions = options.conversions(self.inputs, self.outputs, self.groups)
        self.crossbars = options.crossbars(self.inputs, self.outputs, self.groups)
        self._cells_GTOCBW = _pack_cells(self.cells_GTOCR(), options)

    def cells_GTOCR(self) -> np.ndarray:  # noqa: N802 - a shape suffix
        """Return what each cell holds, uint8; rows beyond the last input hold 0."""
        options = self.options
        stored_GOPK = np.stack([np.maximum(sign * self.weight_GOK, 0) for sign in options.signs], axis=2)
        if options.offset:
            stored_GOPK = self.weight_GOK[:, :, None] + options.offset
        shifts_S = np.arange(options.slices) * options.cell_bits
        cells_GOCK = (
            ((stored_GOPK[:, :, :, None] >> shifts_S[:, None]) & (2**options.cell_bits - 1))
            .astype(np.uint8)
            .reshape(self.groups, self.outputs, options.columns_per_output, self.inputs)
        )
        missing = self.tiles * options.rows - self.inputs
        cells_GOCK = np.pad(cells_GOCK, [(0, 0), (0, 0), (0, 0), (0, missing)])
        return np.moveaxis(cells_GOCK.reshape(*cells_GOCK.shape[:3], self.tiles, options.rows), 3, 1)

    def exact(self, x_NGK: np.ndarray) -> np.ndarray:
        """Return the product that lossless converters give, int64, shape (N, G, O).

        By matrix products of doubles, which hold all whole numbers below 2^53: enough for four million inputs of 16 bits.
        """
        product_GNO = np.matmul(
            x_NGK.astype(np.float64).transpose(1, 0, 2), self.weight_GOK.transpose(0, 2, 1).astype(np.float64)
        )
        return product_GNO.transpose(1, 0, 2).astype(np.int64)

    def multiply(self, x_NGK: np.ndarray, table: Table, tally: Tally, job: Job = QUIET, workers: int = 1) -> np.ndarray:
        """Multiply through the converters; neither `workers` nor how vectors are batched changes a bit of the result.

        Parameters
        ----------
        x_NGK : ndarray of uint16, shape (N, G, K)
            Activations below 2^activation_bits.
        table : Table
        tally : Tally
            Added to.
        workers : int
            Threads.

        Returns
        -------
        ndarray of int64, shape (N, G, O)

        Raises
        ------
        HwsimError
            If an activation is out of range, or the job is over.
        """
        self.check_activations(x_NGK)
        acc_NGO = np.zeros((len(x_NGK), self.groups, self.outputs), np.int64)
        table_CY = kernel.pack_table(table.value_CY * self.options.column_weight_C[:, None], table.coarse_CY, table.clipped_CY)
        for done in self._parallel(x_NGK, acc_NGO, table_CY, table.skip_idle, tally.histogram_CIY is not None, job, workers):
            tally.add(done)
        return acc_NGO

    def check_activations(self, x_NGK: np.ndarray) -> None:
        """Refuse activations that do not fit.

        Raises
        ------
        HwsimError
            If there are fewer or more than the crossbars have rows, or one is negative or too large.
        """
        if x_NGK.shape[1:] != (self.groups, self.inputs):
            raise HwsimError(
                f"data: input vectors of shape {x_NGK.shape[1:]}; {(self.groups, self.inputs)} are needed", field="data"
            )
        bits = self.options.activation_bits
        if x_NGK.size and (x_NGK.max() >= 2**bits or x_NGK.min() < 0):
            raise HwsimError(
                f"data: activations outside 0 to {2**bits - 1}, the {bits} bits of crossbar.activation_bits", field="data"
            )

    def _parallel(
        self,
        x_NGK: np.ndarray,
        acc_NGO: np.ndarray,
        table_CY: np.ndarray,
        skip_idle: bool,
        histogram: bool,
        job: Job,
        workers: int,
    ) -> Iterator[Tally]:
        chunks = list(self._chunks(len(x_NGK), workers))

        def work(chunk: slice) -> Tally:
            job.step()
            return self._serial(x_NGK[chunk], acc_NGO[chunk], table_CY, skip_idle, histogram)

        if workers == 1 or len(chunks) == 1:
            yield from map(work, chunks)
        else:
            with ThreadPoolExecutor(workers) as pool:
                yield from pool.map(work, chunks)

    def _chunks(self, vectors: int, workers: int) -> Iterator[slice]:
        """Cut the vectors so that a chunk is quick, its packed activations fit the cache, and every worker has some."""
        bytes_a_vector = 8 * self.groups * self.tiles * self.options.activation_bits * -(-self.options.rows // kernel.WORD)
        size = min(CHUNK_CONVERSIONS // self.conversions, CHUNK_BYTES // bytes_a_vector, -(-vectors // workers))
        size = max(size, 1)
        return (slice(start, start + size) for start in range(0, vectors, size))

    def _serial(self, x_NGK: np.ndarray, acc_NGO: np.ndarray, table_CY: np.ndarray, skip_idle: bool, histogram: bool) -> Tally:
        options = self.options
        bits = options.cycles * options.dac_bits
        x_NGTAW, sum_NG = kernel.pack_rows(np.ascontiguousarray(x_NGK), options.rows, self.tiles, bits)
        driven = x_NGTAW.any(axis=4).reshape(*x_NGTAW.shape[:3], options.cycles, options.dac_bits).any(axis=4)
        tally = Tally.with_histogram(options) if histogram else Tally()
        multiply = kernel.multiplier(x_NGTAW.shape[4], options.columns_per_output, options.cell_bits, options.dac_bits)
        idle = np.int64(0 if skip_idle else table_CY[:, 0].sum())
        coarse, clipped = multiply(x_NGTAW, self._cells_GTOCBW, table_CY, idle, tally.histogram_CIY, acc_NGO)
        acc_NGO -= options.offset * sum_NG[:, :, None]
        tally.vectors, tally.bit_lines = len(x_NGK), len(x_NGK) * self.conversions
        tally.idle = (driven.size - int(driven.sum())) * self.outputs * options.columns_per_output
        tally.coarse, tally.clipped = int(coarse), int(clipped)
        return tally


def _pack_cells(cells_GTOCR: np.ndarray, options: CrossbarOptions) -> np.ndarray:
    """Pack each bit of the cells, 64 rows a word, as the kernel reads them: uint64, shape (G, T, O, C, B, W)."""
    words = -(-options.rows // kernel.WORD)
    bits_GTOCBR = (cells_GTOCR[:, :, :, :, None] >> np.arange(options.cell_bits)[:, None]) & 1
    padded = np.pad(bits_GTOCBR.astype(np.uint8), [(0, 0)] * 5 + [(0, words * kernel.WORD - options.rows)])
    return np.ascontiguousarray(np.packbits(padded, axis=5, bitorder="little")).view(np.uint64)
