"""The REST service with a full store: latency of list and detail, and many event streams at once. See README.md.

    python benchmarks/service.py [--database postgresql+psycopg://...] [--quick]

The store is filled through its own interface, the service is a process of its own, and Ray is away, so that nothing but the
service is measured. During the streams this process writes rounds as drivers do; a stream counts as complete if it has brought
every event of its experiment once and in order.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from fedcosim.server.spec import Experiment as Spec
from fedcosim.server.spec import parse
from fedcosim.server.store import Experiment, Store

FAR_S = 1e6
FIELDS = {
    "federation": {"clients": 100, "per_round": 10, "rounds": 500},
    "data": {"source": "digits"},
    "model": {"name": "lenet"},
    "strategy": {"name": "fedavg"},
    "engine": {"address": "auto"},
}
FIGURES = ("accuracy_mean", "accuracy_std", "accuracy_p10", "accuracy_p90", "accuracy_worst", "accuracy_weighted", "train_loss")


def line(number: int) -> dict:
    """A round's event, as long as real ones are."""
    bytes_ = {"bytes_up": 2482840, "bytes_up_dense": 2482840, "bytes_down": 2482840}
    mean = {"download_s": 0.0213, "compute_s": 1.2345, "upload_s": 0.0771}
    straggler = {"client": 17, "device": "raspberry-pi-5", "total_s": 1.33, **mean}
    simulated = {"sim_s": 1.33, "energy_j": 17.2, "energy_low_j": 11.9, "straggler": straggler, "client_mean": mean}
    figures = dict.fromkeys(FIGURES, 0.1234567891234 + number / 1000)
    rest = {"wall_s": 0.4213, "epsilon": None, "sampled": 10, "failed": [], "dropped": [], "cohort": list(range(10))}
    return {"time": "2026-01-01T00:00:00+00:00", "event": "round", "round": number, **figures, **bytes_, **simulated, **rest}


def fill(store: Store, spec: Spec, experiments: int, rounds: int) -> list[str]:
    """Submit finished experiments with all their rounds; return their ids."""
    ids = []
    for number in range(experiments):
        made = Experiment(id=f"bench-{number:04}", name="bench", owner="local", spec=spec.to_dict())
        store.submit(made)
        lines = [{"event": "started"}, *(line(r) for r in range(1, rounds + 1)), {"event": "finished", "reason": None}]
        store.append(made.id, list(enumerate(lines, 1)), {"accuracy_mean": 0.9, "bytes_up": 10**9, "rounds": rounds})
        ids.append(made.id)
    return ids


def running(store: Store, spec: Spec, experiments: int) -> list[str]:
    """Submit experiments that count as running for as long as the benchmark may take."""
    ids = [f"live-{number}" for number in range(experiments)]
    for name in ids:
        store.submit(Experiment(id=name, name="live", owner="local", spec=spec.to_dict()))
        store.move(name, ("queued",), "running", lease=time.time() + FAR_S)
    return ids


@contextmanager
def service(folder: Path, database: str | None) -> Iterator[str]:
    """Serve, without Ray; yield the address."""
    command = [sys.executable, "-m", "fedcosim.server.cli", "serve", "--folder", folder, "--port", 0]
    command += ["--ray-address", "http://127.0.0.1:9", *(("--database", database) if database else ())]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = process.stderr.readline().split()[1].rstrip(",")
    threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
    try:
        while True:
            try:
                httpx.get(f"{address}/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def latencies(address: str, paths: list[str]) -> dict[str, float]:
    """Ask one after another; return percentiles in ms."""
    with httpx.Client(base_url=address, timeout=60) as client:
        client.get(paths[0])
        took = []
        for path in paths:
            began = time.perf_counter()
            client.get(path).raise_for_status()
            took.append(1e3 * (time.perf_counter() - began))
    p50, p95, p99 = np.percentile(took, (50, 95, 99))
    return {
        "requests": len(took),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "p99_ms": round(float(p99), 2),
    }


class Stream:
    """One listener; keeps the numbers of the events it has seen, and how long each was under way."""

    def __init__(self, address: str, experiment: str) -> None:
        self.experiment, self.seen, self.delays_ms = experiment, [], []
        self._url = f"{address}/v1/experiments/{experiment}/events"
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()

    def _listen(self) -> None:
        with httpx.stream("GET", self._url, timeout=120) as response:
            for text in response.iter_lines():
                if text.startswith("id: "):
                    self.seen.append(int(text[4:]))
                elif text.startswith("data: ") and (sent := json.loads(text[6:]).get("sent")):
                    self.delays_ms.append(1e3 * (time.time() - sent))


def streams(store: Store, address: str, ids: list[str], listeners: int, seconds: float, every_s: float) -> dict[str, float]:
    """Listen to live experiments while rounds are written; return what came, and how late."""
    open_ = [Stream(address, ids[number % len(ids)]) for number in range(listeners)]
    written, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        written += 1
        for name in ids:
            store.append(name, [(written, {**line(written), "sent": time.time()})], {"accuracy_mean": 0.5})
        time.sleep(every_s)
    for name in ids:
        store.append(name, [(written + 1, {"event": "finished", "reason": None})], {})
    for stream in open_:
        stream.thread.join()
    complete = sum(stream.seen == list(range(1, written + 2)) for stream in open_)
    delays = [delay for stream in open_ for delay in stream.delays_ms]
    figures = {"streams": listeners, "complete": complete, "events_each": written + 1, "seconds": seconds}
    return {
        **figures,
        "delay_p50_ms": round(statistics.median(delays), 1),
        "delay_p95_ms": round(float(np.percentile(delays, 95)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", help="an empty one; SQLite when absent")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    options = parser.parse_args()
    share = 0.1 if options.quick else 1.0
    spec = parse(FIELDS)
    print(f"load average before: {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory(prefix="fedcosim-benchmark-") as name:
        folder = Path(name)
        database = options.database or f"sqlite:///{folder / 'store.sqlite'}"
        store = Store(database)
        ids = fill(store, spec, int(200 * share), int(500 * share))
        live = running(store, spec, 5)
        with service(folder, options.database) as address:
            times = int(400 * share)
            details = [f"/v1/experiments/{ids[number % len(ids)]}" for number in range(times)]
            print("list", latencies(address, ["/v1/experiments?limit=100"] * times))
            print("detail", latencies(address, details))
            print("rounds", latencies(address, [f"{path}/rounds" for path in details[: times // 4]]))
            print("streams", streams(store, address, live, 50, 60 * share, 0.2))
        store.close()


if __name__ == "__main__":
    main()
