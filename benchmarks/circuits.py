"""What can be told of circuits from RTL or a netlist, by federations of houses with one view, beside what needs no learning.

    python benchmarks/circuits.py --seeds 1 2 3 --out runs/circuits     all tasks
    python benchmarks/circuits.py --tasks area function                 some

Tasks are labels of experiments/circuits_tasks.toml. Area and delay stand beside the line through the gate count, probability
beside its mean, functional similarity and equivalence beside the same model untrained and trained to tell depths, which is
structure alone. Rewritings look unlike other circuits' netlists, so they are also compared with the circuit's own netlist with
one inverter wrong. Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import ray
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedcosim.clients.data import MultimodalData, gather
from fedcosim.clients.data.circuits import gate_count_baseline, make, split
from fedcosim.clients.data.circuits.netlist import Netlist, exhaustive, response, simulate
from fedcosim.clients.data.circuits.source import CORPUS_SEED, CircuitSiloOptions
from fedcosim.clients.data.circuits.tokens import netlist, of_netlist
from fedcosim.clients.data.multimodal import Samples
from fedcosim.clients.models.towers import Towers
from fedcosim.clients.tasks.multimodal import embed, judge
from fedcosim.server.grid import start_ray
from fedcosim.server.run import run
from fedcosim.server.spec import Experiment, load

SPEC = Path(__file__).parents[1] / "experiments" / "circuits_tasks.toml"
VIEWS = ("rtl", "netlist")
TASKS = {
    "area": ("mape", "r2"),
    "delay_ps": ("mape", "r2"),
    "probability": ("mae", "mae_constant", "r2"),
    "function": ("spearman", "spearman_balanced", "equivalence_auc", "rewriting_nearer_than_bug"),
}
"""What is learnt, and the figures that judge it."""


def spec_of(label: str, seed: int) -> Experiment:
    """Return the experiment in which both houses learn a label; two netlists of every function where functions are learnt."""
    labels = f'data.silos.labels={{ rtl = "{label}", netlist = "{label}" }}'
    variants = 2 if label == "function" else 1
    return load(SPEC, [f"name=circuits-{label}", labels, f"data.silos.variants={variants}", f"seed={seed}", "engine.workers=1"])


def folder_of(label: str, seed: int, out: Path) -> Path:
    """Return where the run of a label is, having run it unless that has been done."""
    folder = out / f"{label}-{seed}"
    place = folder / "result.json"
    if not place.exists() or json.loads(place.read_text())["status"] != "finished":
        run(spec_of(label, seed), out, folder.name)
    return folder


def shown(figures: list[dict[str, float]]) -> str:
    """Return mean and standard deviation over seeds of figures that all seeds have."""
    parts = []
    for name in figures[0]:
        values = [one[name] for one in figures]
        parts.append(f"{name} {np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""))
    return ", ".join(parts)


def learnt(task: str, seeds: list[int], out: Path) -> None:
    """Print what federations of both views reach."""
    finals = [json.loads((folder_of(task, seed, out) / "result.json").read_text())["final"] for seed in seeds]
    for view in VIEWS:
        own = [{figure: final[f"{figure}_{view}"] for figure in TASKS[task] if f"{figure}_{view}" in final} for final in finals]
        print(f"{task:12} {view:28} {shown(own)}", flush=True)


def baseline(seeds: list[int]) -> None:
    """Print what a line through the gate count says of area and delay; corpus and test circuits are those of every seed."""
    options = spec_of("area", seeds[0]).data
    assert isinstance(options, CircuitSiloOptions)
    circuits = make(options.circuits, CORPUS_SEED)
    parts = split(circuits, options.split, CORPUS_SEED)
    for name, score in gate_count_baseline(circuits, parts.train, parts.test).items():
        print(f"{name:12} {'gate count':28} mape {score.mape:.3f}, r2 {score.r2:.3f} ({len(parts.train)} circuits to fit)")


def functions(seeds: list[int], out: Path) -> None:
    """Print how well embeddings tell functions that were trained to, untrained, or trained to tell depths."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in seeds:
        spec = spec_of("function", seed)
        assert isinstance(spec.data, CircuitSiloOptions)
        data = gather(spec.data, seed)
        for trained in ("function", "depth", "nothing"):
            weights = {} if trained == "nothing" else load_file(folder_of(trained, seed, out) / "model.safetensors")
            for view in VIEWS:
                own = {key.removeprefix(f"{view}/"): value for key, value in weights.items() if key.startswith(f"{view}/")}
                found.setdefault((view, trained), []).append(_judged(spec, data, view, own))
    for (view, trained), figures in found.items():
        own = [{figure: one[figure] for figure in TASKS["function"] if figure in one} for one in figures]
        print(f"{'function':12} {f'{view}, trained on {trained}':28} {shown(own)}")


def _judged(spec: Experiment, data: MultimodalData, view: str, weights: dict[str, Tensor]) -> dict[str, float]:
    """Return the mean figures of a view's houses with these weights, the initial ones where there are none."""
    model = spec.model_options().build_for(data.types[view], spec.seed)
    model.load_state_dict({key: value for key, value in weights.items() if not key.startswith("head.")} or model.state_dict())
    judged = []
    for client in (client for client, name in enumerate(data.type_of) if name == view):
        samples = data.test(client)
        judged.append(judge(model, samples) | (_against_bugs(model, samples, spec.seed) if view == "netlist" else {}))
    return {key: float(np.mean([one[key] for one in judged])) for key in judged[0]}


def _against_bugs(model: Towers, samples: Samples, seed: int) -> dict[str, float]:
    """Return how often a netlist is nearer to its rewriting than to itself with one inverter wrong."""
    random = np.random.default_rng(seed)
    view_NVT = samples.views["netlist"]
    rewritten_N = (view_NVT[:, 0] != view_NVT[:, 1]).any(1)
    wrong_NT = torch.stack([torch.from_numpy(_bug(ids_T.numpy(), random)) for ids_T in view_NVT[rewritten_N, 0]])
    view_NVT = torch.cat([view_NVT[rewritten_N], wrong_NT[:, None]], dim=1)
    embedding_NVD = embed(model, "netlist", view_NVT)
    right_N, bug_N = (embedding_NVD[:, :1] * embedding_NVD[:, 1:]).sum(2).unbind(1)
    return {"rewriting_nearer_than_bug": (right_N > bug_N).double().mean().item()}


def _bug(ids_T: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a netlist's tokens with one fan-in of one gate inverted, at random among those that change the function."""
    right = netlist(ids_T)
    patterns_IP = exhaustive(right.inputs)
    expected_P = response(right, simulate(right, patterns_IP))
    for flipped in random.permutation(right.fanins_A2.size):
        fanins_A2 = right.fanins_A2.copy()
        fanins_A2.reshape(-1)[flipped] ^= 1
        wrong = Netlist(right.inputs, fanins_A2, right.output)
        if (response(wrong, simulate(wrong, patterns_IP)) != expected_P).any():
            return of_netlist(wrong, len(ids_T) // 2)
    raise AssertionError("inverting a fan-in of the last gate changes every function that is not constant")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/circuits"))
    args = parser.parse_args()
    start_ray("local", 1)
    for task in args.tasks:
        if task == "function":
            functions(args.seeds, args.out)
        else:
            learnt(task, args.seeds, args.out)
    if {"area", "delay_ps"} & set(args.tasks):
        baseline(args.seeds)
    ray.shutdown()


if __name__ == "__main__":
    main()
