"""What is relied upon in Flower: public types, a few non-public details, and its own runtime running our apps."""

from __future__ import annotations

import inspect
import os
import random
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pytest
import tomli_w
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.metadata import Metadata
from flwr.serverapp import Grid, strategy
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from small import small

from fedcosim.server.grid import RayGrid
from fedcosim.server.record import Checkpoints
from fedcosim.server.rounds import RosterView
from fedcosim.server.run import run
from fedcosim.server.spec import from_run_config

ROOT = Path(__file__).parents[2]


def test_flower_is_the_version_these_details_were_read_in():
    assert version("flwr").startswith("1.41.")
    assert version("ray") == "2.55.1"


def test_a_message_takes_its_origin_from_the_task_identity():
    """`Message` needs a task identity in the process; RayGrid sets it, as Flower's launchers do."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 77, 88, 99
    metadata = Message(RecordDict(), 5, "train").metadata
    assert (metadata.run_id, metadata.src_node_id, metadata.src_task_id, metadata.dst_node_id) == (77, 88, 99, 5)


def test_a_message_can_be_rebuilt_from_its_metadata():
    """Workers get metadata and content apart; the reply must be addressed as if they had come together."""
    metadata = Metadata(1, "id-3", 10, 11, "", "group", 0.0, 60.0, "train", 12, 13)
    message = Message(RecordDict(), metadata=metadata)
    reply = Message(RecordDict(), reply_to=message).metadata
    assert (reply.src_node_id, reply.dst_node_id, reply.reply_to_message_id) == (11, 10, "id-3")


def test_an_array_is_its_four_fields():
    """LazyArray stands in for Array by these alone."""
    array = Array(np.ones((2, 3), np.float32))
    fields = {key for key in vars(array) if not key.startswith("_")}
    assert fields == {"dtype", "shape", "stype", "data"}
    assert array.stype == "numpy.ndarray"


def test_grids_and_strategies_have_the_methods_we_implement_and_drive():
    assert Grid.__abstractmethods__ == {
        "set_run", "run", "create_message", "get_node_ids", "push_messages", "pull_messages", "send_and_receive"
    }  # fmt: skip
    assert not RayGrid.__abstractmethods__
    assert not RosterView.__abstractmethods__
    assert Strategy.__abstractmethods__ == {
        "configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate", "summary"
    }  # fmt: skip
    assert Run.create_empty(3).run_id == 3


def test_flowers_sampling_draws_from_pythons_global_generator():
    """That is why rounds seed it: the same seed must sample the same cohort."""

    def cohort() -> list[int]:
        random.seed(5)
        view = RosterView(None, range(100))  # type: ignore[arg-type]
        averaging = FedAvg(fraction_train=0.1, min_train_nodes=10)
        return [m.metadata.dst_node_id for m in averaging.configure_train(1, ArrayRecord(), ConfigRecord(), view)]

    assert cohort() == cohort()
    assert len(set(cohort())) == 10


def test_the_whole_cohort_shares_one_content_object():
    """That is how RayGrid knows to put the model into the object store once."""
    view = RosterView(None, range(10))  # type: ignore[arg-type]
    messages = list(FedAvg(min_train_nodes=10).configure_train(1, ArrayRecord(), ConfigRecord(), view))
    assert len({id(m.content) for m in messages}) == 1


@pytest.mark.parametrize("name", ["FedAvg", "FedAvgM", "FedProx", "FedAdam", "FedAdagrad", "FedYogi"])
def test_averaging_strategies_cannot_tell_replies_from_their_mean(name):
    """`averages = True` is a claim about Flower's code; here it is put to the test, over two rounds of memory."""
    rng = np.random.default_rng(0)
    arrays = [{"w": rng.normal(size=(4, 3)).astype(np.float32)} for _ in range(6)]
    weights = [3, 1, 4, 1, 5, 9]
    start = ArrayRecord({"w": Array(rng.normal(size=(4, 3)).astype(np.float32))})

    def update(values: np.ndarray, weight: int) -> Message:
        content = RecordDict({"arrays": ArrayRecord({"w": Array(values)}), "metrics": MetricRecord({"num-examples": weight})})
        return Message(content, 0, "train")

    def aggregate(replies: list[Message]) -> np.ndarray:
        current, averaging = start, getattr(strategy, name)()
        for number in (1, 2):
            averaging.configure_train(number, current, ConfigRecord(), RosterView(None, range(6)))  # type: ignore[arg-type]
            current, _ = averaging.aggregate_train(number, replies)
        return current["w"].numpy()

    each = aggregate([update(a["w"], w) for a, w in zip(arrays, weights, strict=True)])
    mean = np.average([a["w"] for a in arrays], axis=0, weights=weights).astype(np.float32)
    np.testing.assert_allclose(aggregate([update(mean, sum(weights))]), each, rtol=1e-5, atol=1e-6)


def test_constructors_take_the_names_our_options_have():
    for name in (
        "fedavgm",
        "fedprox",
        "fedadam",
        "fedyogi",
        "fedadagrad",
        "fedtrimmedavg",
        "krum",
        "multikrum",
        "bulyan",
        "qfedavg",
    ):
        options = small(name, "federation.per_round=6").strategy
        known = set(inspect.signature(options.flower).parameters)
        assert set(type(options).model_fields) - {"name"} <= known, name


def flwr_run(tmp_path: Path, config: str, clients: int) -> Path:
    """Run `flwr run .` on a copy of the repository; return the folder of the run it leaves."""
    scripts = Path(sys.executable).parent
    app = tmp_path / "app"
    shutil.copytree(
        ROOT, app, ignore=shutil.ignore_patterns(".git", ".venv", ".*_cache", "runs", "build", "*.egg-info", "__pycache__")
    )
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "FLWR_HOME": str(tmp_path / "home"), "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}
    nodes = f"num-supernodes={clients} client-resources-num-cpus=1"
    command = [str(scripts / "flwr"), "run", ".", "--stream", "--run-config", config, "--federation-config", nodes]
    try:
        done = subprocess.run(command, cwd=app, env=env, capture_output=True, text=True, timeout=280, check=False)
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if str(tmp_path) in " ".join(process.info["cmdline"] or []):
                process.kill()
    found = list(app.glob("runs/*/result.json"))
    assert found, done.stdout + done.stderr
    return found[0].parent


@pytest.mark.slow
def test_flwr_run_gives_the_same_model_on_flowers_own_runtime(tmp_path, local_ray):
    """The same ServerApp and ClientApp under `flwr run .`: same cohorts, same clients, the same numbers up to float order."""
    config = "strategy.name='fedper' federation.clients=6 federation.per_round=4"
    theirs = Checkpoints(flwr_run(tmp_path, config, clients=6)).latest()
    default = {"name": "ours", "seed": 1, "federation.clients": 6, "federation.per_round": 4, "federation.rounds": 3}
    data = {"data.source": "digits", "data.partition": "dirichlet", "data.alpha": 0.5, "model.name": "lenet"}
    train = {"strategy.name": "fedper", "train.epochs": 2, "train.batch_size": 16, "train.lr": 0.1, "evaluate.every": 3}
    ours = Checkpoints(run(from_run_config({**default, **data, **train}), tmp_path / "ours")).latest()
    assert theirs.round == ours.round == 3
    for key, array in ours.arrays.items():
        np.testing.assert_allclose(theirs.arrays[key].numpy(), array.numpy(), atol=1e-5)
    assert theirs.progress["final"]["accuracy_mean"] == pytest.approx(ours.progress["final"]["accuracy_mean"], abs=0.02)
    assert theirs.progress["final"]["bytes_up"] == ours.progress["final"]["bytes_up"]


ONE_SHOT = """
name = "one-shot"
federation = { clients = 3, rounds = 1 }
data = { source = "digits", partition = "dirichlet", alpha = 1.0 }
model = { name = "lenet" }
train = { epochs = 2, batch_size = 16 }
hardware = { devices = { raspberry-pi-5 = 1.0 } }

[strategy]
name = "feddiff"
samples = 60
generator = { tiers = ["XS"], steps = 10, batch_size = 16, sampling_steps = 2 }
"""


@pytest.mark.slow
def test_feddiff_and_its_cost_are_the_same_on_flowers_own_runtime(tmp_path, local_ray):
    """Routed messages, uploads of a layout of their own, sampling on the server, and the cost mod, without our grid."""
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps({"spec": ONE_SHOT}))
    theirs = Checkpoints(flwr_run(tmp_path, str(config), clients=3)).latest()
    ours = Checkpoints(run(from_run_config({"spec": ONE_SHOT}), tmp_path / "ours")).latest()
    for key, array in ours.arrays.items():
        np.testing.assert_allclose(theirs.arrays[key].numpy(), array.numpy(), atol=1e-4)
    for figure in ("bytes_up", "bytes_down", "sim_s", "energy_j"):
        assert theirs.progress["final"][figure] == pytest.approx(ours.progress["final"][figure]), figure
