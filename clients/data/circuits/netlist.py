"""And-inverter graphs as arrays, their exact simulation, and what follows from it: probabilities and testability.

Nodes are numbered in topological order: inputs first, then AND gates. A literal is 2 * node + inverted, as in AIGER, except
that there is no constant node: a circuit whose output is constant is none.

Shapes: I = inputs, A = AND gates, G = I + A nodes, P = input patterns. Pattern p of an exhaustive simulation gives input i the
bit i of p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....core.errors import DataError
from .extra import extra

if TYPE_CHECKING:
    from aigverse.networks import Aig


@dataclass(frozen=True)
class Netlist:
    """One output and the AND gates it depends on.

    Attributes
    ----------
    inputs : int
    fanins_A2 : ndarray of int32, shape (A, 2)
        Literals of each gate's two fan-ins.
    output : int
        Literal of the output.
    """

    inputs: int
    fanins_A2: np.ndarray
    output: int

    def levels(self) -> np.ndarray:
        """Return the AND gates on the longest path to each node, int32, shape (G,)."""
        levels = [0] * self.inputs
        for left, right in self.fanins_A2 // 2:
            levels.append(1 + max(levels[left], levels[right]))
        return np.array(levels, dtype=np.int32)

    def depth(self) -> int:
        """Return the AND gates on the longest path to the output."""
        return int(self.levels()[self.output // 2])


def from_aig(aig: Aig, name: str = "netlist") -> Netlist:
    """Return an aigverse graph of one output, called `name`, as arrays.

    Raises
    ------
    DataError
        If it has several outputs, or a constant one.
    """
    code = np.array(list(aig.to_index_list()), dtype=np.int32)  # inputs, outputs, gates; fan-ins; outputs: node 0 is constant 0
    inputs, outputs, gates = code[:3].tolist()
    if outputs != 1:
        raise DataError(f"{name}: {outputs} outputs; a circuit has one, so take them one by one")
    if code[-1] < 2:
        raise DataError(f"{name}: the output is always {code[-1]}; a circuit must depend on its inputs")
    return Netlist(inputs, code[3 : 3 + 2 * gates].reshape(gates, 2) - 2, int(code[-1]) - 2)


def to_aig(netlist: Netlist) -> Aig:
    """Return the arrays as an aigverse graph, which drops what the output does not need and what is there twice."""
    aig = extra("aigverse.networks").Aig()
    signals = [aig.create_pi() for _ in range(netlist.inputs)]
    for left, right in netlist.fanins_A2.tolist():
        signals.append(aig.create_and(signals[left // 2] ^ bool(left & 1), signals[right // 2] ^ bool(right & 1)))
    aig.create_po(signals[netlist.output // 2] ^ bool(netlist.output & 1))
    return aig


def exhaustive(inputs: int) -> np.ndarray:
    """Return all input patterns, bool, shape (inputs, 2 ** inputs)."""
    return (np.arange(2**inputs) >> np.arange(inputs)[:, None] & 1).astype(bool)


def simulate(netlist: Netlist, patterns_IP: np.ndarray, flipped: int | None = None) -> np.ndarray:
    """Return the value of every node under every pattern.

    Parameters
    ----------
    netlist : Netlist
    patterns_IP : ndarray of bool, shape (I, P)
    flipped : int, optional
        A node whose value is inverted before others see it: a fault.

    Returns
    -------
    ndarray of bool, shape (G, P)
    """
    values_GP = np.empty((netlist.inputs + len(netlist.fanins_A2), patterns_IP.shape[1]), dtype=bool)
    values_GP[: netlist.inputs] = patterns_IP
    if flipped is not None and flipped < netlist.inputs:
        values_GP[flipped] ^= True
    for node, (left, right) in enumerate(netlist.fanins_A2.tolist(), netlist.inputs):
        np.logical_and(values_GP[left >> 1] ^ bool(left & 1), values_GP[right >> 1] ^ bool(right & 1), out=values_GP[node])
        if node == flipped:
            values_GP[node] ^= True
    return values_GP


def response(netlist: Netlist, values_GP: np.ndarray) -> np.ndarray:
    """Return the output's value under every pattern, bool, shape (P,)."""
    return values_GP[netlist.output // 2] ^ bool(netlist.output & 1)


def detectability(netlist: Netlist, patterns_IP: np.ndarray) -> np.ndarray:
    """Return the share of patterns that show a fault at the output, for every node stuck at 0 and stuck at 1.

    A pattern shows "stuck at v" if the node's right value is not v, and flipping it flips the output.

    Returns
    -------
    ndarray of float32, shape (G, 2)
    """
    good_GP = simulate(netlist, patterns_IP)
    right_P = response(netlist, good_GP)
    shares = []
    for node, value_P in enumerate(good_GP):
        seen_P = right_P ^ response(netlist, simulate(netlist, patterns_IP, flipped=node))
        shares.append(((seen_P & value_P).mean(), (seen_P & ~value_P).mean()))
    return np.array(shares, dtype=np.float32)


def restructured(netlist: Netlist) -> Netlist:
    """Return a functionally equal netlist of another structure: refactored, then balanced, by aigverse.

    It may be the same where nothing was found to change.
    """
    algorithms, aig = extra("aigverse.algorithms"), to_aig(netlist)
    algorithms.sop_refactoring(aig, allow_zero_gain=True)
    algorithms.balancing(aig)
    return from_aig(algorithms.cleanup_dangling(aig))


def equivalent(left: Netlist, right: Netlist) -> bool:
    """Say whether two netlists compute the same function of their inputs, in order; decided by SAT, for any number of inputs.

    Raises
    ------
    DataError
        If they have different numbers of inputs.
    """
    if left.inputs != right.inputs:
        raise DataError(f"equivalent: {left.inputs} and {right.inputs} inputs; only circuits with as many can be equal")
    return bool(extra("aigverse.algorithms").equivalence_checking(to_aig(left), to_aig(right)))
