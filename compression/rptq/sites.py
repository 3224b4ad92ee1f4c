"""The quantisers of one block's sites, from what was seen there.

Source: RPTQ's published code. R1 and R4 cluster what a normalisation gives, R2 queries and keys by their joint ranges, R3 the
context (values have its labels), R5 the MLP's hidden layer; R2 and R3 within a head. Ours: with grouped queries a key and
value head has the widest ranges of the query heads that share it; queries and keys of rotary models are clustered before they
are rotated, so a cache holds keys that are rotated when they are read.

Shapes: t = tokens, c = channels, h = key and value heads, x = channels of a head, f = features.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ...core.errors import CalibrationError
from .blocks import Block, Rows, SiteKind
from .clusters import cluster_heads
from .quantiser import Quantiser, TokenQuantiser, cluster_ids, grid
from .ranges import extremes, ranges
from .recipe import Recipe

End = tuple[str, str]
"""A layer, and ``"in"`` or ``"out"``: its inputs or its outputs."""
KINDS: tuple[SiteKind, ...] = ("attention_in", "q", "k", "v", "context", "mlp_in", "hidden")


def ends(block: Block) -> dict[SiteKind, tuple[End, ...]]:
    """Return where each site's quantiser acts."""
    read: dict[SiteKind, tuple[End, ...]] = {
        kind: tuple((layer, "in") for layer in layers) for kind, layers in block.readers.items()
    }
    return read | {"q": ((block.q.layer, "out"),), "k": ((block.k.layer, "out"),), "v": ((block.v.layer, "out"),)}


def observed(block: Block, seen: Mapping[End, Tensor]) -> dict[SiteKind, Tensor]:
    """Cut what was seen at the ends of layers into sites, shapes (t, c).

    Raises
    ------
    CalibrationError
        If a value is not finite.
    """
    rows: dict[SiteKind, Rows] = {"q": block.q, "k": block.k, "v": block.v}
    found = {}
    for kind, where in ends(block).items():
        x_tc = seen[where[0]]
        if kind in rows:
            x_tc = x_tc[:, rows[kind].first : rows[kind].first + rows[kind].count]
        if not bool(x_tc.isfinite().all()):
            raise CalibrationError(f"calibration: {kind} of {block.name!r} holds NaN or infinity")
        found[kind] = x_tc
    return found


def labels(
    block: Block, seen: Mapping[SiteKind, Tensor], recipe: Recipe, wanted: Collection[SiteKind]
) -> dict[SiteKind, Tensor]:
    """Label the channels of the wanted sites, within heads where a site has heads."""
    if recipe.granularity in ("tensor", "channel"):
        return {kind: _flat(seen[kind].shape[1], recipe) for kind in wanted}
    r1, r2, r3, r4, r5 = recipe.clusters
    found = {}
    if {"q", "k"} & set(wanted):
        q_c2, k_c2 = _shared(extremes(seen["q"]), block), extremes(seen["k"])
        joint_c4 = torch.stack([q_c2[:, 0], k_c2[:, 0], q_c2[:, 1], k_c2[:, 1]], 1)
        found["k"] = cluster_heads(joint_c4, block.kv_heads, r2)
        found["q"] = for_query_heads(found["k"], block)
    if {"v", "context"} & set(wanted):
        found["v"] = cluster_heads(_shared(extremes(seen["context"]), block), block.kv_heads, r3)
        found["context"] = for_query_heads(found["v"], block)
    for kind, clusters in (("attention_in", r1), ("mlp_in", r4), ("hidden", r5)):
        if kind in wanted:
            found[kind] = cluster_heads(extremes(seen[kind]), 1, clusters)
    return found


def heads_of(kind: SiteKind, block: Block, recipe: Recipe) -> int:
    """Return in how many scopes a site's clusters are numbered."""
    if recipe.granularity != "cluster":
        return 1
    scopes: dict[SiteKind, int] = {"q": block.heads, "context": block.heads, "k": block.kv_heads, "v": block.kv_heads}
    return scopes.get(kind, 1)


def for_query_heads(labels_c: Tensor, block: Block) -> Tensor:
    """Repeat the labels of key and value heads for the query heads that share them."""
    return labels_c.reshape(block.kv_heads, -1).repeat_interleave(block.heads // block.kv_heads, 0).flatten()


def _shared(features_c2: Tensor, block: Block) -> Tensor:
    """Reduce features of query heads to the widest of those that share a key and value head."""
    grouped_hgx2 = features_c2.reshape(block.kv_heads, block.heads // block.kv_heads, -1, 2)
    return torch.stack([grouped_hgx2[..., 0].amax(1).flatten(), grouped_hgx2[..., 1].amin(1).flatten()], 1)


def _flat(channels: int, recipe: Recipe) -> Tensor:
    return torch.arange(channels) if recipe.granularity == "channel" else torch.zeros(channels, dtype=torch.int64)


def quantisers(
    block: Block, seen: Mapping[SiteKind, Tensor], recipe: Recipe, tokens_a_sample: int
) -> dict[End, Quantiser | TokenQuantiser]:
    """Return the quantisers of a block, by where they act; sites of 16 bits have none."""
    bits = {kind: recipe.activation_bits(kind) for kind in KINDS}
    made: dict[SiteKind, Quantiser | TokenQuantiser] = {}
    if all(width == 16 for width in bits.values()):
        return {}
    if recipe.granularity == "token":
        made = {kind: TokenQuantiser(bits[kind]) for kind in KINDS if bits[kind] < 16}
    else:
        wanted = [kind for kind in KINDS if bits[kind] < 16]
        labels_of = labels(block, seen, recipe, wanted)
        for kind in wanted:
            heads = heads_of(kind, block, recipe)
            made[kind] = _quantiser(seen[kind], labels_of[kind], heads, bits[kind], recipe, tokens_a_sample)
    if block.q.layer == block.k.layer:
        return _fused(block, made)
    return {end: made[kind] for kind, where in ends(block).items() if kind in made for end in where}


def _quantiser(x_tc: Tensor, labels_c: Tensor, heads: int, bits: int, recipe: Recipe, tokens_a_sample: int) -> Quantiser:
    clusters = int(labels_c.max()) + 1
    ids_c = cluster_ids(labels_c, heads, clusters)
    low, high = ranges(x_tc, ids_c, recipe.ranges, bits, tokens_a_sample, recipe.percentile)
    missing = heads * clusters - len(low)  # the last head may have fewer clusters than another one
    low, high = (torch.cat([x, x.new_zeros(missing)]) for x in (low, high))
    scale, zero = grid(low, high, bits)
    return Quantiser(labels_c, heads, scale.reshape(heads, clusters), zero.reshape(heads, clusters), bits)


def _fused(block: Block, made: Mapping[SiteKind, Quantiser | TokenQuantiser]) -> dict[End, Quantiser | TokenQuantiser]:
    """Put the quantisers of queries, keys and values together where one layer gives all three."""
    placed: dict[End, Quantiser | TokenQuantiser] = {}
    for kind, where in ends(block).items():
        if kind in made and kind not in ("q", "k", "v"):
            placed |= dict.fromkeys(where, made[kind])
    outputs: list[tuple[SiteKind, Rows]] = [("q", block.q), ("k", block.k), ("v", block.v)]
    parts = [(rows, made[kind]) for kind, rows in outputs if kind in made]
    if parts:
        first = parts[0][0].first
        placed[block.q.layer, "out"] = _joined([part for _, part in parts], first, [rows.count for rows, _ in parts])
    return placed


def _joined(parts: list[Quantiser | TokenQuantiser], first: int, counts: list[int]) -> Quantiser | TokenQuantiser:
    if isinstance(parts[0], TokenQuantiser):
        return TokenQuantiser(parts[0].bits, first, len(counts))
    plain = [part for part in parts if isinstance(part, Quantiser)]
    most = max(part.scale_hk.shape[1] for part in plain)
    scale = torch.cat([_padded(part.scale_hk, most, 1.0) for part in plain])
    zero = torch.cat([_padded(part.zero_hk, most, 0.0) for part in plain])
    return Quantiser(torch.cat([part.labels_c for part in plain]), len(scale), scale, zero, plain[0].bits, first)


def _padded(x_hk: Tensor, clusters: int, value: float) -> Tensor:
    return torch.nn.functional.pad(x_hk, (0, clusters - x_hk.shape[1]), value=value)
