"""What compression costs and loses: packing, factoring, encoding an update, equal bytes, a small transformer, a language model.

    python benchmarks/compression.py packing factoring encoding        # seconds
    python benchmarks/compression.py updates transformer               # minutes
    python benchmarks/compression.py federated --spec experiments/upload_fmnist_cnn.toml --out runs/uploads    # an hour
    python benchmarks/compression.py language --model DIR --gguf FILE --text FILE --codec svd-llm

Prints Markdown. One thread. Times are CPU time, the least of several repeats. All but the last need no files: the images are
scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcosim.clients.client_app import Workbench
from fedcosim.clients.models import MODELS, initialise
from fedcosim.compression import Base, Calibration, Context, layout, parse
from fedcosim.compression.checkpoint import language_loss, load, windows
from fedcosim.compression.kv import truncate_projections
from fedcosim.compression.lowrank import decompose
from fedcosim.compression.packing import pack, unpack
from fedcosim.compression.strs import mean_loss
from fedcosim.server.grid import start_ray
from fedcosim.server.run import run
from fedcosim.server.spec import load as load_spec
from fedcosim.server.spec import parse as parse_spec

LAYERS_ONLY = ("model.embed_tokens.weight", "lm_head.weight")  # the papers factor the blocks' layers, not the embedding


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Return the least CPU time of several repeats."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a Markdown table."""
    head = list(head)
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def packing(_: argparse.Namespace) -> None:
    """Millions of values a second, on four million values."""
    rows = []
    for bits in range(1, 9):
        codes = np.random.default_rng(bits).integers(0, 2**bits, 4_000_000, dtype=np.uint8)
        packed = pack(codes, bits)
        times = seconds(lambda: pack(codes, bits)), seconds(lambda: unpack(packed, bits, len(codes)))  # noqa: B023
        rows.append([bits, *(f"{4 / t:.0f}" for t in times)])
    table(["bits", "pack, M values/s", "unpack, M values/s"], rows)


def factoring(_: argparse.Namespace) -> None:
    """Gram matrix and eigenvectors beside an SVD, in the same precision and in the cheaper one."""
    rows = []
    for shape in ((768, 768), (768, 3072), (3072, 768)):
        w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        gram = seconds(lambda: decompose(w), 4)  # noqa: B023
        double = seconds(lambda: torch.linalg.svd(w.double(), full_matrices=False), 2)  # noqa: B023
        single = seconds(lambda: torch.linalg.svd(w, full_matrices=False), 3)  # noqa: B023
        rows.append(
            [
                f"{shape[0]} x {shape[1]}",
                *(f"{t:.3f}" for t in (gram, double, single)),
                f"{double / gram:.1f}",
                f"{single / gram:.1f}",
            ]
        )
    table(["matrix", "decompose (double), s", "svd double, s", "svd single, s", "ratio to double", "ratio to single"], rows)


def digits(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the digits, 3 x 32 x 32, standardised, shuffled: for training, calibration and test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x = torch.tensor(images[order], dtype=torch.float32).reshape(-1, 1, 8, 8)
    x = F.interpolate((x - x.mean()) / x.std(), scale_factor=4).expand(-1, 3, -1, -1).contiguous()
    y = torch.tensor(labels[order])
    return (x[:1200], y[:1200]), (x[1200:1300], y[1200:1300]), (x[1300:], y[1300:])


def train(module: nn.Module, x: Tensor, y: Tensor, epochs: int, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """Train in batches of 32."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout
    module.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(32):
            optimizer.zero_grad()
            F.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    module.eval()


def calibration_on(module: nn.Module, x: Tensor, y: Tensor) -> Calibration:
    """Return calibration on labelled images."""
    return Calibration(module, [(x, y)], lambda m, batch: F.cross_entropy(m(batch[0]), batch[1]))


class Labelled(nn.Module):
    """A classifier that can be called with images and labels, as calibration batches are."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, _: Tensor | None = None) -> Tensor:
        return self.module(x)


def local_update(seed: int) -> tuple[nn.Module, Base, dict[str, Tensor], Calibration, Tensor]:
    """Return a CNN of 1.63 M parameters, its weights before and after a client's epoch, calibration data, test images."""
    (x, y), held_out, (test, _) = digits(seed)
    module = Labelled(initialise(MODELS.parse({"name": "cnn"}), (3, 32, 32), 10, seed))
    train(module, x[:900], y[:900], 2, torch.optim.Adam(module.parameters(), 1e-3), seed)
    base = Base({name: value.clone() for name, value in module.state_dict().items()})
    train(module, x[900:], y[900:], 1, torch.optim.SGD(module.parameters(), 0.05), seed)
    update = {name: value.clone() for name, value in module.state_dict().items()}
    return module, base, update, calibration_on(module, *held_out), test


FAMILIES: list[tuple[str, Any, str | None, dict[str, Any]]] = [
    ("fp16", "fp16", None, {}),
    ("int8", "int8", None, {}),
    ("int4", "int4", None, {}),
    ("signSGD", "signsgd", None, {}),
    ("QSGD, 4 bits", "qsgd", None, {}),
    ("QSGD, 2 bits", "qsgd", None, {"bits": 2}),
    ("top-k", "topk", "keep", {}),
    ("top-k > int8", ["topk", "int8"], "keep", {}),
    ("random-k", "randomk", "keep", {}),
    ("PowerSGD", "powersgd", "rank", {}),
    ("SVD", "svd", "ratio", {}),
    ("ASVD", "asvd", "ratio", {}),
    ("SVD-LLM", "svd-llm", "ratio", {}),
    ("SVD > int8", ["svd", "int8"], "ratio", {}),
    ("ASVD > int8", ["asvd", "int8"], "ratio", {}),
    ("SVD-LLM > int8", ["svd-llm", "int8"], "ratio", {}),
    ("ASVD > int4", ["asvd", "int4"], "ratio", {}),
]
"""Name, codec, the field that trades bytes for error (None: there is none), other fields."""


def encoding(options: argparse.Namespace) -> None:
    """CPU time to encode and decode one update of 1.63 M parameters."""
    _, base, update, calibration, _ = local_update(1)
    rows = []
    for name, codec, field, fields in FAMILIES:
        made = parse({"codec": codec, **({field: 4 if field == "rank" else 0.1} if field else {}), **fields}).build()
        context = lambda: Context(base, torch.Generator().manual_seed(1), calibration)  # noqa: E731
        blob = made.encode(update, context()).blob
        times = (
            seconds(lambda: made.encode(update, context()), options.repeats),  # noqa: B023
            seconds(lambda: made.decode(blob, layout(update), base), options.repeats),  # noqa: B023
        )
        rows.append(
            [name, f"{field} = {4 if field == 'rank' else 0.1}" if field else "", len(blob), *(f"{t:.3f}" for t in times)]
        )
    table(["codec", "", "bytes", "encode, s", "decode, s"], rows)


def fitted(field: str | None, budget: int, encode: Callable[..., Any]) -> tuple[dict[str, Any], Any]:
    """Return the encoding that uses most of the budget and not more, of a few values of `field`, and that value."""
    if field is None:
        return {}, encode()
    best, chosen, value = None, {}, 16 if field == "rank" else 0.2
    for _ in range(5):
        one = encode(**{field: value})
        size = len(one.blob)
        if size <= budget and (best is None or size > len(best.blob)):
            best, chosen = one, {field: value}
        if 0.97 * budget <= size <= budget:
            break
        value = max(1, int(value * budget / size)) if field == "rank" else min(0.95, 0.985 * value * budget / size)
    return chosen, best


def updates(options: argparse.Namespace) -> None:
    """Error at equal bytes, one upload without feedback: of the delta, and of what it does to the logits of test images."""
    measured: dict[tuple[float, str], list[tuple[float, float, float]]] = {}
    for seed in range(1, options.seeds + 1):
        module, base, update, calibration, test = local_update(seed)
        with torch.no_grad():
            after = module(test)
            module.load_state_dict(base.tensors)
            before = module(test)
            module.load_state_dict(update)

        def encode(**section: Any) -> Any:
            context = Context(base, torch.Generator().manual_seed(seed), calibration)  # noqa: B023
            return parse({"error_feedback": False, **section}).build().encode(update, context)  # noqa: B023

        dense = sum(value.nbytes for value in update.values())
        for share in (0.13, 0.033):
            for name, codec, field, fields in FAMILIES:
                _, one = fitted(field, int(share * dense), partial(encode, codec=codec, **fields))
                if one is None or not 0.9 * share <= one.report.ratio <= 1.02 * share:
                    continue
                decoded = parse({"codec": codec, **fields, **({field: 1 if field == "rank" else 0.5} if field else {})}).build()
                module.load_state_dict(decoded.decode(one.blob, layout(update), base))
                with torch.no_grad():
                    logits = float((module(test) - after).norm() / (after - before).norm())
                module.load_state_dict(update)
                measured.setdefault((share, name), []).append((one.report.ratio, one.report.error, logits))
    rows = [
        [f"{share:.3f}", name, *(f"{statistics.mean(v):.4f} ± {statistics.pstdev(v):.4f}" for v in zip(*values, strict=True))]
        for (share, name), values in measured.items()
    ]
    table(["budget", "codec", "bytes / dense", "error of the delta", "error of the logits' change"], rows)


AT_THEIR_OWN_SIZE = ("fp16", "int8")
BUDGETS = {
    0.13: ("int4", "QSGD, 4 bits", "top-k", "top-k > int8", "random-k", "PowerSGD", "SVD", "ASVD", "SVD-LLM"),
    0.033: ("signSGD", "top-k > int8", "PowerSGD", "SVD > int8", "ASVD > int8", "SVD-LLM > int8"),
}
"""Codecs that are compared in federated training, by share of the dense bytes."""


def federated(options: argparse.Namespace) -> None:
    """Accuracy and bytes of whole federated runs, by codec; differences to the uncompressed run of the same seed."""
    spec = load_spec(options.spec)
    bench = Workbench(spec)
    base = Base(bench.initial)
    generator = torch.Generator().manual_seed(1)
    update = {
        k: x + 0.01 * torch.randn(x.shape, generator=generator) if x.is_floating_point() else x
        for k, x in bench.initial.items()
    }
    calibration = Calibration(bench.model, [bench.data.train(0)[0][:8]])
    dense = sum(value.nbytes for value in update.values())
    families = {name: (codec, field, fields) for name, codec, field, fields in FAMILIES}

    def encode(**section: Any) -> Any:
        return parse(section).build().encode(update, Context(base, torch.Generator().manual_seed(1), calibration))

    methods: dict[str, dict[str, Any]] = {"uncompressed": {}}
    for share, names in ((1.0, AT_THEIR_OWN_SIZE), *BUDGETS.items()):
        for name in names:
            codec, field, fields = families[name]
            chosen, _ = fitted(field, int(share * dense), partial(encode, codec=codec, **fields))
            methods[f"{name} ({share:.3g})"] = {"upload": {"codec": codec, **fields, **chosen}}
    start_ray("local", spec.engine.workers)
    finals: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in methods}
    for seed in range(1, options.seeds + 1):
        for name, section in methods.items():
            folder = options.out / f"{spec.name}-{re.sub('[^A-Za-z0-9.]+', '-', name).strip('-')}-s{seed}"
            if not (folder / "model.safetensors").exists():
                shutil.rmtree(folder, ignore_errors=True)
                run(parse_spec({**spec.to_dict(), **section, "seed": seed}), options.out, folder.name)
            finals[name][seed] = json.loads((folder / "result.json").read_text())["final"]
            print(f"{folder.name}: {finals[name][seed]['accuracy_mean']:.4f}", file=sys.stderr, flush=True)
    plain = finals["uncompressed"]
    rows = []
    for name, by_seed in finals.items():
        accuracy = [100 * final["accuracy_mean"] for final in by_seed.values()]
        gaps = [100 * (final["accuracy_mean"] - plain[seed]["accuracy_mean"]) for seed, final in by_seed.items()]
        up = statistics.mean(final["bytes_up"] for final in by_seed.values())
        ratio = statistics.mean(final["bytes_up"] / final["bytes_up_dense"] for final in by_seed.values())
        error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else math.nan
        settings = ", ".join(
            f"{k} = {v:.3g}" for k, v in methods[name].get("upload", {}).items() if isinstance(v, (int, float))
        )
        figures = f"{statistics.mean(accuracy):.1f}", f"{statistics.mean(gaps):+.1f} ± {error:.1f}"
        rows.append([name.split(" (")[0], settings, f"{up / 1e6:.2f}", f"{ratio:.3f}", *figures])
    table(["codec", "", "MB up", "bytes / dense", "accuracy, %", "less the uncompressed run's"], rows)


def transformer(options: argparse.Namespace) -> None:
    """Weights of a trained ViT: error, test accuracy and calibration loss against bytes; searched ranks beside uniform ones.

    Below the table: differences of test losses, paired by seed.
    """
    measured: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    for seed in range(1, options.seeds + 1):
        (x, y), held_out, (test, labels) = digits(seed)
        vit = MODELS.parse({"name": "vit", "dim": 64, "depth": 4, "heads": 4, "patch": 8})
        module = Labelled(initialise(vit, (3, 32, 32), 10, seed))
        train(module, x, y, 15, torch.optim.Adam(module.parameters(), 1e-3), seed)
        weights = {name: value.clone() for name, value in module.state_dict().items()}

        def measure(name: str, setting: str, **section: Any) -> None:
            codec = parse({"target": "weights", **section}).build()
            encoded = codec.encode(weights, Context(calibration=calibration_on(module, *held_out)))  # noqa: B023
            module.load_state_dict(codec.decode(encoded.blob, layout(weights)))  # noqa: B023
            with torch.no_grad():
                logits = module(test)  # noqa: B023
            module.load_state_dict(weights)  # noqa: B023
            figures = (float((logits.argmax(1) == labels).float().mean()), float(F.cross_entropy(logits, labels)))  # noqa: B023
            measured.setdefault((name, setting), []).append((encoded.report.ratio, encoded.report.error, *figures))

        measure("dense", "", codec="svd", ratio=1)
        measure("int8", "", codec="int8")
        measure("int4", "", codec="int4")
        for keep in (0.4, 0.2):
            measure("top-k", f"keep {keep}", codec="topk", keep=keep)
        for ratio in (0.7, 0.5, 0.3):
            for codec in ("svd", "asvd", "svd-llm"):
                measure(codec, f"ratio {ratio}", codec=codec, ratio=ratio)
            for ranks in ("loss", "stable_rank"):
                measure(f"asvd, {ranks} ranks", f"ratio {ratio}", codec="asvd", ratio=ratio, ranks=ranks)
        measure("svd-llm > int8", "ratio 0.5", codec=["svd-llm", "int8"], ratio=0.5)
    rows = [[*key, *(f"{statistics.mean(v):.3f}" for v in zip(*values, strict=True))] for key, values in measured.items()]
    table(["codec", "", "bytes / dense", "error", "test accuracy", "test loss"], rows)
    for ratio in (0.7, 0.5, 0.3):
        for ranks in ("loss", "stable_rank"):
            uniform, searched = (measured[name, f"ratio {ratio}"] for name in ("asvd", f"asvd, {ranks} ranks"))
            gain = [a[3] - b[3] for a, b in zip(uniform, searched, strict=True)]
            error = statistics.stdev(gain) / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
            print(f"\nratio {ratio}, uniform less {ranks}: {statistics.mean(gain):+.4f} ± {error:.4f} (standard error)")


def language(options: argparse.Namespace) -> None:
    """Perplexity of a language model with one codec; calibrated on a text's start, measured beyond it."""
    checkpoint = load(options.model, options.gguf)
    module, weights = checkpoint.module, {name: value.clone() for name, value in checkpoint.tensors.items()}
    assert module is not None
    text = options.text.read_text(encoding="utf-8")
    calibration = Calibration(module, windows(checkpoint, text, options.windows, options.length), language_loss)
    held_out = windows(checkpoint, text, options.windows, options.length, skip=options.windows)
    for ratio in [1.0] if options.codec == "dense" else options.ratio:
        section = {"codec": options.codec, "ratio": ratio, "ranks": options.ranks, "whole": LAYERS_ONLY, "target": "weights"}
        found: dict[str, Any] = {}
        started = time.process_time()
        if options.codec == "kv":
            truncated, cache = truncate_projections(calibration, parse({**section, "codec": "asvd"}).codec[0])  # type: ignore[arg-type]
            module.load_state_dict(truncated, strict=False)
            found = {"cache_ratio": cache.truncated_values / cache.whole_values}
        elif options.codec != "dense":
            codec = parse(section).build()
            encoded = codec.encode(weights, Context(calibration=calibration))
            module.load_state_dict(codec.decode(encoded.blob, layout(weights)))
            layers = [tensor for tensor in encoded.report.tensors if "_proj." in tensor.name]
            found = {
                "ratio_of_layers": sum(t.encoded_bytes for t in layers) / sum(t.dense_bytes for t in layers),
                "ratio_of_model": encoded.report.ratio,
                "error": encoded.report.error,
            }
        found["cpu_s"] = time.process_time() - started
        found["perplexity"] = math.exp(mean_loss(Calibration(module, held_out, language_loss)))
        module.load_state_dict(weights)
        figures = {key: round(value, 4) for key, value in found.items()}
        print(json.dumps({"codec": options.codec, "ratio": ratio, "ranks": options.ranks, **figures}), flush=True)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {part.__name__: part for part in (packing, factoring, encoding, updates, transformer, federated, language)}
    parser.add_argument("parts", nargs="+", choices=parts)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--spec", type=Path, default=Path("experiments/upload_fmnist_cnn.toml"))
    parser.add_argument("--out", type=Path, default=Path("runs/uploads"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--gguf")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--codec", choices=("dense", "svd", "asvd", "svd-llm", "kv"), default="asvd")
    parser.add_argument("--ranks", choices=("uniform", "stable_rank", "loss"), default="uniform")
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.95, 0.9, 0.8])
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in options.parts:
        print(f"\n## {part}\n\n{inspect.getdoc(parts[part])}\n")
        parts[part](options)


if __name__ == "__main__":
    main()
