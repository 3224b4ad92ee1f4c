"""Two hundred rounds: memory stays flat, and nothing is left behind."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from small import small

from fedcosim.server.run import run

pytestmark = pytest.mark.slow
ROUNDS, WARM_UP = 200, 50
MOST_MB_PER_ROUND = 0.2
SPEC = small("fedperfix", f"federation.rounds={ROUNDS}", "evaluate.every=10", "engine.workers=2", "upload.codec=int8")


def workers() -> list[psutil.Process]:
    """Processes of Ray actors of ours, busy or idle; this process has started Ray, so they descend from it."""
    return [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::Worker")]


class Weighing:
    """Notes after every round what the driver and each worker hold in memory, in MB."""

    def __init__(self) -> None:
        self.before = {process.pid for process in workers()}
        self.held_mb: dict[str, list[float]] = {}

    def progress(self, number: int, phase: str, done: int, total: int) -> None: ...

    def round(self, line) -> None:
        ours = [process for process in workers() if process.pid not in self.before]
        for name, process in [("driver", psutil.Process()), *((f"worker {p.pid}", p) for p in ours)]:
            self.held_mb.setdefault(name, []).append(process.memory_info().rss / 1e6)

    def close(self, status: str) -> None: ...


def settled(figure, expected) -> bool:
    """Ray lets go of what nobody refers to a moment later; look for half a minute."""
    deadline = time.monotonic() + 30
    while figure() != expected and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.2)
    return figure() == expected


def test_two_hundred_rounds_leak_nothing(runs: Path, local_ray):
    driver, weighing = psutil.Process(), Weighing()
    free, files = ray.available_resources(), driver.num_fds()
    folder = run(SPEC, runs, "soak", [weighing])
    slopes = {name: np.polyfit(range(ROUNDS - WARM_UP), held[WARM_UP:], 1)[0] for name, held in weighing.held_mb.items()}
    print({name: f"{slope:.3f} MB a round, {weighing.held_mb[name][-1]:.0f} MB" for name, slope in slopes.items()})
    assert len(slopes) == 3
    assert max(slopes.values()) < MOST_MB_PER_ROUND
    assert settled(lambda: {process.pid for process in workers()} - weighing.before, set())
    assert settled(lambda: ray.available_resources()["CPU"], free["CPU"])
    assert settled(lambda: ray.available_resources()["object_store_memory"], free["object_store_memory"])
    assert driver.num_fds() <= files + 5  # connections that Ray keeps
    assert len(list(folder.glob("checkpoints/*.safetensors"))) == 2
    assert all(len(list(client.iterdir())) <= 2 for client in folder.glob("state/*/*"))
    assert not list(folder.rglob("*.tmp"))
