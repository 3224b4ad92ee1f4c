"""Ranges of activations on calibration data, one a cluster of channels.

Sources: the metrics are common ones; `ema` is the default of RPTQ's published code, 0.99 of the old and 0.01 of the new
extremes from sample to sample. Ours: `mse` shrinks both ends by one factor, the best of 15.

Shapes: t = tokens, c = channels, k = clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .quantiser import grid
from .recipe import Metric

KEEPS = 0.99  # of the old extremes, from one sample to the next
SHRINKS = torch.linspace(1.0, 0.3, 15)
MOST_TOKENS = 2048
"""Tokens that the search for the least error looks at, evenly spaced."""


def extremes(x_tc: Tensor) -> Tensor:
    """Return each channel's greatest and least value, shape (c, 2)."""
    return torch.stack([x_tc.amax(0), x_tc.amin(0)], 1)


def ranges(
    x_tc: Tensor, ids_c: Tensor, metric: Metric, bits: int, tokens_a_sample: int, percentile: float
) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value of each cluster that its quantiser is to represent, shapes (k,).

    Parameters
    ----------
    ids_c : Tensor of int64
        Each channel's cluster; all from 0 to k - 1 should occur, a range of one that does not is 0.
    bits : int
        Of the quantiser; only `mse` asks.
    tokens_a_sample : int
        Rows of `x_tc` that belong to one sample; only `ema` asks.
    percentile : float
        Of `percentile`.
    """
    if metric == "percentile":
        return _percentiles(x_tc, ids_c, percentile / 100)
    high_c, low_c = (_blended if metric == "ema" else _true)(x_tc, tokens_a_sample)
    low_k, high_k = merged(low_c, ids_c, "amin"), merged(high_c, ids_c, "amax")
    return _least_error(x_tc, ids_c, low_k, high_k, bits) if metric == "mse" else (low_k, high_k)


def merged(values_c: Tensor, ids_c: Tensor, how: str) -> Tensor:
    """Reduce what channels have to what their clusters have, shape (k,); 0 for a cluster without channels."""
    empty_k = values_c.new_zeros(int(ids_c.max()) + 1)
    return empty_k.scatter_reduce(0, ids_c, values_c, how, include_self=False)


def _true(x_tc: Tensor, _: int) -> tuple[Tensor, Tensor]:
    return x_tc.amax(0), x_tc.amin(0)


def _blended(x_tc: Tensor, tokens_a_sample: int) -> tuple[Tensor, Tensor]:
    samples = x_tc.split(tokens_a_sample)
    high_c, low_c = _true(samples[0], 0)
    for sample_tc in samples[1:]:
        new_high_c, new_low_c = _true(sample_tc, 0)
        high_c, low_c = torch.lerp(new_high_c, high_c, KEEPS), torch.lerp(new_low_c, low_c, KEEPS)
    return high_c, low_c


def _percentiles(x_tc: Tensor, ids_c: Tensor, high: float) -> tuple[Tensor, Tensor]:
    ends = []
    for cluster in range(int(ids_c.max()) + 1):
        values = x_tc[:, ids_c == cluster].flatten()
        ends.append([_order_statistic(values, share) for share in (1 - high, high)] if len(values) else [0.0, 0.0])
    low_k, high_k = x_tc.new_tensor(ends).T
    return low_k, high_k


def _order_statistic(values: Tensor, share: float) -> float:
    """Return the value below which that share lies, the nearest one there is."""
    return float(values.kthvalue(1 + round(share * (len(values) - 1))).values)


def _least_error(x_tc: Tensor, ids_c: Tensor, low_k: Tensor, high_k: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    x_tc = x_tc[:: -(-len(x_tc) // MOST_TOKENS)]
    errors = []
    for shrink in SHRINKS.tolist():
        scale_k, zero_k = grid(low_k * shrink, high_k * shrink, bits)
        scale_c, zero_c = scale_k[ids_c], zero_k[ids_c]
        rounded_tc = ((x_tc / scale_c).round() + zero_c).clamp(0, 2**bits - 1)
        errors.append(merged(((rounded_tc - zero_c) * scale_c - x_tc).square().sum(0), ids_c, "sum"))
    best_k = SHRINKS.to(low_k)[torch.stack(errors).argmin(0)]
    return low_k * best_k, high_k * best_k
