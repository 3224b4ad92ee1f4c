"""Choosing each layer's converter from histograms of its bit lines, within a budget of accuracy.

A histogram by column and cycle is all that is needed: what any converter does to a bit line is known, so the steps are exact and
the error of a layer's products is predicted as

    ``E = sum_ci k_ci^2 (H_ci . e^2 - (H_ci . e)^2 / n_ci) + n (sum_ci k_ci T mean_ci e)^2``

with k_ci what a bit line counts for, e(y) the converter's error, n the number of products and T the row tiles of each. The first
term takes errors of different bit lines as independent; the second keeps that those of one column have a mean, which many
columns add up. (Ours: the paper's objective and search are not in its abstract.) What is chosen is simulated in any case.

Three sets of samples with different jobs: calibration gives ranges and histograms, tuning decides how much error is allowed, and
test is never looked at here.

Shapes: C = columns of an output, I = cycles, Y = levels that occur, A = candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...core.options import Options
from ..simulator import HwsimError
from .adc import ADCS, Adc, AdcOptions
from .crossbar import CrossbarOptions, Tally

ERRORS = tuple(float(f"{mantissa}e{exponent}") for exponent in range(-6, -1) for mantissa in (1, 1.8, 3, 5.6))


class CalibrationOptions(Options):
    """How converters are chosen."""

    accuracy_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Accuracy that may be lost on tuning data, against integers."""
    error: Annotated[float, Field(ge=0, le=1)] = 3e-4
    """Error over power of a layer's products that is allowed where no accuracy can be measured."""
    samples: Annotated[int, Field(ge=1)] = 32
    """Calibration samples whose bit lines are counted."""


@dataclass(frozen=True)
class Histogram:
    """Bit lines of one layer.

    Attributes
    ----------
    counts_CIY : ndarray, shape (C, I, y_max + 1)
        How often each level occurs; shares will do.
    tiles : int
        Row tiles that make one product.
    power : float
        Sum of squares of the exact products that the bit lines belong to.
    idle : float
        How many of them belong to cycles in which no row is driven.
    """

    counts_CIY: NDArray[np.floating | np.integer]
    tiles: int
    power: float
    idle: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.counts_CIY).all() or (self.counts_CIY < 0).any() or not self.counts_CIY.any():
            raise HwsimError("histogram: counts must be finite, not negative, and not all 0", field="histogram")

    @classmethod
    def checked(cls, counts_CIY: np.ndarray, inputs: int, power: float, crossbar: CrossbarOptions) -> Histogram:
        """Return a histogram that somebody else counted.

        Raises
        ------
        HwsimError
            If its shape is not that of the crossbars, or columns and cycles have different totals.
        """
        shape = (crossbar.columns_per_output, crossbar.cycles, crossbar.y_max + 1)
        if counts_CIY.shape != shape:
            raise HwsimError(f"histogram: shape {counts_CIY.shape}; columns x cycles x levels are {shape}", field="histogram")
        totals_CI = counts_CIY.sum(axis=2)
        if not np.allclose(totals_CI, totals_CI.flat[0]):
            raise HwsimError("histogram: all columns and cycles must have the same total", field="histogram")
        return cls(counts_CIY, crossbar.tiles(inputs), power)

    @classmethod
    def of(cls, tally: Tally, tiles: int, power: float) -> Histogram:
        """Return what a run with lossless converters counted."""
        assert tally.histogram_CIY is not None
        return cls(tally.histogram_CIY, tiles, power, tally.idle)

    @property
    def total(self) -> float:
        """Number of bit lines."""
        return float(self.counts_CIY.sum())

    def weight_Y(self, crossbar: CrossbarOptions) -> np.ndarray:
        """Return how much an error at each level counts."""
        return np.einsum("ciy,ci->y", self.counts_CIY, _significance_CI(crossbar).astype(float) ** 2)

    def distance(self, other: Histogram) -> float:
        """Return the total variation, 0 to 1, between two layers' levels, all columns and cycles together."""
        mine, others = (h.counts_CIY.sum(axis=(0, 1)) / h.total for h in (self, other))
        return float(np.abs(mine - others).sum() / 2)


@dataclass(frozen=True)
class Choice:
    """A converter for one layer, and what is expected of it.

    Attributes
    ----------
    steps : float
        For one bit line, on average; a skipped one takes none.
    coarse, clipped, skipped : float
        Shares of bit lines.
    error : float
        Of products, over their power.
    """

    adc: Adc
    steps: float
    coarse: float
    clipped: float
    skipped: float
    error: float


def _significance_CI(crossbar: CrossbarOptions) -> np.ndarray:
    """Return what a bit line of each column and cycle counts for."""
    return crossbar.column_weight_C[:, None] << (crossbar.dac_bits * np.arange(crossbar.cycles))


def prediction(
    histogram: Histogram, value_AY: np.ndarray, levels_Y: np.ndarray, crossbar: CrossbarOptions
) -> NDArray[np.floating]:
    """Return the predicted error over power of a layer's products, one a candidate, shape (A,).

    Parameters
    ----------
    value_AY : ndarray
        Digital values that each candidate gives for `levels_Y`.
    levels_Y : ndarray
        Levels that occur in the histogram.
    """
    if histogram.power <= 0:
        return np.zeros(len(value_AY))
    counts_CIY = histogram.counts_CIY[:, :, levels_Y].astype(float)
    error_YA = (value_AY - levels_Y).T.astype(float)
    lines_CI = counts_CIY.sum(axis=2)
    weight_CI = _significance_CI(crossbar).astype(float)
    sums_CIA = counts_CIY @ error_YA
    squares_A = np.einsum("ciy,ci->y", counts_CIY, weight_CI**2) @ error_YA**2
    means_A = np.einsum("cia,ci->a", sums_CIA**2, weight_CI**2 / lines_CI)
    products = lines_CI.flat[0] / histogram.tiles
    bias_A = np.einsum("cia,ci->a", sums_CIA, weight_CI * histogram.tiles / lines_CI)
    return (squares_A - means_A + products * bias_A**2) / histogram.power


class Layer:
    """All candidates for one layer, judged once.

    Parameters
    ----------
    histogram : Histogram
    adcs : sequence of Adc
    crossbar : CrossbarOptions
    zero_skip : bool
        Bit lines of idle cycles are not converted.
    """

    def __init__(self, histogram: Histogram, adcs: Sequence[Adc], crossbar: CrossbarOptions, zero_skip: bool = False) -> None:
        totals_Y = histogram.counts_CIY.sum(axis=(0, 1)).astype(float)
        levels_Y = np.flatnonzero(totals_Y)
        done = [adc.convert(levels_Y) for adc in adcs]
        self._adcs = adcs
        self._error_A = prediction(histogram, np.stack([d.value for d in done]), levels_Y, crossbar)
        self._skipped = histogram.idle / histogram.total if zero_skip else 0.0
        share_Y = totals_Y / histogram.total
        share_Y[0] -= self._skipped
        self._coarse_A, self._clipped_A = (
            np.stack([getattr(d, name) for d in done]) @ share_Y[levels_Y] for name in ("coarse", "clipped")
        )
        fine, coarse = (np.array([getattr(adc, f"{name}_steps") for adc in adcs]) for name in ("fine", "coarse"))
        self._steps_A = coarse * self._coarse_A + fine * (1 - self._skipped - self._coarse_A)

    @classmethod
    def search(cls, histogram: Histogram, options: AdcOptions, crossbar: CrossbarOptions) -> Layer:
        """Judge all candidates that the options allow."""
        adcs = ADCS[options.kind].candidates(options, crossbar, histogram.weight_Y(crossbar))
        return cls(histogram, adcs, crossbar, options.zero_skip)

    def choose(self, error: float) -> Choice:
        """Return the candidate with the fewest steps within `error`; where none is, the one with the least error."""
        allowed_A = self._error_A <= error
        keys = (self._error_A, self._steps_A) if allowed_A.any() else (self._steps_A, self._error_A)
        best = int(np.lexsort((*keys, ~allowed_A))[0])
        shares = (float(values_A[best]) for values_A in (self._steps_A, self._coarse_A, self._clipped_A))
        return Choice(self._adcs[best], *shares, self._skipped, float(self._error_A[best]))


@dataclass(frozen=True)
class Calibration:
    """What was chosen for all layers.

    Attributes
    ----------
    choices : list of Choice
    error : float
        That was allowed.
    accuracy : float or None
        On tuning data; None if there were none.
    """

    choices: list[Choice]
    error: float
    accuracy: float | None = None


def calibrate(
    layers: Sequence[Layer], options: CalibrationOptions, accuracy: Callable[[list[Adc]], float] | None, least: float
) -> Calibration:
    """Allow as much error, the same share of power in every layer, as tuning data forgive.

    Parameters
    ----------
    accuracy : callable or None
        Accuracy on tuning data with these converters; None if there are no labels: then `options.error` is allowed.
    least : float
        Accuracy that must be kept. Even the smallest of `ERRORS` may fail; then it is what is returned.
    """
    if accuracy is None:
        return Calibration([layer.choose(options.error) for layer in layers], options.error)
    kept, refused = -1, len(ERRORS)
    found = None
    while refused - kept > 1 or found is None:
        at = max((kept + refused) // 2, 0)
        choices = [layer.choose(ERRORS[at]) for layer in layers]
        tried = Calibration(choices, ERRORS[at], accuracy([choice.adc for choice in choices]))
        if tried.accuracy is not None and tried.accuracy >= least:
            kept, found = at, tried
        elif at == 0:
            return tried
        else:
            refused = at
    return found
