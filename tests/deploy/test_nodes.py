"""Three Ray nodes in containers: the bytes of a run on one computer, whatever becomes of a node on the way."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator

import pytest
from containers import Composed, inspect, run
from serving import wait
from small import small

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]
SPEC = small("fedperfix", "federation.clients=12", "federation.per_round=8", "federation.rounds=100", "evaluate.every=100")
CUT_S = 20


class Cluster(Composed):
    """A head without clients, and two nodes with two workers each."""

    def nodes(self) -> int:
        """How many nodes Ray counts, by its own tool."""
        code = "import ray; ray.init(logging_level='ERROR', log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
        return int(self.inside("ray-head", "python", "-c", code).split()[-1])

    def begin(self, name: str) -> None:
        """Start a run on the cluster, and return when it has got going."""
        there = ("fedcosim", "run", "/data/spec.toml", "--out", "/data/runs", "--id", name, "--set", "engine.address=auto")
        run("docker", "exec", "-d", self.containers("ray-head")[0], *there, "--set", "engine.workers=4")
        wait(lambda: self.events(name).count('"event": "round"') >= 3, 120)

    def events(self, name: str) -> str:
        head = self.containers("ray-head")[0]
        return run("docker", "exec", head, "cat", f"/data/runs/{name}/events.jsonl", check=False).stdout

    def outcome(self, name: str) -> dict:
        """Wait for a run's end; return its record, and digests of its model and of all clients' own layers."""
        folder = f"/data/runs/{name}"

        def record() -> dict:
            return json.loads(self.inside("ray-head", "cat", f"{folder}/result.json"))

        wait(lambda: record()["status"] != "running", 300)
        digests = f"cd {folder} && sha256sum model.safetensors && find state -name '*.safetensors' | sort | xargs sha256sum"
        return {"record": record(), "digests": self.inside("ray-head", "sh", "-c", digests)}


@pytest.fixture(scope="module")
def cluster(images, tmp_path_factory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made("up", "-d", "--scale", "ray-worker=2", "ray-worker")
        run("docker", "exec", "-i", made.containers("ray-head")[0], "sh", "-c", "cat > /data/spec.toml", input=SPEC.to_toml())
        wait(lambda: made.nodes() == 3, 120)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def alone(cluster) -> dict:
    """The same run on one computer: a Ray of its own in a container of its own, with one worker."""
    there = ("fedcosim", "run", "/data/spec.toml", "--out", "/data/runs", "--id", "alone", "--set", "engine.workers=1")
    cluster("run", "--rm", "--no-deps", "ray-worker", *there)
    return cluster.outcome("alone")


def undisturbed(outcome: dict, alone: dict) -> None:
    assert outcome["record"]["status"] == "finished", outcome["record"]["reason"]
    assert all(line["failed"] == [] for line in outcome["record"]["rounds"])
    assert outcome["digests"] == alone["digests"]


def test_a_cluster_of_three_nodes_gives_the_same_bytes(cluster, alone):
    cluster.begin("three")
    print("\n" + run("docker", "stats", "--no-stream").stdout)
    undisturbed(cluster.outcome("three"), alone)


def test_a_node_lost_in_a_round_costs_a_retry(cluster, alone):
    """Killed, and started again later: the other node finishes the run meanwhile, to the same bytes."""
    lost = cluster.containers("ray-worker")[1]
    cluster.begin("lost")
    run("docker", "kill", lost)
    undisturbed(cluster.outcome("lost"), alone)
    run("docker", "start", lost)
    wait(lambda: cluster.nodes() == 3, 120)


@pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("nsenter") and shutil.which("iptables")), reason="needs root and iptables"
)
def test_a_partition_does_not_lose_the_run(cluster, alone):
    """All traffic of a node is dropped for twenty seconds; it comes back, with its workers or anew."""
    cut = inspect(cluster.containers("ray-worker")[0])["State"]["Pid"]

    def drop(change: str) -> None:
        for chain, interface in (("INPUT", "-i"), ("OUTPUT", "-o")):
            run("nsenter", "-t", cut, "-n", "iptables", change, chain, "!", interface, "lo", "-j", "DROP")

    cluster.begin("partition")
    drop("-I")
    time.sleep(CUT_S)
    drop("-D")
    undisturbed(cluster.outcome("partition"), alone)
    wait(lambda: cluster.nodes() == 3, 120)
