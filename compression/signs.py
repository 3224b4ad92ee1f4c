"""One bit a value: the sign, and one magnitude a tensor.

Source: Karimireddy et al., arXiv:1901.09847 (EF-signSGD): C(v) = |v|_1 / N sgn(v), which converges because what it loses is
added to the next update; error feedback is therefore on unless the spec turns it off. The sign of 0 is positive.

Shapes: N = values of the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .codec import CodecOptions, Context, Part, Parts, TensorStage, numbers
from .packing import pack, packed_bytes
from .rows import unpacked


class SignOptions(CodecOptions):
    """The sign of each value and their mean magnitude."""

    targets: ClassVar = frozenset({"delta"})
    codec: Literal["signsgd"] = "signsgd"

    def build(self) -> Signs:
        """Make the stage."""
        return Signs()


class Signs(TensorStage):
    """Keeps signs."""

    def encode_tensor(self, x: Tensor, context: Context) -> Parts:
        """Take signs and the mean magnitude."""
        codes_N = (x.reshape(-1) >= 0).to(torch.uint8)
        return Parts({}, (x.abs().mean().reshape(1), torch.from_numpy(pack(codes_N.numpy(), 1))))

    def layout(self, meta: Mapping[str, int], shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Tell of one magnitude and packed signs."""
        numbers(meta)
        return Part((1,)), Part((packed_bytes(torch.Size(shape).numel(), 1),), torch.uint8)

    def decode(self, meta: Mapping[str, int], tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Multiply signs by the magnitude."""
        magnitude, packed = tensors
        codes_N = unpacked(packed, 1, torch.Size(shape).numel(), 1)
        return ((2 * codes_N.float() - 1) * magnitude).reshape(shape)
