"""Half precision: every number as float16 or bfloat16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import CodecError
from .codec import CodecOptions, Context, Part, Parts, TensorStage, numbers

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class CastOptions(CodecOptions):
    """Half precision: float16 (11 significant bits, at most 65504) or bfloat16 (8 bits, the range of float32)."""

    codec: Literal["fp16", "bf16"]

    def build(self) -> Cast:
        """Make the stage."""
        return Cast(DTYPES[self.codec])


class Cast(TensorStage):
    """Rounds to the nearest number of the smaller dtype."""

    biased: ClassVar = False

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def encode_tensor(self, x: Tensor, context: Context) -> Parts:
        """Round."""
        small = x.to(self.dtype)
        if not bool(small.isfinite().all()):
            raise CodecError(f"{float(x.abs().max()):g} is beyond {self.dtype}'s range; choose codec = 'bf16'")
        return Parts({}, (small,))

    def layout(self, meta: Mapping[str, int], shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Tell of one array of the tensor's shape."""
        numbers(meta)
        return (Part(shape, self.dtype),)

    def decode(self, meta: Mapping[str, int], tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Widen."""
        return tensors[0].float()
