"""What uni-modal silos learn to tell: classes of circuits, balanced where they are bins of a number, numbers, and functions.

Shapes: N = circuits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ....core.errors import DataError
from ..silos import Classes, Function, Number, Target
from .circuits import INPUT, OUTPUT, Circuits
from .families import FAMILIES, OPERATIONS

Measure = Literal["probability", "detectability", "ands", "depth", "area", "delay_ps"]
Label = Literal["family", "operation", "function"] | Measure


@dataclass(frozen=True)
class Bins:
    """The class of every circuit.

    Attributes
    ----------
    labels_N : ndarray of int64
        Position in `names`.
    names : tuple of str
    """

    labels_N: np.ndarray
    names: tuple[str, ...]


def measure(circuits: Circuits, name: Label) -> np.ndarray:
    """Return a number for every circuit, float64, shape (N,).

    ``probability`` is the output's, ``detectability`` the mean over both stuck-at faults of every input and gate.

    Raises
    ------
    DataError
        If area or delay are asked for and the circuits were not mapped, or `name` is of no number.
    """
    if name not in get_args(Measure):
        raise DataError(f"label = {name!r}: is no number; choose one of {', '.join(get_args(Measure))}")
    if name in ("area", "delay_ps"):
        column = circuits.columns().get(f"{name}_N")
        if column is None:
            raise DataError(f"circuits.liberty: missing; {name} needs a library to map to")
        return column.astype(np.float64)
    if name == "probability":
        return circuits.ones().astype(np.float64)
    if name == "detectability":
        faults_NG1 = ((circuits.kinds_NG >= INPUT) & (circuits.kinds_NG < OUTPUT))[:, :, None]
        return circuits.detectability_NG2.mean((1, 2), where=faults_NG1, dtype=np.float64)
    return (circuits.ands_N if name == "ands" else circuits.depth_N).astype(np.float64)


def target(circuits: Circuits, label: Label, train: np.ndarray, bins: int) -> tuple[Target, np.ndarray]:
    """Return what a silo is to learn of a label, and every circuit's.

    Parameters
    ----------
    circuits : Circuits
    label : Label
        `function`: truth tables.
    train : ndarray of int64
        Rows to learn from.
    bins : int
        Classes of a number; 0: the number itself, the logarithm of sizes and delays.

    Raises
    ------
    DataError
        As `classes`.
    """
    if label == "function":
        return Function(circuits.truth_NP.shape[1]), circuits.truth_NP.astype(bool)
    if bins or label in ("family", "operation"):
        found = classes(circuits, label, train, bins)
        return Classes(len(found.names)), found.labels_N
    values_N = measure(circuits, label)
    log = label not in ("probability", "detectability")
    fitted = np.log(values_N[train]) if log else values_N[train]
    if not len(train) or not fitted.std() > 0:
        raise DataError(f"label = {label!r}: {len(train)} training circuits, which do not differ in it; nothing is to be told")
    return Number(float(fitted.mean()), float(fitted.std()), log), values_N


def classes(circuits: Circuits, label: Label, train: np.ndarray, bins: int = 4) -> Bins:
    """Return classes to train on: what wrote a circuit, or into which bin one of its numbers falls.

    Parameters
    ----------
    circuits : Circuits
    label : Label
    train : ndarray of int64
        Rows whose quantiles separate the bins, so that nothing is learnt from those tested on.
    bins : int
        Classes of a number, at least 2. Equal numbers share a bin, so small whole numbers can give fewer, and unequal ones.

    Raises
    ------
    DataError
        If there are no rows to train on, or their numbers do not differ.
    """
    if label == "family":
        return Bins(circuits.families_N.astype(np.int64), (*FAMILIES, "uploaded"))
    if label == "operation":
        return Bins(circuits.operations_N.astype(np.int64), OPERATIONS)
    if label not in get_args(Measure) or bins < 2 or not len(train):
        raise DataError(
            f"label = {label!r} in {bins} bins over {len(train)} training circuits: choose family, operation or one of "
            f"{', '.join(get_args(Measure))}, at least 2 bins, and some circuits"
        )
    values_N = measure(circuits, label)
    quantiles = np.quantile(values_N[train], np.arange(1, bins) / bins, method="higher")
    edges = np.unique(quantiles[quantiles > values_N[train].min()])
    if not len(edges):
        raise DataError(f"label = {label!r}: all training circuits have {values_N[train].min():g}; nothing is to be told")
    names = (f"below {edges[0]:g}", *(f"from {edge:g}" for edge in edges))
    return Bins(np.searchsorted(edges, values_N, side="right"), names)
