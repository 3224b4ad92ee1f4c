"""QSGD: stochastic rounding that is right on average; and FedPAQ, which is QSGD on clients' deltas.

Source: Alistarh et al., arXiv:1610.02132: Q(v) = |v|_2 sgn(v) l / s with l one of the two integers beside s |v_i| / |v|_2,
drawn so that the mean is v_i, and norms of buckets. Reisizadeh et al., arXiv:1909.13014 (FedPAQ) quantises local models'
deltas so, between rounds of several local steps and partial participation, which the engine has anyway. Ours: fixed-width
codes in place of Elias coding.

Shapes: B = buckets, D = values in a bucket, N = values of the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as F

from .codec import CodecOptions, Context, Part, Parts, TensorStage, numbers
from .packing import pack, packed_bytes
from .rows import unpacked


class StochasticOptions(CodecOptions):
    """What QSGD and FedPAQ accept."""

    bits: Annotated[int, Ge(2), Le(8)] = 4
    """Of a code: a sign and 2^(bits-1) - 1 levels above 0."""
    bucket: Annotated[int, Ge(1)] = 512
    """Values that share a norm; the error grows with its root."""

    def build(self) -> Qsgd:
        """Make the stage."""
        return Qsgd(self.bits, self.bucket)


class QsgdOptions(StochasticOptions):
    """Stochastic rounding to a few levels of the norm, unbiased."""

    codec: Literal["qsgd"] = "qsgd"


class FedPaqOptions(StochasticOptions):
    """FedPAQ: QSGD on what local training changed."""

    targets: ClassVar = frozenset({"delta"})
    codec: Literal["fedpaq"] = "fedpaq"


class Qsgd(TensorStage):
    """Rounds up or down at random."""

    randomised: ClassVar = True
    biased: ClassVar = False
    contracts: ClassVar = False

    def __init__(self, bits: int, bucket: int) -> None:
        self.bits, self.bucket, self.levels = bits, bucket, 2 ** (bits - 1) - 1

    def encode_tensor(self, x: Tensor, context: Context) -> Parts:
        """Draw a level for each value."""
        x_BD = F.pad(x.reshape(-1), (0, -x.numel() % self.bucket)).reshape(-1, self.bucket)
        norm_B1 = x_BD.norm(dim=1, keepdim=True)
        exact_BD = (x_BD.abs() * self.levels / norm_B1).nan_to_num_()  # a bucket of zeros has norm 0
        level_BD = (exact_BD + torch.rand(exact_BD.shape, generator=context.generator)).floor_().clamp_(max=self.levels)
        codes_N = (x_BD.sign() * level_BD + self.levels).to(torch.uint8).reshape(-1)[: x.numel()]
        return Parts({}, (norm_B1[:, 0], torch.from_numpy(pack(codes_N.numpy(), self.bits))))

    def layout(self, meta: Mapping[str, int], shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Tell of norms and packed codes."""
        numbers(meta)
        count = torch.Size(shape).numel()
        return Part((-(-count // self.bucket),)), Part((packed_bytes(count, self.bits),), torch.uint8)

    def decode(self, meta: Mapping[str, int], tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Multiply levels by norms."""
        norm_B, packed = tensors
        count = torch.Size(shape).numel()
        codes_N = unpacked(packed, self.bits, count, 2 * self.levels)
        level_BD = F.pad(codes_N.float() - self.levels, (0, -count % self.bucket)).reshape(-1, self.bucket)
        return (level_BD * (norm_B[:, None] / self.levels)).reshape(-1)[:count].reshape(shape)
