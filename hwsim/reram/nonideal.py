"""Cells and converters as they are: off by default, the same for the same seed, whatever the batch.

A bit line is then a sum of conductances, not a count, so these crossbars are matrix products of floats (some ten times slower).
With every effect off they give, by another way, the same bits as the exact ones.

Models: programming varies each cell once, by a normal factor (MNSIM: 1 %); a cell that is off leaks 1 / `on_off_ratio`
of one that is on, and a column of off cells beside each crossbar has the mean leak subtracted (NeuroSim: 150); stuck cells
(MNSIM: 0.1 % each way); IR drop, to first order, weakens cells in proportion to how far their row is from the converter; each
crossbar's converter has one offset. Not modelled: read noise, mismatch of capacitors, wires as a network.

Shapes: N = input vectors, G = groups, K = inputs of a group, O = outputs of a group, T = row tiles, R = rows of a tile,
C = columns of an output, I = cycles, Y = levels (two for each step of a lossless converter).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import Field

from ...core.options import Options
from ..simulator import Job
from .crossbar import QUIET, CrossbarOptions, Crossbars, Table, Tally

CHUNK_LINES = 4_000_000  # bit lines in memory at a time


class NonidealOptions(Options):
    """How far cells and converters are from ideal."""

    programming_sigma: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Relative standard deviation of a cell's conductance."""
    on_off_ratio: Annotated[float, Field(ge=0)] = 0.0
    """Conductance of an on cell over that of an off one; 0: off cells do not leak."""
    stuck_off: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of cells that hold 0 whatever is written."""
    stuck_on: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of cells that hold their largest value."""
    ir_drop: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share by which the farthest row's cells are weakened."""
    offset_sigma: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of a converter's offset, in steps of a lossless one."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything that is drawn."""

    @property
    def is_ideal(self) -> bool:
        """Say whether every effect is off."""
        return self == NonidealOptions(seed=self.seed)


def noisy_cells(options: NonidealOptions) -> Callable[[np.ndarray, CrossbarOptions, str], Crossbars]:
    """Return what stores weights in cells like these."""

    def store(weight_GOK: np.ndarray, crossbar: CrossbarOptions, name: str) -> Crossbars:
        return AnalogCrossbars(weight_GOK, crossbar, options, name)

    return store


class AnalogCrossbars(Crossbars):
    """Crossbars whose bit lines are sums of conductances.

    Parameters
    ----------
    weight_GOK : ndarray of int, shape (G, O, K)
    options : CrossbarOptions
    nonideal : NonidealOptions
    name : str
        With the seed, names the random stream.
    """

    resolution = 2

    def __init__(self, weight_GOK: np.ndarray, options: CrossbarOptions, nonideal: NonidealOptions, name: str = "") -> None:
        import torch

        from ...core.seeds import numpy_stream

        super().__init__(weight_GOK, options)
        stream = numpy_stream(nonideal.seed, "reram", name)
        conductance_GTOCR, self._leak = _conductances(self.cells_GTOCR(), options, nonideal, stream)
        self._conductance_GTRF = torch.from_numpy(
            np.ascontiguousarray(np.moveaxis(conductance_GTOCR.reshape(*conductance_GTOCR.shape[:2], -1, options.rows), 3, 2))
        )
        columns = self.outputs * options.columns_per_output
        converters = stream.normal(0, nonideal.offset_sigma, (self.groups, self.tiles, -(-columns // options.columns)))
        self._offset_GTF = torch.from_numpy(converters.repeat(options.columns, axis=2)[:, :, :columns])

    def multiply(self, x_NGK: np.ndarray, table: Table, tally: Tally, job: Job = QUIET, workers: int = 1) -> np.ndarray:
        """Multiply through the converters; `workers` is of no use here."""
        self.check_activations(x_NGK)
        acc_NGO = np.zeros((len(x_NGK), self.groups, self.outputs), np.int64)
        size = max(1, CHUNK_LINES // (self.outputs * self.options.columns_per_output * self.options.cycles))
        for start in range(0, len(x_NGK), size):
            chunk = slice(start, start + size)
            for group in range(self.groups):
                for tile in range(self.tiles):
                    job.step()
                    rows = x_NGK[chunk, group, tile * self.options.rows : (tile + 1) * self.options.rows]
                    acc_NGO[chunk, group] += self._tile(rows.astype(np.int64), group, tile, table, tally)
        tally.vectors += len(x_NGK)
        return acc_NGO - self.options.offset * x_NGK.sum(axis=2, dtype=np.int64)[:, :, None]

    def _tile(self, x_NR: np.ndarray, group: int, tile: int, table: Table, tally: Tally) -> np.ndarray:
        import torch

        options = self.options
        shifts_I = np.arange(options.cycles) * options.dac_bits
        digit_NIR = torch.from_numpy((x_NR[:, None] >> shifts_I[:, None]) & (2**options.dac_bits - 1)).double()
        y_NIF = digit_NIR @ self._conductance_GTRF[group, tile, : x_NR.shape[1]]
        y_NIF -= self._leak * digit_NIR.sum(2, keepdim=True)
        y_NIF += self._offset_GTF[group, tile]
        # thresholds are at multiples of half a step; sums that rounding has put just below one are not below it
        last = table.value_CY.shape[1] - 1
        level_NIOC = (2 * y_NIF + 1e-9).floor().clamp(0, last).long().unflatten(2, (self.outputs, -1)).numpy()
        column = np.arange(options.columns_per_output)
        used_NI11 = np.ones((*level_NIOC.shape[:2], 1, 1), bool)
        driven_NI11 = digit_NIR.any(2).numpy()[:, :, None, None]
        if table.skip_idle:
            used_NI11 = driven_NI11
        tally.bit_lines += level_NIOC.size
        tally.idle += int((~driven_NI11).sum()) * self.outputs * options.columns_per_output
        tally.coarse += int((table.coarse_CY[column, level_NIOC] & used_NI11).sum())
        tally.clipped += int((table.clipped_CY[column, level_NIOC] & used_NI11).sum())
        if tally.histogram_CIY is not None:
            _count(level_NIOC // 2, tally.histogram_CIY)
        value_NIOC = table.value_CY[column, level_NIOC] * used_NI11
        return np.einsum("nioc,c,i->no", value_NIOC, options.column_weight_C, 1 << shifts_I, optimize=True)


def _conductances(
    cells_GTOCR: np.ndarray, options: CrossbarOptions, nonideal: NonidealOptions, stream: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return each cell's conductance, in units of a cell that holds 1, and the leak that a column of off cells measures."""
    most = 2**options.cell_bits - 1
    held = cells_GTOCR.astype(np.float64)
    drawn = stream.random(held.shape)
    held = np.where(drawn < nonideal.stuck_off, 0, np.where(drawn > 1 - nonideal.stuck_on, most, held))
    leak = most / nonideal.on_off_ratio if nonideal.on_off_ratio else 0.0
    conductance = leak + held * (1 - leak / most)
    conductance *= 1 + nonideal.programming_sigma * stream.standard_normal(held.shape)
    conductance *= 1 - nonideal.ir_drop * np.linspace(0, 1, options.rows)
    return conductance, leak


def _count(level_NIOC: np.ndarray, histogram_CIY: np.ndarray) -> None:
    columns, cycles, levels = histogram_CIY.shape
    at = (np.arange(columns) * cycles + np.arange(cycles)[:, None])[:, None] * levels + level_NIOC
    histogram_CIY += np.bincount(at.ravel(), minlength=histogram_CIY.size).reshape(histogram_CIY.shape)
