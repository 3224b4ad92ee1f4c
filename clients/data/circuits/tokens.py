"""Circuits as token sequences, one row a circuit, and back: what a transformer for one view is given.

Shapes: N = circuits, T = tokens, P = patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ....core.errors import DataError
from .circuits import Circuits
from .netlist import Netlist
from .verilog import VOCABULARY

View = Literal["truth", "rtl", "netlist", "layout"]
PAD = 0
"""Token that fills rows up, in every view."""
PATCH = 8
"""Patterns that one token of a truth table covers."""
_STEPS = 8
"""Steps of each of a layout token's two numbers; what exceeds the last counts as the last (our choice)."""


@dataclass(frozen=True)
class Tokens:
    """Token sequences of one view.

    Attributes
    ----------
    ids_NT : ndarray of int64
        Rows end in `PAD`.
    vocabulary : int
        All ids are below it.
    """

    ids_NT: np.ndarray
    vocabulary: int


def tokens(circuits: Circuits, view: View) -> Tokens:
    """Return one view of circuits as token sequences.

    ``truth``
        The output under `PATCH` patterns as bits of a number, lowest first, plus 1.
    ``rtl``
        Words of the Verilog text, from `VOCABULARY`.
    ``netlist``
        The literals of every AND gate's fan-ins in topological order, then of the output: 1 + 2 * node + inverted, where gates
        are numbered from the width of the arrays on, so that the token of an input does not depend on how many there are.
    ``layout``
        Every 2 x 2 bins of the synthetic placement, row by row: 1 + 8 * gates + wires, rounded down.

    Raises
    ------
    DataError
        If a circuit has no such view, as uploads have no Verilog of the vocabulary.
    """
    if view == "truth":
        bits_NT = circuits.truth_NP.reshape(len(circuits), -1, PATCH).astype(np.int64)
        return Tokens(1 + bits_NT @ (1 << np.arange(PATCH)), 1 + 2**PATCH)
    if view == "rtl":
        if not (some_N := circuits.tokens_NT.any(1)).all():
            raise DataError(f"circuits: row {int(some_N.argmin())} has no RTL; take circuits that were not uploaded")
        return Tokens(circuits.tokens_NT.astype(np.int64), len(VOCABULARY))
    if view == "netlist":
        return _netlists(circuits)
    count, channels, height, width = circuits.layout_NCHW.shape
    blocks = circuits.layout_NCHW.reshape(count, channels, height // 2, 2, width // 2, 2)
    summed_NCT = blocks.sum((3, 5)).reshape(count, channels, -1)
    gates_NT, wires_NT = np.minimum(summed_NCT.astype(np.int64), _STEPS - 1).swapaxes(0, 1)
    return Tokens(1 + _STEPS * gates_NT + wires_NT, 1 + _STEPS**2)


def _netlists(circuits: Circuits) -> Tokens:
    width = circuits.kinds_NG.shape[1]
    fanins_NG2, inputs_N = circuits.fanins_NG2.astype(np.int64), circuits.inputs_N.astype(np.int64)[:, None, None]
    shifted_NG2 = 1 + np.where(fanins_NG2 < 2 * inputs_N, fanins_NG2, fanins_NG2 + 2 * (width - inputs_N))
    present_NG2 = fanins_NG2 >= 0
    ids_NT = np.full((len(circuits), 2 * width), PAD, dtype=np.int64)
    lengths_N = present_NG2.sum((1, 2))
    ids_NT[np.arange(2 * width) < lengths_N[:, None]] = shifted_NG2[present_NG2]
    return Tokens(ids_NT, 1 + 4 * width)


def of_netlist(made: Netlist, width: int) -> np.ndarray | None:
    """Return a netlist's row of the netlist view, int64, shape (2 width,); None if it has more than `width` nodes."""
    if made.inputs + len(made.fanins_A2) + 1 > width:
        return None
    literals = np.append(made.fanins_A2.astype(np.int64).reshape(-1), made.output)
    literals[literals >= 2 * made.inputs] += 2 * (width - made.inputs)
    return np.pad(1 + literals, (0, 2 * width - len(literals)), constant_values=PAD)


def netlist(ids_T: np.ndarray) -> Netlist:
    """Return the netlist that a row of the netlist view means.

    Raises
    ------
    DataError
        If it is none: an even number of tokens, or a gate that reads itself or a later one.
    """
    width = len(ids_T) // 2
    literals = ids_T[ids_T != PAD].astype(np.int64) - 1
    if len(literals) % 2 == 0:
        raise DataError(f"netlist: {len(literals)} tokens; two for each gate and one for the output are an odd number")
    is_gate = literals >= 2 * width
    inputs = int(literals[~is_gate].max(initial=-1)) // 2 + 1
    literals[is_gate] -= 2 * (width - inputs)
    fanins_A2 = literals[:-1].reshape(-1, 2).astype(np.int32)
    if (fanins_A2 // 2 >= inputs + np.arange(len(fanins_A2))[:, None]).any() or literals[-1] // 2 >= inputs + len(fanins_A2):
        raise DataError("netlist: a gate reads itself or a later one; gates must be in topological order")
    return Netlist(inputs, fanins_A2, int(literals[-1]))


def truth(ids_T: np.ndarray) -> np.ndarray:
    """Return the truth table that a row of the truth view means, uint8, shape (P,)."""
    return ((ids_T[:, None] - 1) >> np.arange(PATCH) & 1).reshape(-1).astype(np.uint8)
