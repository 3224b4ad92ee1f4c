"""Real servers on free ports, and a simulator whose work lasts until it is told to end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import grpc
import pytest

from fedcosim.hwsim.roofline.simulator import Roofline
from fedcosim.hwsim.service import Host
from fedcosim.hwsim.simulator import HwsimError, Job
from fedcosim.hwsim.v1.roofline_pb2_grpc import RooflineStub
from fedcosim.server.architectures import example

PATIENCE_S = 20  # for events that must come; how fast they do is the benchmarks' business


class Lasting(Roofline):
    """Works on requests until `finish` is set, looking every few milliseconds whether it is still wanted."""

    def __init__(self) -> None:
        super().__init__(example)
        self.begun = threading.Semaphore(0)
        self.finish = threading.Event()
        self.given_up = threading.Semaphore(0)
        self.reasons: list[str] = []

    def estimate(self, request, job: Job = Job()):  # noqa: B008 - immutable
        self.begun.release()
        try:
            while not self.finish.wait(0.005):
                job.step(0.5)
        except HwsimError as error:
            self.reasons.append(error.code)
            self.given_up.release()
            raise
        return super().estimate(request, job)


@pytest.fixture(scope="module")
def host() -> Iterator[Callable[..., Host]]:
    """Start servers, which end with the module."""
    started: list[Host] = []

    def start(simulator: Roofline | None = None, *args, **kwargs) -> Host:
        address = kwargs.pop("address", "127.0.0.1:0")
        started.append(Host({"roofline": simulator or Roofline(example)}, address, *args, **kwargs))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.stop(0)


@pytest.fixture(scope="module")
def channel() -> Iterator[Callable[[Host], grpc.Channel]]:
    """Open plain channels, which close with the module."""
    opened: list[grpc.Channel] = []

    def to(server: Host) -> grpc.Channel:
        opened.append(grpc.insecure_channel(f"127.0.0.1:{server.port}"))
        return opened[-1]

    yield to
    for each in opened:
        each.close()


@pytest.fixture
def lasting() -> Iterator[Lasting]:
    simulator = Lasting()
    yield simulator
    simulator.finish.set()


@pytest.fixture(scope="module")
def roofline(host, channel) -> RooflineStub:
    """The roofline service."""
    return RooflineStub(channel(host()))
