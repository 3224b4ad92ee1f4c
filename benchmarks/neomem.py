"""The NeoMem simulator against what is known, and how fast it is.

    python benchmarks/neomem.py                       # everything: about ten minutes on one core
    python benchmarks/neomem.py --quick               # small runs, to see that it works
    python benchmarks/neomem.py --only logs,speed --json results.json

Parts: `logs` compares GUPS with the authors' logs, of which two fitted the access model; `suite` runs eight traces under all
policies; `shapes` varies NeoMem's and PEBS' parameters; `training` shows what a client of a federation has to gain; `speed`
times the simulator, `looks` how soon it notices that nobody waits any more. All use hwsim/neomem/constants.toml as it is; the
figures carry its digest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))

import numpy as np

from fedcosim.hwsim.neomem import NeoMemRequest, Trace, TraceStore, constants, estimate, machine
from fedcosim.hwsim.neomem.simulator import Outcome, Simulation
from fedcosim.hwsim.neomem.workload import workload
from fedcosim.hwsim.simulator import Job

BASELINES = ("first_touch", "autonuma", "tpp", "pte_scan", "pebs")
SUITE: dict[str, dict[str, Any]] = {
    "GUPS 90 %": {"generator": "gups"},
    "GUPS 90 %, moving": {"generator": "gups", "gups": {"phases": 4}},
    "Zipf 0.9": {"generator": "zipf", "zipf": {"alpha": 0.9}},
    "Zipf 1.1, moving": {"generator": "zipf", "zipf": {"alpha": 1.1, "phases": 4}},
    "chase, a hot third": {"generator": "pointer_chase"},
    "DLRM": {"generator": "dlrm"},
    "search on a shuffled grid": {"generator": "search"},
    "power-law gather": {"generator": "gather"},
}
ADVERSARY = {"generator": "adversary"}
TRAINING = {
    "ResNet-18, SGD": {"param_count": 11_700_000, "optimizer": "sgd", "activation_bytes_per_sample": 23_000_000},
    "ResNet-18, Adam": {"param_count": 11_700_000, "optimizer": "adam", "activation_bytes_per_sample": 23_000_000},
    "BERT-base, Adam": {"param_count": 110_000_000, "optimizer": "adam", "activation_bytes_per_sample": 60_000_000},
}
LOGS = (  # millions of updates a second at the end, and the second in which 90 % of that was reached; authors' repository
    ("100 % hot", 1.0, "all_fast", "paper", "49.5 / -"),
    ("100 % hot", 1.0, "first_touch", "paper", "16.2 / -, 16.1 / -"),
    ("100 % hot", 1.0, "neomem", "paper", "46.1 / 15, 38.7 / 5"),
    ("100 % hot", 1.0, "neomem", "artifact", "46.1 / 15, 38.7 / 5"),
    ("100 % hot", 1.0, "pte_scan", "paper", "38.1 / 47"),
    ("100 % hot", 1.0, "autonuma", "paper", "46.9 / 87, 37.7 / 59"),
    ("100 % hot", 1.0, "pebs", "paper", "36.9 / 135"),
    ("90 % hot", 0.9, "all_fast", "paper", "29.1 / -, 37.3 / -"),
    ("90 % hot", 0.9, "first_touch", "paper", "12.1 / -, 13.8 / -"),
    ("90 % hot", 0.9, "neomem", "paper", "20.7 / 15, 21.3 / 17, 14.6 / -"),
    ("90 % hot", 0.9, "neomem", "artifact", "20.7 / 15, 21.3 / 17, 14.6 / -"),
    ("90 % hot", 0.9, "pte_scan", "paper", "16.8 / 86"),
    ("90 % hot", 0.9, "autonuma", "paper", "18.6 / 15 to 49, 22.1 / 129, 10.4 / -"),
    ("90 % hot", 0.9, "pebs", "paper", "-"),
)
Table = list[dict[str, Any]]


class Bench:
    """Runs requests at one size, each trace made once.

    Parameters
    ----------
    quick : bool
        An eighth of the size and of the accesses.
    """

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.shrink = 8 if quick else 1
        self.seeds = (1,) if quick else (1, 2, 3)

    def request(self, synthetic: dict[str, Any], accesses: int = 10_000_000, **fields: Any) -> NeoMemRequest:
        """Return a request for a synthetic trace."""
        whole = {"accesses": accesses // self.shrink} | synthetic
        return NeoMemRequest(synthetic=whole, **{"scale": 256 * self.shrink} | fields)

    def runs(
        self, request: NeoMemRequest, policies: Iterable[str], variants: Iterable[dict[str, Any]] = ({},)
    ) -> list[Outcome]:
        """Run policies, or variants of a request, on its trace."""
        work = workload(request, TraceStore())
        trace = work.trace(Job())
        built = machine.build(request.platform, work.pages, work.scale, work.access, request.tick_ms)
        requests = [NeoMemRequest.model_validate(request.model_dump() | variant) for variant in variants]
        return [Simulation(one, policy, trace, built).finish(Job()) for one in requests for policy in policies]  # type: ignore[arg-type]


def geomean(values: Iterable[float]) -> float:
    """Return the geometric mean."""
    return statistics.geometric_mean(values)


def logs(bench: Bench) -> Table:
    """Compare throughput at the end, and the time to reach it, with the authors' logs."""
    table = []
    for family, hot, policy, profile, logged in LOGS:
        moving = policy not in ("all_fast", "first_touch")
        accesses = (28_000_000 if moving else 2_000_000) if hot == 1 or moving else 2_000_000
        request = bench.request({"generator": "gups", "gups": {"hot_probability": hot}}, accesses, profile=profile)
        rate = per_second(bench.runs(request, [policy])[0], 256 * bench.shrink)
        final = float(rate[-10:].mean())
        reached = int(np.argmax(rate >= 0.9 * final))
        mean = float(rate[:150].mean()) if len(rate) >= 150 else float((rate.sum() + final * (150 - len(rate))) / 150)
        table.append(
            {
                "GUPS": family,
                "policy": f"{policy} ({profile})" if policy == "neomem" else policy,
                "final, M/s": round(final, 1),
                "t90, s": reached if moving else "-",
                "mean of 150 s, M/s": round(mean, 1),
                "logs: final / t90": logged,
            }
        )
    return table


def per_second(run: Outcome, scale: int) -> np.ndarray:
    """Return millions of real accesses in each full second."""
    seconds = (run.epochs_TF[:, 1] * 1e-12).astype(int)
    return np.bincount(seconds, run.epochs_TF[:, 2] + run.epochs_TF[:, 3])[:-1] * scale / 1e6


def suite(bench: Bench) -> Table:
    """Give NeoMem's speed over the baselines' on each trace: the mean over seeds, and the range where there are several."""
    policies = ("neomem", *BASELINES, "memtis", "oracle_static", "all_fast")
    table, ratios = [], {}
    for name, trace in [*SUITE.items(), ("adversary (not in the mean)", ADVERSARY)]:
        by_seed = []
        for seed in bench.seeds:
            own, *others = (run.total_ps for run in bench.runs(bench.request(trace, seed=seed), policies))
            by_seed.append([other / own for other in others])
        ratios[name] = np.array(by_seed)
        table.append({"trace": name} | {p: spread(column) for p, column in zip(policies[1:], ratios[name].T, strict=True)})
    whole = np.array([ratios[name] for name in SUITE])
    by_seed = np.exp(np.log(whole).mean(axis=0))
    table.append({"trace": "geometric mean"} | {p: spread(c) for p, c in zip(policies[1:], by_seed.T, strict=True)})
    return table


def spread(values: np.ndarray) -> str:
    """Write the mean and the range."""
    whole = f"{values.mean():.2f}"
    return whole if len(values) == 1 else f"{whole} [{values.min():.2f}, {values.max():.2f}]"


def shapes(bench: Bench) -> Table:
    """Vary one parameter at a time."""
    columns = [2**bits for bits in range(14, 21)]
    thetas: list[dict[str, Any]] = [{"neomem": {"threshold": "fixed", "theta0": theta}} for theta in (1, 2, 5, 10, 50, 200)]
    quotas = [2**20 * mb for mb in (32, 64, 128, 256, 512, 1024)]
    variants: list[dict[str, Any]] = [{"neoprof": {"columns": count}} for count in columns]
    variants += [{"neomem": {"quota_bytes_per_s": quota}} for quota in quotas]
    variants += [{}, *thetas]
    by_seed = []
    for seed in bench.seeds:
        gains = [_gains(bench, bench.request(trace, seed=seed), "neomem", variants) for trace in SUITE.values()]
        by_seed.append([geomean(column) for column in zip(*gains, strict=True)])
    names = [f"columns {count}" for count in columns] + [f"quota {quota >> 20} MiB/s" for quota in quotas]
    names += ["threshold dynamic", *(f"threshold fixed {theta['neomem']['theta0']}" for theta in thetas)]
    table = [
        {"varied": name, "trace": "suite, geometric mean", "over first touch": spread(column)}
        for name, column in zip(names, np.array(by_seed).T, strict=True)
    ]
    return (
        table
        + _sweep(bench, "GUPS 90 %, moving", "neomem", "neomem", "interval_ms", (10, 100, 1000, 5000))
        + _sweep(bench, "GUPS 90 %", "pebs", "pebs", "period", (5, 19, 97, 199, 499, 997, 1999, 4999, 19997))
    )


def _gains(bench: Bench, request: NeoMemRequest, policy: str, variants: list[dict[str, Any]]) -> list[float]:
    """Return the speed of a policy's variants over first touch."""
    (reference,) = bench.runs(request, ["first_touch"])
    return [reference.total_ps / run.total_ps for run in bench.runs(request, [policy], variants)]


def _sweep(bench: Bench, trace: str, policy: str, section: str, field: str, values: Iterable[float]) -> Table:
    values = list(values)
    variants = [{section: {field: value}} for value in values]
    by_seed = np.array([_gains(bench, bench.request(SUITE[trace], seed=seed), policy, variants) for seed in bench.seeds])
    return [
        {"varied": f"{policy} {field} {value}", "trace": trace, "over first touch": spread(column)}
        for value, column in zip(values, by_seed.T, strict=True)
    ]


def training(bench: Bench) -> Table:
    """Give what a training step loses to slow memory, and what policies win back."""
    store = TraceStore()
    recorded = store.add(recorded_step())
    workloads: dict[str, dict[str, Any]] = {
        name: {"training": {"compute_seconds_per_step": 0.3, "steps": 50 if bench.quick else 200} | model}
        for name, model in TRAINING.items()
    }
    step = {"trace_id": recorded, "compute_seconds": 0.1}
    workloads["recorded: LeNet-like, Adam"] = step | {"repeats": 20 if bench.quick else 400}
    table = []
    for name, fields in workloads.items():
        for ratio in (0.5, 0.25, 0.125):
            request = NeoMemRequest(**fields, platform={"fast_to_slow": ratio}, against=list(BASELINES[1:]))
            report = estimate(request, Job(), store)
            table.append(
                {
                    "model": name,
                    "fast:slow": f"1:{1 / ratio:g}",
                    "slow-down": round(report.slowdown_vs_all_fast, 3),
                    "simulated, s": round(report.sim_s, 1),
                    **{f"over {other}": round(getattr(report.speedup, other), 3) for other in BASELINES},
                }
            )
    return table


def recorded_step() -> Trace:
    """Record a step of two convolutions and two linear layers, batch 64, with Adam."""
    import torch
    from torch import nn

    from fedcosim.hwsim.neomem.recorder import record_step

    torch.manual_seed(0)
    features = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*features, nn.Linear(64 * 24 * 24, 64), nn.ReLU(), nn.Linear(64, 10))
    x_NCHW, y_N = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    return record_step(model, torch.optim.Adam(model.parameters()), lambda: nn.functional.cross_entropy(model(x_NCHW), y_N))


def speed(bench: Bench) -> Table:
    """Time the engine, all pages slow and under NeoMem, and a whole estimate in a fresh process."""
    table = []
    for pages, scale in ((18_119, 256), (289_917, 16)):
        for what, quota in (("neomem", 2**28), ("neomem, next to nothing promoted", 1.0)):
            request = bench.request({"generator": "gups"}, scale=scale, neomem={"quota_bytes_per_s": quota})
            work = workload(request, TraceStore())
            trace = work.trace(Job())
            built = machine.build(request.platform, work.pages, work.scale, work.access, request.tick_ms)
            seconds = [_seconds(Simulation(request, "neomem", trace, built)) for _ in range(4)][1:]
            figure = f"{len(trace) / statistics.median(seconds) / 1e6:.1f} M accesses/s"
            table.append({"what": f"{what}, {pages} pages, one core", "figure": figure})
    for name in ("first", "second"):
        wall_s, cpu_s, import_s, memory = _fresh(10_000_000 // bench.shrink)
        table.append(
            {
                "what": f"10 M accesses, neomem + all_fast + first_touch, {name} fresh process",
                "figure": f"{wall_s:.2f} s wall, {cpu_s:.2f} s CPU after {import_s:.2f} s of imports; {memory} MiB",
            }
        )
    return table


def _seconds(run: Simulation) -> float:
    started = time.process_time()
    run.finish(Job())
    return time.process_time() - started


_CHILD = """
import sys, time
begun = time.perf_counter()
from fedcosim.hwsim.neomem import NeoMemRequest, TraceStore, estimate
from fedcosim.hwsim.simulator import Job
started, cpu = time.perf_counter(), time.process_time()
estimate(NeoMemRequest(synthetic={"generator": "gups", "accesses": int(sys.argv[1])}, scale=256), Job(), TraceStore())
status = dict(line.split(":", 1) for line in open("/proc/self/status"))  # getrusage would have the parent's memory
print(time.perf_counter() - started, time.process_time() - cpu, started - begun, int(status["VmHWM"].split()[0]) // 1024)
"""


def _fresh(accesses: int) -> tuple[float, float, float, int]:
    done = subprocess.run([sys.executable, "-c", _CHILD, str(accesses)], check=True, capture_output=True, text=True)
    wall_s, cpu_s, import_s, memory = done.stdout.split()
    return float(wall_s), float(cpu_s), float(import_s), int(memory)


class _Looks:
    """Somebody who could leave at any time, and notes for how long nobody looks whether he has."""

    def __init__(self) -> None:
        self.longest_s, self._last_s = 0.0, time.perf_counter()

    def __call__(self) -> bool:
        now_s = time.perf_counter()
        self.longest_s, self._last_s = max(self.longest_s, now_s - self._last_s), now_s
        return False


def looks(bench: Bench) -> Table:
    """Give the longest time that a request is worked on without a look at whether it was cancelled."""
    requests = {name: bench.request(trace) for name, trace in SUITE.items()}
    requests["GUPS 90 %, 60 M accesses"] = bench.request(SUITE["GUPS 90 %"], 60_000_000)
    requests["GUPS 90 %, 290 thousand pages"] = bench.request(SUITE["GUPS 90 %"], scale=16)
    requests["GUPS 90 %, 4.6 million pages"] = bench.request(SUITE["GUPS 90 %"], scale=1)
    model = TRAINING["BERT-base, Adam"] | {"compute_seconds_per_step": 0.3, "steps": 200 // bench.shrink}
    requests["BERT-base, Adam, 200 steps"] = NeoMemRequest(training=model)
    table = []
    for name, request in requests.items():
        longest = []
        for _ in range(3):
            begun_s, looking = time.perf_counter(), _Looks()
            estimate(request, Job(cancelled=looking), TraceStore())
            looking()
            longest.append(looking.longest_s)
        took = f"{time.perf_counter() - begun_s:.1f}"
        table.append(
            {"request": name, "takes, s": took, "longest between looks, ms": f"{1000 * statistics.median(longest):.0f}"}
        )
    return table


PARTS: dict[str, Callable[[Bench], Table]] = {
    "logs": logs,
    "suite": suite,
    "shapes": shapes,
    "training": training,
    "speed": speed,
    "looks": looks,
}


def markdown(table: Table) -> str:
    """Write rows of the same keys as a table."""
    head = list(table[0])
    lines = [head, ["---"] * len(head), *([str(row[key]) for key in head] for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the chosen parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the size, one seed")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--json", type=Path, help="where to write the tables")
    options = parser.parse_args(arguments)
    bench, results = Bench(options.quick), {}
    print(f"constants.toml {constants.digest()[:12]}; {platform.processor() or platform.machine()}", flush=True)
    for part in options.only.split(","):
        results[part] = PARTS[part](bench)
        print(f"\n## {part}\n\n{markdown(results[part])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"constants": constants.digest(), "quick": options.quick} | results, indent=1))


if __name__ == "__main__":
    main()
