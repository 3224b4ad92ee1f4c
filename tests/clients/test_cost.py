"""What a client's work would have cost, as the reply of a real ClientApp tells it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from flwr.common.constant import ErrorCode
from small import small

from fedcosim.clients.cost import LEFT_OUT, Cost
from fedcosim.clients.tiering import NeoMemOptions, memory_request
from fedcosim.clients.work import observed
from fedcosim.clients.worker import COST
from fedcosim.core.errors import SpecError
from fedcosim.hwsim.client import LocalClient
from fedcosim.hwsim.devices import devices
from fedcosim.hwsim.roofline.estimate import estimate
from fedcosim.hwsim.service import Host, build
from fedcosim.hwsim.simulator import HwsimError
from fedcosim.hwsim.simulators import SIMULATORS

PI = "hardware.devices.raspberry-pi-5=1"


def spec(*overrides: str):
    return small("fedavg", "model={name='lenet'}", "train.epochs=2", *overrides)


@pytest.fixture
def matchbox(own_devices: Path, request) -> str:
    """The name of a device with 100 kB of memory, of this test alone: processes remember what devices can do."""
    name = f"matchbox-of-{request.node.name}"
    origin = "kind = 'derived', source = 'this test'"
    figures = {"peak.fp32": "1e9", "memory_bytes_per_s": "1e9", "memory_bytes": "100_000"}
    before = own_devices.read_text() if own_devices.exists() else ""
    lines = [f"[{name}]", *(f"{field} = {{ value = {value}, {origin} }}" for field, value in figures.items())]
    own_devices.write_text("\n".join([before, *lines, ""]))
    return name


@pytest.fixture
def deaf_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def hosted():
    """The address of a service with all simulators."""
    host = Host(build(list(SIMULATORS)), "127.0.0.1:0")
    host.start()
    yield f"127.0.0.1:{host.port}"
    host.stop(0)


def test_the_reply_tells_what_the_steps_cost(one_client):
    """The oracle listens to the same work and prices it itself, step by step."""
    client = one_client(spec(PI))
    with observed() as done:
        reply = client.ask(0)
    assert done == []  # the innermost listener hears it, and nobody else
    priced = Cost.of(reply.content)
    with observed() as done:
        one_client(spec()).ask(0)
    (work,) = done
    report = estimate("raspberry-pi-5", devices()["raspberry-pi-5"], work.step)
    assert priced.compute_s == pytest.approx(work.steps * report.time_s)
    assert priced.energy_low_j == pytest.approx(work.steps * report.energy_low_j)
    assert priced.energy_high_j == pytest.approx(work.steps * report.energy_high_j)
    assert priced.memory_bytes == report.memory.total_bytes
    assert 0 < priced.energy_low_j <= priced.energy_high_j <= devices()["raspberry-pi-5"].max_power_w * priced.compute_s


def test_more_epochs_cost_more_in_proportion(one_client):
    two, six = (Cost.of(one_client(spec(PI, f"train.epochs={n}")).ask(0).content) for n in (2, 6))
    assert six.compute_s == pytest.approx(3 * two.compute_s)
    assert six.memory_bytes == two.memory_bytes


H100 = "hardware.devices.h100-sxm=1"  # so fast that memory decides


@pytest.mark.parametrize("remote", [False, True])
def test_slow_memory_takes_its_factor_longer(remote, one_client, hosted):
    """The oracle asks the simulator itself; what the device draws at most it draws for as long, and the lower end stays."""
    tiered = (H100, "hardware.memory=neomem", "hardware.neomem.policy=first_touch")
    plain = Cost.of(one_client(spec(H100)).ask(0).content)
    with observed() as done:
        one_client(spec()).ask(0)
    (work,) = done
    report = estimate("h100-sxm", devices()["h100-sxm"], work.step)
    request = memory_request(NeoMemOptions(policy="first_touch"), work.step.footprint, report)
    factor = LocalClient().estimate("neomem", request).slowdown_vs_all_fast
    assert factor > 1.5
    endpoint = [f"hardware.endpoint='{hosted}'"] if remote else []
    cost = Cost.of(one_client(spec(*tiered, *endpoint)).ask(0).content)
    assert cost.memory_slowdown == pytest.approx(factor)
    assert cost.compute_s == pytest.approx(factor * plain.compute_s)
    assert cost.energy_high_j == pytest.approx(factor * plain.energy_high_j)
    assert (cost.energy_low_j, cost.memory_bytes) == (plain.energy_low_j, plain.memory_bytes)
    assert plain.memory_slowdown == 1


def test_only_training_is_priced(one_client):
    client = one_client(spec(PI))
    assert COST not in client.ask(0, "evaluate").content
    assert COST not in client.ask(0, "query").content
    assert COST not in one_client(spec()).ask(0).content


def test_a_device_that_is_too_small_fails_its_client(one_client, matchbox):
    """The figures are checked against the cost of the same work on a device with room for it."""
    needs = Cost.of(one_client(spec(PI)).ask(3).content).memory_bytes
    reply = one_client(spec(f"hardware.devices.{matchbox}=1")).ask(3)
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    needs, has, lacks = (f"{size / 1e9:.3g} GB" for size in (needs, 100_000, needs - 100_000))
    assert reply.error.reason == (
        f"client 3: training needs {needs} of memory, its device {matchbox} has {has}: {lacks} are missing"
    )


def test_it_is_left_out_where_the_experiment_says_so(one_client, matchbox):
    reply = one_client(spec(f"hardware.devices.{matchbox}=1", "hardware.on_memory=skip")).ask(3)
    assert reply.error.code == LEFT_OUT
    assert "are missing" in reply.error.reason


def test_nobody_at_the_endpoint_fails_the_client(one_client, deaf_port):
    silent = spec(PI, f"hardware.endpoint='127.0.0.1:{deaf_port}'", "hardware.patience_s=0.1")
    with pytest.raises(HwsimError) as error:
        one_client(silent).ask(0)
    assert error.value.code == "UNAVAILABLE"


def test_or_leaves_it_at_an_unknown_cost(one_client, deaf_port):
    """Its update is what it would have been."""
    silent = spec(PI, f"hardware.endpoint='127.0.0.1:{deaf_port}'", "hardware.patience_s=0.1", "hardware.on_error=skip")
    reply = one_client(silent).ask(0)
    assert all(value != value for value in vars(Cost.of(reply.content)).values())
    arrays = {key: array.data for key, array in reply.content["arrays"].items()}
    alone = one_client(spec()).ask(0)
    assert arrays == {key: array.data for key, array in alone.content["arrays"].items()}


def test_where_a_spec_names_no_endpoint_the_environment_does(one_client, deaf_port, monkeypatch):
    """An operator decides where the simulators of a cluster are; experiments that come over the network may not."""
    monkeypatch.setenv("FEDCOSIM_HWSIM_ENDPOINT", f"roofline=127.0.0.1:{deaf_port}")
    with pytest.raises(HwsimError) as error:
        one_client(spec(PI, "hardware.patience_s=0.2")).ask(0)
    assert error.value.code == "UNAVAILABLE"


def test_an_authority_that_cannot_be_read_is_a_sentence(one_client, deaf_port):
    secret = spec(PI, f"hardware.endpoint='127.0.0.1:{deaf_port}'", "hardware.root_ca=nowhere.pem")
    with pytest.raises(SpecError, match=r"nowhere\.pem: cannot be read \(No such file"):
        one_client(secret).ask(0)


def test_known_and_unknown_costs_have_the_same_types():
    """Replies of a chunk are merged into columns, and a record's lists hold one type."""
    nan = float("nan")
    known, unknown = Cost(1.0, 2.0, 3.0, 4).to_record(), Cost(nan, nan, nan, nan).to_record()
    assert {name: type(value) for name, value in known.items()} == {name: type(value) for name, value in unknown.items()}
