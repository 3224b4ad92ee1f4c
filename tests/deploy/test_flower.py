"""Two sites as real, separate clients of Flower's SuperLink, and the same experiments on Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import tomli_w
from containers import Composed, run
from serving import wait
from small import small

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]
SIMULATORS = ("hwsim-roofline", "hwsim-neomem", "hwsim-reram")
NODES = ("supernode-0", "supernode-1")
TWO = (
    *(
        "federation.clients=2",
        "federation.per_round=2",
        "name=two-sites",
        "hardware.memory=neomem",
        "hardware.accelerator=reram",
    ),
    "hardware.devices={raspberry-pi-5=0.5, jetson-orin-nano=0.5}",
)
IN_ROUNDS = ("upload.codec=int8", "federation.rounds=3")
GENERATOR = "{ tiers = ['XS'], steps = 20, batch_size = 16, sampling_steps = 2 }"
ONE_SHOT = (
    "upload.codec=int8",
    "upload.target=weights",
    "federation.rounds=1",
    "strategy.samples=60",
    f"strategy.generator={GENERATOR}",
)
SPECS = {"fedavg": IN_ROUNDS, "fedperfix": IN_ROUNDS, "feddiff": ONE_SHOT}


@pytest.fixture(scope="module")
def sites(images, tmp_path_factory) -> Iterator[Composed]:
    composed = Composed(tmp_path_factory.mktemp("sites"))
    try:
        composed("up", "-d", "superlink", *NODES, *SIMULATORS)
        yield composed
    finally:
        composed.down()


def flwr_run(sites: Composed, spec: str, connection: str) -> dict:
    """Submit an experiment to the SuperLink, wait for its end, and return its record."""
    superlink = sites.containers("superlink")[0]
    before = set(sites.inside("superlink", "find", "/data", "-path", "/data/runs/*", "-name", "result.json").split())
    run("docker", "exec", "-i", superlink, "sh", "-c", "cat > /tmp/run.toml", input=tomli_w.dumps({"spec": spec}))
    log = sites.inside("superlink", "flwr", "run", "/opt/fedcosim/app", connection, "--stream", "--run-config", "/tmp/run.toml")
    after = set(sites.inside("superlink", "find", "/data", "-path", "/data/runs/*", "-name", "result.json").split())
    assert len(after - before) == 1, log
    return json.loads(sites.inside("superlink", "cat", *(after - before)))


def ray_run(sites: Composed, spec: str) -> dict:
    """Run an experiment on a Ray of its own, in a container of the same image and network."""
    superlink = sites.containers("superlink")[0]
    run("docker", "exec", "-i", superlink, "sh", "-c", "cat > /data/spec.toml", input=spec)
    there = ("fedcosim", "run", "/data/spec.toml", "--out", "/data/ray", "--json", "--set", "engine.workers=1")
    return json.loads(sites("run", "--rm", "--no-deps", "ray-worker", *there))


@pytest.mark.parametrize("strategy", SPECS)
def test_flowers_runtime_and_ray_agree(strategy, sites):
    """The same spec and seed: the same accuracy up to float order, bytes within 2 %, the same simulated time and energy."""
    spec = small(strategy, *TWO, *SPECS[strategy]).to_toml()
    theirs, ours = flwr_run(sites, spec, "composed"), ray_run(sites, spec)
    assert theirs["status"] == ours["status"] == "finished"
    theirs, ours = theirs["final"], ours["final"]
    assert theirs["accuracy_mean"] == pytest.approx(ours["accuracy_mean"], abs=0.02)
    for figure in ("bytes_up", "bytes_down"):
        assert theirs[figure] == pytest.approx(ours[figure], rel=0.02)
    for figure in ("sim_s", "energy_j"):
        assert theirs[figure] == pytest.approx(ours[figure], rel=1e-6)
    assert ours["bytes_up"] < 0.5 * ours["bytes_up_dense"]


def test_with_tls_only_registered_nodes_take_part(images, tmp_path):
    """Nobody is let in before an operator registers their keys, for which nodes wait; no call goes through without TLS."""
    composed = Composed(tmp_path, ("docker-compose.yml", "deploy/flower/tls.yml"))
    try:
        composed("--profile", "flower", "up", "-d", "superlink", *NODES, *SIMULATORS)
        plain = run("docker", "exec", composed.containers("superlink")[0], "flwr", "list", "composed", check=False)
        assert plain.returncode != 0

        def statuses() -> list[str]:
            listed = composed.inside("superlink", "flwr", "supernode", "list", "composed-tls", "--format", "json")
            return [node["status"] for node in json.loads(listed)["nodes"]]

        assert statuses() == []
        for node in NODES:
            composed.inside("superlink", "flwr", "supernode", "register", f"/certificates/{node}.pub", "composed-tls")
        wait(lambda: statuses() == ["online", "online"], 240)
        record = flwr_run(composed, small("fedavg", *TWO, "federation.rounds=1").to_toml(), "composed-tls")
        assert record["status"] == "finished"
    finally:
        composed.down()
