"""What the parts of FedCola, its controls and its rivals do to retrieval: arms that differ in one thing, on paired seeds.

    python benchmarks/fedcola.py --seeds 1 2 3 4 5 --out runs/fedcola                     the main table
    python benchmarks/fedcola.py --arms fedavg ca cacp --seeds 1 2 3 --out runs/fedcola   some arms
    python benchmarks/fedcola.py --workload circuits --pairs 800 --out runs/circuits-800  on circuits instead of emoji
    python benchmarks/fedcola.py --shapley --seeds 1 2 3 --out runs/fedcola               contributions of silo types

Arms are overrides of experiments/fedcola_emoji.toml or fedcola_circuits.toml. Equal seeds have equal pairs, initial weights,
cohorts and batches. Runs that are finished are not run again. Recalls at 1, 5 and 10, both ways, are added, in percentage
points, mean of the last three evaluations; differences are to the arm `fedavg`, with their standard error over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import ray

from fedcosim.server.grid import start_ray
from fedcosim.server.run import run
from fedcosim.server.spec import load

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FEDAVG = ("strategy.name=fedavg-types",)
CA = ("strategy.compensation=none", "strategy.gates=none")
CACP = ("strategy.gates=none",)
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
    "fedavg-lr0.3": (*FEDAVG, "strategy.server_lr=0.3"),
    "fedavg-lr0.5": (*FEDAVG, "strategy.server_lr=0.5"),
    "fedavg-lr0.7": (*FEDAVG, "strategy.server_lr=0.7"),
    "cl-lr0.01": ("strategy.gate_lr=0.01",),
    "cl-lr0.1": ("strategy.gate_lr=0.1",),
    "release": (*CACP, "strategy.denominator=release"),
}
"""Of every workload."""
MAIN = (
    *("fedavg", "cponly", "attndamp", "ca", "cacp", "cacpcl", "blocks", "fediot"),
    *("fedprox-0.01", "fedavg-public", "creamfl", "ca-shuffled", "cacp-shuffled"),
)
BASES = {"fedavg-2of4": ("ca-2of4", "cacp-2of4"), "fedavg-4of4": ("ca-4of4", "cacp-4of4"), "fedavg-public": ("creamfl",)}
"""What arms are compared with where that is not `fedavg`."""


def _houses(**silos: int) -> tuple[str, ...]:
    """Leave only these houses beside four integrators; two of each kind take part in a round."""
    houses = ", ".join(f"{house} = {count}" for house, count in silos.items())
    shares = ", ".join(f"{house} = 0.34" for house in silos)
    return (
        f"data.silos.houses={{ {houses}{', ' if houses else ''}integrator = 4 }}",
        f'strategy.participation={{ {shares}{", " if shares else ""}"rtl+netlist" = 0.25 }}',
        f"federation.clients={4 + sum(silos.values())}",
        f"federation.per_round={1 + 2 * len(silos)}",
    )


@dataclass(frozen=True)
class Workload:
    """What arms mean on a spec.

    Parameters
    ----------
    spec : str
        Name of the experiment.
    shares : dict of str to float
        Its participation by type, the type with pairs first.
    in_round : int
        Clients of the other types in a round.
    public : str
        The field with the number of public pairs.
    shuffled : tuple of str
        Overrides that leave partners nothing to learn.
    without : dict
        Overrides that leave only these types beside the one with pairs.
    more : dict
        Arms of this workload alone.
    """

    spec: str
    shares: dict[str, float]
    in_round: int
    public: str
    shuffled: tuple[str, ...]
    without: dict[frozenset[str], tuple[str, ...]]
    more: dict[str, tuple[str, ...]]

    def arms(self) -> dict[str, tuple[str, ...]]:
        """Return all arms, as overrides of the spec."""
        own = {
            "fedavg-public": (*FEDAVG, f"{self.public}=200"),
            "creamfl": ("strategy.name=creamfl-like", f"{self.public}=200"),
            "ca-shuffled": (*CA, *self.shuffled),
            "cacp-shuffled": (*CACP, *self.shuffled),
            "blocks-shuffled": ("strategy.share=blocks", *CA, *self.shuffled),
        }
        for name, overrides in (("fedavg", FEDAVG), ("ca", CA), ("cacp", CACP)):
            own |= {f"{name}-{n}of4": (*overrides, *self._participation(n)) for n in (2, 4)}
        return ARMS | own | self.more

    def _participation(self, paired: int) -> tuple[str, str]:
        paired_type, *_ = self.shares
        shares = ", ".join(f'"{name}" = {share}' for name, share in (self.shares | {paired_type: paired / 4}).items())
        return f"strategy.participation={{ {shares} }}", f"federation.per_round={paired + self.in_round}"


ELSEWHERE = ("data.images.source=cifar10", "data.texts.source=wordnet")
WORKLOADS = {
    "emoji": Workload(
        "fedcola_emoji",
        {"image+text": 0.25, "image": 0.25, "text": 0.25},
        4,
        "data.public",
        ("data.images.labels=shuffled", "data.texts.labels=shuffled"),
        {
            frozenset({"image", "text"}): (),
            frozenset({"image"}): ("data.texts=", "federation.clients=12", "federation.per_round=3"),
            frozenset({"text"}): ("data.images=", "federation.clients=12", "federation.per_round=3"),
            frozenset(): ("data.images=", "data.texts=", "federation.clients=4", "federation.per_round=1"),
        },
        {"fedavg-elsewhere": (*FEDAVG, *ELSEWHERE), "ca-elsewhere": (*CA, *ELSEWHERE)},
    ),
    "circuits": Workload(
        "fedcola_circuits",
        {"rtl+netlist": 0.25, "rtl": 0.34, "netlist": 0.34},
        4,
        "data.silos.public",
        ("data.silos.mixing=shuffled",),
        {
            frozenset({"rtl", "netlist"}): (),
            frozenset({"rtl"}): _houses(rtl=6),
            frozenset({"netlist"}): _houses(netlist=6),
            frozenset(): _houses(),
        },
        {"fedavg-permuted": (*FEDAVG, "data.silos.pairing=shuffled")},
    ),
}
METRIC = "retrieval_sum_1_5_10_last3"


@dataclass(frozen=True)
class Bench:
    """A workload, the overrides of all its arms, and where its runs are."""

    workload: Workload
    more: list[str]
    out: Path

    def finals(self, name: str, overrides: tuple[str, ...], seeds: list[int]) -> dict[int, dict]:
        """Run an arm for all seeds, unless that has been done; return the final figures by seed."""
        found = {}
        for seed in seeds:
            place = self.out / f"{name}-{seed}" / "result.json"
            record = json.loads(place.read_text()) if place.exists() else {}
            if record.get("status") != "finished":
                spec = load(
                    EXPERIMENTS / f"{self.workload.spec}.toml", [f"name={name}", *overrides, *self.more, f"seed={seed}"]
                )
                record = json.loads((run(spec, self.out, f"{name}-{seed}") / "result.json").read_text())
            found[seed] = record["final"]
            print(f"{name} seed {seed}: {100 * record['final'][METRIC]:.2f}", flush=True)
        return found

    def table(self, arms: dict[str, dict[int, dict]]) -> None:
        """Print every arm's figures, and its paired differences."""
        base = {arm: name for name, others in BASES.items() for arm in others}
        _, *labelled = self.workload.shares
        shown = ("retrieval_sum_1_last3", *(f"accuracy_{name}" for name in labelled))
        heads = "  ".join(labelled)
        print(f"\n{'arm':18} {'each seed':40} {'minus base, each seed':44} mean ± se       sum R@1  {heads}  |g|")
        for name, found in arms.items():
            values = [100 * final[METRIC] for final in found.values()]
            other = {} if name in BASES else arms.get(base.get(name, "fedavg"), {})
            gaps = [100 * (final[METRIC] - other[seed][METRIC]) for seed, final in found.items() if seed in other]
            error = np.std(gaps, ddof=1) / math.sqrt(len(gaps)) if len(gaps) > 1 else float("nan")
            verdict = f"{np.mean(gaps):+.2f} ± {error:.2f}" if gaps and other is not found else ""
            others = [np.mean([100 * final[key] for final in found.values() if key in final] or [np.nan]) for key in shown]
            gates = [value for final in found.values() for key, value in final.items() if key.startswith("gate_")]
            row = " ".join(f"{value:.2f}" for value in values), " ".join(f"{gap:+.2f}" for gap in gaps) if verdict else ""
            gate = f"{np.mean(gates):.4f}" if gates else ""
            print(f"{name:18} {row[0]:40} {row[1]:44} {verdict:15} {others[0]:7.2f} {others[1]:6.1f} {others[2]:5.1f}  {gate}")

    def contributions(self, seeds: list[int]) -> None:
        """Print what silos of each type with one modality add to retrieval."""
        found = {}
        for there, overrides in self.workload.without.items():
            name = "cacpcl" if len(there) == 2 else "-".join(["only", *sorted(there)] if there else ["pairs"])
            found[there] = self.finals(name, overrides, seeds)
        print()
        by_seed = [shapley({there: 100 * runs[seed][METRIC] for there, runs in found.items()}) for seed in seeds]
        for player in by_seed[0]:
            shares = [one[player] for one in by_seed]
            error = np.std(shares, ddof=1) / math.sqrt(len(shares)) if len(shares) > 1 else float("nan")
            each = " ".join(f"{share:+.2f}" for share in shares)
            print(f"Shapley value of {player} silos: {np.mean(shares):+.2f} ± {error:.2f}  ({each})")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=WORKLOADS, default="emoji")
    parser.add_argument("--pairs", type=int, help="pairs of all integrators together (circuits)")
    parser.add_argument("--arms", nargs="+", default=MAIN, metavar="ARM", help="default: those of the main table")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/fedcola"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], dest="more", metavar="A.B=C", help="overrides of all arms")
    parser.add_argument("--shapley", action="store_true", help="contributions of silo types instead of arms")
    args = parser.parse_args()
    workload = WORKLOADS[args.workload]
    if unknown := set(args.arms) - workload.arms().keys():
        parser.error(f"--arms {' '.join(sorted(unknown))}: choose from {', '.join(workload.arms())}")
    more = [*args.more, f"engine.workers={args.workers}"]
    if args.pairs:
        more.append(f"data.silos.circuits.integrator={args.pairs // 4}")
    bench = Bench(workload, more, args.out)
    start_ray("local", args.workers)
    if args.shapley:
        bench.contributions(args.seeds)
    else:
        bench.table({arm: bench.finals(arm, workload.arms()[arm], args.seeds) for arm in args.arms})
    ray.shutdown()


if __name__ == "__main__":
    main()
