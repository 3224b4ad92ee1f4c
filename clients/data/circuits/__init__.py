"""Circuits as data for federated learning: a small large-circuit-model workload (arXiv:2403.07257), made from a seed.

    circuits = make(CircuitsOptions(samples={"random": 2000, "epfl": 200}), seed=1)
    parts = split(circuits, SplitOptions(), seed=1)
    clients = silos(circuits, parts.train, SilosOptions(), seed=1)

Needs the optional packages of ``pip install 'fedcosim[circuits]'``.
"""

from .circuits import Circuits, concatenate
from .families import FAMILIES, Family
from .functions import distances
from .generate import CircuitsOptions, make
from .netlist import Netlist, equivalent, restructured
from .splits import Silo, SilosOptions, Split, SplitOptions, silos, split

__all__ = [
    "FAMILIES",
    "Circuits",
    "CircuitsOptions",
    "Family",
    "Netlist",
    "Silo",
    "SilosOptions",
    "Split",
    "SplitOptions",
    "concatenate",
    "distances",
    "equivalent",
    "make",
    "restructured",
    "silos",
    "split",
]
