"""How well area and delay can be predicted, and the line through the gate count that a model has to beat.

Area after mapping is nearly proportional to the number of AND gates, so an error means nothing without this one beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....core.errors import DataError
from .circuits import Circuits
from .labels import measure


@dataclass(frozen=True)
class Score:
    """Errors of predictions.

    Attributes
    ----------
    mape : float
        Mean absolute error as a share of the right value.
    r2 : float
        Share of the variance of the right values' logarithms that is explained.
    """

    mape: float
    r2: float


def score(predicted_N: np.ndarray, right_N: np.ndarray) -> Score:
    """Score predictions of positive numbers.

    Raises
    ------
    DataError
        If a number is not positive, or all right ones are equal.
    """
    if len(np.unique(right_N)) < 2 or min(predicted_N.min(), right_N.min()) <= 0:
        raise DataError(f"ppa: {len(np.unique(right_N))} different numbers; two are needed, and all must be above 0")
    logs_N, errors_N = np.log(right_N), np.log(predicted_N) - np.log(right_N)
    unexplained = (errors_N**2).sum() / ((logs_N - logs_N.mean()) ** 2).sum()
    return Score(float(np.abs(predicted_N / right_N - 1).mean()), float(1 - unexplained))


def gate_count_baseline(circuits: Circuits, train: np.ndarray, test: np.ndarray) -> dict[str, Score]:
    """Fit log(area) and log(delay) by least squares to log(AND gates) on the rows `train`, and score both on `test`.

    Raises
    ------
    DataError
        If the circuits were not mapped, or one has no gate.
    """
    ands_N = measure(circuits, "ands")
    if not len(train) or ands_N.min() < 1:
        raise DataError(f"ppa: {len(train)} circuits to train on, the smallest of {ands_N.min():g} gates; both must be above 0")
    logs_N = np.log(ands_N)
    scores = {}
    for name in ("area", "delay_ps"):
        right_N = measure(circuits, name)
        line = np.polynomial.Polynomial.fit(logs_N[train], np.log(right_N[train]), 1)
        scores[name] = score(np.exp(line(logs_N[test])), right_N[test])
    return scores
