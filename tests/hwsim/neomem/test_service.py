"""NeoMem behind gRPC: the same answers as in this process, and traces that are sent in pieces."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import get_args

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import mutate

from fedcosim.hwsim.client import LocalClient, RemoteClient, RemoteError, _call
from fedcosim.hwsim.neomem import NeoMemReport, NeoMemRequest
from fedcosim.hwsim.neomem.generators import Generator
from fedcosim.hwsim.neomem.host import TRACES_BYTES, NeoMem
from fedcosim.hwsim.neomem.policies import POLICIES
from fedcosim.hwsim.neomem.traces import MAX_ACCESSES, PIECE, trace_of_pages
from fedcosim.hwsim.neomem.upload import MAX_CHUNK_BYTES, checksum, parts_of
from fedcosim.hwsim.service import Host, Limits, build
from fedcosim.hwsim.simulator import HwsimError, Job
from fedcosim.hwsim.v1 import common_pb2, neomem_pb2_grpc
from fedcosim.hwsim.v1 import neomem_pb2 as pb
from fedcosim.hwsim.wire import decode, encode

PATIENCE_S = 30


@pytest.fixture(scope="module")
def remote():
    host = Host(build(["neomem"]), "127.0.0.1:0")
    host.start()
    client = RemoteClient(f"127.0.0.1:{host.port}")
    yield client
    client.close()
    host.stop()


def a_trace(accesses: int):
    rng = np.random.default_rng(3)
    return trace_of_pages(rng.integers(0, 500, accesses), (rng.random(accesses) < 0.3).astype(np.uint8))


def test_a_generated_trace_gets_the_same_report_on_both_ways(remote):
    request = NeoMemRequest(synthetic={"generator": "zipf", "pages": 2000, "accesses": 50_000}, against=["pebs"])
    assert remote.estimate("neomem", request) == LocalClient().estimate("neomem", request)


def test_an_uploaded_trace_has_the_same_name_and_report_on_both_ways(remote):
    """Two chunks, write flags and all: the name is a digest of everything."""
    trace, local = a_trace(MAX_CHUNK_BYTES // 4 + 1000), LocalClient()
    name = remote.upload(trace)
    assert name == trace.sha256 == local.upload(trace)
    request = NeoMemRequest(trace_id=name, compute_seconds=0.01)
    assert remote.estimate("neomem", request) == local.estimate("neomem", request)


# --------------------------------------------------------------------------------------------------------------- refusals

ZIPF = {"generator": "GENERATOR_ZIPF", "pages": 2000, "accesses": 20_000}
NAN, INF = math.nan, math.inf


def platform(**fields):
    return {"synthetic": ZIPF, "platform": {"fast_to_slow": 0.5} | fields}


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        *(
            (platform(**{name: value}), "INVALID_ARGUMENT", f"platform.{name}")
            for name in ("fast_latency_ns", "slow_latency_ns", "fast_bytes_per_s", "slow_bytes_per_s")
            for value in (NAN, INF, -INF, 0.0, -1.0)
        ),
        *((platform(fast_to_slow=value), "INVALID_ARGUMENT", "platform.fast_to_slow") for value in (NAN, INF, 0.0, -0.5)),
        (platform(slow_latency_ns=100.0), "INVALID_ARGUMENT", "platform.slow_latency_ns"),
        (platform(page_bytes=5000), "INVALID_ARGUMENT", "platform.page_bytes"),
        (platform(threads=0), "INVALID_ARGUMENT", "platform.threads"),
        (platform(fast_bytes=2**20), "INVALID_ARGUMENT", "platform.fast_bytes"),
        ({"synthetic": ZIPF, "platform": {}}, "INVALID_ARGUMENT", "platform.fast_bytes"),
        *(
            ({"synthetic": ZIPF, "neoprof": {name: value}}, "INVALID_ARGUMENT", f"neoprof.{name}")
            for name, values in {"columns": (1000, 0, -8), "rows": (0, 5, -1), "counter_bits": (0, 33, -1)}.items()
            for value in values
        ),
        ({"synthetic": ZIPF, "neomem": {"p_min": 0.01, "p_init": 0.001}}, "INVALID_ARGUMENT", "neomem"),
        ({"synthetic": ZIPF, "neomem": {"p_init": 0.5, "p_max": 0.1}}, "INVALID_ARGUMENT", "neomem"),
        *(
            ({"synthetic": ZIPF, "neomem": {name: value}}, "INVALID_ARGUMENT", f"neomem.{name}")
            for name in ("alpha", "beta")
            for value in (-1.0, NAN)
        ),
        ({"synthetic": ZIPF, "policy": 0}, "INVALID_ARGUMENT", "policy"),
        ({"synthetic": ZIPF, "policy": 99}, "INVALID_ARGUMENT", "policy"),
        ({"synthetic": ZIPF, "against": [3, 0]}, "INVALID_ARGUMENT", "against.1"),
        ({"synthetic": {"generator": 0}}, "INVALID_ARGUMENT", "synthetic.generator"),
        ({"synthetic": {"pages": 10}}, "INVALID_ARGUMENT", "synthetic.generator"),
        ({"synthetic": ZIPF, "scale": 3}, "INVALID_ARGUMENT", "scale"),
        ({"synthetic": ZIPF, "warmup_accesses": 20_000}, "INVALID_ARGUMENT", "warmup_accesses"),
        ({}, "INVALID_ARGUMENT", "training"),
        (
            {"synthetic": ZIPF, "platform": {"fast_bytes": 2**20, "slow_bytes": 2**20}},
            *("FAILED_PRECONDITION", "platform.fast_bytes"),
        ),
        (platform(preset="dreamed_up"), "NOT_FOUND", "platform.preset"),
        ({"trace_id": "0" * 64}, "NOT_FOUND", "trace_id"),
        ({"synthetic": ZIPF | {"pages": 2**30}, "scale": 1}, "RESOURCE_EXHAUSTED", "scale"),
        ({"training": {"param_count": 10**9, "steps": 10**6}, "scale": 1}, "RESOURCE_EXHAUSTED", "training.steps"),
    ],
)  # fmt: skip
def test_bad_input_has_its_status_and_names_its_field(remote, fields, code, field):
    with pytest.raises(RemoteError) as caught:
        call(remote, "Estimate", pb.NeoMemRequest(**fields))
    assert (caught.value.code, caught.value.field) == (code, field), str(caught.value)
    assert caught.value.retry_after_s is None, "coming again does not help"


SMALL = st.one_of(
    st.builds(
        lambda generator, pages: {"synthetic": {"generator": generator, "pages": pages, "accesses": 3000}},
        st.sampled_from(get_args(Generator)),
        st.sampled_from([2, 500, 2**20]),
    ),
    st.just({"training": {"param_count": 10**6, "steps": 3, "activation_bytes_per_sample": 10_000}}),
)
PLATFORMS = st.sampled_from([{"fast_to_slow": 0.5}, {"fast_bytes": 2**24, "slow_bytes": 2**40}])


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(SMALL, st.sampled_from(list(POLICIES)), PLATFORMS, st.data(), st.integers(1, 3))
def test_no_message_is_an_internal_error(remote, fields, policy, memory, data, changes):
    """Valid requests with fields set to extremes get a finite answer, or a status that blames them, or take too long."""
    message = encode(NeoMemRequest(**fields, policy=policy, platform=memory), pb.NeoMemRequest())
    for _ in range(changes):
        mutate(message, data)
    stub = neomem_pb2_grpc.NeoMemStub(remote._connected())
    try:
        report = decode(stub.Estimate(message, timeout=2), NeoMemReport)
    except grpc.RpcError as error:
        blaming = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
        assert error.code().name in blaming, error.details()  # noqa: PT017 - either outcome is right
    else:
        assert all(math.isfinite(x) and x > 0 for x in (report.sim_s, report.slowdown_vs_all_fast, report.energy_high_j))


def test_a_machine_on_which_nothing_ever_ends_is_refused(remote):
    """A page in a month, before the clock runs over."""
    slow = {"fast_to_slow": 0.5, "fast_bytes_per_s": 1e3, "slow_bytes_per_s": 1e3}
    with pytest.raises(RemoteError, match="simulated time") as caught:
        call(remote, "Estimate", pb.NeoMemRequest(synthetic=ZIPF | {"pages": 2**35}, platform=slow, scale=2**20))
    assert (caught.value.code, caught.value.field) == ("INVALID_ARGUMENT", "platform")


PAGES = np.arange(100, dtype="<i4")


def sent(content: bytes, count: int = 100, **header) -> list:
    """The parts of an upload whose checksums are right."""
    return [
        common_pb2.TraceChunk(header=common_pb2.TraceHeader(**{"total_accesses": count} | header)),
        common_pb2.TraceChunk(data=common_pb2.TraceData(seq=0, data=content, crc32c=checksum(content))),
        common_pb2.TraceChunk(trailer=common_pb2.TraceTrailer(sha256=hashlib.sha256(content).hexdigest(), count=count)),
    ]


def whole() -> list:
    """A good upload of a header, two chunks and a trailer."""
    return list(parts_of(a_trace(MAX_CHUNK_BYTES // 4 + 1000)))


@pytest.mark.parametrize(
    ("parts", "code", "field"),
    [
        ([], "INVALID_ARGUMENT", "header"),
        (whole()[1:], "INVALID_ARGUMENT", "header"),
        ([whole()[0], *whole()], "INVALID_ARGUMENT", "header"),
        (whole()[:-1], "INVALID_ARGUMENT", "trailer"),
        ([whole()[0], whole()[2], whole()[1], whole()[3]], "INVALID_ARGUMENT", "chunk.seq"),
        ([whole()[0], whole()[1], *whole()[1:]], "INVALID_ARGUMENT", "chunk.seq"),
        (sent(b"", 0), "INVALID_ARGUMENT", "total_accesses"),
        (sent(PAGES.tobytes()[:-1]), "INVALID_ARGUMENT", "trailer.count"),
        (sent((PAGES - 1).tobytes()), "INVALID_ARGUMENT", "trace"),
        (sent(PAGES.tobytes(), page_bytes=5000), "INVALID_ARGUMENT", "header.page_bytes"),
        (sent(PAGES.tobytes(), format=9), "INVALID_ARGUMENT", "format"),
        (sent(bytes(MAX_CHUNK_BYTES + 4), MAX_CHUNK_BYTES // 4 + 1), "RESOURCE_EXHAUSTED", "chunk.data"),
        (sent(PAGES.tobytes(), total_pages=99), "OUT_OF_RANGE", "total_pages"),
        (sent(PAGES.tobytes(), 2**40), "RESOURCE_EXHAUSTED", "header.total_accesses"),
        (sent(PAGES.tobytes(), 2**28), "RESOURCE_EXHAUSTED", "header.total_accesses"),
    ],
)  # fmt: skip
def test_an_upload_that_cannot_be_taken_in_is_refused_and_the_field_named(remote, parts, code, field):
    with pytest.raises(RemoteError) as caught:
        call(remote, "UploadTrace", iter(parts))
    assert (caught.value.code, caught.value.field) == (code, field), str(caught.value)


@pytest.mark.parametrize("damage", ["a chunk", "its checksum", "the digest"])
def test_damage_on_the_way_is_noticed(remote, damage):
    parts = whole()
    if damage == "a chunk":
        parts[1].data.data = bytes([parts[1].data.data[0] ^ 1]) + parts[1].data.data[1:]
    elif damage == "its checksum":
        parts[1].data.crc32c ^= 1
    else:
        parts[-1].trailer.sha256 = "0" * 64
    with pytest.raises(RemoteError) as caught:
        call(remote, "UploadTrace", iter(parts))
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.field == ("trailer.sha256" if damage == "the digest" else "chunk.crc32c")


def test_a_message_above_4_mib_is_refused_for_good(remote):
    with pytest.raises(RemoteError) as caught:
        call(remote, "Estimate", pb.NeoMemRequest(trace_id="0" * 2**22))
    assert caught.value.code == "RESOURCE_EXHAUSTED"


def test_every_policy_of_the_protocol_is_built(remote):
    """So that none is UNIMPLEMENTED."""
    words = pb.NeoMemRequest.DESCRIPTOR.enum_types_by_name["Policy"].values
    for word in words[1:]:
        report = call(remote, "Estimate", pb.NeoMemRequest(synthetic=ZIPF, policy=word.number))
        assert f"POLICY_{report.policy.upper()}" == word.name


# ------------------------------------------------------------------------------------------------------------- the service


def test_capabilities_say_what_requests_can_name_and_how_much_is_too_much(remote):
    """Every name is accepted, and so are all that are accepted named."""
    answer = call(remote, "GetCapabilities", common_pb2.GetCapabilitiesRequest())
    assert (answer.simulator, answer.concurrency, answer.deadline_s) == ("neomem", Limits.concurrency, Limits.deadline_s)
    choices = {field: set(names.names) for field, names in answer.choices.items()}
    schema = NeoMemRequest.model_json_schema()["$defs"]
    assert choices["policy"] == choices["against"] == set(NeoMemRequest.model_json_schema()["properties"]["policy"]["enum"])
    assert choices["synthetic.generator"] == set(schema["SyntheticOptions"]["properties"]["generator"]["enum"])
    assert choices["training.optimizer"] == set(schema["TrainingOptions"]["properties"]["optimizer"]["enum"])
    assert choices["profile"] == set(NeoMemRequest.model_json_schema()["properties"]["profile"]["enum"])
    for preset in choices["platform.preset"]:
        call(remote, "Estimate", pb.NeoMemRequest(**platform(preset=preset)))
    assert answer.limits["message_bytes"] == 4 * 2**20
    assert answer.limits["chunk_bytes"] == MAX_CHUNK_BYTES
    assert answer.limits["accesses"] == MAX_ACCESSES
    assert answer.limits["uploaded_bytes"] == TRACES_BYTES


class Watched(NeoMem):
    """Tells when it has begun, whether anybody looked after it should have ended, and how it did."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.ended, self.compiling, self.compiled = (threading.Event() for _ in range(4))
        self.compiled.set()
        self.looks: list[bool] = []
        self.code = ""

    def warm_up(self) -> None:
        self.compiling.set()
        assert self.compiled.wait(PATIENCE_S)

    def estimate(self, request, job: Job = Job()):  # noqa: B008 - immutable
        def cancelled() -> bool:
            self.looks.append(job.cancelled())
            self.begun.set()
            return self.looks[-1]

        try:
            return super().estimate(request, Job(job.deadline, cancelled, job.progress))
        except HwsimError as error:
            self.code = error.code
            raise
        finally:
            self.ended.set()


@pytest.fixture
def watched() -> Iterator[tuple[Watched, Host]]:
    simulator = Watched()
    host = Host({"neomem": simulator}, "127.0.0.1:0")
    yield simulator, host
    simulator.compiled.set()
    host.stop(0)


LONG = pb.NeoMemRequest(synthetic=ZIPF | {"accesses": 2**26})


def test_nothing_is_worked_on_for_a_caller_who_hung_up(watched):
    """In the middle of making a trace of 67 million accesses: work ends at the first look that tells."""
    simulator, host = watched
    host.start()
    with grpc.insecure_channel(f"127.0.0.1:{host.port}") as channel:
        call = neomem_pb2_grpc.NeoMemStub(channel).Estimate.future(LONG)
        assert simulator.begun.wait(PATIENCE_S)
        call.cancel()
        assert simulator.ended.wait(PATIENCE_S)
    assert simulator.code == "CANCELLED"
    assert simulator.looks[-1]
    assert not any(simulator.looks[:-1])
    assert len(simulator.looks) < 2**26 // PIECE, "the trace was made to its end"


def test_work_ends_at_the_deadline(watched):
    simulator, host = watched
    host.start()
    with grpc.insecure_channel(f"127.0.0.1:{host.port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            neomem_pb2_grpc.NeoMemStub(channel).Estimate(LONG, timeout=0.05)
        assert simulator.ended.wait(PATIENCE_S)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert simulator.code in ("DEADLINE_EXCEEDED", "CANCELLED"), "whichever is noticed first"


def test_nobody_is_served_before_everything_is_compiled(watched):
    """Health says so, and requests are to come again."""
    simulator, host = watched
    simulator.compiled.clear()
    start = threading.Thread(target=host.start)
    start.start()
    assert simulator.compiling.wait(PATIENCE_S)
    names = ("", "fedcosim.hwsim.v1.NeoMem")
    with grpc.insecure_channel(f"127.0.0.1:{host.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in names:
            check = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_S)
            assert check.status == health_pb2.HealthCheckResponse.NOT_SERVING
        client = RemoteClient(f"127.0.0.1:{host.port}", patience_s=0)
        with pytest.raises(RemoteError, match="starting") as caught:
            client.estimate("neomem", NeoMemRequest(synthetic={"generator": "zipf", "pages": 2000, "accesses": 1000}))
        assert (caught.value.code, caught.value.retry_after_s is not None) == ("UNAVAILABLE", True)
        simulator.compiled.set()
        start.join(PATIENCE_S)
        for name in names:
            check = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_S)
            assert check.status == health_pb2.HealthCheckResponse.SERVING
        client.close()


_COMPILED = """
import pkgutil
from importlib import import_module
from numba.core.dispatcher import Dispatcher
from fedcosim.hwsim import neomem
from fedcosim.hwsim.neomem import NeoMemRequest, TraceStore, estimate
from fedcosim.hwsim.neomem.host import NeoMem
from fedcosim.hwsim.neomem.policies import POLICIES
from fedcosim.hwsim.neomem.upload import parts_of
from fedcosim.hwsim.neomem.traces import trace_of_pages
from fedcosim.hwsim.simulator import Job
from typing import get_args
from fedcosim.hwsim.neomem.generators import Generator
import numpy as np

modules = [import_module(m.name) for m in pkgutil.walk_packages(neomem.__path__, neomem.__name__ + ".")]
kernels = {id(k): k for m in modules for k in vars(m).values() if isinstance(k, Dispatcher)}.values()
compiled = lambda: {k.py_func.__qualname__: len(k.signatures) for k in kernels}
host = NeoMem()
host.warm_up()
before = compiled()
for generator in get_args(Generator):
    request = {"generator": generator, "accesses": 3000, "pages": 500, "write_fraction": 0.3}
    host.estimate(NeoMemRequest(synthetic=request, against=list(POLICIES)), Job())
name, _ = host.receive(parts_of(trace_of_pages(np.arange(1000) % 77, np.arange(1000) % 2)))
host.estimate(NeoMemRequest(trace_id=name, repeats=3), Job())
host.estimate(NeoMemRequest(training={"param_count": 10**6}), Job())
print({name: (before[name], count) for name, count in compiled().items() if count != before[name]})
"""


def test_a_warm_service_compiles_nothing_more():
    """In a process of its own: kernels have as many signatures after requests of all kinds as before."""
    command = [sys.executable, "-c", _COMPILED]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.stdout.strip() == "{}"


def call(remote: RemoteClient, method: str, message):
    """Call a method of the service as our client does."""
    stub = neomem_pb2_grpc.NeoMemStub(remote._connected())
    return _call(getattr(stub, method), message, PATIENCE_S, [])
