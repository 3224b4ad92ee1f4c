"""Speed and memory of the engine beside a plain PyTorch loop and stock Flower, on one machine. See README.md.

    python benchmarks/engine.py --json out.json            everything; an hour or two
    python benchmarks/engine.py --workloads W1,W3 --quick --json out.json
    python benchmarks/engine.py --markdown out.json        the tables of a finished measurement

Every execution of a runner is a process of its own (a child of this one), told what to do by a job in its environment. The
child writes a line down a pipe after every round; this process, which is outside the tree it measures, then reads the
children's CPU time, and their memory twice a second in between.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

JOB, PIPE = "FEDCOSIM_BENCHMARK_JOB", "FEDCOSIM_BENCHMARK_PIPE"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MIB = 2**20
MAX_LOAD = 0.5
PARITY = 1e-5
NEVER = 10**6  # a round that is not reached: the last one evaluates all clients, which is not what is measured
WORKERS = 2
PLAIN = ("plain", "plain-channels-last", "plain-pair")


# ------------------------------------------------------------------------------------------------------------- workloads


@dataclass(frozen=True)
class Workload:
    """What is run: a spec, how many rounds are measured after how many that are not, and which runners can."""

    name: str
    model: str
    clients: int = 1000
    cohort: int = 50
    rounds: int = 10
    runners: tuple[str, ...] = ("plain", "plain-pair", "fedcosim", "fedcosim-bare", "flower")
    strategy: str = "fedavg"
    skewed: bool = False  # log-normal sample counts, 10 to 1000; 50 each otherwise
    noop: bool = False  # the client returns what it received
    state_floats: int = 0  # of float32 state that every no-op client keeps
    lr: float = 0.05
    warmup: int = 2

    def spec(self, rounds: int) -> dict[str, Any]:
        """Return the experiment; its name carries the workload."""
        return {
            "name": self.name,
            "seed": 2 if self.skewed else 1,  # part of the data cache's key: skewed data are another entry
            "federation": {"clients": self.clients, "per_round": self.cohort, "rounds": rounds},
            "data": {
                "source": "synthetic",
                "synthetic_shape": "3x32x32",
                "synthetic_classes": 10,
                "train_per_client": 1 if self.noop else 50,
                "test_per_client": 1,
            },
            "model": {"name": self.model},
            "strategy": {"name": self.strategy},
            "train": {"epochs": 1, "batch_size": 10, "optimizer": "sgd", "lr": self.lr},
            "evaluate": {"every": NEVER},
            "engine": {"workers": WORKERS},
        }


TRAINED = (*PLAIN, "fedcosim", "fedcosim-bare", "fedcosim-bf16", "flower")
OURS = ("fedcosim", "fedcosim-bare")
SERVED = (*OURS, "flower")
WORKLOADS = [
    Workload("W1", "cnn", runners=TRAINED),
    Workload("W2", "lenet", rounds=20, runners=TRAINED),
    *(
        Workload(f"W3-{model}-{clients}", model, clients, rounds=20, noop=True, runners=SERVED)
        for model in ("lenet", "cnn")
        for clients in (100, 1000, 10000)
    ),
    Workload("W4", "lenet", cohort=100, skewed=True),
    Workload("W6", "lenet", rounds=20, strategy="fedper"),
    *(Workload(f"M1-{cohort}", "cnn", cohort=cohort, rounds=6, noop=True, runners=OURS) for cohort in (50, 500)),
    Workload("M2", "lenet", 2000, 20, rounds=38, noop=True, state_floats=26_214, runners=SERVED),
]
SMALL = [  # the parity gate; at lr 0.05 the order of a float sum can flip a ReLU or a pooling, and that shows at 1e-5
    Workload("parity-cnn", "cnn", 12, 6, lr=0.01),
    Workload("parity-skewed", "lenet", 12, 6, lr=0.01, skewed=True),
    Workload("parity-fedper", "lenet", 12, 6, lr=0.01, strategy="fedper"),
]


# ------------------------------------------------------------------------- children: what is measured, one runner a process


def child() -> None:
    """Do what the job in the environment says; the entry point of every measured process."""
    import torch

    torch.set_num_threads(1)
    runner = _job()["runner"]
    own = {"prepare": prepare, "fedcosim-bare": fedcosim_bare, "flower": flower, **dict.fromkeys(PLAIN, plain)}
    own.get(runner, fedcosim)()


def mark(number: int, **fields: Any) -> None:
    """Tell the parent that a round is over (round 0: that all is ready for the first)."""
    line = json.dumps({"round": number, "t": time.monotonic(), **fields}) + "\n"
    os.write(int(os.environ[PIPE]), line.encode())


def _job() -> dict[str, Any]:
    return json.loads(os.environ[JOB])


@lru_cache(maxsize=1)
def _bench() -> Any:
    """Return the process's one model and data, which all runners share the code of."""
    from fedcosim.clients.client_app import Workbench
    from fedcosim.server.spec import parse

    return Workbench(parse(_job()["spec"]))


def _train(client: int, number: int) -> tuple[int, float]:
    """Train the process's model in place: seeds, order and steps of fedcosim's ClientApp, for the Flower runner."""
    from fedcosim.clients.tasks import classification
    from fedcosim.core.seeds import seed_globals, torch_stream

    bench = _bench()
    x_NCHW, y_N = bench.data.train(client)
    path = (bench.spec.seed, "train", number, client)
    seed_globals(*path)
    return len(y_N), classification.train(bench.model, x_NCHW, y_N, bench.spec.train, torch_stream(*path))


def prepare() -> None:
    """Put the workload's data into the cache, so that no runner builds it in measured time."""
    import numpy as np

    from fedcosim.clients.data import cache
    from fedcosim.clients.data.synthetic import load
    from fedcosim.clients.data.transforms import as_is
    from fedcosim.server.spec import parse

    spec, clients = parse(_job()["spec"]), _job()["spec"]["federation"]["clients"]
    sizes = np.full(clients, spec.data.train_per_client)
    if _job()["skewed"]:
        sizes = np.random.default_rng(0).lognormal(np.log(60), 1.0, clients).clip(10, 1000).astype(int)
    starts = np.concatenate([[0], np.cumsum(sizes + 1)])
    rows = [(np.arange(a, b - 1), np.arange(0), np.arange(b - 1, b)) for a, b in itertools.pairwise(starts.tolist())]
    pool = load(spec.data, -(-int(starts[-1]) // spec.data.samples_needed), spec.seed)
    cache.install(cache.entry(spec.data, clients, spec.seed), pool, rows, as_is)


def plain() -> None:
    """Federated averaging as one would write it without any framework: the honest lower bound, one process, one thread.

    `plain-channels-last` also uses the memory format that the engine uses where a model says it is faster; sums are then
    formed in the engine's order, so it is what the parity gate compares with. `plain-pair` is two such processes, each with
    half of every cohort, that never talk to each other: the most that two cores of this machine can do.
    """
    loop, pair = PlainLoop(_bench(), channels_last=_job()["runner"] == "plain-channels-last"), _job()["runner"] == "plain-pair"
    other = os.fork() if pair else None  # 0 in the second process
    for number in range(_job()["rounds"] + 1):
        if number:
            cohort = loop.sample(number)
            loop.round(number, cohort[bool(other) :: 2] if pair else cohort)
        if other != 0:
            mark(number)
    if other:
        os.waitpid(other, 0)
    _keep({key: value.numpy() for key, value in loop.shared.items()})


class PlainLoop:
    """One model; the data are float tensors in memory, weights are copied and summed in place; nothing is serialised."""

    def __init__(self, bench: Any, channels_last: bool) -> None:
        import torch

        from fedcosim.clients.models import initialise

        self.spec, self.clients = bench.spec, bench.spec.federation.clients
        model = initialise(self.spec.model_options(), bench.data.shape_CHW, bench.data.classes, self.spec.seed).train()
        wants = torch.channels_last if channels_last and model.channels_last else torch.contiguous_format
        self.model = model.to(memory_format=wants)
        data = (bench.data.train(client) for client in range(self.clients))
        self.data = [(x_NCHW.to(memory_format=wants), y_N) for x_NCHW, y_N in data]
        self.weights = self.model.state_dict()
        self.shared = {key: self.weights[key].clone() for key in bench.shared_keys}
        self.initial = {key: self.weights[key].clone() for key in bench.local_keys}
        self.local: dict[int, dict[str, Any]] = {}
        self.total = {key: torch.zeros_like(value) for key, value in self.shared.items()}

    def sample(self, number: int) -> list[int]:
        """Return the cohort that the seed gives, as Flower's FedAvg draws it."""
        from fedcosim.core.seeds import seed_globals

        seed_globals(self.spec.seed, "round", number)
        return random.sample(range(self.clients), self.spec.federation.per_round)

    def round(self, number: int, cohort: list[int]) -> None:
        """Train every client of the cohort and average."""
        import torch

        samples = 0
        for value in self.total.values():
            value.zero_()
        for client in cohort:
            for key, value in {**self.shared, **self.local.get(client, self.initial)}.items():
                self.weights[key].copy_(value)
            samples += (weight := self.train(number, client))
            for key, value in self.total.items():
                value.add_(self.weights[key], alpha=weight)
            if self.initial:
                self.local[client] = {key: self.weights[key].clone() for key in self.initial}
        for key, value in self.total.items():
            torch.div(value, samples, out=self.shared[key])

    def train(self, number: int, client: int) -> int:
        """Do one client's SGD steps with the seeds of fedcosim's ClientApp; return its number of samples."""
        import torch
        from torch.nn import functional as F

        from fedcosim.core.seeds import seed_globals, torch_stream

        x_NCHW, y_N = self.data[client]
        path = (self.spec.seed, "train", number, client)
        seed_globals(*path)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=self.spec.train.lr)
        for batch in torch.randperm(len(y_N), generator=torch_stream(*path)).split(self.spec.train.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(self.model(x_NCHW[batch]), y_N[batch]).backward()
            optimizer.step()
        return len(y_N)


class Marker:
    """A listener that marks rounds and, unless the run has a last one, ends it after the measured ones as Ctrl-C would."""

    def progress(self, *_: Any) -> None:
        pass

    def round(self, line: dict[str, Any]) -> None:
        mark(line["round"], bytes_up=line["bytes_up"], bytes_down=line["bytes_down"], failed=len(line["failed"]))
        if line["round"] == _job()["rounds"] != _job()["spec"]["federation"]["rounds"]:
            raise KeyboardInterrupt

    def close(self, status: str) -> None:
        pass


def fedcosim() -> None:
    """`fedcosim run`, checkpoints and record included; where the workload's client does nothing, with that ClientApp."""
    import contextlib

    from safetensors.numpy import load_file

    from fedcosim.server import run

    if _job()["noop"]:
        run.client_app = noop_app()
    folder = Path(_job()["folder"])
    with contextlib.suppress(KeyboardInterrupt):
        run.run(_bench().spec, folder, "run", [Marker()])
        _keep(load_file(folder / "run" / "model.safetensors"))


def fedcosim_bare() -> None:
    """The same grid and round loop without record and checkpoints."""
    from fedcosim.clients.client_app import app
    from fedcosim.core.records import array_record
    from fedcosim.server.grid import RayGrid, start_ray
    from fedcosim.server.rounds import Rounds
    from fedcosim.server.server_app import roster, setting

    bench, spec = _bench(), _bench().spec
    start_ray("local", WORKERS)
    grid = RayGrid(
        noop_app() if _job()["noop"] else app,
        spec.to_run_config(),
        spec.federation.clients,
        Path(_job()["folder"]) / "state",
        sizes=bench.data.num_train.tolist(),
        average=spec.strategy.averages,
        workers=WORKERS,
    )
    who = roster(bench, {client: client for client in grid.get_node_ids()})
    strategy = spec.strategy.build(setting(bench, who))
    rounds = Rounds(strategy, grid, who, spec.seed, NEVER, spec.strategy.averages, NEVER)
    mark(0)
    for outcome in rounds.run(array_record({key: bench.initial[key] for key in bench.shared_keys})):
        grid.commit()
        tally = outcome.tally
        mark(outcome.round, bytes_up=tally.bytes_up, bytes_down=tally.bytes_down, failed=len(tally.failed))
        if outcome.round == _job()["rounds"]:
            _keep({key: array.numpy() for key, array in outcome.arrays.items()})
            break
    grid.close()


def flower() -> None:
    """Stock Flower: its Strategy.start, its simulation engine; tuned to one CPU and one thread a client, no evaluation."""
    from flwr.app import ArrayRecord
    from flwr.server.superlink.fleet.vce import vce_api
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    from fedcosim.core.seeds import seed_globals
    from fedcosim.server.rounds import RosterView

    bench, federation = _bench(), _bench().spec.federation
    partitions: dict[int, int] = {}
    register = vce_api._register_nodes  # node ids are random; only here can one learn, without a round, whose they are
    vce_api._register_nodes = lambda *a, **k: partitions.update(mapping := register(*a, **k)) or mapping
    server = ServerApp()

    @server.main()
    def main(grid: Any, context: Any) -> None:
        while not partitions:
            time.sleep(0.05)
        arrays = ArrayRecord({key: bench.weights[key] for key in bench.shared_keys})
        fraction = federation.per_round / federation.clients
        strategy = FedAvg(fraction_train=fraction, fraction_evaluate=0.0, min_train_nodes=federation.per_round)
        size = arrays.count_bytes() * federation.per_round

        def round_is_over(number: int, _: ArrayRecord) -> None:
            mark(number, bytes_up=size, bytes_down=size)
            seed_globals(bench.spec.seed, "round", number + 1)

        view = RosterView(grid, sorted(partitions, key=partitions.__getitem__))
        result = strategy.start(view, arrays, _job()["rounds"], evaluate_fn=round_is_over)
        _keep(result.arrays.to_numpy_ndarrays(), list(result.arrays))

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": WORKERS}}
    run_simulation(server, noop_app() if _job()["noop"] else flower_app(), federation.clients, "ray", resources)


def flower_app() -> Any:
    """Return the workload's client as one writes it for Flower, with the model and the data kept in the process."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Any) -> Message:
        bench = _bench()
        local = context.state["local"].to_torch_state_dict() if "local" in context.state else _initial_local()
        bench.model.load_state_dict({**message.content["arrays"].to_torch_state_dict(), **local})
        samples, loss = _train(int(context.node_config["partition-id"]), int(message.content["config"]["server-round"]))
        weights = bench.model.state_dict()
        if local:
            context.state["local"] = ArrayRecord({key: weights[key] for key in local})
        arrays = ArrayRecord({key: weights[key] for key in bench.shared_keys})
        metrics = MetricRecord({"num-examples": samples, "train_loss": loss})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


@lru_cache(maxsize=1)
def _initial_local() -> dict[str, Any]:
    bench = _bench()
    return {key: bench.initial[key] for key in bench.local_keys}


def noop_app() -> Any:
    """Return a client that sends back the arrays it received; it may keep state of a given size."""
    import numpy as np
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app, floats = ClientApp(), _job()["state_floats"]

    @app.train()
    def train(message: Message, context: Any) -> Message:
        if floats:
            context.state["local"] = ArrayRecord([np.ones(floats, np.float32)])
        content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    return app


def _keep(arrays: Any, keys: list[str] | None = None) -> None:
    """Save final arrays for the parity gate, if they are asked for."""
    import numpy as np

    if target := _job()["final"]:
        np.savez(target, **(arrays if keys is None else dict(zip(keys, arrays, strict=True))))


# --------------------------------------------------------------------------------------------------- parent: measuring


class Tree:
    """CPU time and memory of a process and all below it, also of those that have ended meanwhile."""

    def __init__(self, pid: int) -> None:
        import psutil

        self.root = psutil.Process(pid)
        self._cpu_s: dict[tuple[int, float], float] = {}
        self.peak_pss_bytes = self.driver_peak_rss_bytes = 0

    def processes(self) -> Iterator[Any]:
        yield self.root
        yield from self.root.children(recursive=True)

    def cpu_s(self) -> float:
        """User and system seconds of every process seen so far."""
        import psutil

        try:
            for process in self.processes():
                times = process.cpu_times()
                self._cpu_s[process.pid, process.create_time()] = times.user + times.system
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        return sum(self._cpu_s.values())

    def driver_cpu_s(self) -> float:
        """User and system seconds of the root process alone, when `cpu_s` was last called."""
        return self._cpu_s.get((self.root.pid, self.root.create_time()), 0.0)

    def sample_memory(self) -> None:
        """Add up PSS, in which memory shared by n processes counts 1/n in each; of the driver alone take anonymous RSS.

        Anonymous RSS leaves out the pages of Ray's object store that the driver has mapped: they are counted in the tree.
        """
        import psutil

        try:
            pss = [_proc_kib(process.pid, "smaps_rollup", "Pss") for process in self.processes()]
        except psutil.NoSuchProcess:
            return
        self.peak_pss_bytes = max(self.peak_pss_bytes, sum(pss) * 1024)
        self.driver_peak_rss_bytes = max(self.driver_peak_rss_bytes, self.driver_rss_now())

    def driver_rss_now(self) -> int:
        return _proc_kib(self.root.pid, "status", "RssAnon") * 1024


def _proc_kib(pid: int, file: str, name: str) -> int:
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")), 0)


def execute(workload: Workload, runner: str, rounds: int, scratch: Path, final: str = "", last: int = NEVER) -> dict[str, Any]:
    """Run one runner in a process of its own; return what was seen of it, round by round."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        spec = workload.spec(last)
        spec["train"]["precision"] = "bf16" if runner.endswith("bf16") else "fp32"
        about = {name: getattr(workload, name) for name in ("skewed", "noop", "state_floats")}
        job = {"runner": runner, "spec": spec, "rounds": rounds, "folder": folder, "final": final, **about}
        read, write = os.pipe()
        environment = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
            **{"FEDCOSIM_CACHE": str(scratch / "cache"), "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"},
            **{"PYTHONPATH": str(Path(__file__).parent), JOB: json.dumps(job), PIPE: str(write), "PYTHONWARNINGS": "ignore"},
        }
        command = [sys.executable, "-c", "import engine; engine.child()"]  # importable, so that nothing is pickled by value
        with open(Path(folder) / "output.txt", "w+") as output:
            started = time.monotonic()
            process = subprocess.Popen(
                command, env=environment, cwd=folder, pass_fds=[write], stdout=output, stderr=output, start_new_session=True
            )
            os.close(write)
            seen = _watch(process, read)
            if process.wait() or (runner != "prepare" and len([r for r in seen["rounds"] if r["round"]]) != rounds):
                output.seek(0)
                raise SystemExit(f"{workload.name}/{runner}: exit code {process.returncode}\n{output.read()[-4000:]}")
    return {"runner": runner, "started": started, **seen}


def _watch(process: subprocess.Popen, pipe: int) -> dict[str, Any]:
    """Read marks until the pipe closes, with CPU time at every mark and memory twice a second."""
    tree, rounds, buffer, due = Tree(process.pid), [], b"", 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if selector.select(timeout=max(0.0, due - time.monotonic())):
                if not (read := os.read(pipe, 65536)):
                    break
                *lines, buffer = (buffer + read).split(b"\n")
                now = {"cpu_s": tree.cpu_s(), "driver_cpu_s": tree.driver_cpu_s(), "driver_rss_bytes": tree.driver_rss_now()}
                rounds += [{**json.loads(line), **now} for line in lines]
            if time.monotonic() >= due:
                tree.sample_memory()
                due = time.monotonic() + 0.5
    os.close(pipe)
    return {"rounds": rounds, "peak_pss_bytes": tree.peak_pss_bytes, "driver_peak_rss_bytes": tree.driver_peak_rss_bytes}


def summary(workload: Workload, seen: dict[str, Any], warmup: int) -> dict[str, Any]:
    """Boil one execution down to the numbers that are reported."""
    marks = [r for r in seen["rounds"] if r["round"] >= warmup]
    walls = sorted(b["t"] - a["t"] for a, b in itertools.pairwise(marks))
    cpu_s, driver_cpu_s = ((marks[-1][key] - marks[0][key]) / len(walls) for key in ("cpu_s", "driver_cpu_s"))
    median_s = statistics.median(walls)
    first = next(r for r in seen["rounds"] if r["round"] == 1)
    return {
        "runner": seen["runner"],
        "round_s": median_s,
        "round_p10_s": walls[len(walls) // 10],
        "round_p90_s": walls[-1 - len(walls) // 10],
        "clients_per_s": workload.cohort / median_s,
        "cpu_s_per_round": cpu_s,
        "cpu_ms_per_client": 1000 * cpu_s / workload.cohort,
        "driver_cpu_ms_per_client": 1000 * driver_cpu_s / workload.cohort,
        "first_round_done_s": first["t"] - seen["started"],
        "peak_pss_bytes": seen["peak_pss_bytes"],
        "driver_peak_rss_bytes": seen["driver_peak_rss_bytes"],
        "driver_growth_bytes": marks[-1]["driver_rss_bytes"] - marks[0]["driver_rss_bytes"],
        "bytes_up": marks[-1].get("bytes_up"),
        "bytes_down": marks[-1].get("bytes_down"),
        "failed": sum(r.get("failed", 0) for r in seen["rounds"]),
        "rounds": seen["rounds"],
    }


def check_parity(scratch: Path) -> dict[str, float]:
    """Run two small rounds on every runner; return the largest differences from the plain loop, or exit if one is too large."""
    import numpy as np

    largest: dict[str, float] = {}
    for workload in SMALL:
        finals: dict[str, dict[str, Any]] = {}
        execute(workload, "prepare", 2, scratch, last=2)
        for runner in ("plain-channels-last", "fedcosim", "fedcosim-bare", "flower"):
            target = str(scratch / f"{workload.name}-{runner}.npz")
            execute(workload, runner, 2, scratch, target, last=2)
            finals[runner] = dict(np.load(target))
        reference = finals.pop("plain-channels-last")
        for runner, arrays in finals.items():
            difference = max(float(np.abs(reference[key] - arrays[key]).max()) for key in reference)
            largest[f"{workload.name}/{runner}"] = difference
            if not difference <= PARITY or arrays.keys() != reference.keys():
                raise SystemExit(f"parity: {workload.name}/{runner} differs from the plain loop by {difference:.2e} > {PARITY}")
    return largest


def measure(workload: Workload, runners: list[str], repeats: int, quick: bool, scratch: Path) -> dict[str, Any]:
    """Run all runners alternately, `repeats` times."""
    warmup, rounds = (1, 4) if quick else (workload.warmup, workload.warmup + workload.rounds)
    if workload.name == "M2":
        warmup, rounds = 2, 2 + workload.rounds  # growth needs its rounds
    execute(workload, "prepare", 0, scratch)
    runs = []
    for repeat in range(repeats):
        for runner in runners:
            runs.append({"repeat": repeat} | summary(workload, execute(workload, runner, rounds, scratch), warmup))
            note = {key: round(runs[-1][key], 3) for key in ("round_s", "cpu_ms_per_client", "first_round_done_s")}
            mib = {key: round(runs[-1][f"{key}_bytes"] / MIB) for key in ("peak_pss", "driver_peak_rss", "driver_growth")}
            print(f"{workload.name:15} {runner:14} {repeat} {note} MiB {mib}", file=sys.stderr, flush=True)
    return {"workload": asdict(workload), "warmup": warmup, "runs": runs}


# ---------------------------------------------------------------------------------------------------------- reporting


def median_of(runs: list[dict[str, Any]], runner: str, key: str) -> float | None:
    """Return the median over repeats."""
    values = [run[key] for run in runs if run["runner"] == runner and run[key] is not None]
    return statistics.median(values) if values else None


def ratios(runs: list[dict[str, Any]], slow: str, fast: str, key: str) -> list[float]:
    """Return slow / fast of one key, repeat by repeat."""
    table = {(run["repeat"], run["runner"]): run[key] for run in runs}
    repeats = sorted({run["repeat"] for run in runs})
    return [table[i, slow] / table[i, fast] for i in repeats if (i, slow) in table and (i, fast) in table]


def _ratio_cell(values: list[float], scale: float = 1.0) -> str:
    if not values:
        return "-"
    values = [value * scale for value in values]
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


COLUMNS = (  # heading, key, divisor, decimals
    ("s/round", "round_s", 1, 3),
    ("p10", "round_p10_s", 1, 3),
    ("p90", "round_p90_s", 1, 3),
    ("clients/s", "clients_per_s", 1, 1),
    ("CPU ms/client", "cpu_ms_per_client", 1, 2),
    ("of it driver", "driver_cpu_ms_per_client", 1, 2),
    ("round 1 done after, s", "first_round_done_s", 1, 1),
    ("peak PSS of the tree, MiB", "peak_pss_bytes", MIB, 0),
    ("driver's peak RSS, MiB", "driver_peak_rss_bytes", MIB, 0),
    ("driver's growth, MiB", "driver_growth_bytes", MIB, 0),
    ("up, MB/round", "bytes_up", 1e6, 2),
)
COMPARISONS = (  # heading, numerator, denominator, key, factor
    ("wall: fedcosim / (plain / 2)", "fedcosim", "plain", "round_s", WORKERS),
    ("wall: fedcosim / plain-pair", "fedcosim", "plain-pair", "round_s", 1),
    ("CPU: fedcosim / plain-pair", "fedcosim", "plain-pair", "cpu_s_per_round", 1),
    ("wall: Flower / fedcosim", "flower", "fedcosim", "round_s", 1),
    ("CPU: Flower / fedcosim", "flower", "fedcosim", "cpu_s_per_round", 1),
)


def markdown(document: dict[str, Any]) -> str:
    """Lay a measurement out as Markdown: what was measured where, medians over repeats, ratios of paired medians."""
    here, parts = document["machine"], document["workloads"]
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    parity = f"at most {max(document['parity'].values()):.1e}" if document["parity"] else "not checked"
    lines = [
        f"Measured {document['started']} on {here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB, load average "
        f"{here['load'][0]} before the start; commit {document['commit']}; {versions}; `{document['command']}`.",
        f"Difference of final arrays from the plain loop in the parity gate: {parity}.",
        "",
        *_heading("workload", "runner", *(column[0] for column in COLUMNS)),
    ]
    for name, part in parts.items():
        for runner in dict.fromkeys(run["runner"] for run in part["runs"]):
            values = [median_of(part["runs"], runner, column[1]) for column in COLUMNS]
            cells = ["-" if v is None else f"{v / c[2]:.{c[3]}f}" for v, c in zip(values, COLUMNS, strict=True)]
            lines.append(_row(name, runner, *cells))
    lines += ["", *_heading("workload", *(column[0] for column in COMPARISONS))]
    for name, part in parts.items():
        lines.append(_row(name, *(_ratio_cell(ratios(part["runs"], a, b, key), scale) for _, a, b, key, scale in COMPARISONS)))
    return "\n".join(lines)


def _heading(*cells: str) -> list[str]:
    return [_row(*cells), _row(*("---" for _ in cells))]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> dict[str, Any]:
    """Describe this machine and how busy it is."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ":unknown")
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model.split(":")[1].strip(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes / 2**30),
        "system": platform.platform(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def commit() -> str:
    """Return the commit that is measured, marked where the working tree differs from it."""
    git: Callable[..., str] = lambda *a: subprocess.run(  # noqa: E731
        ["git", *a], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    return (git("rev-parse", "--verify", "--short=12", "HEAD") or "none") + (
        " + changes" if git("status", "--porcelain") else ""
    )


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", default="W,M", help="prefixes, comma-separated: W1, W3, W3-cnn-10000, M2 ... (all)")
    parser.add_argument("--runners", default="", help="only these of plain, fedcosim, fedcosim-bare, fedcosim-bf16, flower")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="three rounds after one: for a look, not for a claim")
    parser.add_argument("--force", action="store_true", help=f"run although the load average is above {MAX_LOAD}")
    parser.add_argument("--no-parity", action="store_true", help="skip the parity gate (the result says so)")
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--markdown", type=Path, help="print the tables of this result and do nothing else")
    return parser.parse_args()


def main() -> None:
    """Measure, or lay a measurement out."""
    options = arguments()
    if options.markdown:
        print(markdown(json.loads(options.markdown.read_text())))
        return
    here = machine()
    if here["load"][0] > MAX_LOAD:
        if not options.force:
            raise SystemExit(f"load average {here['load'][0]} > {MAX_LOAD}: wall times would not count; wait, or --force")
        print(f"WARNING: load average {here['load'][0]} > {MAX_LOAD}: trust the CPU columns only", file=sys.stderr)
    document = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "command": " ".join(sys.argv),
        "commit": commit(),
        "machine": here,
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("fedcosim", "flwr", "ray", "torch", "numpy")},
        },
    }
    wanted = [w for w in WORKLOADS if w.name.startswith(tuple(options.workloads.split(",")))]
    with tempfile.TemporaryDirectory(prefix="fedcosim-benchmark-") as folder:
        document["parity"] = None if options.no_parity else check_parity(Path(folder))
        document["workloads"] = {}
        for workload in wanted:
            runners = [r for r in workload.runners if not options.runners or r in options.runners.split(",")]
            document["workloads"][workload.name] = measure(workload, runners, options.repeats, options.quick, Path(folder))
            if options.json:
                options.json.write_text(json.dumps(document, indent=1))
    print(markdown(document))


if __name__ == "__main__":
    main()
