"""What FedDiff's two expensive parts cost: sampling on one and on two workers, and a step of DP-SGD beside a plain one.

    python benchmarks/oneshot.py --repeats 5

Alternates A B A B in one process and prints medians and ratios with their range. Untrained U-Nets cost what trained ones do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import torch

from fedcosim.clients.client_app import app
from fedcosim.clients.models.lenet import LeNetOptions
from fedcosim.clients.privacy import Private
from fedcosim.clients.tasks import diffusion
from fedcosim.clients.tasks.classification import TrainOptions
from fedcosim.clients.tasks.diffusion import DiffusionOptions
from fedcosim.clients.uploads import Upload
from fedcosim.server.grid import RayGrid, start_ray
from fedcosim.strategies.feddiff import FedDiffOptions
from fedcosim.strategies.options import Setting

SHAPE, CLASSES, CLIENTS, STEPS = (1, 28, 28), 10, 5, 8


def sampling(samples: int) -> dict[str, Callable[[], None]]:
    """Return what samples the U-Nets of five clients, four classes each, on one and on two workers."""
    setting = Setting(1, CLIENTS, CLIENTS, LeNetOptions(), TrainOptions(), SHAPE, CLASSES)
    options = FedDiffOptions(samples=samples, generator=DiffusionOptions(tiers=("S",), unshuffle=2))
    unet = diffusion.initial(options.generator, "S", SHAPE, CLASSES, 1).state_dict()
    counts = [torch.tensor([float((k + c) % 5 != 0) * (c % 5 != k) for c in range(CLASSES)]) for k in range(CLIENTS)]
    received = [Upload(k, counts[k], 0.0, dict(unet), {}, None) for k in range(CLIENTS)]
    ways = {}
    for workers in (1, 2):
        strategy = options.build(setting)
        strategy.compute = RayGrid(app, {}, CLIENTS, Path(tempfile.mkdtemp()), workers=workers).map
        list(strategy.compute(diffusion.initial, [(options.generator, "S", SHAPE, CLASSES, 1)] * 4))  # imports diffusers
        ways[f"sampling, {workers} worker(s)"] = lambda strategy=strategy: strategy.synthesise(received)
    return ways


def training(tier: str, draws: int) -> dict[str, Callable[[], None]]:
    """Return what takes eight steps of 64 records, plainly and by DP-SGD."""
    options = DiffusionOptions(tiers=(tier,), unshuffle=2, steps=STEPS, draws=draws)  # type: ignore[arg-type]
    x_NCHW, y_N = torch.rand(640, *SHAPE) * 2 - 1, torch.randint(CLASSES, (640,))

    def train(private: bool) -> None:
        stream = torch.Generator().manual_seed(1)
        how = Private(1.0, 1.0, stream) if private else None
        diffusion.train(diffusion.initial(options, tier, SHAPE, CLASSES, 1), x_NCHW, y_N, options, stream, stream, how)  # type: ignore[arg-type]

    what = f"{STEPS} steps, tier {tier}, 64 records x {draws} draw(s)"
    return {f"{what}, plain": lambda: train(False), f"{what}, DP-SGD": lambda: train(True)}


def compare(ways: dict[str, Callable[[], Any]], repeats: int) -> None:
    """Run two ways alternately; print medians and the ratio of the pairs."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.2f} s ({min(values):.2f}-{max(values):.2f})", flush=True)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"    first / second: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})", flush=True)


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1000, help="images a repeat")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average before: {os.getloadavg()[0]:.2f}")
    start_ray("local", 3)
    compare(sampling(options.samples), options.repeats)
    for tier, draws in (("XS", 1), ("XS", 2), ("S", 1)):
        compare(training(tier, draws), options.repeats)


if __name__ == "__main__":
    main()
