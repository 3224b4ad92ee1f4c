"""The inner loop: bit lines by AND and popcount, converters by table, shift and add, in one pass that stores nothing between.

A bit line adds cells that are on in rows that are driven, so with both packed 64 rows to a word it is a popcount. Whatever a
converter does to it is a table, since a bit line is a small whole number. One entry of the table holds, packed, the value
(bits 0-47, already shifted for its slice and signed), one count for the coarse range (from bit 48) and one for clipping
(from bit 55): their sums over the columns of an output, at most 32, do not run into each other.

Shapes: N = input vectors, G = groups, K = inputs of a group, T = row tiles, A = activation bits, W = words of a tile's rows,
O = outputs of a group, C = columns of an output, B = bits of a cell, Y = bit-line levels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

WORD = 64
VALUE_BITS, COARSE_BITS = 48, 7
LOW = (1 << COARSE_BITS) - 1


def _generate_popcount(typing_context: Any, word: types.Type) -> Any:
    """Count ones as int64: numba would make a float64 of uint64 + int64."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


_popcount: Any = intrinsic(_generate_popcount)


def pack_table(value_CY: np.ndarray, coarse_CY: np.ndarray, clipped_CY: np.ndarray) -> np.ndarray:
    """Pack what the kernel reads for a bit line into one int64, shape (C, Y)."""
    counts_CY = coarse_CY.astype(np.int64) + (clipped_CY.astype(np.int64) << COARSE_BITS)
    return value_CY.astype(np.int64) + (counts_CY << VALUE_BITS)


@njit(nogil=True, cache=True)
def pack_rows(x_NGK: np.ndarray, rows: int, tiles: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Pack activations, unsigned, into one word a bit and 64 rows; rows that are missing in the last tile are 0.

    Returns
    -------
    ndarray of uint64, shape (N, G, T, A, W)
    ndarray of int64, shape (N, G)
        Sum of each vector's activations.
    """
    vectors, groups, inputs = x_NGK.shape
    words = (rows + WORD - 1) // WORD
    packed_NGTAW = np.zeros((vectors, groups, tiles, bits, words), np.uint64)
    sum_NG = np.zeros((vectors, groups), np.int64)
    for n in range(vectors):
        for g in range(groups):
            for k in range(inputs):
                sum_NG[n, g] += np.int64(x_NGK[n, g, k])
            for t in range(tiles):
                for w in range(words):
                    first = t * rows + w * WORD
                    last = min(first + WORD, (t + 1) * rows, inputs)
                    for a in range(bits):  # outside of rows, so that a word is collected in a register
                        word = np.uint64(0)
                        for k in range(first, last):
                            word |= ((np.uint64(x_NGK[n, g, k]) >> np.uint64(a)) & np.uint64(1)) << np.uint64(k - first)
                        packed_NGTAW[n, g, t, a, w] = word
    return packed_NGTAW, sum_NG


@cache
def multiplier(words: int, columns: int, cell_bits: int, dac_bits: int) -> Any:
    """Compile the kernel for one geometry; its loops are short, so they must be unrolled.

    Returns
    -------
    callable
        ``(x_NGTAW, cells_GTOCBW, table_CY, idle, histogram, acc_NGO) -> (coarse, clipped)``. `idle` is what a cycle adds in
        which no row of a tile is driven. `histogram`, int64, shape (C, cycles, Y), is added to, unless it is None.
    """

    @njit(nogil=True, cache=True)
    def multiply(x_NGTAW, cells_GTOCBW, table_CY, idle, histogram, acc_NGO):  # type: ignore[no-untyped-def]
        """Multiply as the outer function says."""
        vectors, groups, tiles, bits = x_NGTAW.shape[:4]
        outputs = cells_GTOCBW.shape[2]
        coarse, clipped = 0, 0
        for n in range(vectors):
            for g in range(groups):
                for t in range(tiles):
                    for first in range(0, bits, dac_bits):
                        driven = np.uint64(0)
                        for a in range(first, first + dac_bits):
                            for w in range(words):
                                driven |= x_NGTAW[n, g, t, a, w]
                        for o in range(outputs):
                            if driven:
                                total = 0
                                for c in range(columns):
                                    y = 0
                                    for b in range(cell_bits):
                                        for a in range(dac_bits):
                                            ones = 0
                                            for w in range(words):
                                                ones += _popcount(
                                                    x_NGTAW[n, g, t, first + a, w] & cells_GTOCBW[g, t, o, c, b, w]
                                                )
                                            y += ones << (a + b)
                                    total += table_CY[c, y]
                                    if histogram is not None:
                                        histogram[c, first // dac_bits, y] += 1
                            else:
                                total = idle
                                if histogram is not None:
                                    for c in range(columns):
                                        histogram[c, first // dac_bits, 0] += 1
                            count = (total + (1 << (VALUE_BITS - 1))) >> VALUE_BITS
                            acc_NGO[n, g, o] += (total - (count << VALUE_BITS)) << first
                            coarse += count & LOW
                            clipped += count >> COARSE_BITS
        return coarse, clipped

    return multiply
