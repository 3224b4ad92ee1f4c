"""A few values of each tensor: the largest (top-k), or a random choice (random-k).

Source: Stich et al., arXiv:1809.07599. Random-k's values are multiplied by N / k, which makes it right on average (as in
Konecny et al., arXiv:1610.05492). Ours: top-k's positions travel as a bitmap where that is smaller than 32-bit indices;
random-k's do not travel, for they follow from a seed.

Shapes: N = values of the tensor, k = values kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from ..core.errors import PayloadError
from .codec import CodecOptions, Context, Part, Parts, Stage, TensorStage, numbers
from .packing import pack, packed_bytes
from .rows import unpacked

Share = Annotated[float, Gt(0), Lt(1)]


class TopKOptions(CodecOptions):
    """The values of largest magnitude, and where they are."""

    codec: Literal["topk"] = "topk"
    keep: Share = 0.1
    """Share of each tensor's values."""

    def build(self) -> Stage:
        """Make the stage."""
        return TopK(self.keep)


class RandomKOptions(CodecOptions):
    """Values at random places, unbiased, and the seed of the places."""

    targets: ClassVar = frozenset({"delta"})
    codec: Literal["randomk"] = "randomk"
    keep: Share = 0.1
    """Share of each tensor's values."""

    def build(self) -> Stage:
        """Make the stage."""
        return RandomK(self.keep)


class TopK(TensorStage):
    """Keeps the largest."""

    terminal: ClassVar = False
    nonlinear_because: ClassVar = "clients keep values at different places"

    def __init__(self, keep: float) -> None:
        self.keep = keep

    def encode_tensor(self, x: Tensor, context: Context) -> Parts:
        """Pick, and tell where from."""
        x_N = x.reshape(-1)
        kept = math.ceil(self.keep * len(x_N))
        places_k = x_N.abs().topk(kept).indices.sort().values
        if not _as_bitmap(kept, len(x_N)):
            return Parts({"kept": kept}, (x_N[places_k], places_k.int()))
        bitmap_N = torch.zeros(len(x_N), dtype=torch.uint8)
        bitmap_N[places_k] = 1
        return Parts({"kept": kept}, (x_N[places_k], torch.from_numpy(pack(bitmap_N.numpy(), 1))))

    def layout(self, meta: Mapping[str, int], shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Tell of values and of a bitmap or indices."""
        count = math.prod(shape)
        (kept,) = numbers(meta, kept=(1, count))
        bitmap = Part((packed_bytes(count, 1),), torch.uint8)
        return Part((kept,)), bitmap if _as_bitmap(kept, count) else Part((kept,), torch.int32)

    def decode(self, meta: Mapping[str, int], tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Put values where they belong, and 0 elsewhere."""
        values_k, where = tensors
        count = math.prod(shape)
        places_k = where.long()
        if where.dtype == torch.uint8:
            places_k = unpacked(where, 1, count, 1).nonzero().flatten()
            if len(places_k) != len(values_k):
                raise PayloadError(f"a bitmap has {len(places_k)} places for {len(values_k)} values")
        elif bool((places_k.diff() <= 0).any()) or int(places_k[0]) < 0 or int(places_k[-1]) >= count:
            raise PayloadError(f"places of values are not ascending, or not from 0 to {count - 1}")
        x_N = torch.zeros(count)
        x_N[places_k] = values_k
        return x_N.reshape(shape)


class RandomK(TensorStage):
    """Keeps values at places that a seed gives: the same for all clients whose generators are equal."""

    terminal: ClassVar = False
    randomised: ClassVar = True
    biased: ClassVar = False
    contracts: ClassVar = False
    nonlinear_because: ClassVar = ""

    def __init__(self, keep: float) -> None:
        self.keep = keep

    def encode_tensor(self, x: Tensor, context: Context) -> Parts:
        """Draw a seed, and pick."""
        x_N = x.reshape(-1)
        kept = math.ceil(self.keep * len(x_N))
        seed = int(torch.randint(2**63 - 1, (), generator=context.generator))
        return Parts({"kept": kept, "seed": seed}, (x_N[_places(seed, kept, len(x_N))] * (len(x_N) / kept),))

    def layout(self, meta: Mapping[str, int], shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Tell of values."""
        kept, _ = numbers(meta, kept=(1, math.prod(shape)), seed=(0, 2**63 - 1))
        return (Part((kept,)),)

    def decode(self, meta: Mapping[str, int], tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Put values where they were, and 0 elsewhere."""
        x_N = torch.zeros(math.prod(shape))
        x_N[_places(meta["seed"], meta["kept"], len(x_N))] = tensors[0]
        return x_N.reshape(shape)


def _as_bitmap(kept: int, count: int) -> bool:
    return packed_bytes(count, 1) <= 4 * kept or count > 2**31


def _places(seed: int, kept: int, count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:kept]
