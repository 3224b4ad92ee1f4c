"""Circuits as data for federated learning: a small large-circuit-model workload (arXiv:2403.07257), made from a seed.

    circuits = make(CircuitsOptions(samples={"random": 2000, "epfl": 200}), seed=1)
    parts = split(circuits, SplitOptions(), seed=1)
    for silo in silos(circuits, parts.train, SilosOptions(), seed=1):
        views = [tokens(circuits.take(silo.rows), view) for view in silo.views]

Needs the optional packages of ``pip install 'fedcosim[circuits]'``.
"""

from .circuits import Circuits, concatenate
from .families import FAMILIES, OPERATIONS, Family
from .functions import distances
from .generate import CircuitsOptions, make
from .labels import Bins, Label, Measure, classes, measure
from .netlist import Netlist, equivalent, restructured
from .ppa import Score, gate_count_baseline, score
from .splits import Silo, SilosOptions, Split, SplitOptions, silos, split
from .tokens import PAD, Tokens, View, tokens
from .uploads import uploaded

__all__ = [
    "FAMILIES",
    "OPERATIONS",
    "PAD",
    "Bins",
    "Circuits",
    "CircuitsOptions",
    "Family",
    "Label",
    "Measure",
    "Netlist",
    "Score",
    "Silo",
    "SilosOptions",
    "Split",
    "SplitOptions",
    "Tokens",
    "View",
    "classes",
    "concatenate",
    "distances",
    "equivalent",
    "gate_count_baseline",
    "make",
    "measure",
    "restructured",
    "score",
    "silos",
    "split",
    "tokens",
    "uploaded",
]
