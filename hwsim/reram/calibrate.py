"""Choosing converters from histograms of bit lines, within a budget of accuracy.

A histogram by column and cycle is all that is needed: what any converter does to a bit line is known, so its steps are exact
and the error of a layer's products is predicted as

    ``E = sum_ci k_ci^2 (H_ci . e^2 - (H_ci . e)^2 / n_ci) + n (sum_ci k_ci T mean_ci e)^2``

with k_ci what a bit line counts for, e(y) the converter's error, n the number of products and T the row tiles of each. The
first term takes errors of different bit lines as independent; the second keeps that those of one column have a mean, which many
columns add up. What is chosen minimises predicted error plus a price for steps, the same in all layers, so that errors are
allowed where they save most. (All ours: the abstract tells neither objective nor search.) The choice is simulated in any case.

Three sets of samples have different jobs: calibration gives ranges and histograms, tuning decides about the price, and test is
never looked at here. Few tuning samples make chance losses look like none, so the budget has to hold a standard error's worth.

Shapes: C = columns of an output, I = cycles, Y = levels that occur, A = candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...core.options import Options
from ..simulator import HwsimError, Report
from .adc import ADCS, Adc, AdcOptions
from .crossbar import CrossbarOptions

PRICES = tuple(np.geomspace(1e-5, 1, 16).tolist())  # error over power for one step less of every conversion


class CalibrationOptions(Options):
    """How converters are chosen."""

    accuracy_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Accuracy that may be lost on tuning data, against integers: the paired loss plus one standard error of it."""
    error: Annotated[float, Field(ge=0, le=1)] = 3e-4
    """Error over power of any layer's products that is allowed where no accuracy can be measured."""
    samples: Annotated[int, Field(ge=1)] = 32
    """Calibration samples whose bit lines are counted."""


@dataclass(frozen=True)
class Histogram:
    """Bit lines of one layer, or of some of its columns.

    Attributes
    ----------
    counts_CIY : ndarray, shape (C, I, y_max + 1)
        How often each level occurs; shares will do.
    significance_CI : ndarray
        What a bit line of each column and cycle counts for.
    tiles : int
        Row tiles that make one product.
    power : float
        Sum of squares of the exact products that the bit lines belong to.
    idle : float
        How many of them belong to cycles in which no row is driven.

    Raises
    ------
    HwsimError
        If counts are not finite, negative, or all 0; or columns and cycles have different totals.
    """

    counts_CIY: NDArray
    significance_CI: NDArray
    tiles: int
    power: float
    idle: float = 0.0

    def __post_init__(self) -> None:
        if self.counts_CIY.shape[:2] != self.significance_CI.shape:
            raise HwsimError(
                f"histogram: shape {self.counts_CIY.shape}; columns and cycles are {self.significance_CI.shape}",
                field="histogram",
            )
        if not np.isfinite(self.counts_CIY).all() or (self.counts_CIY < 0).any() or not self.counts_CIY.any():
            raise HwsimError("histogram: counts must be finite, not negative, and not all 0", field="histogram")
        totals_CI = self.counts_CIY.sum(axis=2)
        if not np.allclose(totals_CI, totals_CI.flat[0]):
            raise HwsimError("histogram: all columns and cycles must have the same total", field="histogram")

    @classmethod
    def of(cls, counts_CIY: NDArray, inputs: int, crossbar: CrossbarOptions, power: float, idle: float = 0.0) -> Histogram:
        """Return the bit lines of a layer of `inputs` rows.

        Raises
        ------
        HwsimError
            If there are not y_max + 1 levels, or as `Histogram` does.
        """
        if counts_CIY.shape[-1] != crossbar.y_max + 1:
            raise HwsimError(
                f"histogram: {counts_CIY.shape[-1]} levels; bit lines of these crossbars have {crossbar.y_max + 1}",
                field="histogram",
            )
        significance_CI = crossbar.column_weight_C[:, None] << (crossbar.dac_bits * np.arange(crossbar.cycles))
        return cls(counts_CIY, significance_CI, crossbar.tiles(inputs), power, idle)

    def columns(self) -> list[Histogram]:
        """Return each column's bit lines; every cycle that is idle is so for all columns."""
        columns = len(self.counts_CIY)
        return [
            replace(self, counts_CIY=counts_IY[None], significance_CI=weights_I[None], idle=self.idle / columns)
            for counts_IY, weights_I in zip(self.counts_CIY, self.significance_CI, strict=True)
        ]

    @property
    def total(self) -> float:
        """Number of bit lines."""
        return float(self.counts_CIY.sum())

    @property
    def error_weight_Y(self) -> NDArray:  # noqa: N802 - a shape suffix
        """How much an error at each level counts."""
        return np.einsum("ciy,ci->y", self.counts_CIY, self.significance_CI.astype(float) ** 2)

    @property
    def levels(self) -> list[float]:
        """Share of bit lines at each level, up to the largest that occurs."""
        share_Y = self.counts_CIY.sum(axis=(0, 1)) / self.total
        return share_Y[: np.flatnonzero(share_Y)[-1] + 1].tolist()

    def distance(self, other: Histogram) -> float:
        """Return the total variation, 0 to 1, between two layers' levels, all columns and cycles together."""
        mine, others = (histogram.counts_CIY.sum(axis=(0, 1)) / histogram.total for histogram in (self, other))
        return float(np.abs(mine - others).sum() / 2)


@dataclass(frozen=True)
class Setting:
    """One converter, and what it does to the bit lines it is for.

    Attributes
    ----------
    steps : float
        For one bit line, on average; a skipped one takes none.
    coarse, clipped, skipped : float
        Shares of bit lines.
    error : float
        Predicted, of the layer's products, over their power.
    """

    adc: Adc
    steps: float
    coarse: float
    clipped: float
    skipped: float
    error: float


@dataclass(frozen=True)
class Choice:
    """One layer's converters: one for all columns, or one a column."""

    settings: tuple[Setting, ...]

    @property
    def adcs(self) -> tuple[Adc, ...]:
        """The converters."""
        return tuple(setting.adc for setting in self.settings)

    @property
    def steps(self) -> float:
        """For one bit line, on average."""
        return self._mean([setting.steps for setting in self.settings])

    @property
    def coarse(self) -> float:
        """Share of bit lines."""
        return self._mean([setting.coarse for setting in self.settings])

    @property
    def clipped(self) -> float:
        """Share of bit lines."""
        return self._mean([setting.clipped for setting in self.settings])

    @property
    def skipped(self) -> float:
        """Share of bit lines."""
        return self._mean([setting.skipped for setting in self.settings])

    @property
    def error(self) -> float:
        """Predicted, of the layer's products, over their power."""
        return sum(setting.error for setting in self.settings)

    def _mean(self, values: Sequence[float]) -> float:
        return sum(values) / len(values)


class Candidates:
    """Converters judged on the same bit lines.

    Parameters
    ----------
    histogram : Histogram
    adcs : sequence of Adc
    zero_skip : bool
        Bit lines of idle cycles are not converted.
    """

    def __init__(self, histogram: Histogram, adcs: Sequence[Adc], zero_skip: bool) -> None:
        totals_Y = histogram.counts_CIY.sum(axis=(0, 1)).astype(float)
        levels_Y = np.flatnonzero(totals_Y)
        done = type(adcs[0]).convert_all(adcs, levels_Y)
        self._adcs = adcs
        self._error_A = predicted_error(histogram, done.value, levels_Y)
        self._skipped = histogram.idle / histogram.total if zero_skip else 0.0
        share_Y = totals_Y / histogram.total
        share_Y[0] -= self._skipped
        self._coarse_A, self._clipped_A = done.coarse @ share_Y[levels_Y], done.clipped @ share_Y[levels_Y]
        fine_A, coarse_A = (np.array([getattr(adc, name) for adc in adcs]) for name in ("fine_steps", "coarse_steps"))
        self._steps_A = coarse_A * self._coarse_A + fine_A * (1 - self._skipped - self._coarse_A)

    def cheapest(self, price: float) -> Setting:
        """Return the converter with the least error plus steps at `price` each; ties go to fewer steps."""
        best = int(np.lexsort((self._steps_A, self._error_A + price * self._steps_A))[0])
        steps, coarse, clipped, error = (
            float(values_A[best]) for values_A in (self._steps_A, self._coarse_A, self._clipped_A, self._error_A)
        )
        return Setting(self._adcs[best], steps, coarse, clipped, self._skipped, error)


class Layer:
    """What one layer's converters are chosen from.

    Parameters
    ----------
    histogram : Histogram
    adcs : sequence of sequence of Adc
        Candidates for all columns; or for each column.
    zero_skip : bool
    """

    def __init__(self, histogram: Histogram, adcs: Sequence[Sequence[Adc]], zero_skip: bool = False) -> None:
        self.total = histogram.total
        parts = [histogram] if len(adcs) == 1 else histogram.columns()
        self._candidates = [Candidates(part, group, zero_skip) for part, group in zip(parts, adcs, strict=True)]

    @classmethod
    def search(cls, histogram: Histogram, options: AdcOptions, crossbar: CrossbarOptions) -> Layer:
        """Judge all candidates that the options allow."""
        parts = [histogram] if options.granularity == "layer" else histogram.columns()
        candidates = ADCS[options.kind].candidates
        return cls(histogram, [candidates(options, crossbar, part.error_weight_Y) for part in parts], options.zero_skip)

    def cheapest(self, price: float) -> Choice:
        """Return converters at a price of one step less of all the layer's conversions."""
        parts = len(self._candidates)
        return Choice(tuple(candidates.cheapest(price / parts) for candidates in self._candidates))


def predicted_error(histogram: Histogram, value_AY: NDArray, levels_Y: NDArray) -> NDArray:
    """Return the error over power of a layer's products, one a candidate, shape (A,).

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
    weight_CI = histogram.significance_CI.astype(float)
    sums_CIA = counts_CIY @ error_YA
    squares_A = np.einsum("ciy,ci->y", counts_CIY, weight_CI**2) @ error_YA**2
    means_A = np.einsum("cia,ci->a", sums_CIA**2, weight_CI**2 / lines_CI)
    products = lines_CI.flat[0] / histogram.tiles
    bias_A = np.einsum("cia,ci->a", sums_CIA, weight_CI * histogram.tiles / lines_CI)
    # the difference of nearly equal terms may come out below 0 by rounding
    return np.maximum(squares_A - means_A, 0) / histogram.power + products * bias_A**2 / histogram.power


def all_cheapest(layers: Sequence[Layer], price: float) -> list[Choice]:
    """Return every layer's converters at a price of one step less of all conversions of the model."""
    total = sum(layer.total for layer in layers)
    return [layer.cheapest(price * layer.total / total) for layer in layers]


class Trial(Report):
    """Converters that a calibration tried on tuning data."""

    mean_ops: float
    """A/D operations of a bit line."""
    lost: float
    """Accuracy that they lose, against integers, with its standard error added."""


@dataclass(frozen=True)
class Calibration:
    """What was chosen for all layers.

    Attributes
    ----------
    choices : list of Choice
    price : float
        Of a step.
    kept : bool
        The budget is kept.
    trials : list of Trial
        All that was tried on tuning data, if there were any.
    """

    choices: list[Choice]
    price: float
    kept: bool = True
    trials: list[Trial] = field(default_factory=list)


def calibrate(
    layers: Sequence[Layer], options: CalibrationOptions, loss: Callable[[list[Choice]], float] | None = None
) -> Calibration:
    """Find, by bisection, the highest of `PRICES` that the budget allows.

    Parameters
    ----------
    loss : callable or None
        What converters lose on tuning data, to be held against `options.accuracy_budget`; None if there are no labels: then
        `options.error` is the budget of every layer's products.
    """
    found, trials = None, list[Trial]()
    low, high = -1, len(PRICES)
    while high - low > 1:
        at = (low + high) // 2
        choices = all_cheapest(layers, PRICES[at])
        lost = loss(choices) if loss else None
        kept = max(choice.error for choice in choices) <= options.error if lost is None else lost <= options.accuracy_budget
        if lost is not None:
            trials.append(Trial(mean_ops=_mean_steps(layers, choices), lost=lost))
        if kept:
            low = at
            found = Calibration(choices, PRICES[at], trials=trials)
        else:
            high = at
            refused = Calibration(choices, PRICES[at], kept=False, trials=trials)
    return found or refused


def _mean_steps(layers: Sequence[Layer], choices: Sequence[Choice]) -> float:
    steps = sum(layer.total * choice.steps for layer, choice in zip(layers, choices, strict=True))
    return steps / sum(layer.total for layer in layers)
