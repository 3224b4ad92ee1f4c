"""The service over real gRPC: the same answers as in process, a status for everything that is wrong, and manners under load."""

from __future__ import annotations

import datetime
import ipaddress
import math
import threading
import urllib.request

import grpc
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import mutate
from roofline_requests import requests
from torch import nn

from fedcosim.core.errors import SpecError
from fedcosim.hwsim.client import LocalClient, RemoteClient
from fedcosim.hwsim.devices import device, devices
from fedcosim.hwsim.roofline.estimate import RooflineReport
from fedcosim.hwsim.roofline.llm import LlmRequest
from fedcosim.hwsim.roofline.simulator import ModelRequest, Roofline, RooflineRequest
from fedcosim.hwsim.roofline.trace import Example
from fedcosim.hwsim.roofline.workload import Footprint, Operator, Workload
from fedcosim.hwsim.service import Limits, Tls
from fedcosim.hwsim.simulator import HwsimError
from fedcosim.hwsim.v1 import common_pb2
from fedcosim.hwsim.v1 import roofline_pb2 as pb
from fedcosim.hwsim.v1.roofline_pb2_grpc import RooflineStub
from fedcosim.hwsim.wire import decode, encode
from fedcosim.server.architectures import example

PATIENCE_S = 20
SERVICE = "fedcosim.hwsim.v1.Roofline"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SMALL = RooflineRequest(device="xeon-8480", workload=Workload(operators=(Operator(name="a", flops=7, load_act_bytes=3),)))
MESSAGE = encode(SMALL, pb.RooflineRequest())


def status(call) -> tuple[str, str, str, float | None]:
    """Code, field, sentence and hint when to come again of a call that fails."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error, field, again_s = raised.value, "", None
    rich = rpc_status.from_call(error)
    for detail in rich.details if rich else ():
        violations, hint = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(violations):
            field = violations.field_violations[0].field
        if detail.Unpack(hint):
            again_s = hint.retry_delay.ToTimedelta().total_seconds()
    return error.code().name, field, error.details(), again_s


def health_of(channel: grpc.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S).status


# ---------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "request_",
    [
        RooflineRequest(device="raspberry-pi-5", model=ModelRequest(name="lenet", batch=32, train=True, optimizer="adam")),
        RooflineRequest(device="a100-80gb", llm=LlmRequest(model="llama-2-7b", stage="decode", context=2048)),
        RooflineRequest(device="jetson-orin-nano", model=ModelRequest(name="unet-s"), most_operators=0, energy_model="45nm"),
        SMALL,
    ],
)
def test_the_service_answers_as_this_process_does(request_, roofline):
    answer = roofline.Estimate(encode(request_, pb.RooflineRequest()), timeout=PATIENCE_S)
    assert decode(answer, RooflineReport) == LocalClient(models=example).estimate("roofline", request_)


def test_the_same_request_gets_the_same_bytes_back(roofline):
    first, second = (roofline.Estimate(MESSAGE, timeout=PATIENCE_S).SerializeToString() for _ in range(2))
    assert first == second


def test_simulate_tells_how_much_is_done_and_the_report_at_last(roofline):
    *progress, last = roofline.Simulate(MESSAGE, timeout=PATIENCE_S)
    shares = [message.done for message in progress]
    assert len(shares) >= 2
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    assert last.WhichOneof("what") == "report"
    assert last.report == roofline.Estimate(MESSAGE, timeout=PATIENCE_S)


def test_simulate_refuses_as_estimate_does(roofline):
    bad = pb.RooflineRequest(device="nowhere", workload=MESSAGE.workload)
    refusals = [
        status(lambda: list(roofline.Simulate(bad, timeout=PATIENCE_S))),
        status(lambda: roofline.Estimate(bad, timeout=PATIENCE_S)),
    ]
    assert refusals[0] == refusals[1]
    assert refusals[0][:2] == ("NOT_FOUND", "device")


def test_capabilities_say_what_requests_can_name(roofline):
    answer = roofline.GetCapabilities(common_pb2.GetCapabilitiesRequest(), timeout=PATIENCE_S)
    assert answer.simulator == "roofline"
    assert (answer.concurrency, answer.deadline_s) == (Limits.concurrency, Limits.deadline_s)
    assert set(answer.choices["device"].names) == set(devices())
    assert "llama-2-7b" in answer.choices["llm.model"].names


# --------------------------------------------------------------------------------------------------------------- refusals

LLAMA = {"model": "llama-2-7b", "context": 128}
WORK = {"operators": [{"name": "a", "flops": 7}]}
OWN = {"peak": {"fp32": 1e9}, "memory_bytes_per_s": 1e9}
SHAPE = {"layers": 2, "heads": 4, "kv_heads": 4, "hidden_size": 64, "intermediate_size": 64, "vocab_size": 9}
LARGE = {"name": "vit-b16", "batch": 2**20, "height": 65536, "width": 65536}


@pytest.mark.parametrize(
    ("fields", "code", "field", "sentence"),
    [
        ({"device": "rasberry-pi-5", "workload": WORK}, "NOT_FOUND", "device", "did you mean 'raspberry-pi-5'?"),
        ({"device": "xeon-8480", "model": {"name": "lnet"}}, "NOT_FOUND", "model.name", "did you mean 'lenet'?"),
        ({"device": "xeon-8480", "llm": LLAMA | {"model": "lama"}}, "NOT_FOUND", "llm.model", "choose one of"),
        (
            {"device": "llmviewer:intel_13900k", "workload": WORK | {"precision": "PRECISION_INT8"}},
            *("FAILED_PRECONDITION", "precision", "choose one of fp16, or set precision_fallback"),
        ),
        *(
            ({"device": "xeon-8480", "llm": LLAMA | {name: value}}, "INVALID_ARGUMENT", f"llm.{name}", f"{name} = {value}")
            for name, value in [
                ("batch", 0), ("batch", -1), ("batch", 2**62), ("context", 0), ("context", -7), ("context", 4097),
                ("weight_bits", 5), ("activation_bits", 0), ("kv_bits", -4), ("tensor_parallel", 3), ("tensor_parallel", 0),
                ("generated", 5), ("generated", -5),
            ]
        ),
        (
            {"device": "xeon-8480", "llm": {"context": 4, "architecture": SHAPE | {"heads": 5, "max_positions": 9}}},
            *("INVALID_ARGUMENT", "llm.architecture.heads", "does not divide hidden_size = 64"),
        ),
        *(
            ({"custom": OWN | {name: value}, "workload": WORK}, "INVALID_ARGUMENT", f"custom.{name}", f"{name} = {value}")
            for name in ("memory_bytes_per_s", "max_power_w", "link_bytes_per_s")
            for value in (0.0, -1.0, math.nan, math.inf, -math.inf)
        ),
        *(
            ({"custom": OWN | {"peak": {"fp32": value}}, "workload": WORK}, "INVALID_ARGUMENT", "custom.peak.fp32", "fp32 = ")
            for value in (0.0, -1.0, math.nan, math.inf)
        ),
        ({"custom": {"memory_bytes_per_s": 1e9}, "workload": WORK}, "INVALID_ARGUMENT", "custom.peak", "missing"),
        ({"custom": OWN | {"efficiency": {"compute": 1.5}}, "workload": WORK},
         "INVALID_ARGUMENT", "custom.efficiency.compute", "less than or equal to 1"),
        *(
            ({"device": "xeon-8480", "model": {"name": "lenet", name: value}}, "INVALID_ARGUMENT", f"model.{name}", f"{value}")
            for name in ("batch", "height", "channels", "classes")
            for value in (0, -3, 2**40)
        ),
        ({"device": "xeon-8480", "model": {"name": "lenet", "height": 2}}, "INVALID_ARGUMENT", "model", "at least 4 x 4"),
        ({"device": "xeon-8480", "model": {"name": "unet-s", "height": 3}}, "INVALID_ARGUMENT", "model", "does not divide"),
        ({"device": "xeon-8480", "model": LARGE}, "RESOURCE_EXHAUSTED", "model", "more than 2^63"),
        (
            {"device": "xeon-8480", "workload": {"operators": [{"name": "a", "count": 2**62, "flops": 2}]}},
            *("INVALID_ARGUMENT", "workload.operators", "flops of all operators exceed 2^63 - 1"),
        ),
        (
            {"device": "xeon-8480", "workload": WORK | {"footprint": dict.fromkeys(("kv_bytes", "weights_bytes"), 2**62)}},
            *("INVALID_ARGUMENT", "workload.footprint", "exceeds 2^63 - 1"),
        ),
        ({"device": "xeon-8480", "workload": {}}, "INVALID_ARGUMENT", "workload.operators", "at least 1 item"),
        ({"workload": WORK}, "INVALID_ARGUMENT", "device", "give exactly one of device, custom, not none"),
        ({"device": "x" * 5000, "workload": WORK}, "INVALID_ARGUMENT", "device", "at most 100 characters"),
        ({"device": "xeon-8480", "llm": LLAMA | {"model": "\u4e16" * 50_000}}, "NOT_FOUND", "llm.model", "llm.model = "),
    ],
)  # fmt: skip
def test_bad_input_has_its_status_and_names_its_field(fields, code, field, sentence, roofline):
    if len(fields.get("device", "")) > 100:
        sentence = "device = "  # what follows does not fit into a status
    refused = status(lambda: roofline.Estimate(pb.RooflineRequest(**fields), timeout=PATIENCE_S))
    assert refused[:2] == (code, field)
    assert sentence in refused[2]
    assert refused[3] is None, "coming again does not help"


def test_an_unknown_name_is_answered_with_those_there_are(roofline):
    _, _, sentence, _ = status(lambda: roofline.Estimate(pb.RooflineRequest(device="?", workload=WORK), timeout=PATIENCE_S))
    assert all(name in sentence for name in ("raspberry-pi-5", "a100-80gb", "xeon-8480"))


def test_wider_units_stand_in_where_that_is_allowed(roofline):
    fields = {"device": "llmviewer:intel_13900k", "workload": WORK | {"precision": "PRECISION_INT8"}}
    report = decode(roofline.Estimate(pb.RooflineRequest(precision_fallback=True, **fields)), RooflineReport)
    assert (report.precision, report.peak_flops_per_s) == ("fp16", 1.3824e12)
    assert any("has no int8 units" in warning for warning in report.warnings)


def test_too_little_memory_is_an_answer_not_an_error(roofline):
    workload = Workload(operators=(Operator(name="a"),), footprint=Footprint(weights_bytes=10**13))
    request = encode(RooflineRequest(device="raspberry-pi-5", workload=workload), pb.RooflineRequest())
    memory = roofline.Estimate(request).memory
    assert memory.fits is False
    assert memory.deficit_bytes == 10**13 - device("raspberry-pi-5").memory_bytes > 0


class Branching(nn.Module):
    """Needs numbers to know what to do."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Spectral(nn.Module):
    """Does arithmetic that nobody has a formula for."""

    def forward(self, x):
        return torch.fft.fft(x).real @ torch.ones(8, 8, device=x.device)


ODD = {"branching": Branching, "spectral": Spectral}


def odd(request: ModelRequest) -> Example:
    x = torch.empty(request.batch, 8)
    return Example(ODD[request.name](), (x,), (), lambda model, x: model(x).sum())


@pytest.fixture(scope="module")
def odd_models(host, channel) -> RooflineStub:
    return RooflineStub(channel(host(Roofline(odd))))


def test_a_model_that_depends_on_its_data_is_unimplemented(odd_models):
    request = pb.RooflineRequest(device="xeon-8480", model=pb.ModelRequest(name="branching"))
    assert status(lambda: odd_models.Estimate(request, timeout=PATIENCE_S))[:2] == ("UNIMPLEMENTED", "model")


def test_arithmetic_without_a_formula_is_listed(odd_models):
    report = odd_models.Estimate(pb.RooflineRequest(device="xeon-8480", model=pb.ModelRequest(name="spectral")))
    assert report.complete is False
    assert any("fft" in name for name in report.uncounted)
    assert report.flops == 2 * 8 * 8, "the product is counted all the same"


def test_a_service_without_models_says_so(host, channel):
    stub = RooflineStub(channel(host(Roofline())))
    request = pb.RooflineRequest(device="xeon-8480", model=pb.ModelRequest(name="lenet"))
    assert status(lambda: stub.Estimate(request, timeout=PATIENCE_S))[:2] == ("UNIMPLEMENTED", "model")


def test_a_message_above_4_mib_is_refused_for_good(roofline):
    request = pb.RooflineRequest(device="xeon-8480", workload={"operators": [{"name": "a" * 2**22}]})
    assert status(lambda: roofline.Estimate(request, timeout=PATIENCE_S))[0] == "RESOURCE_EXHAUSTED"


TINY_MODELS = st.builds(
    ModelRequest,
    name=st.sampled_from(["lenet", "cnn", "unet-xs"]),
    batch=st.integers(1, 9),
    train=st.booleans(),
    height=st.none() | st.sampled_from([1, 4, 28]),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(requests(TINY_MODELS), st.data(), st.integers(1, 3))
def test_no_message_is_an_internal_error(roofline, request, data, changes):
    """Valid requests with fields set to extremes get a finite answer, or a status that blames them."""
    message = encode(request, pb.RooflineRequest())
    for _ in range(changes):
        mutate(message, data)
    try:
        report = decode(roofline.Estimate(message, timeout=PATIENCE_S), RooflineReport)
    except grpc.RpcError as error:
        blaming = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}
        assert error.code().name in blaming, error.details()  # noqa: PT017 - either outcome is right
    else:
        assert all(math.isfinite(x) and x >= 0 for x in (report.time_s, report.energy_low_j, report.energy_high_j))


# --------------------------------------------------------------------------------------------------- health and reflection


def test_health_is_standard(host, channel):
    to = channel(host())
    assert health_of(to) == health_of(to, SERVICE) == SERVING
    assert status(lambda: health_of(to, "nobody"))[0] == "NOT_FOUND"


def test_reflection_lists_the_services(host, channel):
    services = ProtoReflectionDescriptorDatabase(channel(host())).get_services()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(services)


def test_health_answers_while_all_workers_are_busy(host, channel, lasting):
    to = channel(host(lasting, Limits(concurrency=2)))
    calls = [RooflineStub(to).Estimate.future(MESSAGE) for _ in range(2)]
    assert all(lasting.begun.acquire(timeout=PATIENCE_S) for _ in calls)
    assert health_of(to, SERVICE) == SERVING
    assert not any(call.done() for call in calls)
    lasting.finish.set()
    assert all(call.result(PATIENCE_S).flops == 7 for call in calls)


# ------------------------------------------------------------------------------------------------- load, deadlines, the end


def test_more_than_fits_is_refused_with_a_hint(host, channel, lasting):
    stub = RooflineStub(channel(host(lasting, Limits(concurrency=1))))
    call = stub.Estimate.future(MESSAGE)
    assert lasting.begun.acquire(timeout=PATIENCE_S)
    code, _, sentence, again_s = status(lambda: stub.Estimate(MESSAGE, timeout=PATIENCE_S))
    assert (code, sentence[:20]) == ("RESOURCE_EXHAUSTED", "all workers are busy")
    assert again_s > 0
    lasting.finish.set()
    assert call.result(PATIENCE_S).flops == 7


@pytest.mark.parametrize("limits", [Limits(), Limits(deadline_s=0.05)])
def test_work_ends_at_the_deadline(limits, host, channel, lasting):
    """The caller's, or the server's where the caller names none."""
    stub = RooflineStub(channel(host(lasting, limits)))
    timeout = 0.05 if limits.deadline_s > 1 else None
    assert status(lambda: stub.Estimate(MESSAGE, timeout=timeout))[0] == "DEADLINE_EXCEEDED"
    assert lasting.given_up.acquire(timeout=PATIENCE_S), "the worker goes on"


@pytest.mark.parametrize("method", ["Estimate", "Simulate"])
def test_work_ends_when_the_caller_hangs_up(method, host, channel, lasting):
    stub = RooflineStub(channel(host(lasting, Limits(concurrency=1))))
    call = stub.Estimate.future(MESSAGE) if method == "Estimate" else stub.Simulate(MESSAGE)
    assert lasting.begun.acquire(timeout=PATIENCE_S)
    call.cancel()
    assert lasting.given_up.acquire(timeout=PATIENCE_S), "the worker goes on"
    assert lasting.reasons == ["CANCELLED"]


def test_a_server_that_drains_finishes_its_work_and_says_so(host, channel, lasting):
    server = host(lasting, Limits(concurrency=2))
    to = channel(server)
    stub = RooflineStub(to)
    watch = health_pb2_grpc.HealthStub(to).Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=PATIENCE_S)
    assert next(watch).status == SERVING
    call = stub.Estimate.future(MESSAGE)
    assert lasting.begun.acquire(timeout=PATIENCE_S)
    end = threading.Thread(target=server.stop)
    end.start()
    assert next(watch).status == NOT_SERVING
    assert health_of(to) == health_of(to, SERVICE) == NOT_SERVING
    code, _, _, again_s = status(lambda: stub.Estimate(MESSAGE, timeout=PATIENCE_S))
    assert code == "UNAVAILABLE"
    assert again_s is not None
    watch.cancel()
    lasting.finish.set()
    assert call.result(PATIENCE_S).flops == 7
    end.join(PATIENCE_S)
    assert not end.is_alive()


# ------------------------------------------------------------------------------------------------------------ who may call


def test_callers_need_the_token_but_health_checks_do_not(host, channel):
    server = host(token="secret")
    to = channel(server)
    stub = RooflineStub(to)
    for metadata in (None, [("authorization", "Bearer wrong")], [("authorization", "secret")]):
        assert status(lambda m=metadata: stub.Estimate(MESSAGE, metadata=m))[0] == "UNAUTHENTICATED"
        assert status(lambda m=metadata: list(stub.Simulate(MESSAGE, metadata=m)))[0] == "UNAUTHENTICATED"
    assert stub.Estimate(MESSAGE, metadata=[("authorization", "Bearer secret")]).flops == 7
    assert health_of(to) == SERVING
    assert RemoteClient(f"127.0.0.1:{server.port}", token="secret").estimate("roofline", SMALL).flops == 7


def certificate(name: str) -> tuple[bytes, bytes]:
    """Make a self-signed certificate for this computer and its key, PEM."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(serialization.Encoding.PEM), private


def test_tls_serves_those_who_trust_the_certificate(host):
    pem, key = certificate("server")
    server = host(tls=Tls(pem, key))
    endpoint = f"127.0.0.1:{server.port}"
    assert RemoteClient(endpoint, root_ca=pem).estimate("roofline", SMALL).flops == 7
    for stranger in (RemoteClient(endpoint, patience_s=0), RemoteClient(endpoint, root_ca=certificate("x")[0], patience_s=0)):
        with pytest.raises(HwsimError) as raised:
            stranger.estimate("roofline", SMALL)
        assert raised.value.code == "UNAVAILABLE"


def test_mutual_tls_serves_those_with_a_certificate(host):
    (pem, key), (client_pem, client_key) = certificate("server"), certificate("client")
    server = host(tls=Tls(pem, key, client_ca=client_pem))
    for pair, served in ((client_key, client_pem), True), ((None, None), False):
        credentials = grpc.ssl_channel_credentials(pem, *pair)
        with grpc.secure_channel(f"127.0.0.1:{server.port}", credentials) as to:
            if served:
                assert RooflineStub(to).Estimate(MESSAGE, timeout=PATIENCE_S).flops == 7
            else:
                assert status(lambda to=to: RooflineStub(to).Estimate(MESSAGE, timeout=PATIENCE_S))[0] == "UNAVAILABLE"


def test_a_certificate_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"missing\.pem: cannot be read"):
        Tls.read(tmp_path / "missing.pem", tmp_path / "key.pem")


# ----------------------------------------------------------------------------------------------------------------- metrics


def test_prometheus_is_told_of_requests_by_status(host, channel):
    server = host(metrics_port=0)
    stub = RooflineStub(channel(server))
    for _ in range(3):
        stub.Estimate(MESSAGE)
    status(lambda: stub.Estimate(pb.RooflineRequest(), timeout=PATIENCE_S))
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=PATIENCE_S) as page:
        lines = page.read().decode().splitlines()
    counts = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    labels = 'method="Estimate",simulator="roofline"'
    assert counts[f'fedcosim_hwsim_requests_total{{code="OK",{labels}}}'] == 3
    assert counts[f'fedcosim_hwsim_requests_total{{code="INVALID_ARGUMENT",{labels}}}'] == 1
    assert counts[f"fedcosim_hwsim_seconds_count{{{labels}}}"] == 4
    assert counts['fedcosim_hwsim_running{simulator="roofline"}'] == 0


def test_a_taken_port_is_refused(host):
    taken = host(metrics_port=0)
    with pytest.raises(SpecError, match="cannot be listened on; choose another"):
        host(address=f"127.0.0.1:{taken.metrics_port}")
    with pytest.raises(SpecError, match="metrics port"):
        host(metrics_port=taken.port)
