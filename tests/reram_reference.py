"""Independent references: a successive-approximation search one comparison at a time, and products of Python integers."""

from __future__ import annotations

import numpy as np


def sar(y: float, bits: int, step: int = 1, first: int = 0, rounding: float = 0.0) -> tuple[int, list[int]]:
    """Search the code of `y`, most significant bit first; return it and the trial codes."""
    code, trials = 0, []
    for bit in reversed(range(bits)):
        trial = code + 2**bit
        trials.append(trial)
        if y - first >= (trial - rounding) * step:  # thresholds half a step lower round half up
            code = trial
    return code, trials


def twin_range(y: int, n1: int, n2: int, d1: int, m: int, b: int, detection: int = 1) -> tuple[int, int, int, int]:
    """Return value, steps, range flag and payload of one conversion."""
    steps, flag = detection, 0
    if y >= b + d1 * 2**n1:
        flag = 1
    if b > 0:
        steps += 1
        if y < b:
            flag = 1
    bits, step, first = (n2, d1 * 2**m, 0) if flag else (n1, d1, b)
    code, trials = sar(y, bits, step, first, rounding=0.5)
    return first + code * step, steps + len(trials), flag, code


def product(x_NGK: np.ndarray, weight_GOK: np.ndarray) -> list:
    """Multiply in Python integers, which cannot overflow."""
    return [
        [
            [sum(int(a) * int(b) for a, b in zip(x_K, w_K, strict=True)) for w_K in weight_OK]
            for x_K, weight_OK in zip(x_GK, weight_GOK, strict=True)
        ]
        for x_GK in x_NGK
    ]
