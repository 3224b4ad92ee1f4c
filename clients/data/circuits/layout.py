"""A synthetic layout: where a placer would put the gates, as a map.

Inputs are fixed at the left edge and the output at the right one, in the middle; every other gate sits where the sum of squared
wire lengths is smallest (quadratic placement, as in Kleinhans et al., GORDIAN, IEEE TCAD 1991), which one linear system gives.
It is no legal placement and no real layout: cells overlap, and there are no rows.

Shapes: C = channels, H, W = bins, G = nodes.
"""

from __future__ import annotations

import numpy as np

from .netlist import Netlist

SIDE = 16
"""Bins of the map in each direction."""
CHANNELS = ("cells", "wiring")


def place(netlist: Netlist) -> np.ndarray:
    """Return x and y of every node and, last, of the output's pin, float64 in 0..1, shape (G + 1, 2)."""
    inputs, gates = netlist.inputs, len(netlist.fanins_A2)
    pin = inputs + gates
    edges = [(inputs + gate, int(fanin)) for gate, pair in enumerate(netlist.fanins_A2 // 2) for fanin in pair]
    edges.append((pin, netlist.output // 2))
    laplacian = np.zeros((pin + 1, pin + 1))
    for left, right in edges:
        laplacian[[left, right], [left, right]] += 1
        laplacian[[left, right], [right, left]] -= 1
    fixed, free = np.array([*range(inputs), pin]), np.arange(inputs, pin)
    places = np.zeros((pin + 1, 2))
    places[:inputs, 1] = (np.arange(inputs) + 0.5) / inputs
    places[pin] = 1.0, 0.5
    places[free] = np.linalg.solve(laplacian[np.ix_(free, free)], -laplacian[np.ix_(free, fixed)] @ places[fixed])
    return places


def layout(netlist: Netlist) -> np.ndarray:
    """Return a map of the placement, float32, shape (2, SIDE, SIDE), of which x is the last axis.

    The first channel counts gates and pins in each bin. The second is the demand for wiring: every net spreads its half
    perimeter evenly over the bins of its bounding box (RUDY: Spindler and Johannes, DATE 2007).
    """
    places = place(netlist)
    bins = np.minimum((places * SIDE).astype(int), SIDE - 1)
    map_CHW = np.zeros((len(CHANNELS), SIDE, SIDE), dtype=np.float32)
    np.add.at(map_CHW[0], (bins[:, 1], bins[:, 0]), 1)
    readers: dict[int, list[int]] = {netlist.output // 2: [len(places) - 1]}
    for gate, pair in enumerate(netlist.fanins_A2 // 2, netlist.inputs):
        for fanin in pair.tolist():
            readers.setdefault(fanin, []).append(gate)
    for driver in sorted(readers):
        net = [driver, *readers[driver]]
        (x_low, y_low), (x_high, y_high) = bins[net].min(0), bins[net].max(0)
        area = (x_high - x_low + 1) * (y_high - y_low + 1)
        map_CHW[1, y_low : y_high + 1, x_low : x_high + 1] += np.ptp(places[net], axis=0).sum() / area
    return map_CHW
