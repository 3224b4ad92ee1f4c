"""What the tests share: a small experiment, one local Ray, and a way to talk to one client without any grid."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import ray
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import settings

from fedcosim.clients.client_app import Workbench
from fedcosim.clients.client_app import app as client_app
from fedcosim.core.records import array_record
from fedcosim.server.grid import start_ray
from fedcosim.server.spec import Experiment

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would processes of tests
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests' data cache out of the user's."""
    before = os.environ.get("FEDCOSIM_CACHE")
    os.environ["FEDCOSIM_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["FEDCOSIM_CACHE"]
    else:
        os.environ["FEDCOSIM_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def own_devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the user's own devices out of the tests; yield the file, of processes to come too, in which tests can put theirs."""
    path, before = tmp_path_factory.mktemp("devices") / "devices.toml", os.environ.get("FEDCOSIM_DEVICES")
    os.environ["FEDCOSIM_DEVICES"] = str(path)
    yield path
    if before is None:
        del os.environ["FEDCOSIM_DEVICES"]
    else:
        os.environ["FEDCOSIM_DEVICES"] = before


@pytest.fixture(scope="session")
def local_ray(data_cache: None, own_devices: Path) -> Iterator[None]:
    """Ray on this machine, with room for the grids of several test modules."""
    start_ray("local", 4)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def task_identity() -> None:
    """Let this process make Flower messages."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID


class OneClient:
    """Talks to clients of an experiment directly, as any grid would, keeping their contexts."""

    def __init__(self, spec: Experiment) -> None:
        self.spec, self.bench = spec, Workbench(spec)
        self.arrays = array_record({key: self.bench.initial[key].clone() for key in self.bench.shared_keys})
        self.contexts: dict[int, Context] = {}

    def context(self, client: int) -> Context:
        config = {"partition-id": client, "num-partitions": self.spec.federation.clients}
        return self.contexts.setdefault(client, Context(1, client, config, RecordDict(), self.spec.to_run_config()))

    def ask(self, client: int, kind: str = "train", number: int = 1, **config: Any) -> Message:
        content = RecordDict({"arrays": self.arrays, "config": ConfigRecord({"server-round": number, **config})})
        return client_app(Message(content, client, kind), self.context(client))


@pytest.fixture
def one_client() -> Callable[[Experiment], OneClient]:
    return OneClient


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"
