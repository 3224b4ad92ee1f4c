"""A receiver believes nothing: damage and lies are refused with a typed error, before anything large is made."""

from __future__ import annotations

import json
import math
import resource
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from updates import codec, context, normal, weights

from fedcosim.compression import Base, Context, layout
from fedcosim.compression.wire import DTYPES, PREFIX, Body, open_sealed, seal
from fedcosim.core.errors import CodecError, PayloadError

CHAINS: list[Any] = ["int4", "topk", ["asvd", "int8"], "randomk", "qsgd", "signsgd"]


def blob_of(chain: Any) -> tuple[Any, bytes, Base]:
    asked = context()
    return codec(chain), codec(chain).encode(weights(1), asked).blob, asked.base


def damaged(blob: bytes, rng: np.random.Generator) -> bytes:
    """Return the blob with one random accident: bits, bytes, missing or doubled stretches, noise, or another length."""
    data, at = bytearray(blob), int(rng.integers(len(blob)))
    match rng.integers(7):
        case 0:
            data[at] ^= 1 << int(rng.integers(8))
        case 1:
            data[int(rng.integers(PREFIX.size))] = (data[0] + 1 + int(rng.integers(254))) % 256
        case 2:
            del data[at:]
        case 3:
            data += rng.bytes(int(rng.integers(1, 99)))
        case 4:
            del data[at : at + int(rng.integers(1, 99))]
        case 5:
            data[at:at] = data[at : at + int(rng.integers(1, 99))]
        case 6:
            stretch = int(rng.integers(1, 99))
            data[at : at + stretch] = rng.bytes(min(stretch, len(data) - at))
    return bytes(data)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_no_accident_yields_a_model(chain):
    """2 100 random accidents over six codecs: each raises PayloadError, and memory does not grow."""
    made, blob, base = blob_of(chain)
    expected = layout(weights())
    made.decode(blob, expected, base)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = np.random.default_rng(len(blob))
    accidents = 0
    while accidents < 350:
        if (bad := damaged(blob, rng)) == blob:
            continue
        accidents += 1
        with pytest.raises(PayloadError):
            made.decode(bad, expected, base)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def resealed(blob: bytes, lie: Callable[[Any], Any], body: Callable[[bytes], bytes] = bytes) -> bytes:
    """Return the blob with another header or body and checksums that are right."""
    head_bytes = PREFIX.unpack_from(blob)[2]
    header = json.loads(blob[PREFIX.size : PREFIX.size + head_bytes])
    head = json.dumps(lie(header) or header, sort_keys=True, separators=(",", ":")).encode()
    data = body(blob[PREFIX.size + head_bytes :])
    return PREFIX.pack(b"FCSM", 1, len(head), len(data), zlib.crc32(head), zlib.crc32(data)) + head + data


def entry(header: Any, name: str) -> list[Any]:
    return next(one for one in header["tensors"] if one[0] == name)


def put(name: str, place: int, value: Any) -> Callable[[Any], None]:
    return lambda header: entry(header, name).__setitem__(place, value)


LIES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("another codec", lambda h: h.update(codec=["svd", "int8"]), "expected"),
    ("another target", lambda h: h.update(target="weights"), "expected"),
    ("another base", lambda h: h.update(base="0" * 32), "relative to model"),
    ("no base", lambda h: h.update(base=None), "relative to model"),
    ("a field more", lambda h: h.update(more=1), "has others"),
    ("a field less", lambda h: h.pop("target") and None, "lacks fields"),
    ("tensors that are no list", lambda h: h.update(tensors={}), "has others"),
    ("a list", lambda h: [h], "canonical"),
    ("a missing tensor", lambda h: h["tensors"].pop() and None, "missing"),
    ("a tensor twice", lambda h: h["tensors"].append(h["tensors"][0]), "twice"),
    ("an unknown tensor", lambda h: h["tensors"].append(["evil", "float32", [1], 0]), "unexpected"),
    ("a name that is none", lambda h: h["tensors"].append([["evil"], "float32", [1], 0]), "otherwise than"),
    ("a short entry", lambda h: h["tensors"].append(["evil"]), "otherwise than"),
    ("another shape", put("4.weight", 2, [192, 80]), "expected float32"),
    ("a huge shape", put("4.weight", 2, [2**40, 2**40]), "expected float32"),
    ("a shape of floats", put("4.weight", 2, [80.0, 192.0]), "expected float32"),
    ("another dtype", put("4.weight", 1, "float64"), "expected float32"),
    ("a dtype that is none", put("4.weight", 1, "object"), "expected float32"),
    ("rank 0", put("4.weight", 3, [0, {"rank": 0}, [0, 0]]), "rank = 0"),
    ("a negative rank", put("4.weight", 3, [0, {"rank": -5}, [0, 0]]), "rank = -5"),
    ("a huge rank", put("4.weight", 3, [0, {"rank": 10**15}, [0, 0]]), "rank = 1000000000000000"),
    ("a rank that saves nothing", put("4.weight", 3, [0, {"rank": 57}, [0, 0]]), "from 1 to 56"),
    ("a rank of another type", put("4.weight", 3, [0, {"rank": True}, [0, 0]]), "rank = True"),
    ("a rank of text", put("4.weight", 3, [0, {"rank": "8"}, [0, 0]]), "rank = '8'"),
    ("no rank", put("4.weight", 3, [0, {}, [0, 0]]), "it must have"),
    ("a number more", put("4.weight", 3, [0, {"rank": 8, "more": 1}, [0, 0]]), "it must have"),
    ("a smaller rank", put("4.weight", 3, [0, {"rank": 3}, [0, 0]]), "belong to no tensor|takes|holds NaN"),
    ("a part less", put("4.weight", 3, [0, {"rank": 8}, [0]]), "number of parts"),
    ("a part more", put("4.weight", 3, [0, {"rank": 8}, [0, 0, 0]]), "number of parts"),
    ("no parts", put("4.weight", 3, [0, {"rank": 8}]), "number of parts"),
    ("parts that are none", put("4.weight", 3, [0, {"rank": 8}, 7]), "no encoding"),
    ("an earlier stage again", put("4.weight", 3, [1, {}, [[0, {"rank": 1}]]]), "number of parts"),
    ("a stage inside itself", put("4.weight", 3, [0, {"rank": 8}, [[0, {"rank": 1}, [0, 0]], 0]]), "no encoding"),
    ("a stage that does not exist", put("4.weight", 3, [2, {}]), "no encoding"),
    ("a negative stage", put("4.weight", 3, [-1, {}]), "no encoding"),
    ("an encoding that is none", put("4.weight", 3, 1), "no encoding"),
    ("null", put("4.weight", 3, None), "no encoding"),
    ("an encoded counter", put("1.num_batches_tracked", 3, [1, {}]), "no encoding of int64"),
    ("a twin of another shape", put("4.weight", 3, "0.weight"), "no earlier tensor"),
    ("a twin of itself", put("4.weight", 3, "4.weight"), "no earlier tensor"),
    ("a twin that comes later", put("4.weight", 3, "6.weight"), "no earlier tensor"),
    ("a twin that does not exist", put("4.weight", 3, "evil"), "no earlier tensor"),
    ("a vector as factors", put("4.bias", 3, [0, {"rank": 1}, [0, 0]]), "rank = 1"),
    ("depth", put("4.weight", 3, json.loads("[" * 60 + "]" * 60)), "no encoding"),
]


@pytest.mark.parametrize(("what", "lie", "message"), LIES, ids=[what for what, *_ in LIES])
def test_lies_with_right_checksums_are_named(what, lie, message):
    made, blob, base = blob_of(["asvd", "int8"])
    with pytest.raises(PayloadError, match=message):
        made.decode(resealed(blob, lie), layout(weights()), base)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_random_lies_yield_a_finite_update_of_the_expected_layout_or_an_error(chain):
    """Checksums do not stop who can compute them: numbers in the header and bytes of the body are changed at random."""
    made, blob, base = blob_of(chain)
    expected, rng = layout(weights()), np.random.default_rng(1)

    def lie(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: lie(value) for key, value in node.items()}
        if isinstance(node, list):
            changed = [lie(value) for value in node]
            return changed[:-1] if rng.random() < 0.005 else changed
        return int(rng.choice([-1, 0, 1, 7, 2**31, 2**62])) if isinstance(node, int) and rng.random() < 0.02 else node

    def noise(body: bytes) -> bytes:
        data = bytearray(body)
        for _ in range(int(rng.integers(0, 3))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        return bytes(data)

    for _ in range(150):
        try:
            decoded = made.decode(resealed(blob, lie, noise), expected, base)
        except PayloadError:
            continue
        assert layout(decoded) == expected
        assert all(bool(x.isfinite().all()) for x in decoded.values())


@pytest.mark.parametrize("chain", ["fp16", "int8", "qsgd", "signsgd", "powersgd", "topk"])
def test_scales_that_are_not_finite_are_refused(chain):
    """The body is filled with what is NaN in every float format, then with float32 infinities."""
    made, blob, base = blob_of(chain)
    for pattern in (b"\xff", b"\x00\x00\x80\x7f"):
        bad = resealed(blob, lambda h: None, lambda body, p=pattern: (p * len(body))[: len(body)])
        with pytest.raises(PayloadError):
            made.decode(bad, layout(weights()), base)


def test_products_that_overflow_are_refused():
    """Finite factors can have an infinite product."""
    x = {"x": normal(20, 30)}
    made, base = codec("svd", ratio=0.3), Base({"x": torch.zeros(20, 30)})
    blob = made.encode(x, Context(base)).blob
    huge = np.full(3 * 50, 3e38, np.float32).tobytes()
    with pytest.raises(PayloadError, match="'x' holds NaN or infinity"):
        made.decode(resealed(blob, lambda h: None, lambda body: huge), layout(x), base)


@pytest.mark.parametrize(
    ("keep", "places", "message"),
    [
        (0.01, [5, 5, 6, 7, 8, 9], "not ascending"),
        (0.01, [9, 8, 7, 6, 5, 4], "not ascending"),
        (0.01, [0, 1, 2, 3, 4, 600], "not ascending"),
        (0.01, [-1, 1, 2, 3, 4, 5], "not ascending"),
        (0.5, [0] * 75, "0 places for 300 values"),
        (0.5, [255] * 75, "600 places for 300 values"),
    ],
)
def test_places_are_checked(keep, places, message):
    x = {"x": normal(20, 30)}
    made, base = codec("topk", keep=keep), Base({"x": torch.zeros(20, 30)})
    told = np.array(places, np.int32 if keep < 0.1 else np.uint8).tobytes()
    bad = resealed(made.encode(x, Context(base)).blob, lambda h: None, lambda body: body[: -len(told)] + told)
    with pytest.raises(PayloadError, match=message):
        made.decode(bad, layout(x), base)


def test_codes_that_no_encoder_writes_are_refused():
    """int4 uses fifteen of sixteen codes; the sixteenth would be a step beyond the row's largest value."""
    x = {"x": normal(8, 16)}
    made, base = codec("int4"), Base({"x": torch.zeros(8, 16)})
    bad = resealed(made.encode(x, Context(base)).blob, lambda h: None, lambda body: body[:-1] + b"\xff")
    with pytest.raises(PayloadError, match="a code is 15; the greatest of this codec is 14"):
        made.decode(bad, layout(x), base)


def test_headers_longer_than_the_model_warrants_are_not_parsed():
    head = b'{"a":[' + b"0," * 10**6 + b"0]}"
    blob = PREFIX.pack(b"FCSM", 1, len(head), 0, zlib.crc32(head), 0) + head
    with pytest.raises(PayloadError, match="the header has 2000009 bytes"):
        codec("int8", target="weights").decode(blob, {"x": ((3,), torch.float32)})


@pytest.mark.parametrize(
    "head",
    [
        b"{",
        b"\xff",
        b'{"a":NaN}',
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b"[]",
        b"[" * 5000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=lambda head: repr(head[:9]),
)
def test_headers_that_are_not_canonical_json_are_refused(head):
    blob = PREFIX.pack(b"FCSM", 1, len(head), 0, zlib.crc32(head), 0) + head
    with pytest.raises(PayloadError, match="JSON"):
        open_sealed(blob, 10**6)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "its frame alone takes 26"),
        (b"\x80\x04" + bytes(60), "not an encoded update"),  # how a pickle starts
        (PREFIX.pack(b"FCSM", 2, 0, 0, 0, 0), "version 2"),
        (PREFIX.pack(b"FCSM", 1, 2**31, 2**62, 0, 0), "it declares"),
    ],
)
def test_other_files_and_versions_are_refused(blob, message):
    with pytest.raises(PayloadError, match=message):
        open_sealed(blob, 10**6)


def test_a_delta_wants_the_base_it_is_relative_to():
    made, blob, _ = blob_of("int8")
    expected = layout(weights())
    with pytest.raises(PayloadError, match="relative to model"):
        made.decode(blob, expected, Base(weights(2)))
    for base in (None, Base({"other": torch.zeros(3)})):
        with pytest.raises(CodecError, match="must be given"):
            made.decode(blob, expected, base)


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 1, 4)])
def test_arrays_of_every_dtype_and_shape_survive(dtype, shape):
    x = (normal(*shape, seed=1) * 3).to(dtype) if shape else torch.tensor(1).to(dtype)
    for array in (x, x.movedim(0, -1) if len(shape) > 1 else x):
        _, body = open_sealed(seal({}, [array]), 10)
        taken = body.take(tuple(array.shape), dtype, "x")
        body.close()
        assert taken.dtype == dtype
        assert torch.equal(taken, array)


def test_reading_beyond_the_end_allocates_nothing():
    body = Body(memoryview(b"12345678"))
    for shape in ((3,), (2**40, 2**40)):
        with pytest.raises(PayloadError, match=f"takes {4 * math.prod(shape)} bytes, but only 8 are left"):
            body.take(shape, torch.float32, "x")
    with pytest.raises(PayloadError, match="8 bytes of the payload belong to no tensor"):
        body.close()
