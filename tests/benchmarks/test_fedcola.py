"""The FedCola benchmark: every arm is an experiment, and Shapley values are what defines them."""

from __future__ import annotations

import importlib.util
from itertools import permutations
from pathlib import Path
from types import ModuleType

import pytest

from fedcosim.server.spec import load

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fedcola.py"


@pytest.fixture(scope="module")
def fedcola() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fedcola_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_arm_is_an_experiment_and_no_two_are_the_same(fedcola):
    arms = fedcola.ARMS | {"-".join(sorted(there)): overrides for there, overrides in fedcola.WITHOUT.items() if len(there) < 2}
    specs = {name: load(fedcola.SPEC, overrides).to_toml() for name, overrides in arms.items()}
    assert len(set(specs.values())) == len(specs)
    assert set(fedcola.MAIN) <= fedcola.ARMS.keys()


def test_shapley_values_are_mean_gains_over_all_orders(fedcola):
    """Written out for three players; they add up to what all players together gain."""
    values = {frozenset(): 2.0, frozenset("a"): 3.0, frozenset("b"): 7.0, frozenset("c"): 1.0}
    values |= {frozenset("ab"): 9.0, frozenset("ac"): 4.0, frozenset("bc"): 6.0, frozenset("abc"): 20.0}
    expected = dict.fromkeys("abc", 0.0)
    for order in permutations("abc"):
        for place, player in enumerate(order):
            gain = values[frozenset(order[: place + 1])] - values[frozenset(order[:place])]
            expected[player] += gain / 6
    found = fedcola.shapley(values)
    assert found == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(18.0)
