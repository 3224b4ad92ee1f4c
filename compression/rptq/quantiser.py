"""Quantisers of activations: what a device with integer activations would compute, in floating point.

An asymmetric quantiser of b bits represents 2^b values from low to high, 0 among them: scale (high - low) / (2^b - 1), zero
round(-low / scale). Channels of a cluster share one.

Shapes: c = channels, k = clusters; activations have channels last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero of ranges, which are widened to include 0; where a range is 0 the scale is 1."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale >= torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))
    return scale, (-low / scale).round().clamp(0, 2**bits - 1)


@dataclass(frozen=True)
class Quantiser:
    """Rounds channels with the scale and zero of their cluster.

    Attributes
    ----------
    labels_c : Tensor of int64
        Each channel's cluster, within its head.
    heads : int
        Scopes in which clusters are numbered apart; their channels are consecutive. 1 where all channels are one scope.
    scale_hk, zero_hk : Tensor, shape (heads, clusters)
    bits : int
    first : int
        Channels before it are left as they are.
    """

    labels_c: Tensor
    heads: int
    scale_hk: Tensor
    zero_hk: Tensor
    bits: int
    first: int = 0

    @property
    def ids_c(self) -> Tensor:
        """Each channel's cluster among those of all heads."""
        return cluster_ids(self.labels_c, self.heads, self.scale_hk.shape[1])

    def codes(self, x: Tensor) -> Tensor:
        """Return the integers, 0 to 2^bits - 1, that stand for the channels from `first` on."""
        scale_c, zero_c = self.scale_hk.flatten()[self.ids_c], self.zero_hk.flatten()[self.ids_c]
        return ((x[..., self.first :] / scale_c).round() + zero_c).clamp(0, 2**self.bits - 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Return activations as they are after quantisation."""
        scale_c, zero_c = self.scale_hk.flatten()[self.ids_c], self.zero_hk.flatten()[self.ids_c]
        rounded = ((self.codes(x) - zero_c) * scale_c).to(x.dtype)
        return torch.cat([x[..., : self.first], rounded], -1) if self.first else rounded


def cluster_ids(labels_c: Tensor, heads: int, clusters: int) -> Tensor:
    """Number clusters through all heads."""
    return labels_c + clusters * torch.arange(heads).repeat_interleave(len(labels_c) // heads)


@dataclass(frozen=True)
class TokenQuantiser:
    """Rounds each token with the scale and zero of its own range, found at every call.

    Attributes
    ----------
    bits : int
    first : int
        Channels before it are left as they are.
    parts : int
        Equal parts of the other channels that have ranges of their own: queries, keys and values of one layer.
    """

    bits: int
    first: int = 0
    parts: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """Return activations as they are after quantisation."""
        return torch.cat([x[..., : self.first], *map(self._rounded, x[..., self.first :].chunk(self.parts, -1))], -1)

    def _rounded(self, x: Tensor) -> Tensor:
        scale, zero = grid(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), self.bits)
        return (((x / scale).round() + zero).clamp(0, 2**self.bits - 1) - zero) * scale


@dataclass(frozen=True)
class Smoothed:
    """Rounds channels divided by `scale_c`, as if they had been made so small (SmoothQuant, arXiv:2211.10438)."""

    scale_c: Tensor
    inner: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Return activations as they are after quantisation."""
        return self.inner(x / self.scale_c) * self.scale_c


class RoundedSoftmax(TorchFunctionMode):
    """Rounds what any softmax gives while it is active to multiples of 1 / (2^bits - 1), as RPTQ's code does."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.steps = 2**bits - 1

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, and round its result if it is a softmax."""
        result = func(*args, **(kwargs or {}))
        return (result * self.steps).round() / self.steps if func in (F.softmax, torch.softmax, Tensor.softmax) else result
