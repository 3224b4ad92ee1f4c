"""Low-rank factors of a matrix, best for its outputs on given inputs.

For W (o, i) and inputs whose second moment is C = S S^T, the rank-k matrix that changes the outputs least, in the mean over
the inputs, is W_k = U_k U_k^T W, where U_k are the k leading left singular vectors of W S. That is ASVD's W_k = U_k S_k
V_k^T S^-1 (arXiv:2312.05821, eqs. 3-6, for a diagonal S) and SVD-LLM's (arXiv:2403.07378, for a Cholesky factor) with S^-1
cancelled: nothing is ever divided by a scale, so inputs that are always 0 do no harm, and W_k is an orthogonal projection
of W, so its norm is never larger.

Ours: the projection form; one decomposition for all ranks; eigenvectors of the smaller Gram matrix in place of an SVD; a
rank that would not save anything is never used.

Shapes: o = outputs, i = inputs, r = min(o, i), k = rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import CodecError
from .codec import Part, Stage, matrix_shape, numbers

Factorisation = Literal["gram", "exact"]
Fuse = Literal["UV", "U", "V"]
NEGLIGIBLE = 1e-7
"""Singular values below this share of the largest cannot be told from 0 by a Gram matrix in double precision."""
UNSEEN = 1e-6
"""What a direction counts that no calibration token has, over what one counts in the mean."""


def affordable_rank(outputs: int, inputs: int, ratio: float) -> int:
    """Return the greatest rank whose factors have at most `ratio` of the matrix's numbers.

    floor(floor(o i ratio) / (o + i)), as ASVD's code has it.
    """
    return math.floor(outputs * inputs * ratio) // (outputs + inputs)


def saves(rank: int, outputs: int, inputs: int) -> bool:
    """Tell whether factors of that rank have fewer numbers than the matrix."""
    return rank * (outputs + inputs) < outputs * inputs


@dataclass(frozen=True)
class Decomposition:
    """Left singular vectors and singular values of a scaled matrix, of which factors of any rank are slices.

    Attributes
    ----------
    weight_oi : Tensor
        The matrix itself, not scaled.
    left_or : Tensor
        Orthonormal columns, the largest entry of each positive; strongest first.
    sigma_r : Tensor
        Singular values of the scaled matrix.
    """

    weight_oi: Tensor
    left_or: Tensor
    sigma_r: Tensor

    def factors(self, rank: int, fuse: Fuse = "UV") -> tuple[Tensor, Tensor]:
        """Return factors (o, k) and (k, i), whose product is the best matrix of that rank.

        Parameters
        ----------
        rank : int
            1 to r.
        fuse : {"UV", "U", "V"}
            Which factor carries the singular values; UV: half each (their roots).

        Raises
        ------
        CodecError
            If there is no such rank.
        """
        most = min(self.weight_oi.shape)
        if not 1 <= rank <= most:
            raise CodecError(f"rank = {rank}: a matrix of shape {list(self.weight_oi.shape)} has ranks from 1 to {most}")
        left_ok, sigma_k = self.left_or[:, :rank], self.sigma_r[:rank]
        right_ki = left_ok.T @ self.weight_oi.double()
        significant_k = sigma_k > NEGLIGIBLE * self.sigma_r[0]
        gain_k = torch.where(significant_k, sigma_k ** {"UV": 0.5, "U": 1.0, "V": 0.0}[fuse], torch.ones_like(sigma_k))
        return left_ok * gain_k, right_ki / gain_k[:, None]

    def lost(self, rank: int) -> float:
        """Return the Frobenius norm of what the scaled matrix loses at that rank."""
        return float(self.sigma_r[rank:].square().sum().sqrt())


def scaled(weight_oi: Tensor, scale: Tensor | None) -> Tensor:
    """Return W S in double precision, for S = I (None), a diagonal (i,), or a matrix (i, s).

    A matrix with fewer columns than inputs is a root of a singular moment: the moment is shifted by `UNSEEN` of its mean
    diagonal, so that directions of which the data tell nothing are ranked by the weights.
    """
    weight_oi = weight_oi.double()
    if scale is None:
        return weight_oi
    if scale.ndim > 2 or scale.shape[0] != weight_oi.shape[1]:
        raise CodecError(f"a scale of shape {list(scale.shape)} does not fit a matrix of shape {list(weight_oi.shape)}")
    if scale.ndim == 1:
        return weight_oi * scale
    if scale.shape[1] >= scale.shape[0]:
        return weight_oi @ scale
    shift = (UNSEEN * scale.square().sum() / len(scale)).sqrt()
    return torch.cat([weight_oi @ scale, shift * weight_oi], 1)


def decompose(weight_oi: Tensor, scale: Tensor | None = None, how: Factorisation = "gram") -> Decomposition:
    """Decompose a matrix once, for all ranks.

    Parameters
    ----------
    weight_oi : Tensor, shape (o, i)
    scale : Tensor, optional
        S: shape (i,) for a diagonal, (i, s) for any root of the inputs' second moment; None: the identity.
    how : {"gram", "exact"}
        Eigenvectors of the smaller Gram matrix, or an SVD; both in double precision. The former is several times faster and
        loses the singular values below `NEGLIGIBLE` times the largest.

    Raises
    ------
    CodecError
        If the matrix or the scale is not finite, or LAPACK does not converge.
    """
    scaled_oi = scaled(weight_oi, scale)
    if not bool(scaled_oi.isfinite().all()):
        raise CodecError(f"a matrix of shape {list(weight_oi.shape)} is not finite after scaling")
    try:
        left_or, sigma_r = _svd(scaled_oi) if how == "exact" else _gram(scaled_oi)
    except torch.linalg.LinAlgError as error:
        raise CodecError(f"a matrix of shape {list(weight_oi.shape)} cannot be decomposed: {error}") from None
    return Decomposition(weight_oi, canonical(left_or), sigma_r)


def _svd(a_oi: Tensor) -> tuple[Tensor, Tensor]:
    left_or, sigma_r, _ = torch.linalg.svd(a_oi, full_matrices=False)
    return left_or, sigma_r


def _gram(a_oi: Tensor) -> tuple[Tensor, Tensor]:
    wide = a_oi.shape[0] <= a_oi.shape[1]
    square_r, vectors_rr = torch.linalg.eigh(a_oi @ a_oi.T if wide else a_oi.T @ a_oi)
    sigma_r, vectors_rr = square_r.flip(0).clamp(min=0).sqrt(), vectors_rr.flip(1)
    if wide:
        return vectors_rr, sigma_r
    kept = int((sigma_r > NEGLIGIBLE * sigma_r[0]).sum())
    left_or = torch.zeros_like(a_oi)  # directions in which there is next to nothing stay 0: they add nothing to any factor
    left_or[:, :kept] = a_oi @ vectors_rr[:, :kept] / sigma_r[:kept]
    return left_or, sigma_r


def canonical(left_or: Tensor) -> Tensor:
    """Choose each column's sign so that its largest entry is positive, which makes factors reproducible."""
    largest_r = left_or.gather(0, left_or.abs().argmax(0, keepdim=True))
    return torch.where(largest_r < 0, -left_or, left_or)


def warm(weight_oi: Tensor, scale: Tensor | None, start_ok: Tensor, iterations: int = 2) -> tuple[Decomposition, float]:
    """Improve last round's left vectors by subspace iterations instead of decomposing again.

    Parameters
    ----------
    start_ok : Tensor, shape (o, k)
        Where to start; only the space it spans matters.

    Returns
    -------
    Decomposition
        Of rank k only.
    float
        Share of the scaled matrix's Frobenius norm that rank k loses.
    """
    scaled_oi = scaled(weight_oi, scale)
    left_ok = start_ok.double()
    for _ in range(iterations):
        left_ok, _ = torch.linalg.qr(scaled_oi @ (scaled_oi.T @ left_ok))
    inner_ki = left_ok.T @ scaled_oi
    square_k, turn_kk = torch.linalg.eigh(inner_ki @ inner_ki.T)
    sigma_k = square_k.flip(0).clamp(min=0).sqrt()
    left_ok = left_ok @ turn_kk.flip(1)
    whole2 = float(scaled_oi.square().sum())
    lost2 = max(0.0, whole2 - float(sigma_k.square().sum()))
    return Decomposition(weight_oi, canonical(left_ok), sigma_k), math.sqrt(lost2 / whole2) if whole2 else 0.0


class FactorStage(Stage):
    """Base of codecs that send a matrix as two factors, component by component: (k, o) and (k, i)."""

    terminal: ClassVar = False
    nonlinear_because: ClassVar = "factors of different clients span different spaces; their sum is not the factors of the sum"

    def layout(self, meta: Mapping[str, int], shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Tell the factors' shapes."""
        outputs, inputs = matrix_shape(shape)
        (rank,) = numbers(meta, rank=(1, (outputs * inputs - 1) // (outputs + inputs)))  # the greatest that saves anything
        return Part((rank, outputs)), Part((rank, inputs))

    def decode(self, meta: Mapping[str, int], tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Multiply the factors."""
        left_ko, right_ki = tensors
        return (left_ko.T @ right_ki).reshape(shape)


def cholesky_root(moment_ii: Tensor) -> Tensor:
    """Return a lower triangular root of a second moment; a singular one is shifted by its least eigenvalue and 1e-6.

    The shift is SVD-LLM's. Raises CodecError if the moment is not finite.
    """
    if not bool(moment_ii.isfinite().all()):
        raise CodecError("the inputs' second moment is not finite")
    root_ii, info = torch.linalg.cholesky_ex(moment_ii)
    if int(info):
        least = float(torch.linalg.eigvalsh(moment_ii)[0])
        root_ii = torch.linalg.cholesky(moment_ii + (max(0.0, -least) + 1e-6) * torch.eye(len(moment_ii)).to(moment_ii))
    return root_ii
