"""What the parts of FedCola, its controls and its rivals do to retrieval: arms that differ in one thing, on paired seeds.

    python benchmarks/fedcola.py --seeds 1 2 3 4 5 --out runs/fedcola                    the main table
    python benchmarks/fedcola.py --arms fedavg ca cacp --seeds 1 2 3 --out runs/fedcola  some arms
    python benchmarks/fedcola.py --shapley --seeds 1 2 3 --out runs/fedcola              contributions of silo types

Arms are overrides of experiments/fedcola_emoji.toml. Equal seeds have equal pairs, initial weights, cohorts and batches. Runs
that are finished are not run again. Recalls at 1, 5 and 10, both ways, are added, in percentage points, mean of the last three
evaluations; differences are to the arm `fedavg`, with their standard error over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from itertools import combinations
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import ray

from fedcosim.server.grid import start_ray
from fedcosim.server.run import run
from fedcosim.server.spec import load

SPEC = Path(__file__).parents[1] / "experiments" / "fedcola_emoji.toml"
FEDAVG = ("strategy.name=fedavg-types",)
CA = ("strategy.compensation=none", "strategy.gates=none")
CACP = ("strategy.gates=none",)


def _participation(pairs: float) -> tuple[str, str]:
    return (
        f'strategy.participation={{ "image+text" = {pairs}, image = 0.25, text = 0.25 }}',
        f"federation.per_round={round(4 * pairs) + 4}",
    )


SHUFFLED = ("data.images.labels=shuffled", "data.texts.labels=shuffled")
ARMS: dict[str, tuple[str, ...]] = {
    "fedavg": FEDAVG,
    "ca": CA,
    "cacp": CACP,
    "cacpcl": (),
    "cponly": ("strategy.share=none", "strategy.compensation=all", "strategy.gates=none"),
    "attndamp": ("strategy.share=none", "strategy.compensation=attention", "strategy.gates=none"),
    "blocks": ("strategy.share=blocks", *CA),
    "mlp": ("strategy.share=mlp", *CA),
    "towers": ("strategy.share=towers", *CA),
    "fediot": ("strategy.name=fediot-style",),
    "fedprox-0.001": ("strategy.name=fedprox-types", "strategy.proximal_mu=0.001"),
    "fedprox-0.01": ("strategy.name=fedprox-types", "strategy.proximal_mu=0.01"),
    "fedavg-public": (*FEDAVG, "data.public=200"),
    "creamfl": ("strategy.name=creamfl-like", "data.public=200"),
    "ca-shuffled": (*CA, *SHUFFLED),
    "cacp-shuffled": (*CACP, *SHUFFLED),
    "blocks-shuffled": ("strategy.share=blocks", *CA, *SHUFFLED),
    "fedavg-lr0.3": (*FEDAVG, "strategy.server_lr=0.3"),
    "fedavg-lr0.5": (*FEDAVG, "strategy.server_lr=0.5"),
    "fedavg-lr0.7": (*FEDAVG, "strategy.server_lr=0.7"),
    "cl-lr0.01": ("strategy.gate_lr=0.01",),
    "cl-lr0.1": ("strategy.gate_lr=0.1",),
    "release": (*CACP, "strategy.denominator=release"),
    **{f"fedavg-{n}of4": (*FEDAVG, *_participation(n / 4)) for n in (2, 4)},
    **{f"ca-{n}of4": (*CA, *_participation(n / 4)) for n in (2, 4)},
    **{f"cacp-{n}of4": (*CACP, *_participation(n / 4)) for n in (2, 4)},
    "fedavg-elsewhere": (*FEDAVG, "data.images.source=cifar10", "data.texts.source=wordnet"),
    "ca-elsewhere": (*CA, "data.images.source=cifar10", "data.texts.source=wordnet"),
}
MAIN = (
    *("fedavg", "cponly", "attndamp", "ca", "cacp", "cacpcl", "blocks", "fediot"),
    *("fedprox-0.01", "fedavg-public", "creamfl", "ca-shuffled"),
)
BASES = {"fedavg-2of4": ("ca-2of4", "cacp-2of4"), "fedavg-4of4": ("ca-4of4", "cacp-4of4"), "fedavg-public": ("creamfl",)}
"""What arms are compared with where that is not `fedavg`."""
WITHOUT: dict[frozenset[str], tuple[str, ...]] = {
    frozenset({"image", "text"}): (),
    frozenset({"image"}): ("data.texts=", "federation.clients=12", "federation.per_round=3"),
    frozenset({"text"}): ("data.images=", "federation.clients=12", "federation.per_round=3"),
    frozenset(): ("data.images=", "data.texts=", "federation.clients=4", "federation.per_round=1"),
}
"""Which uni-modal types are there."""
METRIC = "retrieval_sum_1_5_10_last3"
SHOWN = (METRIC, "retrieval_sum_1_last3", "accuracy_image", "accuracy_text")


def finals(name: str, overrides: tuple[str, ...], seeds: list[int], out: Path, more: list[str]) -> dict[int, dict]:
    """Run an arm for all seeds, unless that has been done; return the final figures by seed."""
    found = {}
    for seed in seeds:
        place = out / f"{name}-{seed}" / "result.json"
        record = json.loads(place.read_text()) if place.exists() else {}
        if record.get("status") != "finished":
            spec = load(SPEC, [f"name={name}", *overrides, *more, f"seed={seed}"])
            record = json.loads((run(spec, out, f"{name}-{seed}") / "result.json").read_text())
        found[seed] = record["final"]
        print(f"{name} seed {seed}: {100 * record['final'][METRIC]:.2f}", flush=True)
    return found


def table(arms: dict[str, dict[int, dict]]) -> None:
    """Print every arm's figures, and its paired differences."""
    base = {arm: name for name, others in BASES.items() for arm in others}
    print(f"\n{'arm':18} {'each seed':40} {'minus base, each seed':44} mean ± se       sum R@1  image  text  |g|")
    for name, found in arms.items():
        values = [100 * final[METRIC] for final in found.values()]
        other = arms.get(base.get(name, "fedavg"), {})
        gaps = [100 * (final[METRIC] - other[seed][METRIC]) for seed, final in found.items() if seed in other]
        error = np.std(gaps, ddof=1) / math.sqrt(len(gaps)) if len(gaps) > 1 else float("nan")
        verdict = f"{np.mean(gaps):+.2f} ± {error:.2f}" if gaps and name != "fedavg" else ""
        others = [np.mean([100 * final[key] for final in found.values() if key in final] or [np.nan]) for key in SHOWN[1:]]
        gates = [final[key] for final in found.values() for key in ("gate_image", "gate_text") if key in final]
        row = " ".join(f"{value:.2f}" for value in values), " ".join(f"{gap:+.2f}" for gap in gaps) if verdict else ""
        gate = f"{np.mean(gates):.4f}" if gates else ""
        print(f"{name:18} {row[0]:40} {row[1]:44} {verdict:15} {others[0]:7.2f} {others[1]:6.1f} {others[2]:5.1f}  {gate}")


def shapley(values: dict[frozenset[str], float]) -> dict[str, float]:
    """Return each player's Shapley value: its mean gain over all orders in which players may join."""
    players = max(values, key=len)
    shares = {}
    for player in sorted(players):
        rest = players - {player}
        terms = []
        for joined in (frozenset(some) for size in range(len(rest) + 1) for some in combinations(sorted(rest), size)):
            orders = math.factorial(len(joined)) * math.factorial(len(rest) - len(joined))
            terms.append(orders / math.factorial(len(players)) * (values[joined | {player}] - values[joined]))
        shares[player] = sum(terms)
    return shares


def contributions(seeds: list[int], out: Path, more: list[str]) -> None:
    """Print what image-only and text-only silos add to retrieval."""
    found = {}
    for there, overrides in WITHOUT.items():
        name = "cacpcl" if len(there) == 2 else "-".join(["only", *sorted(there)] if there else ["pairs"])
        found[there] = finals(name, overrides, seeds, out, more)
    print()
    by_seed = [shapley({there: 100 * runs[seed][METRIC] for there, runs in found.items()}) for seed in seeds]
    for player in by_seed[0]:
        shares = [one[player] for one in by_seed]
        error = np.std(shares, ddof=1) / math.sqrt(len(shares)) if len(shares) > 1 else float("nan")
        each = " ".join(f"{share:+.2f}" for share in shares)
        print(f"Shapley value of {player} silos: {np.mean(shares):+.2f} ± {error:.2f}  ({each})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", default=MAIN, choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/fedcola"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], dest="more", metavar="A.B=C", help="overrides of all arms")
    parser.add_argument("--shapley", action="store_true", help="contributions of silo types instead of arms")
    args = parser.parse_args()
    start_ray("local", args.workers)
    more = [*args.more, f"engine.workers={args.workers}"]
    if args.shapley:
        contributions(args.seeds, args.out, more)
    else:
        table({arm: finals(arm, ARMS[arm], args.seeds, args.out, more) for arm in args.arms})
    ray.shutdown()


if __name__ == "__main__":
    main()
