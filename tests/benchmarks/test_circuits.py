"""The circuits benchmark: its bugs are bugs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from fedcosim.clients.data.circuits import CircuitsOptions, make, tokens
from fedcosim.clients.data.circuits.netlist import exhaustive, response, simulate
from fedcosim.clients.data.circuits.tokens import netlist

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "circuits.py"


def test_a_bug_is_one_inverter_that_changes_the_function():
    spec = importlib.util.spec_from_file_location("circuits_benchmark", SCRIPT)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    circuits, random = make(CircuitsOptions(samples={"random": 30, "control": 10}), seed=1), np.random.default_rng(0)
    for ids_T in tokens(circuits, "netlist").ids_NT:
        right, wrong = netlist(ids_T), netlist(module._bug(ids_T, random))
        assert wrong.output == right.output
        assert (wrong.fanins_A2 ^ right.fanins_A2).sum() == (wrong.fanins_A2 != right.fanins_A2).sum() == 1
        patterns_IP = exhaustive(right.inputs)
        outputs = [response(one, simulate(one, patterns_IP)) for one in (right, wrong)]
        assert (outputs[0] != outputs[1]).any()
