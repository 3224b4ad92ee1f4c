"""Integers with one scale a row: int8, int4.

Symmetric rounding to nearest, scale = largest magnitude of the row over 2^(bits-1) - 1; a row is what belongs to one
output, and a vector is one row. Scales are float32, for those of deltas can lie below float16's range.

Shapes: R = rows, C = columns, N = R x C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import PayloadError
from .codec import CodecOptions, Context, Part, Parts, TensorStage, matrix, matrix_shape, numbers
from .packing import pack, packed_bytes, unpack

BITS = {"int8": 8, "int4": 4}


class RowOptions(CodecOptions):
    """Integers of 8 or 4 bits with one scale a row."""

    codec: Literal["int8", "int4"]

    def build(self) -> Rows:
        """Make the stage."""
        return Rows(BITS[self.codec])


class Rows(TensorStage):
    """Rounds to multiples of a row's scale."""

    biased: ClassVar = True

    def __init__(self, bits: int) -> None:
        self.bits, self.most = bits, 2 ** (bits - 1) - 1

    def encode_tensor(self, x: Tensor, context: Context) -> Parts:
        """Round, and pack what was rounded, shifted to be positive."""
        x_RC = matrix(x)
        scale_R1 = x_RC.abs().amax(1, keepdim=True) / self.most
        steps_RC = (x_RC / scale_R1).nan_to_num_().round_().clamp_(-self.most, self.most)  # a row of zeros has scale 0
        codes_N = (steps_RC + self.most).to(torch.uint8).reshape(-1)
        return Parts({}, (scale_R1[:, 0], torch.from_numpy(pack(codes_N.numpy(), self.bits))))

    def layout(self, meta: Mapping[str, int], shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Tell of scales and packed codes."""
        numbers(meta)
        rows, columns = matrix_shape(shape)
        return Part((rows,)), Part((packed_bytes(rows * columns, self.bits),), torch.uint8)

    def decode(self, meta: Mapping[str, int], tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Multiply steps by scales."""
        scale_R, packed = tensors
        rows, columns = matrix_shape(shape)
        codes_N = unpacked(packed, self.bits, rows * columns, 2 * self.most)
        return ((codes_N.reshape(rows, columns).float() - self.most) * scale_R[:, None]).reshape(shape)


def unpacked(packed: Tensor, bits: int, count: int, most: int) -> Tensor:
    """Unpack codes that came from a stranger.

    Parameters
    ----------
    most : int
        The greatest code that an encoder writes.

    Raises
    ------
    PayloadError
        If there is a greater one, or bits that belong to none.
    """
    try:
        codes_N = torch.from_numpy(unpack(packed.numpy(), bits, count))
    except ValueError as error:
        raise PayloadError(str(error)) from None
    if count and int(codes_N.max()) > most:
        raise PayloadError(f"a code is {int(codes_N.max())}; the greatest of this codec is {most}")
    return codes_N
