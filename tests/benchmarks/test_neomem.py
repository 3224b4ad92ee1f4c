"""The benchmark script of the NeoMem simulator: what its tables say, on few accesses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "neomem.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("neomem_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["neomem_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_suite_has_eight_traces_and_their_mean(bench):
    small = bench.Bench(quick=True)
    small.shrink = 2048
    table = bench.suite(small)
    assert len(table) == 8 + 2
    values = [float(row["first_touch"]) for row in table[:8]]
    assert float(table[-1]["first_touch"]) == pytest.approx(np.exp(np.log(values).mean()), rel=0.01)


def test_tables_are_markdown(bench):
    assert bench.markdown([{"a": 1, "b": 2.5}]) == "| a | b |\n| --- | --- |\n| 1 | 2.5 |"
