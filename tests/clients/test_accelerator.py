"""Training with crossbars beside the processor: what they take is added, what they do is taken away, learning is the same."""

from __future__ import annotations

import pytest
from small import small

from fedcosim.clients.accelerator import CrossbarHardware, Crossbars, without_crossbars
from fedcosim.clients.cost import Cost
from fedcosim.clients.work import Work, observed
from fedcosim.core.errors import SpecError
from fedcosim.hwsim.client import LocalClient, RemoteClient
from fedcosim.hwsim.devices import devices
from fedcosim.hwsim.reram.layers import SeenLayer
from fedcosim.hwsim.reram.simulator import LayerShape, ReramRequest, estimate_stats
from fedcosim.hwsim.roofline.estimate import estimate
from fedcosim.hwsim.roofline.workload import Operator, Workload
from fedcosim.hwsim.service import Host, build

PI = "hardware.devices.raspberry-pi-5=1"
RERAM = "hardware.accelerator='reram'"
# LeNet on 8 x 8 digits: inputs, outputs, positions; every layer but the first needs gradients of its inputs
LENET = [("conv", 25, 6, 64), ("conv", 150, 16, 16), ("linear", 64, 120, 1), ("linear", 120, 84, 1), ("linear", 84, 10, 1)]


def spec(*overrides: str):
    return small("fedavg", "model={name='lenet'}", "train.epochs=2", *overrides)


@pytest.fixture
def work(one_client) -> Work:
    """What client 0 does."""
    with observed() as done:
        one_client(spec()).ask(0)
    (work,) = done
    return work


def test_layers_are_those_of_the_model(work):
    """By hand, from LeNet's definition; three steps were recorded."""
    assert work.batch_size == 16
    shapes = [layer.shape(work.recorded_samples) for layer in work.layers]
    assert [(s.kind, s.inputs, s.outputs, s.positions) for s in shapes] == LENET
    assert [s.input_gradient for s in shapes] == [False, True, True, True, True]


def test_what_crossbars_do_is_taken_from_the_processor(work):
    """Of forward products nothing is left; of backward ones, the gradients of weights, as many as forward."""
    macs = sum(inputs * outputs * positions for _, inputs, outputs, positions in LENET)
    left = without_crossbars(work)
    flops = {phase: sum(op.count * op.flops for op in left.operators if op.phase == phase) for phase in ("forward", "backward")}
    assert flops["forward"] == 0
    assert flops["backward"] == pytest.approx(2 * macs * work.batch_size, rel=1e-3)
    assert left.footprint == work.step.footprint
    for before, after in zip(work.step.operators, left.operators, strict=True):
        assert after.load_act_bytes == before.load_act_bytes
        assert after.store_act_bytes == before.store_act_bytes
        assert after.load_weight_bytes <= before.load_weight_bytes


def test_the_reply_adds_what_crossbars_take(one_client, work):
    """The oracle prices both parts by itself, from LeNet's layers by hand."""
    priced = Cost.of(one_client(spec(PI, RERAM)).ask(0).content)
    names = ("kind", "inputs", "outputs", "positions")
    layers = [LayerShape(**dict(zip(names, sizes, strict=True)), input_gradient=i > 0) for i, sizes in enumerate(LENET)]
    one = {"phase": "train", "samples": 16, "reprogram": "step"}
    crossbars = estimate_stats(ReramRequest(mode="stats", layers=layers, workload=one))
    rest = estimate("raspberry-pi-5", devices()["raspberry-pi-5"], without_crossbars(work))
    vectors = 16 * (64 + 2 * (16 + 1 + 1 + 1))
    assert crossbars.latency_s - crossbars.write_s == pytest.approx(vectors * 8e-7)
    assert priced.compute_s == pytest.approx(work.steps * (rest.time_s + crossbars.latency_s))
    low_j = rest.energy_low_j + crossbars.energy_low_j - crossbars.energy_j["digital"]
    high_j = rest.energy_high_j + crossbars.energy_high_j - crossbars.energy_upper_j["digital"]
    assert priced.energy_low_j == pytest.approx(work.steps * low_j)
    assert priced.energy_high_j == pytest.approx(work.steps * high_j)
    assert priced.memory_bytes == rest.memory.total_bytes


def test_learning_is_what_it_was(one_client):
    """Crossbars are priced, not simulated, in training."""
    with_them, without = (
        {key: array.data for key, array in one_client(spec(*more)).ask(0).content["arrays"].items()}
        for more in ((PI, RERAM), ())
    )
    assert with_them == without


def test_cells_that_are_written_once_a_round_are_cheaper(work):
    """By all writes but one: 8 cells a weight, two sets of crossbars but for the first layer, at 1.4 pJ at least."""
    client = LocalClient()
    often, once = (Crossbars(CrossbarHardware(write=when), client).spent([work]) for when in ("step", "round"))
    cells = 8 * sum(inputs * outputs * (1 if i == 0 else 2) for i, (_, inputs, outputs, _) in enumerate(LENET))
    assert often.energy_low_j - once.energy_low_j == pytest.approx((work.steps - 1) * cells * 1.4e-12)
    assert often.energy_high_j - once.energy_high_j == pytest.approx((work.steps - 1) * cells * 120e-12)
    assert often.compute_s > once.compute_s


def test_lossless_converters_take_more(work):
    client = LocalClient()
    trq, ideal = (Crossbars(CrossbarHardware(adc=adc), client).spent([work]) for adc in ("trq", "ideal"))
    assert trq.energy_low_j < ideal.energy_low_j
    assert trq.compute_s == ideal.compute_s


def test_a_service_gives_the_same_price(work):
    host = Host(build(["reram"]), "127.0.0.1:0")
    host.start()
    client = RemoteClient(f"127.0.0.1:{host.port}")
    there, here = (Crossbars(CrossbarHardware(), each).spent([work]) for each in (client, LocalClient()))
    client.close()
    host.stop()
    assert there == here


def test_products_that_crossbars_do_not_know_stay():
    """Half of the forward arithmetic is of a layer that was seen."""
    product = Operator(name="mm", phase="forward", flops=4000, load_weight_bytes=100, load_act_bytes=10)
    update = Operator(name="sgd", phase="optimizer", flops=50, load_weight_bytes=100)
    layer = SeenLayer("fc", "linear", inputs=10, outputs=10, groups=1, vectors=30)
    half = without_crossbars(Work("key", Workload(operators=(product, update)), 1, 10, (layer,)))
    assert half.operators == (product.model_copy(update={"flops": 2000, "load_weight_bytes": 50}), update)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (("hardware.reram.rows=64",), "hardware.reram: has no effect without hardware.accelerator = 'reram'"),
        ((RERAM, "hardware.reram.rows=0"), "hardware.reram.rows = 0"),
        ((RERAM, "hardware.reram.cell_bits=3"), "hardware.reram.cell_bits = 3"),
        (
            (RERAM, "hardware.reram.rows=1024"),
            "hardware.reram.rows = 1024: with cell_bits = 1, energy.model = 'isaac': no",
        ),
        (("hardware.accelerator='tpu'",), "hardware.accelerator = 'tpu'"),
    ],
)
def test_hardware_that_makes_no_sense_is_refused(fields, sentence):
    with pytest.raises(SpecError) as refused:
        spec(PI, *fields)
    assert sentence in str(refused.value)
