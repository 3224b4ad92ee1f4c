"""The FedCola benchmark: every arm is an experiment, and Shapley values are what defines them."""

from __future__ import annotations

import importlib.util
import sys
from itertools import permutations
from pathlib import Path
from types import ModuleType

import pytest

from fedcosim.server.spec import load

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fedcola.py"


@pytest.fixture(scope="module")
def fedcola() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fedcola_benchmark", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["emoji", "circuits"])
def test_every_arm_is_an_experiment_and_no_two_are_the_same(fedcola, name):
    workload = fedcola.WORKLOADS[name]
    arms = workload.arms() | {"-".join(sorted(there)): more for there, more in workload.without.items() if len(there) < 2}
    spec = fedcola.EXPERIMENTS / f"{workload.spec}.toml"
    specs = {arm: load(spec, overrides).to_toml() for arm, overrides in arms.items()}
    assert len(set(specs.values())) == len(specs)
    assert set(fedcola.MAIN) <= workload.arms().keys()


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
