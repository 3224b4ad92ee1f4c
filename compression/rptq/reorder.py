"""Put the channels of each cluster side by side in the weights themselves, as RPTQ does for integer matrix products.

Source: RPTQ's published code for OPT. R1 and R4: a normalisation writes its channels in the new order, and the columns of the
layers that read it follow. R2, R3 and R5: rows of one layer and columns (for R2 rows) of the next follow each other. Nothing
is permuted on the residual stream. Ours: where a normalised value is the residual itself (post-LN) the branch gathers;
rotated queries and keys, and blocks with something between keys and attention, keep the model's order at R2 and R3, where
quantisers act by label, which gives the same numbers.

Outputs do not change, whatever the labels are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .blocks import Block, Rows, SiteKind, weight_oi
from .clusters import permutation


@torch.no_grad()
def reorder(module: nn.Module, block: Block, labels: Mapping[SiteKind, Tensor]) -> dict[SiteKind, Tensor]:
    """Reorder one block in place.

    Parameters
    ----------
    module : Module
        The model.
    labels : mapping of str to Tensor
        Labels of channels by site, as `sites.labels` gives them; sites that are not there keep their order. Of `q`, `k`, `v`
        and `context` two and two go together.

    Returns
    -------
    dict
        The order of each site's channels that has been changed: where the channel now at a place was before.
    """
    done: dict[SiteKind, Tensor] = {}
    for number, kind in enumerate(("attention_in", "mlp_in")):
        if kind in labels:
            done[kind] = order_c = permutation(labels[kind], 1)
            for layer in block.readers[kind]:
                _columns(module, layer, order_c)
            if block.norms:
                _gather_outputs(module.get_submodule(block.norms[number]), order_c)
            else:
                for layer in block.readers[kind]:
                    _gather_inputs(module.get_submodule(layer), order_c)
    if "q" in labels and "k" in labels and block.reorderable and not block.rotary:
        for kind, rows, heads in (("q", block.q, block.heads), ("k", block.k, block.kv_heads)):
            done[kind] = order_c = permutation(labels[kind], heads)
            _rows(module, rows, order_c)
    if "v" in labels and "context" in labels and block.reorderable:
        done["v"], done["context"] = permutation(labels["v"], block.kv_heads), permutation(labels["context"], block.heads)
        _rows(module, block.v, done["v"])
        _columns(module, block.out, done["context"])
    if "hidden" in labels:
        done["hidden"] = order_c = permutation(labels["hidden"], 1)
        for layer in block.up:
            _rows(module, Rows(layer, 0, len(order_c)), order_c)
        _columns(module, block.down, order_c)
    return done


def _columns(module: nn.Module, layer: str, order_c: Tensor) -> None:
    weight = weight_oi(module.get_submodule(layer))
    weight.copy_(weight[:, order_c])


def _rows(module: nn.Module, rows: Rows, order_c: Tensor) -> None:
    layer, inside = module.get_submodule(rows.layer), slice(rows.first, rows.first + rows.count)
    for x in (weight_oi(layer), layer.bias):
        if x is not None:
            assert isinstance(x, Tensor)
            x[inside] = x[inside][order_c]


def _gather_outputs(norm: nn.Module, order_c: Tensor) -> None:
    """Let a normalisation write its channels in the new order."""
    norm.register_forward_hook(lambda _, args, output: output[..., order_c])


def _gather_inputs(layer: nn.Module, order_c: Tensor) -> None:
    """Let a layer read its inputs in the new order."""
    layer.register_forward_pre_hook(lambda _, args: (args[0][..., order_c], *args[1:]))
