"""NeoMem behind gRPC: the same answers as in this process, and traces that are sent in pieces."""

from __future__ import annotations

import numpy as np
import pytest

from fedcosim.hwsim.client import LocalClient, RemoteClient, RemoteError
from fedcosim.hwsim.neomem import NeoMemRequest
from fedcosim.hwsim.neomem.traces import trace_of_pages
from fedcosim.hwsim.neomem.upload import MAX_CHUNK_BYTES, parts_of
from fedcosim.hwsim.service import Host, build
from fedcosim.hwsim.v1 import common_pb2, neomem_pb2_grpc


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


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda parts: parts[1:], "header"),
        (lambda parts: [parts[0], *parts], "header"),
        (lambda parts: parts[:-1], "trailer"),
        (lambda parts: [parts[0], parts[2], parts[1], parts[3]], "chunk.seq"),
        (lambda parts: [parts[0], _flipped(parts[1]), *parts[2:]], "chunk.crc32c"),
        (lambda parts: [*parts[:-1], _other_digest(parts[-1])], "trailer.sha256"),
    ],
)
def test_a_spoilt_upload_is_refused_and_the_field_named(remote, spoil, field):
    parts = list(parts_of(a_trace(MAX_CHUNK_BYTES // 4 + 1000)))
    assert len(parts) == 4
    with pytest.raises(RemoteError) as caught:
        remote_upload(remote, spoil(parts))
    assert (caught.value.code, caught.value.field) == ("INVALID_ARGUMENT", field)


def test_an_unknown_trace_is_not_found(remote):
    with pytest.raises(RemoteError) as caught:
        remote.estimate("neomem", NeoMemRequest(trace_id="0" * 64))
    assert caught.value.code == "NOT_FOUND"


def remote_upload(remote: RemoteClient, parts: list) -> None:
    from fedcosim.hwsim.client import _call

    stub = neomem_pb2_grpc.NeoMemStub(remote._connected())
    _call(stub.UploadTrace, iter(parts), 30.0, [])


def _flipped(part):
    changed = common_pb2.TraceChunk.FromString(part.SerializeToString())
    changed.data.data = bytes([part.data.data[0] ^ 1]) + part.data.data[1:]
    return changed


def _other_digest(part):
    return common_pb2.TraceChunk(trailer=common_pb2.TraceTrailer(sha256="0" * 64, count=part.trailer.count))
