"""A/D converters of bit lines: what value they give, and in how many steps. One class a kind; `ADCS` is the registry.

A successive-approximation converter compares once a bit; one comparison, with its switching of the capacitor array and its
logic, is one A/D operation, here a step. Twin-range quantisation (TRQ, arXiv:2402.06164) has a dense range R1, N1 bits of
step D1, and a coarse one R2, N2 bits of step ``D2 = 2^M D1``; powers of two make decoding a shift. A comparison finds the
range, then R1 skips the leading bits ("early bird") and R2 leaves out the trailing ones ("early stop").

Ours, since the paper's abstract leaves it open: how many comparisons find the range, rounding half up, the start b of R1, the
anchor of R2's grid at 0, clipping at the last code.

Shapes: Y = levels of a bit line, C = columns of an output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Annotated, Literal, cast

import numpy as np
from pydantic import Field

from ...core.options import Options
from ..simulator import HwsimError
from .crossbar import CrossbarOptions, Table

Kind = Literal["ideal", "uniform", "uniform_calibrated", "trq", "lloyd_max"]
Rounding = Literal["half_up", "floor"]
MOST_FINE_BITS, MOST_SHIFT, FINE_STEPS = 5, 6, (1, 2, 4)  # the grid of a search
MOST_SEARCHED = 1024


class TrqParameters(Options):
    """Settings of one layer's twin-range converters."""

    fine_bits: Annotated[int, Field(ge=0, le=20)]
    """N1: payload of R1; 0 makes it a test for values below fine_step."""
    coarse_bits: Annotated[int, Field(ge=1, le=20)]
    """N2: payload of R2."""
    fine_step: Annotated[int, Field(ge=1)] = 1
    """D1, in steps of a lossless converter: a power of two."""
    shift: Annotated[int, Field(ge=0, le=20)] = 0
    """M: R2's step is 2^M times R1's."""
    start: Annotated[int, Field(ge=0)] = 0
    """b: where R1 starts, a multiple of fine_step."""


class AdcOptions(Options):
    """Which converters, and how they are set."""

    kind: Kind = "trq"
    """Ideal, uniform as given, uniform calibrated for each layer, twin-range, or Lloyd-Max (a bound for any levels)."""
    bits: Annotated[int, Field(ge=0, le=20)] = 0
    """Of uniform kinds and lloyd_max; 0: calibrated (uniform: lossless)."""
    step: Annotated[int, Field(ge=1)] = 1
    """Of kind uniform, in steps of a lossless converter."""
    trq: list[TrqParameters] = Field(default_factory=list)
    """Of kind trq: one for all, one a layer, or one a column of each layer, in order; empty: calibrated."""
    granularity: Literal["layer", "slice"] = "layer"
    """Whether calibration sets all converters of a layer alike, or each column (a slice of the weights) by itself."""
    starts: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=128)] = Field(default_factory=list)
    """Where a calibration may let R1 start, beside at 0."""
    detection_steps: Annotated[int, Field(ge=0, le=4)] = 1
    """Comparisons that find the range; one more where R1 does not start at 0."""
    rounding: Rounding = "half_up"
    """To the nearest level, halves up; or down, decoded half a step up."""
    zero_skip: bool = False
    """Cycles in which no row of a tile is driven are not converted."""


@dataclass(frozen=True)
class Conversion:
    """Values (int64) of bit lines, whether they took the coarse range, whether they lay beyond the last code."""

    value: np.ndarray
    coarse: np.ndarray
    clipped: np.ndarray


class Adc(ABC):
    """One converter.

    Attributes
    ----------
    fine_steps, coarse_steps : int
        Comparisons of one conversion, by range.
    fine_switched, coarse_switched : tuple of int
        The bit of the capacitor array that each of these comparisons switches.
    """

    fine_steps: int = 0
    coarse_steps: int
    fine_switched: tuple[int, ...] = ()
    coarse_switched: tuple[int, ...]

    @abstractmethod
    def convert(self, y: np.ndarray) -> Conversion:
        """Convert bit lines, whole or (where cells are noisy) not."""

    @classmethod
    def convert_all(cls, adcs: Sequence[Adc], y: np.ndarray) -> Conversion:
        """Convert the same bit lines by many converters of this class, shapes (A, Y)."""
        done = [adc.convert(y) for adc in adcs]
        return Conversion(*(np.stack([getattr(d, name) for d in done]) for name in ("value", "coarse", "clipped")))

    @classmethod
    @abstractmethod
    def candidates(cls, options: AdcOptions, crossbar: CrossbarOptions, weight_Y: np.ndarray) -> Sequence[Adc]:
        """Return what a calibration may choose from, one if there is no choice; `weight_Y` says which levels matter."""

    def steps(self, y: np.ndarray) -> np.ndarray:
        """Return how many comparisons each bit line takes."""
        return np.where(self.convert(y).coarse, self.coarse_steps, self.fine_steps)

    def is_monotone(self, y_max: int) -> bool:
        """Say whether a larger bit line never gives a smaller value."""
        return bool((np.diff(self.convert(np.arange(y_max + 1)).value) >= 0).all())


Whole = int | np.ndarray


def _round(y: np.ndarray, step: Whole, bits: Whole, rounding: Rounding) -> tuple[np.ndarray, np.ndarray]:
    """Return the code of each value, and whether it had to be clipped to `bits`."""
    unclipped = np.floor(y / step + (0.5 if rounding == "half_up" else 0)).astype(np.int64)
    return np.clip(unclipped, 0, 2**bits - 1), unclipped >= 2**bits


def _centre(step: Whole, rounding: Rounding) -> Whole:
    """Return what decoding adds to a code's lower end."""
    return step // 2 if rounding == "floor" else 0


def _bit(value: int) -> int:
    """Return the highest bit of a positive whole number."""
    return value.bit_length() - 1


@dataclass(frozen=True)
class Uniform(Adc):
    """N bits of one step from 0 up, clipping above."""

    bits: int
    step: int = 1
    rounding: Rounding = "half_up"

    def __str__(self) -> str:
        return f"uniform, {self.bits} bits of step {self.step}"

    @property
    def coarse_steps(self) -> int:  # type: ignore[override]
        """One comparison a bit."""
        return self.bits

    @property
    def coarse_switched(self) -> tuple[int, ...]:  # type: ignore[override]
        """As many bits from the step's up."""
        return tuple(range(_bit(self.step), _bit(self.step) + self.bits))

    def convert(self, y: np.ndarray) -> Conversion:
        """Convert bit lines."""
        code, clipped = _round(y, self.step, self.bits, self.rounding)
        return Conversion(code * self.step + _centre(self.step, self.rounding), np.ones(y.shape, bool), clipped)

    @classmethod
    def candidates(cls, options: AdcOptions, crossbar: CrossbarOptions, weight_Y: np.ndarray) -> Sequence[Adc]:
        """Return the one that the options give."""
        return [cls(options.bits or crossbar.full_bits, options.step, options.rounding)]


class Ideal(Uniform):
    """As many bits as lose nothing."""

    @classmethod
    def candidates(cls, options: AdcOptions, crossbar: CrossbarOptions, weight_Y: np.ndarray) -> Sequence[Adc]:
        """Return the lossless one."""
        return [cls(crossbar.full_bits)]


class UniformCalibrated(Uniform):
    """The number of bits (unless given) and a power of two as step are chosen for each layer."""

    @classmethod
    def candidates(cls, options: AdcOptions, crossbar: CrossbarOptions, weight_Y: np.ndarray) -> Sequence[Adc]:
        """Return all bits and steps."""
        widths = [options.bits] if options.bits else range(1, crossbar.full_bits + 1)
        return [cls(bits, 2**s, options.rounding) for bits in widths for s in range(crossbar.full_bits)]


@dataclass(frozen=True)
class Trq(Adc):
    """Twin ranges: dense from `start` on, coarse elsewhere."""

    parameters: TrqParameters
    detection_steps: int = 1
    rounding: Rounding = "half_up"

    def __str__(self) -> str:
        p = self.parameters
        return f"trq, N1 = {p.fine_bits}, N2 = {p.coarse_bits}, D1 = {p.fine_step}, M = {p.shift}, b = {p.start}"

    @property
    def detection(self) -> int:
        """Comparisons that find the range: a window has two ends."""
        return self.detection_steps + (self.parameters.start > 0)

    @property
    def fine_steps(self) -> int:  # type: ignore[override]
        """Detection, then one comparison a bit of R1."""
        return self.detection + self.parameters.fine_bits

    @property
    def coarse_steps(self) -> int:  # type: ignore[override]
        """Detection, then one comparison a bit of R2."""
        return self.detection + self.parameters.coarse_bits

    @property
    def end(self) -> int:
        """First value above R1."""
        return self.parameters.start + self.parameters.fine_step * 2**self.parameters.fine_bits

    @property
    def fine_switched(self) -> tuple[int, ...]:  # type: ignore[override]
        """The threshold's highest bit for detection, then those of R1."""
        first = _bit(self.parameters.fine_step)
        return (_bit(self.end),) * self.detection + tuple(range(first, first + self.parameters.fine_bits))

    @property
    def coarse_switched(self) -> tuple[int, ...]:  # type: ignore[override]
        """The threshold's highest bit for detection, then those of R2."""
        first = _bit(self.parameters.fine_step) + self.parameters.shift
        return (_bit(self.end),) * self.detection + tuple(range(first, first + self.parameters.coarse_bits))

    def convert(self, y: np.ndarray) -> Conversion:
        """Convert bit lines."""
        code, flag, clipped = self.encode(y)
        return Conversion(self.decode(code, flag), flag, clipped)

    @classmethod
    def convert_all(cls, adcs: Sequence[Adc], y: np.ndarray) -> Conversion:
        """Convert the same bit lines by many converters, shapes (A, Y), in one go: a search has a thousand."""
        trqs = cast(Sequence[Trq], adcs)
        n1, n2, d1, m, b = (np.array([[getattr(adc.parameters, name)] for adc in trqs]) for name in TrqParameters.model_fields)
        code, flag, clipped = _encode(y, n1, n2, d1, m, b, trqs[0].rounding)
        return Conversion(_decode(code, flag, n1, n2, d1, m, b, trqs[0].rounding), flag, clipped)

    def encode(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return payload, range flag (True: R2), and whether the value lay beyond R2's last code."""
        return _encode(y, **self.parameters.model_dump(), rounding=self.rounding)

    def decode(self, code: np.ndarray, flag: np.ndarray) -> np.ndarray:
        """Return the value of a code word: a shift, and R1's start."""
        return _decode(code, flag, **self.parameters.model_dump(), rounding=self.rounding)

    def check(self, crossbar: CrossbarOptions, field: str) -> list[str]:
        """Refuse parameters that make no converter; return what is odd about ones that do.

        Raises
        ------
        HwsimError
            If a step is not a power of two, or a range does not fit the bit line.
        """
        p, y_max, full_bits = self.parameters, crossbar.y_max, crossbar.full_bits
        for name in ("fine_bits", "coarse_bits"):
            if getattr(p, name) > full_bits:
                raise HwsimError(
                    f"{field}.{name} = {getattr(p, name)}: a lossless converter has {full_bits} bits; choose no more",
                    field=f"{field}.{name}",
                )
        if p.fine_step & (p.fine_step - 1):
            raise HwsimError(f"{field}.fine_step = {p.fine_step}: must be a power of two", field=f"{field}.fine_step")
        if p.start % p.fine_step:
            raise HwsimError(
                f"{field}.start = {p.start}: must be a multiple of fine_step = {p.fine_step}", field=f"{field}.start"
            )
        if self.end > y_max + 1:
            raise HwsimError(
                f"{field}: the dense range ends at {self.end - 1}, beyond the bit line's largest value {y_max}; "
                "choose a smaller start, fine_step or fine_bits",
                field=field,
            )
        last = (2**p.coarse_bits - 1) * (p.fine_step << p.shift)
        warnings = []
        if last > 2 * y_max:
            warnings.append(f"{field}: the coarse range reaches {last}, but bit lines end at {y_max}; bits are wasted")
        if last + (p.fine_step << p.shift) / 2 < y_max:
            warnings.append(f"{field}: the coarse range ends at {last}; larger bit lines, up to {y_max}, are clipped")
        if not self.is_monotone(y_max):
            warnings.append(f"{field}: not monotone where the ranges meet")
        return warnings

    @classmethod
    def candidates(cls, options: AdcOptions, crossbar: CrossbarOptions, weight_Y: np.ndarray) -> Sequence[Adc]:
        """Return all monotone ones of the grid."""
        return _trq_grid((0, *sorted({*options.starts} - {0})), options.detection_steps, options.rounding, crossbar.y_max)


def _encode(
    y: np.ndarray, fine_bits: Whole, coarse_bits: Whole, fine_step: Whole, shift: Whole, start: Whole, rounding: Rounding
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    flag = (y < start) | (y >= start + fine_step * 2**fine_bits)
    fine, _ = _round(y - start, fine_step, fine_bits, rounding)
    coarse, clipped = _round(y, fine_step << shift, coarse_bits, rounding)
    return np.where(flag, coarse, fine), flag, flag & clipped


def _decode(
    code: np.ndarray,
    flag: np.ndarray,
    fine_bits: Whole,
    coarse_bits: Whole,
    fine_step: Whole,
    shift: Whole,
    start: Whole,
    rounding: Rounding,
) -> np.ndarray:
    fine = start + fine_step * code + _centre(fine_step, rounding)
    return np.where(flag, fine_step * (code << shift) + _centre(fine_step << shift, rounding), fine)


@lru_cache(maxsize=8)
def _trq_grid(starts: tuple[int, ...], detection_steps: int, rounding: Rounding, y_max: int) -> list[Trq]:
    grid = []
    widths = range(1, y_max.bit_length() + 1)
    for start, n1, n2, d1, m in product(starts, range(MOST_FINE_BITS + 1), widths, FINE_STEPS, range(MOST_SHIFT + 1)):
        parameters = TrqParameters.model_construct(fine_bits=n1, coarse_bits=n2, fine_step=d1, shift=m, start=start)
        adc = Trq(parameters, detection_steps, rounding)
        if start % d1 == 0 and adc.end <= y_max + 1 and (2**n2 - 1) * (d1 << m) <= 2 * y_max and adc.is_monotone(y_max):
            grid.append(adc)
    return grid


@dataclass(frozen=True)
class LloydMax(Adc):
    """The best levels there are: what no converter of as many bits does better in mean square.

    Levels are whole, for the adders are. Lloyd's and Max's iteration (IEEE Trans. Inf. Theory 28, 1982; IRE Trans. Inf. Theory
    6, 1960) may end in a local optimum; bit lines have few levels, so dynamic programming finds the global one (Bruce, 1965).
    """

    levels: tuple[int, ...]

    def __str__(self) -> str:
        return f"lloyd_max, {len(self.levels)} levels"

    @property
    def coarse_steps(self) -> int:  # type: ignore[override]
        """As many comparisons as a search among the levels needs."""
        return (len(self.levels) - 1).bit_length()

    @property
    def coarse_switched(self) -> tuple[int, ...]:  # type: ignore[override]
        """The leading bits: its thresholds lie anywhere."""
        top = max(self.levels[-1].bit_length(), self.coarse_steps)
        return tuple(range(top - self.coarse_steps, top))

    def convert(self, y: np.ndarray) -> Conversion:
        """Convert bit lines to the nearest level, halves up."""
        levels = np.asarray(self.levels)
        code = np.searchsorted((levels[1:] + levels[:-1]) / 2, y, side="right")
        return Conversion(levels[code], np.ones(y.shape, bool), np.zeros(y.shape, bool))

    @classmethod
    def candidates(cls, options: AdcOptions, crossbar: CrossbarOptions, weight_Y: np.ndarray) -> Sequence[Adc]:
        """Return the best for each number of bits."""
        widths = [options.bits] if options.bits else range(1, crossbar.full_bits + 1)
        best = list(_best_levels(weight_Y, 2 ** max(widths)))
        return [cls(best[min(2**bits, len(best)) - 1]) for bits in widths]


def _best_levels(weight_Y: np.ndarray, most: int) -> Iterator[tuple[int, ...]]:
    """Yield the best 1, 2, ... `most` whole levels for values of these weights, fewer where fewer lose nothing.

    Raises
    ------
    HwsimError
        If more values occur than can be searched.
    """
    y = np.flatnonzero(weight_Y)
    if len(y) > MOST_SEARCHED:
        raise HwsimError(
            f"adc.kind = 'lloyd_max': {len(y)} levels occur; at most {MOST_SEARCHED} are searched", field="adc.kind"
        )
    weight = weight_Y[y].astype(float)
    sums = [np.r_[0, np.cumsum(weight * y**power)] for power in range(3)]
    mass, first, second = (s[None, 1:] - s[:-1, None] for s in sums)  # of values i to j
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.floor(first / mass + 0.5)
    cost = np.where(mass > 0, second - 2 * level * first + level**2 * mass, np.inf)
    cost[np.tril_indices(len(y), -1)] = np.inf
    total, starts = cost[0], []
    yield (int(level[0, -1]),)
    for _ in range(1, min(most, len(y))):
        joined = total[:-1, None] + cost[1:]
        starts.append(np.r_[0, joined.argmin(axis=0)[1:] + 1])
        total = np.r_[np.inf, joined.min(axis=0)[1:]]
        yield _trace(starts, level)


def _trace(starts: list[np.ndarray], level: np.ndarray) -> tuple[int, ...]:
    """Follow the best partition from its end."""
    levels, end = [], len(level) - 1
    for start in reversed(starts):
        first = int(start[end])
        levels.append(int(level[first, end]))
        end = first - 1
    return tuple(reversed([*levels, int(level[0, end])]))


ADCS: dict[Kind, type[Adc]] = {
    "ideal": Ideal,
    "uniform": Uniform,
    "uniform_calibrated": UniformCalibrated,
    "trq": Trq,
    "lloyd_max": LloydMax,
}


def fixed(options: AdcOptions, crossbar: CrossbarOptions, layers: int) -> tuple[list[tuple[Adc, ...]], list[str]] | None:
    """Return each layer's converters and warnings if the options leave nothing to calibrate, else None.

    Raises
    ------
    HwsimError
        If the parameters are of another number of layers, or make no converter.
    """
    if options.kind in ("ideal", "uniform"):
        return [tuple(ADCS[options.kind].candidates(options, crossbar, np.ones(1)))] * layers, []
    if options.kind != "trq" or not options.trq:
        return None
    columns = crossbar.columns_per_output
    if len(options.trq) not in (1, layers, layers * columns):
        raise HwsimError(
            f"adc.trq: {len(options.trq)} settings; give 0, 1, {layers} (one a layer) or {layers * columns} (one a column)",
            field="adc.trq",
        )
    adcs = [Trq(parameters, options.detection_steps, options.rounding) for parameters in options.trq]
    warnings = [warning for i, adc in enumerate(adcs) for warning in adc.check(crossbar, f"adc.trq.{i}")]
    width = max(1, len(adcs) // layers)
    return [tuple(adcs[i * width : (i + 1) * width] if len(adcs) > 1 else adcs) for i in range(layers)], warnings


def table(adcs: Sequence[Adc], crossbar: CrossbarOptions, skip_idle: bool = False, resolution: int = 1) -> Table:
    """Tabulate converters of all columns, or of each, with `resolution` levels for each step of a lossless one."""
    levels = np.arange((crossbar.y_max + 1) * resolution) / resolution
    done = [adc.convert(levels) for adc in adcs]
    shape = (crossbar.columns_per_output, len(levels))
    value_CY, coarse_CY, clipped_CY = (
        np.broadcast_to(np.stack([getattr(d, name) for d in done]), shape) for name in ("value", "coarse", "clipped")
    )
    return Table(value_CY, coarse_CY, clipped_CY, skip_idle)
