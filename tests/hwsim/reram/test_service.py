"""ReRAM behind gRPC: the same answers as in this process, names that lead nowhere but where they should, every refusal."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedcosim.clients.models import MODELS, initialise
from fedcosim.hwsim.client import LocalClient, RemoteClient, RemoteError, _call
from fedcosim.hwsim.reram.host import Reram
from fedcosim.hwsim.reram.simulator import LayerShape, ReramRequest
from fedcosim.hwsim.service import Host, build
from fedcosim.hwsim.simulator import HwsimError, Job
from fedcosim.hwsim.v1 import common_pb2, reram_pb2, reram_pb2_grpc
from fedcosim.hwsim.wire import decode, encode
from fedcosim.server.trained import Trained

LAYERS = [LayerShape(kind="conv", inputs=25, outputs=6, positions=64), LayerShape(inputs=84, outputs=10)]
STATS = ReramRequest(mode="stats", layers=LAYERS)
DIGITS = {"model": "lenet", "data": "digits", "preparation": {"trained_on": 4000}}
PATIENCE_S = 120


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with a LeNet, one whose weights are no numbers, another network, a broken file; and a LeNet above it."""
    folder = tmp_path_factory.mktemp("host") / "checkpoints"
    folder.mkdir()
    lenet = initialise(MODELS.parse({"name": "lenet"}), (1, 8, 8), 10, seed=3).state_dict()
    cnn = initialise(MODELS.parse({"name": "cnn"}), (1, 8, 8), 10, seed=3).state_dict()
    for path, weights in (
        (folder / "lenet.safetensors", lenet),
        (folder.parent / "secret.safetensors", lenet),
        (folder / "cnn.safetensors", cnn),
        (folder / "nan.safetensors", {name: tensor / 0 for name, tensor in lenet.items()}),
    ):
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    (folder / "broken.safetensors").write_bytes(b"not one")
    return folder


@pytest.fixture(scope="module")
def remote(checkpoints):
    host = Host(build(["reram"], trained=Trained(checkpoints)), "127.0.0.1:0")
    host.start()
    client = RemoteClient(f"127.0.0.1:{host.port}")
    yield client
    client.close()
    host.stop()


def refused(remote, message: reram_pb2.ReramRequest) -> tuple[str, str, str]:
    """Code, field and sentence; the message is sent as it is, past the checks on this side."""
    with pytest.raises(RemoteError) as caught:
        _call(reram_pb2_grpc.ReramStub(remote._connected()).Estimate, message, PATIENCE_S, [])
    return caught.value.code, caught.value.field, str(caught.value)


def test_an_estimate_without_data_is_the_same_on_both_ways(remote):
    assert remote.estimate("reram", STATS) == LocalClient().estimate("reram", STATS)


def test_a_trained_model_is_the_same_on_both_ways(remote, checkpoints):
    """Training, calibration and test run twice, here and there."""
    request = ReramRequest(**DIGITS)
    there, here = remote.estimate("reram", request), LocalClient(trained=Trained(checkpoints)).estimate("reram", request)
    assert there == here
    assert there.accuracy_float > 0.8
    assert there.accuracy_crossbar > there.accuracy_int - 0.05
    samples = there.provenance
    assert (samples.calibration_samples, samples.tuning_samples, samples.test_samples) == (128, 231, 359)


def test_a_checkpoint_is_read_from_the_hosts_folder(remote):
    """Untrained weights: accuracy of guesses, which training would not leave."""
    report = remote.estimate(
        "reram", ReramRequest(model="lenet", data="digits", preparation={"checkpoint": "lenet.safetensors"})
    )
    assert report.accuracy_float < 0.3


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../secret.safetensors", "NOT_FOUND"),
        ("{folder}/lenet.safetensors", "NOT_FOUND"),
        ("missing.safetensors", "NOT_FOUND"),
        ("cnn.safetensors", "FAILED_PRECONDITION"),
        ("broken.safetensors", "FAILED_PRECONDITION"),
    ],
)
def test_no_other_file_can_be_reached(remote, checkpoints, name, code):
    name = name.format(folder=checkpoints)
    request = ReramRequest(model="lenet", data="digits", preparation={"checkpoint": name})
    found = refused(remote, encode(request, reram_pb2.ReramRequest()))
    assert found[:2] == (code, "preparation.checkpoint")
    assert found[2].startswith(f"preparation.checkpoint = {name!r}: ")


def test_a_host_without_a_folder_has_no_checkpoints():
    with pytest.raises(HwsimError, match="there are none here") as caught:
        Reram(Trained()).estimate(ReramRequest(model="lenet", data="digits", preparation={"checkpoint": "a.safetensors"}))
    assert caught.value.code == "NOT_FOUND"


def test_a_host_without_models_estimates_without_data_only():
    with pytest.raises(HwsimError, match="choose 'stats'") as caught:
        LocalClient().estimate("reram", ReramRequest(**DIGITS))
    assert (caught.value.code, caught.value.field) == ("UNIMPLEMENTED", "mode")


LENET = {"model": "lenet", "data": "digits", "preparation": {"checkpoint": "lenet.safetensors"}}
LAYER = {"inputs": 84, "outputs": 10}
TRQ = {"fine_bits": 3, "coarse_bits": 4}
ROWS = [
    ({"crossbar": {"rows": 0}}, "INVALID_ARGUMENT", "crossbar.rows"),
    ({"crossbar": {"rows": 1025}}, "INVALID_ARGUMENT", "crossbar.rows"),
    ({"crossbar": {"cell_bits": 3}}, "INVALID_ARGUMENT", "crossbar.cell_bits"),
    ({"crossbar": {"weight_bits": 1}}, "INVALID_ARGUMENT", "crossbar.weight_bits"),
    ({"crossbar": {"weight_bits": 17}}, "INVALID_ARGUMENT", "crossbar.weight_bits"),
    ({"crossbar": {"activation_bits": 1}}, "INVALID_ARGUMENT", "crossbar.activation_bits"),
    ({"crossbar": {"activation_bits": 17}}, "INVALID_ARGUMENT", "crossbar.activation_bits"),
    ({"crossbar": {"dac_bits": 9}}, "INVALID_ARGUMENT", "crossbar.dac_bits"),
    ({"adc": {"trq": [TRQ | {"fine_bits": -1}]}}, "INVALID_ARGUMENT", "adc.trq.0.fine_bits"),
    ({"adc": {"trq": [TRQ | {"coarse_bits": 0}]}}, "INVALID_ARGUMENT", "adc.trq.0.coarse_bits"),
    ({"adc": {"trq": [TRQ | {"coarse_bits": 9}]}}, "INVALID_ARGUMENT", "adc.trq.0.coarse_bits"),
    ({"adc": {"trq": [TRQ | {"fine_step": 3}]}}, "INVALID_ARGUMENT", "adc.trq.0.fine_step"),
    ({"adc": {"trq": [TRQ | {"fine_step": -2}]}}, "INVALID_ARGUMENT", "adc.trq.0.fine_step"),
    ({"adc": {"trq": [TRQ | {"shift": -1}]}}, "INVALID_ARGUMENT", "adc.trq.0.shift"),
    ({"adc": {"trq": [TRQ | {"start": -8}]}}, "INVALID_ARGUMENT", "adc.trq.0.start"),
    ({"adc": {"trq": [TRQ | {"start": 1, "fine_step": 2}]}}, "INVALID_ARGUMENT", "adc.trq.0.start"),
    ({"adc": {"trq": [TRQ | {"start": 128}]}}, "INVALID_ARGUMENT", "adc.trq.0"),
    ({"adc": {"trq": [TRQ] * 3}}, "INVALID_ARGUMENT", "adc.trq"),
    ({"energy": {"node_nm": 45}}, "OUT_OF_RANGE", "energy.node_nm"),
    ({"energy": {"model": "murmann"}, "crossbar": {"rows": 4}}, "OUT_OF_RANGE", "energy.model"),
    ({"layers": []}, "INVALID_ARGUMENT", "layers"),
    ({"layers": [LAYER | {"kind": "digital"}]}, "INVALID_ARGUMENT", "layers"),
    ({"layers": [LAYER | {"activation_density": [0.5]}]}, "INVALID_ARGUMENT", "layers.0.activation_density"),
    ({"layers": [LAYER | {"weight_density": [1.5] * 8}]}, "INVALID_ARGUMENT", "layers.0.weight_density"),
    ({"layers": [LAYER | {"positions": 2**40, "groups": 2**40}]}, "RESOURCE_EXHAUSTED", "layers"),
    ({"mode": "functional", "model": "lenet5", "data": "digits"}, "NOT_FOUND", "model"),
    ({"mode": "functional", "model": "lenet", "data": "imagenet"}, "NOT_FOUND", "data"),
    ({"mode": "functional", "model": "vit", "data": "digits"}, "INVALID_ARGUMENT", "model"),
    ({"mode": "functional", **LENET, "activations": "unsigned"}, "INVALID_ARGUMENT", "activations"),
    ({"mode": "functional", **LENET, "most_conversions": 1000}, "RESOURCE_EXHAUSTED", "most_conversions"),
    ({"mode": "functional", **LENET, "preparation": {"checkpoint": "nan.safetensors"}}, "INVALID_ARGUMENT", "model"),
]


@pytest.mark.parametrize(("fields", "code", "field"), ROWS)
def test_every_refusal_has_its_code_and_names_its_field(remote, fields, code, field):
    """Whatever the other side does not check reaches the server, which does."""
    fields = {"mode": "stats", "layers": [LAYER], **fields}
    found = refused(remote, message_of(fields, reram_pb2.ReramRequest()))
    assert found[:2] == (code, field)
    assert found[2].startswith(field)


def message_of(fields: dict, message):
    """Write fields into a message, as a caller without our classes does."""
    for name, value in fields.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        if isinstance(value, dict):
            message_of(value, getattr(message, name))
        elif field.is_repeated and field.message_type:
            for item in value:
                message_of(item, getattr(message, name).add())
        elif field.is_repeated:
            getattr(message, name).extend(value)
        elif field.enum_type:
            setattr(message, name, field.enum_type.values_by_name[f"{field.enum_type.name.upper()}_{value.upper()}"].number)
        else:
            setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (reram_pb2.ReramRequest(energy=reram_pb2.EnergyOptions(model=99)), "energy.model"),
        (reram_pb2.ReramRequest(adc=reram_pb2.AdcOptions(kind=99)), "adc.kind"),
    ],
)
def test_unknown_words_are_refused_with_the_known_ones(remote, message, field):
    code, named, sentence = refused(remote, message)
    assert (code, named) == ("INVALID_ARGUMENT", field)
    assert "choose one of" in sentence


@pytest.mark.parametrize(
    ("parameters", "warning"),
    [
        (TRQ | {"coarse_bits": 8, "shift": 3}, "adc.trq.0: the coarse range reaches 2040"),
        (TRQ | {"coarse_bits": 2, "shift": 3}, "adc.trq.0: the coarse range ends at 24"),
        (TRQ | {"coarse_bits": 3, "shift": 5}, "adc.trq.0: not monotone"),
    ],
)
def test_converters_that_are_odd_but_work_are_warned_of(remote, parameters, warning):
    """And what is clipped is told, never hidden: all of 128 rows add to every bit line here."""
    full = LayerShape(inputs=128, outputs=1, activation_density=[1.0] * 8, weight_density=[1.0] * 8)
    report = remote.estimate("reram", ReramRequest(mode="stats", layers=[full], adc={"trq": [parameters]}))
    assert any(told.startswith(warning) for told in report.warnings)
    assert report.clip_fraction == pytest.approx(float("ends at" in warning))


def test_a_message_without_fields_has_the_classes_defaults():
    assert decode(reram_pb2.ReramRequest(), ReramRequest) == ReramRequest()


def test_progress_grows_to_a_report(remote):
    message = encode(ReramRequest(**LENET), reram_pb2.ReramRequest())
    said = list(reram_pb2_grpc.ReramStub(remote._connected()).Simulate(message, timeout=PATIENCE_S))
    shares = [each.done for each in said[:-1]]
    assert shares == sorted(shares)
    assert said[-1].report.accuracy_float == remote.estimate("reram", ReramRequest(**LENET)).accuracy_float


def test_training_ends_when_nobody_waits_for_it():
    """At the first step after the caller left."""
    seen = 0

    def cancelled() -> bool:
        nonlocal seen
        seen += 1
        return seen == 5

    job = Job(cancelled=cancelled)
    with pytest.raises(HwsimError, match="cancelled"):
        Reram(Trained()).estimate(ReramRequest(model="lenet", data="digits", preparation={"seed": 77}), job)
    assert seen == 5


def test_a_model_is_trained_once_however_many_ask_for_it():
    """At once, in threads, as a server does; a network with dropout, whose draws must not be mixed up."""
    trained = Trained()
    request = ReramRequest(model="cnn", data="digits", preparation={"trained_on": 1})
    with ThreadPoolExecutor(3) as threads:
        first, *others = (model for model, _ in threads.map(lambda _: trained(request, Job()), range(3)))
    alone, _ = Trained()(request, Job())
    assert all(other is first for other in others)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), alone.parameters(), strict=True))


def test_preparing_a_model_leaves_the_generators_of_the_process_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Trained()(ReramRequest(model="cnn", data="digits", preparation={"trained_on": 1}), Job())
    assert torch.equal(torch.rand(3), expected)


def test_the_service_is_healthy_and_says_what_there_is(remote):
    channel = remote._connected()
    check = health_pb2_grpc.HealthStub(channel).Check
    service = health_pb2.HealthCheckRequest(service="fedcosim.hwsim.v1.Reram")
    assert check(service, timeout=PATIENCE_S).status == health_pb2.HealthCheckResponse.SERVING
    told = reram_pb2_grpc.ReramStub(channel).GetCapabilities(common_pb2.GetCapabilitiesRequest(), timeout=PATIENCE_S)
    assert list(told.choices["data"].names) == ["digits", "fashion-mnist", "mnist", "cifar10"]
    assert "lenet" in told.choices["model"].names
    assert "trq" in told.choices["adc.kind"].names


def test_data_that_are_not_here_are_a_sentence(remote, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDCOSIM_DATA", str(tmp_path))
    code, field, sentence = refused(remote, encode(ReramRequest(model="lenet", data="cifar10"), reram_pb2.ReramRequest()))
    assert (code, field) == ("FAILED_PRECONDITION", "data")
    assert "not found" in sentence
