"""Latency of the hwsim service under load: many callers at once, refusals, health checks meanwhile. See README.md.

    python benchmarks/hwsim.py [--quick] [--json out.json]

The server is a process of its own, as `fedcosim hwsim serve` starts it. Callers are threads with a channel each; all ask
for a LeNet training step (`--model` chooses another), at once: first as operators that the caller has analysed, then by name.
A caller that is refused comes again after the server's hint; its latency counts from its first attempt. Meanwhile another
thread checks the health.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from fedcosim.hwsim.roofline.simulator import ModelRequest, RooflineRequest
from fedcosim.hwsim.roofline.trace import training_step
from fedcosim.hwsim.v1 import roofline_pb2
from fedcosim.hwsim.v1.roofline_pb2_grpc import RooflineStub
from fedcosim.hwsim.wire import encode
from fedcosim.server.architectures import example

CALLERS = 16


class Caller:
    """Asks again and again over a channel of its own, and keeps count."""

    def __init__(self, endpoint: str, message: roofline_pb2.RooflineRequest) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]  # else channels to one server share a connection
        self._stub, self._message = RooflineStub(grpc.insecure_channel(endpoint, options)), message
        self.latencies_s: list[float] = []
        self.attempts = self.refusals = 0

    def ask(self, times: int) -> None:
        for _ in range(times):
            started = time.perf_counter()
            while (wait_s := self._attempt()) is not None:
                time.sleep(wait_s)
            self.latencies_s.append(time.perf_counter() - started)

    def _attempt(self) -> float | None:
        """Ask once; return how long to wait if that was refused."""
        self.attempts += 1
        try:
            self._stub.Estimate(self._message, timeout=60)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            self.refusals += 1
            hint = error_details_pb2.RetryInfo()
            rpc_status.from_call(error).details[0].Unpack(hint)
            return hint.retry_delay.ToTimedelta().total_seconds()
        return None


def health_latencies_s(endpoint: str, ended: threading.Event) -> list[float]:
    """Check the health a hundred times a second until the load has ended."""
    stub, latencies_s = health_pb2_grpc.HealthStub(grpc.insecure_channel(endpoint)), []
    while not ended.wait(0.01):
        started = time.perf_counter()
        stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
        latencies_s.append(time.perf_counter() - started)
    return latencies_s


def measure(endpoint: str, requests: int, message: roofline_pb2.RooflineRequest) -> dict[str, float]:
    """Put the load on a server."""
    callers, ended = [Caller(endpoint, message) for _ in range(CALLERS)], threading.Event()
    for caller in callers:
        caller.ask(1)  # connections and imports are not what is measured
        caller.latencies_s.clear()
        caller.attempts = caller.refusals = 0
    with ThreadPoolExecutor(CALLERS + 1) as threads:
        health = threads.submit(health_latencies_s, endpoint, ended)
        started = time.perf_counter()
        for work in [threads.submit(caller.ask, requests // CALLERS) for caller in callers]:
            work.result()
        wall_s = time.perf_counter() - started
        ended.set()
        health_ms = np.array(health.result()) * 1e3
    latencies_ms = np.concatenate([caller.latencies_s for caller in callers]) * 1e3
    return {
        "requests": latencies_ms.size,
        "requests_per_s": latencies_ms.size / wall_s,
        "p50_ms": float(np.percentile(latencies_ms, 50)),
        "p99_ms": float(np.percentile(latencies_ms, 99)),
        "refused_share": sum(c.refusals for c in callers) / sum(c.attempts for c in callers),
        "health_checks": health_ms.size,
        "health_p50_ms": float(np.percentile(health_ms, 50)),
        "health_p99_ms": float(np.percentile(health_ms, 99)),
    }


def serving(concurrency: int) -> tuple[subprocess.Popen, str]:
    """Start a server; return it and its endpoint."""
    command = [sys.executable, "-m", "fedcosim.server.cli", "hwsim", "serve", "--port", "0", "--concurrency", str(concurrency)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    return process, process.stderr.readline().split()[-1]


def table(rows: dict[str, dict[str, float]]) -> str:
    """Lay the figures out in Markdown."""
    keys = list(next(iter(rows.values())))
    lines = [["request", *keys], ["---"] * (len(keys) + 1)]
    lines += [
        [name, *(f"{row[key]:.3g}" if isinstance(row[key], float) else str(row[key]) for key in keys)]
        for name, row in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="160 requests instead of 1008, for a look")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    asked = ModelRequest(name=arguments.model, batch=32, train=True)
    requests = {
        "workload": RooflineRequest(device="raspberry-pi-5", workload=training_step(example(asked))),
        "model": RooflineRequest(device="raspberry-pi-5", model=asked),
    }
    rows = {}
    for name, request in requests.items():
        process, endpoint = serving(arguments.concurrency)
        try:
            message = encode(request, roofline_pb2.RooflineRequest())
            rows[f"{name}, {arguments.model}"] = measure(endpoint, 160 if arguments.quick else 1008, message)
        finally:
            process.terminate()
            process.wait()
    print(table(rows))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
