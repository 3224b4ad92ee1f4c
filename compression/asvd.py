"""Low-rank codecs: plain SVD, activation-aware SVD (ASVD) and SVD with whitened inputs (SVD-LLM).

Source: Yuan et al., arXiv:2312.05821, eqs. 1-9; Wang et al., arXiv:2403.07378. They differ in the scale S of a matrix's input
columns and in nothing else. Ours: S never leaves the client, not even folded into a factor (see `lowrank`); updates as well as
weights are factored, for the same S bounds what (dW_k - dW) does to the outputs; factors are stored component by component, so
that a later codec's row scales are scales of components; a warm start from the last round's factors.

A matrix is left to the next codec where factors would save nothing, where the model has no linear layer or convolution of its
name that the calibration data reach, or where it cannot be decomposed: never replaced by anything.

Shapes: o = outputs, i = inputs (of a convolution: channels x kernel), k = rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field, model_validator
from torch import Tensor

from ..core.errors import CodecError
from .activations import Statistic, collect
from .codec import CodecOptions, Context, Encoding, Parts, matrix, matrix_shape
from .lowrank import Decomposition, Factorisation, FactorStage, Fuse, affordable_rank, decompose, saves, warm
from .strs import by_loss, by_stable_rank, search

EPSILON = 1e-6  # added to a scale after its power, as in ASVD's code
WORSE = 1.05
"""A warm start that loses this much more of the matrix than the last cold one is given up."""


class LowRankOptions(CodecOptions):
    """What all low-rank codecs accept."""

    ratio: Annotated[float, Gt(0), Le(1)] = 0.5
    """Numbers in the factors over numbers in the matrices, at most; 1 factors nothing."""
    ranks: Literal["uniform", "stable_rank", "loss"] = "uniform"
    """The same ratio for every matrix, or ranks searched for under one budget: without data, or by the calibration loss."""
    candidates: Annotated[tuple[Annotated[float, Gt(0), Lt(1)], ...], Field(min_length=1)] = tuple(n / 10 for n in range(1, 10))
    """Ratios that the search chooses from."""
    fuse: Fuse = "UV"
    """Which factor carries the singular values; UV shares them, which suits a quantiser after this."""
    factorisation: Factorisation = "gram"
    """Eigenvectors of the smaller Gram matrix (fast), or an SVD."""
    start: Literal["cold", "warm"] = "cold"
    """Decompose anew every round, or start from the last round's factors."""
    whole: tuple[str, ...] = ()
    """Tensors that are never factored; names with wildcards."""

    @model_validator(mode="after")
    def _warm_starts_know_their_rank(self) -> LowRankOptions:
        if self.start == "warm" and self.ranks != "uniform":
            raise ValueError("start = 'warm': ranks must not change between rounds; choose ranks = 'uniform'")
        return self

    def build(self) -> LowRank:
        """Make the stage."""
        return LowRank(self)

    @property
    def statistic(self) -> Statistic | None:
        """What of the inputs the scale is made of; None: nothing."""
        return None

    def scale(self, statistic: Tensor) -> Tensor:
        """Return S as `decompose` takes it: here the statistic itself."""
        return statistic


class SvdOptions(LowRankOptions):
    """Truncated singular value decomposition: the least change of the weights."""

    codec: Literal["svd"] = "svd"


class AsvdOptions(LowRankOptions):
    """Activation-aware SVD: columns that see large inputs count for more."""

    codec: Literal["asvd"] = "asvd"
    scale_by: Literal["abs_mean", "abs_max", "gradient"] = "abs_mean"
    """What a column's scale is: the mean or the largest |input|, or the root mean square gradient (needs a loss)."""
    alpha: Annotated[float, Ge(0)] = 0.5
    """Exponent of the scale; 0 is plain SVD."""

    @property
    def statistic(self) -> Statistic:
        """What of the inputs the scale is made of."""
        return self.scale_by

    def scale(self, statistic: Tensor) -> Tensor:
        """Return the diagonal of S: the statistic, relative to its mean, to the power alpha."""
        mean = statistic.mean()
        return (statistic / torch.where(mean > 0, mean, torch.ones_like(mean))) ** self.alpha + EPSILON


class SvdLlmOptions(LowRankOptions):
    """SVD with inputs whitened by their second moment: the least change of the outputs on calibration data."""

    codec: Literal["svd-llm"] = "svd-llm"

    @property
    def statistic(self) -> Statistic:
        """What of the inputs the scale is made of."""
        return "root"


class LowRank(FactorStage):
    """Sends matrices as the factors that change the scaled matrices least."""

    def __init__(self, options: LowRankOptions) -> None:
        self.options = options

    @property
    def needs_calibration(self) -> bool:
        """True where the scale or the ranks come from data."""
        return self.options.statistic is not None or self.options.ranks == "loss"

    def encode(self, update: Mapping[str, Tensor], context: Context) -> Encoding:
        """Factor every matrix for which that saves something."""
        weights = {
            n: matrix(x) for n, x in update.items() if x.ndim > 1 and not any(fnmatchcase(n, p) for p in self.options.whole)
        }
        weights = {name: weight_oi for name, weight_oi in weights.items() if saves(1, *weight_oi.shape)}
        if self.options.ratio == 1 or not weights:
            return Encoding({})
        made = _Decompositions(self.options, weights, context)
        ranks = self._ranks(made, context)
        encoding = Encoding({}, made.notes, made.state)
        for name, rank in ranks.items():
            if (decomposition := made.get(name, rank)) is not None:
                left_ok, right_ki = decomposition.factors(rank, self.options.fuse)
                factors = (left_ok.T.float().contiguous(), right_ki.float().contiguous())
                encoding.parts[name] = Parts({"rank": rank}, factors)
        return encoding

    def _ranks(self, made: _Decompositions, context: Context) -> dict[str, int]:
        """Choose the rank of each matrix that is to be factored."""
        options = self.options
        shapes = {name: matrix_shape(x.shape) for name, x in made.weights.items()}
        if options.ranks == "uniform":
            ranks = {name: max(1, affordable_rank(*shape, options.ratio)) for name, shape in shapes.items()}
            return {name: rank for name, rank in ranks.items() if saves(rank, *shapes[name])}
        if options.ranks == "stable_rank":
            candidates = by_stable_rank(made.weights, options.candidates)
        else:
            assert context.calibration is not None
            shapes = {name: shape for name, shape in shapes.items() if made.keep(name) is not None}
            candidates = by_loss(context.calibration, shapes, options.candidates, made.lost)
        return search(shapes, candidates, options.ratio)


class _Decompositions:
    """The decompositions of one update's matrices, made when they are asked for.

    Attributes
    ----------
    weights : dict of str to Tensor
        The matrices (o, i) that can be factored.
    notes : dict of str to str
        Why others cannot.
    state : dict of str to Tensor
        What a warm start needs the next time.
    """

    def __init__(self, options: LowRankOptions, weights: Mapping[str, Tensor], context: Context) -> None:
        self._options, self._before = options, context.state
        self._statistics: dict[str, Tensor] = {}
        self._kept: dict[str, Decomposition] = {}
        if options.statistic is not None:
            assert context.calibration is not None
            self._statistics = collect(context.calibration, options.statistic, weights)
        self.weights = {n: x for n, x in weights.items() if options.statistic is None or n in self._statistics}
        self.notes = {name: "no layer of that name saw calibration data" for name in weights if name not in self.weights}
        self.state: dict[str, Tensor] = {}

    def get(self, name: str, rank: int) -> Decomposition | None:
        """Return a decomposition of at least this rank and forget it; None, and a note, if there is none."""
        try:
            if self._options.start == "warm":
                return self._warm(name, rank)
            return self._kept.pop(name, None) or decompose(self.weights[name], self._scale(name), self._options.factorisation)
        except CodecError as error:
            self.notes[name] = str(error)
            return None

    def keep(self, name: str) -> Decomposition | None:
        """Return the decomposition for all ranks, and keep it."""
        if name not in self._kept and (made := self.get(name, 0)) is not None:
            self._kept[name] = made
        return self._kept.get(name)

    def lost(self, name: str, rank: int) -> Tensor:
        """Return what a matrix loses at a rank, (o, i)."""
        left_ok, right_ki = self._kept[name].factors(rank)
        return (self.weights[name].double() - left_ok @ right_ki).float()

    def _scale(self, name: str) -> Tensor | None:
        return self._options.scale(self._statistics[name]) if name in self._statistics else None

    def _warm(self, name: str, rank: int) -> Decomposition:
        weight_oi, scale = self.weights[name], self._scale(name)
        start_ok, cold = self._before.get(f"{name}/left"), self._before.get(f"{name}/lost")
        made = None
        if start_ok is not None and cold is not None and start_ok.shape == (len(weight_oi), rank):
            made, lost = warm(weight_oi, scale, start_ok)
            made = made if lost <= WORSE * float(cold) else None
        if made is None:
            made = decompose(weight_oi, scale, self._options.factorisation)
            whole = float(made.sigma_r.norm())
            cold = torch.tensor(made.lost(rank) / whole if whole else 0.0)
        assert cold is not None
        self.state |= {f"{name}/left": made.left_or[:, :rank].float(), f"{name}/lost": cold}
        return made
