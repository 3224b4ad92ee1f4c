"""A smaller KV cache: keys and values of a causal language model through low-rank projections.

Source: Yuan et al., arXiv:2312.05821 (KV cache). With W = A B of rank k, a cache can hold B x, k numbers, in place of W x.
Ours: the ratio is k over the outputs, which is right for grouped queries too (the official code halves a ratio of 0 to 2,
which is only right for square matrices). Here are the weights and the sizes; no cache is implemented. Rotary models must
expand a key before they rotate it, which costs 2 k o operations a cached key at every step.

Shapes: o = outputs of a projection, k = rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..core.errors import SpecError
from .activations import collect, layers
from .asvd import LowRankOptions
from .codec import Calibration
from .lowrank import decompose

PROJECTIONS = ("k_proj.weight", "v_proj.weight")


@dataclass(frozen=True)
class KvReport:
    """What a cache holds of one token, in numbers, with whole and with truncated projections; the ranks, by weight."""

    whole_values: int
    truncated_values: int
    ranks: dict[str, int]


def truncate_projections(calibration: Calibration, options: LowRankOptions) -> tuple[dict[str, Tensor], KvReport]:
    """Return key and value projections of which a cache holds `options.ratio` of the numbers.

    Parameters
    ----------
    calibration : Calibration
        A model whose projections are linear layers named ``k_proj`` and ``v_proj``.
    options : LowRankOptions
        How to scale and factor; its `ratio` is k / o.

    Returns
    -------
    dict of str to Tensor
        Products of the factors, to load in place of the weights.
    KvReport
        The cache's sizes.

    Raises
    ------
    SpecError
        If the model has no such layers.
    CalibrationError, CodecError
        As `collect` and `decompose`.
    """
    weights = projections(calibration.module)
    statistics = collect(calibration, options.statistic, weights) if options.statistic else {}
    ranks = {name: max(1, int(options.ratio * len(weight_oi))) for name, weight_oi in weights.items()}
    truncated = {}
    for name, weight_oi in weights.items():
        scale = options.scale(statistics[name]) if name in statistics else None
        left_ok, right_ki = decompose(weight_oi, scale, options.factorisation).factors(ranks[name], options.fuse)
        truncated[name] = (left_ok @ right_ki).to(weight_oi.dtype)
    return truncated, KvReport(sum(len(weight_oi) for weight_oi in weights.values()), sum(ranks.values()), ranks)


def projections(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights (o, i) of key and value projections, by name.

    Raises
    ------
    SpecError
        If there are none.
    """
    found = {name: layer.weight.detach() for name, layer in layers(module).items() if name.endswith(PROJECTIONS)}
    if not found:
        raise SpecError("the model has no linear layers named k_proj and v_proj, so its cache cannot be made smaller this way")
    return found
