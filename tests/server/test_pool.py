"""Workers on clusters: where they are put, and what becomes of them as nodes leave and join."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from ray.cluster_utils import Cluster

from fedcosim.core.errors import SpecError
from fedcosim.core.records import array_record
from fedcosim.server.grid import RayGrid
from fedcosim.server.pool import Pool

CLIENTS = 24


def app() -> ClientApp:
    """Client c replies with c, and the node it ran on."""
    made = ClientApp()

    @made.train()
    def train(message: Message, context: Context) -> Message:
        arrays = array_record({"w": np.full(1, context.node_config["partition-id"], np.float32)})
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    return made


def one_round(grid: RayGrid) -> list[float]:
    content = RecordDict({"arrays": array_record({"w": np.zeros(1, np.float32)})})
    replies = grid.send_and_receive([Message(content, client, "train") for client in range(CLIENTS)], timeout=120)
    return sorted(float(reply.content["arrays"]["w"].numpy()[0]) for reply in replies)


def nodes_of(pool: Pool) -> set[str]:
    node = [
        worker.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        for worker in map(pool.__getitem__, pool.present())
    ]
    return set(ray.get(node))


def on_a_cluster(folder: str) -> None:
    """Three nodes, of which the first holds no workers; then one goes, and a larger one comes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    here = cluster.add_node(num_cpus=1, labels={"data": "digits"}, resources={"sensor": 1})
    there = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    for options in ({"labels": {"data": "digits"}}, {"resources": {"sensor": 1.0}}):
        pool = Pool((app(), {}, CLIENTS, folder), **options)
        assert (len(pool), nodes_of(pool)) == (1, {here.node_id})
        pool.close()

    grid = RayGrid(app(), {}, CLIENTS, Path(folder), chunk=1)
    everybody = list(map(float, range(CLIENTS)))
    assert len(grid.pool) == 3
    assert nodes_of(grid.pool) == {here.node_id, there.node_id}
    cluster.remove_node(there, allow_graceful=False)
    assert one_round(grid) == everybody
    assert nodes_of(grid.pool) == {here.node_id}
    cluster.add_node(num_cpus=4)
    while len(grid.pool.present()) < 5:
        assert one_round(grid) == everybody
    grid.close()


@pytest.mark.slow
def test_workers_go_where_they_are_wanted_and_nodes_may_leave_and_join(tmp_path):
    """In a process of its own: one can be part of one cluster only."""
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, timeout=240)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("options", [{"labels": {"data": "mars"}}, {"resources": {"sensor": 2.0}}])
def test_what_no_node_has_is_refused(options, tmp_path):
    with pytest.raises(
        SpecError, match=r"Ray has 0 CPUs here, a worker takes one and (a node with data=mars|2 sensor); add nodes"
    ):
        Pool((app(), {}, 1, str(tmp_path)), **options)


if __name__ == "__main__":
    on_a_cluster(sys.argv[1])
