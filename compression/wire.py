"""The format of an encoded update: one little-endian blob that a receiver can check before it believes any of it.

    magic "FCSM" | u16 version | u32 header bytes | u64 body bytes | u32 CRC-32 of the header | u32 CRC-32 of the body
    header: canonical JSON (sorted keys, no spaces, ASCII)
    body: arrays, one after the other, C order

The header tells what each tensor is and how it was encoded; it never tells where an array lies or how many bytes it takes.
Those follow from the shapes that the receiver expects, so there are no offsets to check and nothing to allocate on trust.
Checksums find accidents. Against a sender who means harm the checks of structure stand, and what they let through is at worst
a finite update of the expected layout.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import PayloadError

MAGIC, VERSION = b"FCSM", 1
PREFIX = struct.Struct("<4sHIQII")
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""What a receiver expects of an update: shape and dtype by name."""

DTYPES = {
    torch.float16: "<f2",
    torch.bfloat16: "<i2",  # NumPy has none: the same bits
    torch.float32: "<f4",
    torch.float64: "<f8",
    torch.uint8: "|u1",
    torch.int8: "|i1",
    torch.int16: "<i2",
    torch.int32: "<i4",
    torch.int64: "<i8",
    torch.bool: "|b1",
}
"""The dtypes that may travel."""


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name on the wire: ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return what a receiver of these tensors may expect."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def dense_bytes(expected: Layout) -> int:
    """Return what an update takes uncompressed, numbers alone."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in expected.values())


class Base:
    """The tensors that a delta is relative to; sender and receiver must have the same.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Must not be changed afterwards, for the fingerprint is computed once.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {name: tensor.detach() for name, tensor in tensors.items()}

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE2b over names, dtypes, shapes and numbers, 32 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name}\0{dtype_name(tensor.dtype)}\0{list(tensor.shape)}\0".encode())
            digest.update(array_bytes(tensor))
        return digest.hexdigest()


def array_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's numbers as they travel."""
    plain = tensor.detach().contiguous().reshape(-1)
    if tensor.dtype == torch.bfloat16:
        plain = plain.view(torch.int16)
    return np.asarray(plain.numpy(), DTYPES[tensor.dtype]).view(np.uint8).data


def seal(header: Mapping[str, Any], arrays: list[Tensor]) -> bytes:
    """Put a header and the arrays of the body into one blob; the same input gives the same bytes."""
    head = _canonical(header)
    body = b"".join(array_bytes(array) for array in arrays)
    return PREFIX.pack(MAGIC, VERSION, len(head), len(body), zlib.crc32(head), zlib.crc32(body)) + head + body


def open_sealed(blob: bytes | memoryview, most_header_bytes: int) -> tuple[dict[str, Any], Body]:
    """Check a blob's frame and return its header, of which nothing else has been checked, and its body.

    Parameters
    ----------
    most_header_bytes : int
        A longer header is refused before it is parsed.

    Raises
    ------
    PayloadError
        If the blob is not one that `seal` wrote, whole and unchanged, with a header of at most that many bytes.
    """
    data = memoryview(blob)
    if len(data) < PREFIX.size:
        raise PayloadError(f"the payload has {len(data)} bytes; its frame alone takes {PREFIX.size}")
    magic, version, head_bytes, body_bytes, head_crc, body_crc = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise PayloadError(f"the payload starts with {magic!r}, not {MAGIC!r}: it is not an encoded update")
    if version != VERSION:
        raise PayloadError(f"the payload has format version {version}; this receiver reads version {VERSION}")
    if PREFIX.size + head_bytes + body_bytes != len(data):
        raise PayloadError(f"the payload has {len(data)} bytes; it declares {PREFIX.size + head_bytes + body_bytes}")
    if head_bytes > most_header_bytes:
        raise PayloadError(f"the header has {head_bytes} bytes; at most {most_header_bytes} are taken for this model")
    head, body = bytes(data[PREFIX.size : PREFIX.size + head_bytes]), data[PREFIX.size + head_bytes :]
    for part, name, crc in ((head, "header", head_crc), (body, "body", body_crc)):
        if zlib.crc32(part) != crc:
            raise PayloadError(f"the {name}'s checksum is wrong: it was damaged on the way")
    return _parse(head), Body(body)


class Body:
    """The arrays of a blob, taken from it one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, what: str) -> Tensor:
        """Return a copy of the next array.

        Raises
        ------
        PayloadError
            If fewer bytes are left than it takes; nothing has been allocated then.
        """
        count, left = math.prod(shape), len(self._data) - self._at
        if count * dtype.itemsize > left:
            raise PayloadError(f"{what}: takes {count * dtype.itemsize} bytes, but only {left} are left of the payload")
        array = np.frombuffer(self._data, DTYPES[dtype], count, self._at) if count else np.empty(0, DTYPES[dtype])
        self._at += count * dtype.itemsize
        if dtype == torch.bool and array.size and array.view(np.uint8).max() > 1:
            raise PayloadError(f"{what}: holds bytes that are neither true nor false")
        native = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
        return (native.view(dtype) if dtype == torch.bfloat16 else native).reshape(shape)

    def close(self) -> None:
        """Check that every byte was taken.

        Raises
        ------
        PayloadError
            If some are left.
        """
        if left := len(self._data) - self._at:
            raise PayloadError(f"{left} bytes of the payload belong to no tensor")


def _canonical(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _parse(head: bytes) -> dict[str, Any]:
    try:
        header = json.loads(head)
        canonical = isinstance(header, dict) and _canonical(header) == head
    except (ValueError, RecursionError) as error:  # RecursionError: nested deeper than any header is
        raise PayloadError(f"the header is not JSON: {error}") from None
    if not canonical:  # which also refuses fields that are given twice
        raise PayloadError("the header is not a canonical JSON object")
    return header
