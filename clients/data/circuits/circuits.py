"""Circuits in aligned views with their labels, as arrays.

Every circuit has one output and is seen four ways: its truth table (the specification), its Verilog as tokens, its netlist as
nodes of a sequence or a graph, and a map of its placement.

Shapes: N = circuits, I = inputs, P = patterns, T = tokens, G = nodes, C, H, W = layout channels and bins; `_N` columns are
padded to the largest sizes that the options allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ....core.errors import DataError
from . import layout, netlist, verilog
from .families import BENCHMARKS, FAMILIES
from .netlist import Netlist
from .synthesis import Synthesised

INPUT, AND, OUTPUT = 1, 2, 3
"""Kinds of nodes; 0 pads."""
UPLOADED = len(FAMILIES)
"""What `Circuits.families_N` says of circuits that no family has made."""


@dataclass(frozen=True)
class Circuits:
    """N circuits, row by row.

    Attributes
    ----------
    families_N : ndarray of uint8
        Position in `FAMILIES`, or `UPLOADED`.
    operations_N : ndarray of uint8
        Position in `OPERATIONS`; of circuits that no rule has written, the one of "logic".
    keys_N : ndarray of int64
        What functions share that differ only in names and inversions (`functions.key`).
    exact_N : ndarray of bool
        Whether truth table, probabilities and detectabilities are exact; where not, they are estimates from random patterns.
    truth_NP : ndarray of uint8
        Output under all patterns of `max_inputs` inputs; pattern p gives input i bit i of p. A function of fewer inputs
        repeats. Of a circuit with more inputs: under as many random patterns.
    tokens_NT : ndarray of int16
        Verilog (`verilog.VOCABULARY`), padded by 0; all 0 where there is none.
    kinds_NG : ndarray of uint8
        Inputs, then AND gates in topological order, then the output: `INPUT`, `AND`, `OUTPUT`, padded by 0.
    fanins_NG2 : ndarray of int16
        Literals 2 * node + inverted; -1 where there is no fan-in.
    levels_NG : ndarray of int16
        AND gates on the longest path to the node.
    probability_NG : ndarray of float32
        Share of patterns under which the node is 1.
    detectability_NG2 : ndarray of float32
        Share of patterns that show the node stuck at 0, and stuck at 1, at the output.
    layout_NCHW : ndarray of float32
        Map of a synthetic placement (`layout.layout`).
    inputs_N, ands_N, depth_N : ndarray of int16
        Inputs, AND gates, and AND gates on the longest path, after the fixed synthesis script.
    area_N : ndarray of float32, or None without a library
        After mapping, in the library's unit.
    delay_ps_N : ndarray of float32, or None without a library
        Of the critical path after mapping.
    """

    families_N: np.ndarray
    operations_N: np.ndarray
    keys_N: np.ndarray
    exact_N: np.ndarray
    truth_NP: np.ndarray
    tokens_NT: np.ndarray
    kinds_NG: np.ndarray
    fanins_NG2: np.ndarray
    levels_NG: np.ndarray
    probability_NG: np.ndarray
    detectability_NG2: np.ndarray
    layout_NCHW: np.ndarray
    inputs_N: np.ndarray
    ands_N: np.ndarray
    depth_N: np.ndarray
    area_N: np.ndarray | None
    delay_ps_N: np.ndarray | None

    def __len__(self) -> int:
        return len(self.keys_N)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the arrays there are, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in named.items() if array is not None}

    def take(self, rows: np.ndarray) -> Circuits:
        """Return the circuits of these rows."""
        return of_columns({name: array[rows] for name, array in self.columns().items()})

    def ones(self) -> np.ndarray:
        """Return the probability that the output is 1, float32, shape (N,)."""
        return self.truth_NP.mean(1, dtype=np.float32)

    def real(self) -> np.ndarray:
        """Return which circuits are cones of benchmark netlists, bool, shape (N,)."""
        return np.isin(self.families_N, [FAMILIES.index(family) for family in BENCHMARKS])

    def rtl(self, row: int) -> str:
        """Return one circuit's Verilog; empty where there is none."""
        return verilog.decode(self.tokens_NT[row])

    def netlist(self, row: int) -> Netlist:
        """Return one circuit's netlist."""
        inputs, ands = int(self.inputs_N[row]), int(self.ands_N[row])
        fanins_G2 = self.fanins_NG2[row].astype(np.int32)
        return Netlist(inputs, fanins_G2[inputs : inputs + ands], int(fanins_G2[inputs + ands, 0]))

    def edges(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one netlist as a graph: driver and reader of each edge, int64 (2, edges), and which invert, bool (edges,)."""
        reader, side = np.nonzero(self.fanins_NG2[row] >= 0)
        literals = self.fanins_NG2[row][reader, side].astype(np.int64)
        return np.stack((literals >> 1, reader)), (literals & 1).astype(bool)


@dataclass(frozen=True)
class Sample:
    """One circuit before its labels are computed: its function, its Verilog's tokens, and what synthesis made of it.

    `patterns_IP` are what its nodes are simulated with: all there are if `exact`.
    """

    family: int
    operation: int
    key: int
    truth_P: np.ndarray
    tokens_T: np.ndarray
    made: Synthesised
    patterns_IP: np.ndarray
    exact: bool

    @property
    def nodes(self) -> int:
        """Inputs, AND gates and the output."""
        return self.made.netlist.inputs + len(self.made.netlist.fanins_A2) + 1


def stack(samples: Sequence[Sample], max_tokens: int, max_nodes: int) -> Circuits:
    """Label circuits, and pad them to arrays.

    Raises
    ------
    DataError
        If there are none, or one is longer than the arrays.
    """
    if not samples:
        raise DataError("circuits: there are none; at least one is needed")
    for sample in samples:
        if len(sample.tokens_T) > max_tokens or sample.nodes > max_nodes:
            raise DataError(
                f"circuits: one has {sample.nodes} nodes and {len(sample.tokens_T)} tokens; "
                f"circuits.max_nodes = {max_nodes} and circuits.max_tokens = {max_tokens} are allowed"
            )
    rows = [_row(sample, max_tokens, max_nodes) for sample in samples]
    return of_columns({name: np.stack([row[name] for row in rows]) for name in rows[0]})


def concatenate(parts: Sequence[Circuits]) -> Circuits:
    """Return the circuits of all parts in order.

    Raises
    ------
    DataError
        If the parts differ in sizes, or only some were mapped to a library.
    """
    columns = [part.columns() for part in parts]
    if len({tuple((name, array.shape[1:]) for name, array in part.items()) for part in columns}) != 1:
        raise DataError("circuits: the parts differ in sizes or in having a library; make all with the same options")
    return of_columns({name: np.concatenate([part[name] for part in columns]) for name in columns[0]})


def of_columns(columns: Mapping[str, Any]) -> Circuits:
    """Return circuits with these arrays; area and delay may be missing."""
    return Circuits(**{"area_N": None, "delay_ps_N": None, **columns})


def _row(sample: Sample, max_tokens: int, max_nodes: int) -> dict[str, np.ndarray]:
    made = sample.made.netlist
    values_GP, out = netlist.simulate(made, sample.patterns_IP), np.array([[made.output, -1]])
    response_P, levels_G = netlist.response(made, values_GP), made.levels()
    detect_G2 = netlist.detectability(made, sample.patterns_IP)
    kinds = [INPUT] * made.inputs + [AND] * len(made.fanins_A2) + [OUTPUT]
    ones = response_P.mean()
    row: dict[str, Any] = {
        "families_N": np.uint8(sample.family),
        "operations_N": np.uint8(sample.operation),
        "keys_N": np.int64(sample.key),
        "exact_N": np.bool_(sample.exact),
        "truth_NP": sample.truth_P.astype(np.uint8),
        "tokens_NT": _padded(sample.tokens_T, max_tokens, 0, np.int16),
        "kinds_NG": _padded(np.array(kinds), max_nodes, 0, np.uint8),
        "fanins_NG2": _padded(np.concatenate((np.full((made.inputs, 2), -1), made.fanins_A2, out)), max_nodes, -1, np.int16),
        "levels_NG": _padded(np.append(levels_G, made.depth()), max_nodes, 0, np.int16),
        "probability_NG": _padded(np.append(values_GP.mean(1), ones), max_nodes, 0, np.float32),
        "detectability_NG2": _padded(np.concatenate((detect_G2, [[ones, 1 - ones]])), max_nodes, 0, np.float32),
        "layout_NCHW": layout.layout(made),
        "inputs_N": np.int16(made.inputs),
        "ands_N": np.int16(len(made.fanins_A2)),
        "depth_N": np.int16(made.depth()),
    }
    if sample.made.area is not None and sample.made.delay_ps is not None:
        row |= {"area_N": np.float32(sample.made.area), "delay_ps_N": np.float32(sample.made.delay_ps)}
    return row


def _padded(array: np.ndarray, length: int, fill: int, dtype: type) -> np.ndarray:
    padded = np.full((length, *array.shape[1:]), fill, dtype=dtype)
    padded[: len(array)] = array
    return padded
