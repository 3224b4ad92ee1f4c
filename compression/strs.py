"""Ranks of all layers under one budget, by how sensitive each layer is: ASVD's truncation rank search.

Source: Yuan et al., arXiv:2312.05821, and the published code. Layers are truncated one at a time to each candidate ratio;
all (layer, ratio) pairs are sorted by sensitivity, worst first; a cut is chosen, and every layer gets the smallest ratio
that stands after the cut, or stays whole. Ours: a budget in numbers that really travel, k (o + i), not ratio x size; the
best cut that meets it, where the code takes the last one it tried; what the cut leaves over goes to the layer at the cut.
Perplexity is the exponential of the mean loss, so it ranks pairs as the loss does; the loss is used, for it does not
overflow.

Shapes: o = outputs, i = inputs, k = rank.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import CalibrationError, CodecError
from .activations import evaluating
from .codec import Calibration
from .lowrank import affordable_rank, saves

Shapes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Candidate:
    """One layer at one rank.

    Attributes
    ----------
    sensitivity : float
        How bad the model gets; only the order counts.
    """

    layer: str
    rank: int
    sensitivity: float


def candidate_ranks(outputs: int, inputs: int, ratios: Iterable[float]) -> list[int]:
    """Return the ranks that the ratios afford, ascending, without those that save nothing."""
    ranks = {affordable_rank(outputs, inputs, ratio) for ratio in ratios}
    return sorted(rank for rank in ranks if rank >= 1 and saves(rank, outputs, inputs))


def search(shapes: Shapes, candidates: Sequence[Candidate], ratio: float) -> dict[str, int]:
    """Choose ranks for layers so that what travels of them is at most `ratio` of their numbers.

    Parameters
    ----------
    shapes : mapping of str to (int, int)
        Outputs and inputs of every layer.
    candidates : sequence of Candidate
        In any order.
    ratio : float
        The target, over all of `shapes`.

    Returns
    -------
    dict of str to int
        Ranks; layers that are not in it stay whole.

    Raises
    ------
    CodecError
        If even the smallest candidates exceed the target; names the ratio that they reach.
    """
    ordered = sorted(candidates, key=lambda c: (-c.sensitivity, c.layer, c.rank))
    total = sum(outputs * inputs for outputs, inputs in shapes.values())
    costs = [cost(shapes, chosen) for chosen in _cuts(ordered)]
    budget = ratio * total
    if costs[0] > budget:
        raise CodecError(
            f"ratio = {ratio}: the smallest candidates reach {costs[0] / total:.4f}; choose that, or smaller candidates"
        )
    cut = bisect_right(costs, budget) - 1
    ranks = _after(ordered, cut)
    if cut < len(ordered):  # the next cut would take this layer's rank away, and exceed the budget: so this one is below that
        layer = ordered[cut].layer
        ranks[layer] += int(budget - costs[cut]) // sum(shapes[layer])
    return ranks


def cost(shapes: Shapes, ranks: Mapping[str, int]) -> int:
    """Return how many numbers travel of all layers."""
    return sum(ranks[name] * (o + i) if name in ranks else o * i for name, (o, i) in shapes.items())


def _after(ordered: Sequence[Candidate], cut: int) -> dict[str, int]:
    """Return the smallest rank of each layer among the candidates from `cut` on."""
    ranks: dict[str, int] = {}
    for candidate in ordered[cut:]:
        ranks[candidate.layer] = min(candidate.rank, ranks.get(candidate.layer, candidate.rank))
    return ranks


def _cuts(ordered: Sequence[Candidate]) -> Iterable[dict[str, int]]:
    """Yield what each cut leaves, from the first, where every layer is at its smallest, to the last, where all are whole."""
    return (_after(ordered, cut) for cut in range(len(ordered) + 1))


def by_stable_rank(weights: Mapping[str, Tensor], ratios: Iterable[float]) -> list[Candidate]:
    """Rank layers without data: the sensitivity is -sqrt(|W|_F^2 / sigma_max^2) ratio^0.1, as in ASVD's code, of W unscaled."""
    candidates = []
    for name, weight_oi in weights.items():
        small_oi = weight_oi if len(weight_oi) <= weight_oi.shape[1] else weight_oi.T
        strongest = float(torch.linalg.eigvalsh((small_oi @ small_oi.T).double())[-1])
        root = (float(weight_oi.double().square().sum()) / strongest) ** 0.5 if strongest > 0 else 1.0
        o, i = weight_oi.shape
        candidates += [Candidate(name, k, -root * (k * (o + i) / (o * i)) ** 0.1) for k in candidate_ranks(o, i, ratios)]
    return candidates


def by_loss(
    calibration: Calibration,
    shapes: Shapes,
    ratios: Sequence[float],
    truncated: Callable[[str, int], Tensor],
) -> list[Candidate]:
    """Rank layers by the calibration loss with that layer alone truncated: one pass over the batches a candidate.

    Parameters
    ----------
    truncated : callable
        Takes a layer and a rank to what its weight (o, i) loses.

    Raises
    ------
    CalibrationError
        If the model lacks a layer, or as `mean_loss`.
    """
    parameters = dict(calibration.module.named_parameters())
    if unknown := [name for name in shapes if name not in parameters]:
        raise CalibrationError(f"calibration: the model has no parameter {unknown[0]!r}, which the update has")
    candidates = []
    for name, (outputs, inputs) in shapes.items():
        for rank in candidate_ranks(outputs, inputs, ratios):
            with _without(parameters[name], truncated(name, rank)):
                candidates.append(Candidate(name, rank, mean_loss(calibration)))
    return candidates


@contextmanager
def _without(parameter: Tensor, lost_oi: Tensor) -> Iterator[None]:
    """Take something away from a parameter for a while."""
    before = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.sub_(lost_oi.reshape(parameter.shape))
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(before)


def mean_loss(calibration: Calibration) -> float:
    """Return the mean of the loss over the calibration batches.

    Raises
    ------
    CalibrationError
        If there is no loss, there are no batches, or it is not finite.
    """
    if calibration.loss is None or not calibration.batches:
        raise CalibrationError("calibration: sensitivities by loss need a loss and at least one batch")
    with torch.no_grad(), evaluating(calibration.module):
        mean = sum(float(calibration.loss(calibration.module, batch)) for batch in calibration.batches) / len(
            calibration.batches
        )
    if not mean < float("inf"):
        raise CalibrationError(f"calibration: the loss is {mean}")
    return mean
