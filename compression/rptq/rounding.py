"""Weights as small integers: rounded to the nearest, or by GPTQ so that a layer's outputs change least.

Source: GPTQ (Frantar et al., arXiv:2210.17323, algorithm 1) as RPTQ's code calls it: asymmetric, min-max, blocks of 128
columns, damping 0.01 of the mean diagonal, columns in their order. Ours: weights of inputs that are always 0 on calibration
data are rounded to the nearest, not set to 0, for other data may reach them (classes that a client has none of); scales travel
as halves over one power of two for the tensor, so that those of a round's change, far below a half's range, keep their
precision, and are rounded before the codes are; more damping, and at last rounding to the nearest, where a Hessian is not
positive definite.

Shapes: o = outputs, i = inputs, g = groups of columns (1: a whole row).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 128
DAMPING = (0.01, 0.1, 1.0, 10.0)
"""Shares of the mean diagonal that are added to the diagonal, one after the other, until the Hessian is positive definite."""
SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True)
class Rounded:
    """A matrix of integers with scales and zeros.

    Attributes
    ----------
    codes_oi : Tensor of uint8
    half_og : Tensor of float16
        Scales, over 2^`exponent`.
    zero_og : Tensor of uint8
    bits, exponent : int
    note : str
        Why the matrix was rounded otherwise than asked for.
    turned : bool
        The tensor it came from has inputs as rows.
    """

    codes_oi: Tensor
    half_og: Tensor
    zero_og: Tensor
    bits: int
    exponent: int
    note: str = ""
    turned: bool = False

    def tensor(self) -> Tensor:
        """Return what the integers stand for, float32, turned as it was: (o, i), or (i, o)."""
        return self.values().T if self.turned else self.values()

    def values(self) -> Tensor:
        """Return the matrix that the integers stand for, float32, shape (o, i)."""
        inputs = self.codes_oi.shape[1]
        group = -(-inputs // self.half_og.shape[1])
        scale_oi = (self.half_og.float() * 2.0**self.exponent).repeat_interleave(group, 1)[:, :inputs]
        zero_oi = self.zero_og.float().repeat_interleave(group, 1)[:, :inputs]
        return (self.codes_oi.float() - zero_oi) * scale_oi


def group_width(inputs: int, group: int | None) -> int:
    """Return how many columns share a scale: so many groups as `group` makes, as even as can be, as their number tells."""
    return inputs if group is None else -(-inputs // -(-inputs // group))


class _Grids:
    """Grids of groups of columns, all over one power of two."""

    def __init__(self, weight_oi: Tensor, bits: int) -> None:
        self.bits = bits
        widest = float(weight_oi.amax().clamp(min=0) - weight_oi.amin().clamp(max=0)) / (2**bits - 1)
        self.exponent = math.ceil(math.log2(widest)) if widest >= 2.0**-126 else 0

    def of(self, columns_oj: Tensor) -> tuple[Tensor, Tensor]:
        """Return half-precision scales and zeros of a group, shapes (o,)."""
        low_o, high_o = columns_oj.amin(1).clamp(max=0), columns_oj.amax(1).clamp(min=0)
        unit = 2.0**self.exponent
        half_o = ((high_o - low_o) / (2**self.bits - 1) / unit).clamp(SMALLEST_HALF, 65504).half()
        return half_o, (-low_o / (half_o.float() * unit)).round().clamp(0, 2**self.bits - 1)

    def codes(self, x: Tensor, half: Tensor, zero: Tensor) -> Tensor:
        """Round."""
        return (x / (half.float() * 2.0**self.exponent)).round().add(zero).clamp(0, 2**self.bits - 1)

    def values(self, codes: Tensor, half: Tensor, zero: Tensor) -> Tensor:
        """Return what codes stand for."""
        return (codes - zero) * (half.float() * 2.0**self.exponent)


def round_to_nearest(weight_oi: Tensor, bits: int, group: int | None = None, note: str = "") -> Rounded:
    """Round each weight to the nearest value of its row's (or its group's) grid."""
    grids, weight_oi = _Grids(weight_oi, bits), weight_oi.float()
    codes, halves, zeros = [], [], []
    for columns_oj in weight_oi.split(group_width(weight_oi.shape[1], group), 1):
        half_o, zero_o = grids.of(columns_oj)
        codes.append(grids.codes(columns_oj, half_o[:, None], zero_o[:, None]).to(torch.uint8))
        halves.append(half_o)
        zeros.append(zero_o.to(torch.uint8))
    return Rounded(torch.cat(codes, 1), torch.stack(halves, 1), torch.stack(zeros, 1), bits, grids.exponent, note)


def gptq(weight_oi: Tensor, hessian_ii: Tensor, bits: int, group: int | None = None) -> Rounded:
    """Round column after column, and let the columns still to come make up for what each one lost.

    Parameters
    ----------
    weight_oi : Tensor
    hessian_ii : Tensor
        Sum of x x^T over the layer's inputs.
    bits : int
    group : int, optional
        Most columns that share a scale, which is found when the first of them is reached.

    Returns
    -------
    Rounded
        With a note where the Hessian was not positive definite under any damping, and weights are rounded to the nearest.
    """
    root_ii = _inverse_root(hessian_ii)
    if root_ii is None:
        return round_to_nearest(weight_oi, bits, group, f"rounded to the nearest: no damping up to {DAMPING[-1]:g} helps GPTQ")
    grids = _Grids(weight_oi, bits)
    left_oi = weight_oi.float().clone()
    outputs, inputs = left_oi.shape
    width = group_width(inputs, group)
    codes_oi = torch.empty(outputs, inputs, dtype=torch.uint8)
    halves, zeros = [], []
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        errors_ob = torch.empty(outputs, stop - start)
        for column in range(start, stop):
            if column % width == 0:
                half_o, zero_o = grids.of(left_oi[:, column : column + width])
                halves.append(half_o)
                zeros.append(zero_o)
            code_o = grids.codes(left_oi[:, column], halves[-1], zeros[-1])
            codes_oi[:, column] = code_o.to(torch.uint8)
            lost_o = (left_oi[:, column] - grids.values(code_o, halves[-1], zeros[-1])) / root_ii[column, column]
            left_oi[:, column:stop] -= lost_o[:, None] * root_ii[column, column:stop]
            errors_ob[:, column - start] = lost_o
        left_oi[:, stop:] -= errors_ob @ root_ii[start:stop, stop:]
    return Rounded(codes_oi, torch.stack(halves, 1), torch.stack(zeros, 1).to(torch.uint8), bits, grids.exponent)


def _inverse_root(hessian_ii: Tensor) -> Tensor | None:
    """Return the upper Cholesky factor of the damped Hessian's inverse; None if there is none."""
    hessian_ii = hessian_ii.double()
    dead = hessian_ii.diagonal() == 0
    hessian_ii = hessian_ii + torch.diag(dead.double())
    mean = hessian_ii.diagonal().mean()
    for damping in DAMPING:
        lower_ii, failed = torch.linalg.cholesky_ex(hessian_ii + damping * mean * torch.eye(len(hessian_ii)).to(hessian_ii))
        if not int(failed) and bool(lower_ii.isfinite().all()):
            upper_ii, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower_ii), upper=True)
            if not int(failed) and bool(upper_ii.isfinite().all()):
                return upper_ii.float()
    return None
