"""Bit lines without data: their distribution from how often bits are set, in microseconds a layer.

Rows are taken as independent and alike, and so are the bits of a number. One row adds digit times cell to a bit line; a tile of
R rows adds R of those, so its distribution is the R-fold convolution of one row's: with one-bit cells and cycles, binomial. An
estimate: real bits are neither, and the documentation says how far it is off.

Shapes: A = activation bits, S = weight bits of one sign, or its slices, C = columns of an output, I = cycles, Y = levels,
Z = digit times cell.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..simulator import HwsimError
from .calibrate import Histogram
from .crossbar import CrossbarOptions

ACTIVATION_SIGMA, WEIGHT_SIGMA = 1 / 4, 1 / 4  # of the largest code: ours, near what trained nets show


@lru_cache(maxsize=64)
def default_densities(crossbar: CrossbarOptions) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return how often each bit of an activation and of a stored weight is set, lowest bit first, if nothing is known.

    Weights are normal, activations normal and rectified, both with a quarter of the largest code as standard deviation (ours).
    """
    top = 2**crossbar.activation_bits - 1
    activation = np.arange(top + 1)
    share = np.exp(-((activation / (top * ACTIVATION_SIGMA)) ** 2) / 2)
    share = share / share.sum() / 2
    share[0] += 0.5
    limit = 2 ** (crossbar.weight_bits - 1) - 1
    weight = np.arange(-limit, limit + 1)
    mass = np.exp(-((weight / (limit * WEIGHT_SIGMA)) ** 2) / 2)
    stored = weight + crossbar.offset if crossbar.offset else np.maximum(weight, 0)
    return _bit_shares(activation, share, crossbar.activation_bits), _bit_shares(
        stored, mass / mass.sum(), stored_bits(crossbar)
    )


def stored_bits(crossbar: CrossbarOptions) -> int:
    """Return how many bits of a weight are stored in each of its crossbars."""
    return crossbar.weight_bits - (crossbar.encoding == "differential")


def _bit_shares(codes: np.ndarray, share: np.ndarray, bits: int) -> tuple[float, ...]:
    return tuple(float(((codes >> bit) & 1) @ share) for bit in range(bits))


def check_densities(densities: list[float], bits: int, field: str) -> None:
    """Refuse densities that are not one share a bit.

    Raises
    ------
    HwsimError
    """
    if len(densities) != bits:
        raise HwsimError(
            f"{field}: {len(densities)} shares for {bits} bits; give one a bit, lowest first, or none", field=field
        )
    if any(not 0 <= share <= 1 for share in densities):
        raise HwsimError(f"{field} = {densities}: shares of set bits are 0 to 1", field=field)


@lru_cache(maxsize=4096)
def histogram(
    inputs: int, activation_A: tuple[float, ...], weight_S: tuple[float, ...], crossbar: CrossbarOptions
) -> Histogram:
    """Return the expected bit lines of one output and one input vector, as shares.

    Parameters
    ----------
    inputs : int
        Rows of a product.
    activation_A, weight_S : tuple of float
        Shares of set bits, lowest first, of activations and of stored weights (of each sign, if differential).
    """
    full, rest = divmod(inputs, crossbar.rows)
    digit_IZ = np.stack([_number(bits) for bits in _groups(activation_A, crossbar.dac_bits)])
    cell_SZ = np.stack([_number(bits) for bits in _groups(weight_S, crossbar.cell_bits)])
    row_SIZ = _products(cell_SZ, digit_IZ)
    spectrum = np.fft.rfft(row_SIZ, crossbar.y_max + 1, axis=2)
    of_tiles = full * spectrum**crossbar.rows + (spectrum**rest if rest else 0)
    counts_SIY = np.fft.irfft(of_tiles, crossbar.y_max + 1, axis=2).clip(min=0)
    idle_I = full * digit_IZ[:, 0] ** crossbar.rows + (digit_IZ[:, 0] ** rest if rest else 0)
    counts_CIY = np.concatenate([counts_SIY] * len(crossbar.signs))
    power = _power(inputs, activation_A, weight_S, crossbar)
    return Histogram.of(counts_CIY, inputs, crossbar, power, float(idle_I.sum()) * crossbar.columns_per_output)


def _groups(shares: tuple[float, ...], size: int) -> list[tuple[float, ...]]:
    padded = (*shares, *(0.0,) * (-len(shares) % size))
    return [padded[start : start + size] for start in range(0, len(padded), size)]


def _number(bits: tuple[float, ...]) -> np.ndarray:
    """Return the distribution of a number of independent bits."""
    distribution = np.ones(1)
    for share in reversed(bits):
        distribution = np.stack([distribution * (1 - share), distribution * share], axis=1).ravel()
    return distribution


def _products(cell_SZ: np.ndarray, digit_IZ: np.ndarray) -> np.ndarray:
    """Return the distribution of cell times digit for every slice and cycle."""
    cells, digits = cell_SZ.shape[1], digit_IZ.shape[1]
    row_SIZ = np.zeros((len(cell_SZ), len(digit_IZ), (cells - 1) * (digits - 1) + 1))
    for cell in range(cells):
        for digit in range(digits):
            row_SIZ[:, :, cell * digit] += np.outer(cell_SZ[:, cell], digit_IZ[:, digit])
    return row_SIZ


def _power(inputs: int, activation_A: tuple[float, ...], weight_S: tuple[float, ...], crossbar: CrossbarOptions) -> float:
    """Return the expected square of a product."""
    x_mean, x_variance = _moments(activation_A)
    w_mean, w_variance = _moments(weight_S)
    if crossbar.offset:
        w_mean -= crossbar.offset
    else:
        w_mean, w_variance = 0.0, 2 * w_variance
    mean = inputs * x_mean * w_mean
    square = (x_variance + x_mean**2) * (w_variance + w_mean**2)
    return mean**2 + inputs * (square - (x_mean * w_mean) ** 2)


def _moments(shares: tuple[float, ...]) -> tuple[float, float]:
    """Return mean and variance of a number of independent bits."""
    weight = 2.0 ** np.arange(len(shares))
    share = np.asarray(shares)
    return float(weight @ share), float(weight**2 @ (share * (1 - share)))
