"""The benchmark script itself: what it reports, and that its runners compute the same thing."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "engine.py"


@pytest.fixture(scope="module")
def engine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engine", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["engine"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def seen(runner: str, round_s: float, cpu_s: float, rounds: int = 6) -> dict:
    marks = [
        {"round": i, "t": 10 + i * round_s, "cpu_s": 5 + i * cpu_s, "driver_cpu_s": i * 0.1, "driver_rss_bytes": 2**20 * i}
        for i in range(1, rounds + 1)
    ]
    return {"runner": runner, "started": 4.0, "rounds": marks, "peak_pss_bytes": 2**30, "driver_peak_rss_bytes": 2**28}


def test_a_summary_leaves_warm_up_out(engine):
    execution = seen("fedcosim", 2.0, 1.0)
    execution["rounds"][0]["t"] = 0.0  # a slow first round
    summary = engine.summary(engine.WORKLOADS[0], execution, warmup=2)
    assert summary["round_s"] == summary["round_p10_s"] == summary["round_p90_s"] == 2.0
    assert summary["cpu_ms_per_client"] == pytest.approx(1000 / 50)
    assert summary["driver_growth_bytes"] == 4 * 2**20


def test_ratios_are_formed_within_a_repeat(engine):
    """A machine that was slow throughout a repeat is slow for both runners."""
    runs = [{"repeat": i, "runner": r, "round_s": s} for i, r, s in ((0, "a", 2), (0, "b", 1), (1, "a", 40), (1, "b", 10))]
    assert engine.ratios(runs, "a", "b", "round_s") == [2, 4]
    assert engine.ratios(runs, "a", "missing", "round_s") == []


def test_tables_survive_a_trip_through_json(engine):
    runs = [
        {"repeat": 0} | engine.summary(engine.WORKLOADS[0], seen(r, s, s), 2) for r, s in (("plain", 4.0), ("fedcosim", 2.1))
    ]
    document = {
        "started": "today",
        "command": "engine.py",
        "commit": "none",
        "machine": engine.machine(),
        "versions": {},
        "parity": {"parity-cnn/flower": 2e-6},
        "workloads": {"W1": {"workload": {}, "warmup": 2, "runs": runs}},
    }
    text = engine.markdown(json.loads(json.dumps(document)))
    assert "| W1 | 1.05 (1.05-1.05) | - |" in text
    assert "2.0e-06" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_runners_compute_the_same(engine, tmp_path):
    assert max(engine.check_parity(tmp_path).values()) <= engine.PARITY
