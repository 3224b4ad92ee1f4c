"""Exact packing of small unsigned integers into a stream of bits.

Value j occupies bits j*b ... j*b + b - 1 of the stream, least significant bit first, bits filling bytes from the low end: the
stream that ``numpy.packbits(..., bitorder="little")`` gives. Eight b-bit values are b bytes, so eight bytes of codes are
squeezed at once inside one 64-bit word, by three shifts that each halve the number of gaps, whatever b is.
"""

from __future__ import annotations

import numpy as np

WORDS_AT_ONCE = 4096  # 32 KiB of codes: intermediate results stay in the first-level cache


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` values of `bits` bits take."""
    return -(-count * bits // 8)


def pack(codes_N: np.ndarray, bits: int) -> np.ndarray:
    """Pack unsigned codes.

    Parameters
    ----------
    codes_N : ndarray of uint8, shape (N,)
        Each below ``2**bits``.
    bits : int
        1 to 8.

    Returns
    -------
    ndarray of uint8, shape (ceil(N * bits / 8),)
        Unused bits of the last byte are 0.

    Raises
    ------
    ValueError
        If a code does not fit, or `codes_N` or `bits` is not as described.
    """
    _check(codes_N, bits)
    if codes_N.size and bits < 8 and int(codes_N.max()) >> bits:
        raise ValueError(f"code {codes_N.max()} does not fit {bits} bits; the largest that does is {2**bits - 1}")
    words = -(-codes_N.size // 8)
    packed = np.empty((words, bits), np.uint8)
    for start in range(0, words, WORDS_AT_ONCE):
        chunk = codes_N[8 * start : 8 * (start + WORDS_AT_ONCE)]
        if chunk.size % 8:
            chunk = np.concatenate([chunk, np.zeros(-chunk.size % 8, np.uint8)])
        word = chunk.view("<u8").copy()
        for width in (8, 16, 32):  # of the lanes, two of which become one; each holds bits * width / 8 bits of codes
            used = bits * width // 8
            low = _lanes(used, 2 * width)
            word = (word & low) | ((word >> np.uint64(width - used)) & _lanes(used, 2 * width, shift=used))
        packed[start : start + word.size] = word.view(np.uint8).reshape(-1, 8)[:, :bits]
    return packed.reshape(-1)[: packed_bytes(codes_N.size, bits)]


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Undo `pack`.

    Parameters
    ----------
    packed : ndarray of uint8, shape (ceil(count * bits / 8),)
    bits : int
        1 to 8.
    count : int
        Number of values, N.

    Returns
    -------
    ndarray of uint8, shape (N,)

    Raises
    ------
    ValueError
        If `packed` has another length than `count` values take, or unused bits that are not 0.
    """
    _check(packed, bits)
    if packed.size != packed_bytes(count, bits):
        raise ValueError(f"{count} values of {bits} bits take {packed_bytes(count, bits)} bytes, not {packed.size}")
    if (unused := -count * bits % 8) and int(packed[-1]) >> (8 - unused):
        raise ValueError(f"the last byte of {count} values of {bits} bits has unused bits that are not 0")
    words = -(-count // 8)
    codes = np.empty(words, "<u8")
    for start in range(0, words, WORDS_AT_ONCE):
        chunk = packed[bits * start : bits * (start + WORDS_AT_ONCE)]
        if chunk.size % bits:
            chunk = np.concatenate([chunk, np.zeros(-chunk.size % bits, np.uint8)])
        spread = np.zeros((chunk.size // bits, 8), np.uint8)
        spread[:, :bits] = chunk.reshape(-1, bits)
        word = spread.view("<u8")[:, 0]
        for width in (32, 16, 8):
            used = bits * width // 8
            word = (word & _lanes(used, 2 * width)) | ((word & _lanes(used, 2 * width, used)) << np.uint64(width - used))
        codes[start : start + word.size] = word
    return codes.view(np.uint8)[:count]


def _lanes(ones: int, width: int, shift: int = 0) -> np.uint64:
    """Return a word whose lanes of `width` bits each have `ones` ones, `shift` bits above the lane's lowest."""
    return np.uint64(sum(((1 << ones) - 1) << (lane + shift) for lane in range(0, 64, width)))


def _check(array: np.ndarray, bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"bits = {bits}: choose 1 to 8")
    if array.dtype != np.uint8 or array.ndim != 1 or not array.flags.c_contiguous:
        raise ValueError(f"codes are {array.dtype}{list(array.shape)}; one contiguous row of uint8 is expected")
