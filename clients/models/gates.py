"""Complementary local training: layers that borrow from the same layer of another modality's tower, by learned gates.

Source: Sun et al., arXiv:2404.12467, section 3.2, and its published code: every linear layer of a block computes
``(W + g W') x + b``, with W' the same layer of the other modality's newest model and a scalar g that starts at 0 in every
round; what is uploaded is W + g W'. Ours: with more modalities than two, ``W + sum_k g_k W'_k``.

Shapes: O = outputs, I = inputs, K = other modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .towers import Tower

Gated = Literal["none", "attention", "mlp", "blocks"]
"""Which layers of a block have gates."""
_LAYERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "attention": ("attention.qkv", "attention.proj"),
    "mlp": ("mlp.up", "mlp.down"),
    "blocks": ("attention.qkv", "attention.proj", "mlp.up", "mlp.down"),
}


def gated_layers(depth: int, gated: Gated) -> list[str]:
    """Return the paths, within a tower, of the linear layers that have gates."""
    return [f"blocks.{block}.{layer}" for block in range(depth) for layer in _LAYERS[gated]]


class Gate(nn.Module):
    """A parametrisation of a weight: itself, and a share of others.

    Parameters
    ----------
    others_KOI : Tensor
        The same layer's weights in other modalities' towers.
    trained : bool
        Whether these are trained too, for as long as they are here.
    """

    def __init__(self, others_KOI: Tensor, trained: bool) -> None:
        super().__init__()
        self.g_K = nn.Parameter(torch.zeros(len(others_KOI)))
        self.others_KOI = nn.Parameter(others_KOI.clone(), requires_grad=trained)

    def forward(self, own_OI: Tensor) -> Tensor:
        """Return the weight that the layer works with."""
        return own_OI + torch.tensordot(self.g_K, self.others_KOI, 1)


def attach(tower: Tower, others: Mapping[str, Tensor], trained: bool) -> list[Gate]:
    """Put gates on layers of a tower.

    Parameters
    ----------
    others : mapping of str to Tensor
        By the layer's path within the tower, weights (K, O, I).
    """
    gates = []
    for path, others_KOI in others.items():
        gates.append(gate := Gate(others_KOI, trained))
        parametrize.register_parametrization(tower.get_submodule(path), "weight", gate)
    return gates


def merge(tower: nn.Module) -> None:
    """Take all gates off; weights stay what the layers worked with."""
    for module in list(tower.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
