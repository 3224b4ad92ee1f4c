"""The roofline against this computer: predicted and measured time of operators and training steps.

    python benchmarks/roofline.py [--quick] [--json FILE]

Ceilings are measured first (`fedcosim hwsim calibrate`). Then every case is measured; efficiencies and the overhead of an
operator are fitted on half of the cases of each class, and the other half is predicted. One thread, its own CPU time, the best
of several tries: other work on the computer disturbs less, but not nothing; the load average is printed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import nn

from fedcosim.hwsim.devices import Device, Efficiency
from fedcosim.hwsim.roofline import trace
from fedcosim.hwsim.roofline.calibrate import best_s, measure
from fedcosim.hwsim.roofline.estimate import estimate
from fedcosim.hwsim.roofline.simulator import ModelRequest
from fedcosim.hwsim.roofline.workload import Workload
from fedcosim.server.architectures import example


@dataclass
class Case:
    kind: str
    name: str
    workload: Workload
    run: Callable[[], object]
    measured_s: float = 0.0


def inference_case(kind: str, name: str, model: nn.Module, *inputs: torch.Tensor) -> Case:
    workload = trace.inference(trace.Example(model, inputs, (), lambda *_: None))  # type: ignore[arg-type,return-value]
    return Case(kind, name, workload, lambda: model(*inputs))


class Apply(nn.Module):
    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


def cases(quick: bool) -> Iterator[Case]:
    few = slice(None, None, 3 if quick else 1)
    sides = [128, 256, 512, 1024, 2048, 4096][few]
    for side in sides:
        for rows in [1, 8, 64, 256, 1024][few]:
            yield inference_case("linear", f"{rows} x {side} x {side}", nn.Linear(side, side), torch.randn(rows, side))
    for channels in [8, 16, 32, 64, 128][few]:
        for size in [8, 16, 32][few]:
            for batch in [1, 16, 64][few]:
                conv = nn.Conv2d(channels, channels, 3, padding=1)
                yield inference_case("conv", f"{batch} x {channels} x {size}^2", conv, torch.randn(batch, channels, size, size))
    for length in [16, 64, 256, 512][few]:
        for width in [16, 64][few]:
            for heads in [1, 8, 32][few]:
                q = torch.randn(1, heads, length, width)
                attend = Apply(lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2), -1) @ v)
                yield inference_case("attention", f"{heads} x {length} x {width}", attend, q, q.clone(), q.clone())
    for numbers in [2**10, 2**13, 2**16, 2**19, 2**22, 2**24][few]:
        x = torch.randn(numbers // 256 or 1, 256)
        for name, module in (
            ("add", Apply(torch.add)),
            ("gelu", nn.GELU()),
            ("softmax", nn.Softmax(-1)),
            ("layer_norm", nn.LayerNorm(256)),
        ):
            yield inference_case("elementwise", f"{name} {numbers}", module, *([x, x.clone()] if name == "add" else [x]))
    for name in ("lenet", "cnn", "vit", "unet-xs", "unet-s"):
        for batch in [4, 16, 64][few]:
            yield training_case(name, batch)


def training_case(name: str, batch: int) -> Case:
    built = example(ModelRequest(name=name, batch=batch))
    model = built.model.to_empty(device="cpu") if next(built.model.parameters()).is_meta else built.model
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    inputs = [torch.zeros_like(x, device="cpu") if not x.is_floating_point() else torch.randn(x.shape) for x in built.inputs]
    targets = [torch.zeros_like(x, device="cpu") for x in built.targets]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()

    def step() -> None:
        with torch.enable_grad(), torch.inference_mode(False):
            optimizer.zero_grad()
            built.loss(model, *inputs, *targets).backward()
            optimizer.step()

    return Case("training step", f"{name}, batch {batch}", trace.training_step(built), step)


def predicted_s(device: Device, case: Case) -> float:
    return estimate("this", device, case.workload, most_operators=1).time_s


def fitted(device: Device, some: list[Case]) -> Device:
    """Return the device with the efficiencies and the overhead that fit some cases best, in the logarithm of time."""

    def at(parameters: np.ndarray) -> Device:
        compute, memory = 1 / (1 + np.exp(-parameters[:2]))
        efficiency = Efficiency(compute=max(compute, 1e-3), memory=max(memory, 1e-3), overhead_s=float(np.exp(parameters[2])))
        return device.model_copy(update={"efficiency": efficiency})

    def loss(parameters: np.ndarray) -> float:
        candidate = at(parameters)
        return float(np.mean([abs(np.log(predicted_s(candidate, c) / c.measured_s)) for c in some]))

    start = np.array([1.0, 1.0, np.log(2e-6)])
    return at(minimize(loss, start, method="Nelder-Mead", options={"xatol": 0.01, "fatol": 1e-4, "maxiter": 400}).x)


def figures(device: Device, some: list[Case]) -> dict[str, float]:
    predicted = np.array([predicted_s(device, c) for c in some])
    measured = np.array([c.measured_s for c in some])
    ratio = measured / predicted
    return {
        "cases": len(some),
        "spearman": float(spearmanr(predicted, measured).statistic),
        "within_2x": float(np.mean((ratio < 2) & (ratio > 0.5))),
        "mape": float(np.mean(np.abs(predicted - measured) / measured)),
        "median_ratio": float(np.median(ratio)),
        "largest_ratio": float(ratio.max()),
        "smallest_ratio": float(ratio.min()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    ceilings = measure()
    everything = list(cases(arguments.quick))
    for case in everything:
        with torch.inference_mode():
            case.measured_s = best_s(case.run, tries=3 if arguments.quick else 7, at_least_s=0.02)
    order = np.random.default_rng(0)
    halves: tuple[list[Case], list[Case]] = ([], [])
    for kind in dict.fromkeys(c.kind for c in everything):
        members = [c for c in everything if c.kind == kind]
        for place, index in enumerate(order.permutation(len(members))):
            halves[place % 2].append(members[index])
    device = fitted(ceilings, halves[0])
    print(f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after; {os.cpu_count()} CPUs")
    print(f"ceilings: {ceilings}")
    print(f"fitted on {len(halves[0])} cases: {device.efficiency}")
    result = {"ceilings": ceilings.model_dump(), "fitted": device.efficiency.model_dump(), "tables": {}}
    for title, where in (
        ("bound (ceilings alone)", ceilings.model_copy(update={"efficiency": Efficiency()})),
        ("fitted", device),
    ):
        print(f"\n{title}, on the {len(halves[1])} other cases")
        print("| class | cases | Spearman | within 2x | MAPE | measured / predicted: median | range |")
        print("|---|---|---|---|---|---|---|")
        table = {}
        for kind in [*dict.fromkeys(c.kind for c in everything), "all"]:
            row = figures(where, [c for c in halves[1] if kind in (c.kind, "all")])
            table[kind] = row
            print(
                f"| {kind} | {row['cases']} | {row['spearman']:.2f} | {row['within_2x']:.0%} | {row['mape']:.0%} "
                f"| {row['median_ratio']:.2f} | {row['smallest_ratio']:.2f} to {row['largest_ratio']:.2f} |"
            )
        result["tables"][title] = table
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
