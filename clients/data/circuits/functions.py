"""Boolean functions as truth tables: distances between them, and a key that equal ones share, whatever their inputs are called.

Shapes: N, M = functions, I = inputs, P = 2 ** I patterns.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np


def key(truth_P: np.ndarray) -> int:
    """Return 63 bits that depend on a function only up to permuting and inverting inputs, inverting the output (NPN).

    The Walsh spectrum W of the function as +-1: permuting inputs permutes coefficients of one order (number of inputs in
    the parity), inverting inputs or output changes signs, and inputs without influence only add zeros. So the hash of the
    sorted non-zero |W| of each order is the same for all functions of a class. Functions of several classes may share it:
    that groups too much together, never too little, which is what a split without leaks needs. The exact canonical form
    would cost 2 * 2 ** I * I! truth tables.
    """
    spectrum_P = 1 - 2 * truth_P.astype(np.int64)
    inputs = len(truth_P).bit_length() - 1
    for i in range(inputs):
        low_high = spectrum_P.reshape(-1, 2, 2**i)
        spectrum_P = np.stack((low_high[:, 0] + low_high[:, 1], low_high[:, 0] - low_high[:, 1]), 1).reshape(-1)
    share_P = np.abs(spectrum_P).astype(np.float64) / len(truth_P)  # exact: numerators and powers of two
    present = share_P > 0
    order_P = _orders(inputs)[present]
    rank = np.lexsort((share_P[present], order_P))
    digest = blake2b(digest_size=8)
    digest.update(order_P[rank].tobytes())
    digest.update(share_P[present][rank].tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1


@lru_cache(maxsize=32)
def _orders(inputs: int) -> np.ndarray:
    patterns = np.arange(2**inputs)
    return sum((patterns >> i & 1 for i in range(inputs)), np.zeros_like(patterns)).astype(np.int64)


def support(truth_P: np.ndarray) -> list[int]:
    """Return the inputs that the function depends on."""
    inputs = len(truth_P).bit_length() - 1
    halves = (truth_P.reshape(-1, 2, 2**i) for i in range(inputs))
    return [i for i, half in enumerate(halves) if (half[:, 0] != half[:, 1]).any()]


def distances(left_NP: np.ndarray, right_MP: np.ndarray) -> np.ndarray:
    """Return the share of patterns on which functions differ, float32, shape (N, M) (DeepGate2, arXiv:2305.16373).

    One minus it is the distance to the other's complement.
    """
    left_NP, right_MP = left_NP.astype(np.float32), right_MP.astype(np.float32)
    ones_left_N, ones_right_M = left_NP.sum(1), right_MP.sum(1)
    return (ones_left_N[:, None] + ones_right_M - 2 * left_NP @ right_MP.T) / np.float32(left_NP.shape[1])
