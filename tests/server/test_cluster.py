"""The same experiment on a Ray cluster that somebody else started, joined from inside and through Ray's client port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import small

from fedcosim.server.record import Checkpoints
from fedcosim.server.run import run

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(data_cache) -> Iterator[dict[str, str]]:
    """A Ray head with two CPUs, in its own processes; yields its two addresses."""
    port, client = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # Ray's socket paths must be short
        options = f"--port {port} --ray-client-server-port {client} --num-cpus 2 --temp-dir {folder}"
        options += " --min-worker-port 0 --max-worker-port 0"
        command = [
            str(BIN / "ray"),
            "start",
            "--head",
            "--block",
            "--include-dashboard=false",
            "--disable-usage-stats",
            *options.split(),
        ]
        env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        head = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield {"auto": f"127.0.0.1:{port}", "ray": f"ray://127.0.0.1:{client}"}
        head.terminate()
        head.wait(timeout=60)


@pytest.mark.parametrize("kind", ["auto", "ray"])
def test_a_cluster_gives_the_same_bytes_as_this_machine(kind, cluster, runs, local_ray):
    spec = small("fedperfix")
    here = Checkpoints(run(spec, runs)).latest()
    file = runs / "spec.toml"
    file.write_text(spec.to_toml())
    address = "auto" if kind == "auto" else cluster["ray"]
    command = [
        sys.executable,
        "-m",
        "fedcosim.server.cli",
        "run",
        str(file),
        "--out",
        str(runs),
        "--json",
        "--set",
        f"engine.address={address}",
    ]
    env = {**os.environ, "RAY_ADDRESS": cluster["auto"]} if kind == "auto" else dict(os.environ)
    for _ in range(60):  # the head takes a few seconds to answer
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if "no Ray cluster can be joined" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    there = Checkpoints(runs / json.loads(done.stdout)["id"]).latest()
    assert {k: a.data for k, a in there.arrays.items()} == {k: a.data for k, a in here.arrays.items()}
    assert there.states == here.states
