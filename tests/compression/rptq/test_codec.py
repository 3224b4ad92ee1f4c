"""RPTQ uploads: bytes by formula, aggregation across clusterings, what is deployed is what travelled, bad blobs refused."""

from __future__ import annotations

import math
import struct
import zlib

import pytest
import torch
from transformer_models import KINDS, inputs, outputs, transformer
from updates import codec as codec_of
from updates import context as mixed_context
from updates import weights as mixed_weights

from fedcosim.compression import Base, Calibration, Context, layout, parse
from fedcosim.compression.rptq.codec import deployed
from fedcosim.core.errors import CodecError, PayloadError, SpecError
from fedcosim.core.records import array_record


def weights(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def moved(tensors, seed=0, by=0.02):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: x + by * torch.randn(x.shape, generator=generator) if x.is_floating_point() else x for name, x in tensors.items()
    }


def rptq(**fields):
    return parse({"codec": "rptq", "target": "weights", **fields}).build()


def context(kind, model=None, base=None, seed=0):
    return Context(base, calibration=Calibration(model or transformer(kind), [inputs(kind, 16, seed)]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["weights", "delta"])
def test_uploads_of_every_kind_arrive(kind, target):
    """8 bits and halves: a thirtieth of the weights' norm is lost at most, of tied and transposed ones as of others."""
    model = transformer(kind)
    sent, base = weights(model), Base(moved(weights(model)))
    codec = parse({"codec": "rptq", "bits": "W8A8", "target": target}).build()
    encoded = codec.encode(sent, context(kind, model, base))
    got = codec.decode(encoded.blob, layout(sent), base)
    for name, x in sent.items():
        if x.is_floating_point():
            assert (got[name] - x).norm() <= 0.03 * x.norm(), name
    again = codec.encode(sent, context(kind, model, base))
    assert again.blob == encoded.blob


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_deployed_is_what_travelled(kind):
    """The weights are those of `decode`, and 8-bit activations change what they give by a few percent, not by nothing."""
    model = transformer(kind)
    sent, codec, x = weights(model), rptq(bits="W8A6"), inputs(kind, 16)
    blob = codec.encode(sent, context(kind, model)).blob
    got = codec.decode(blob, layout(sent))
    made = deployed(codec, blob, transformer(kind, seed=5))
    for name, value in made.inner.state_dict().items():
        assert torch.equal(value, got[name])
    plain = transformer(kind)
    plain.load_state_dict(got)
    exact, rounded = outputs(plain, x), outputs(made, x)
    assert 1e-4 < float((rounded - exact).norm() / exact.norm()) < 0.2


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_bytes_are_those_of_the_formula(bits):
    """Codes, row scales and zeros, biases and norms, labels, activation quantisers; within 2 %."""
    dim, ffn, heads, depth = 160, 320, 4, 2
    model = transformer("opt", dim, heads)
    body = {name: x for name, x in weights(model).items() if ".layers." in name}
    codec = rptq(bits=f"W{bits}A4")
    report = codec.encode(body, context("opt", model)).report
    layers = [(dim, dim)] * 4 + [(ffn, dim), (dim, ffn)]
    of_layers = sum(math.ceil(o * i * bits / 8) + 3 * o + 2 * o for o, i in layers)
    whole = [(dim, 32), (dim, 32), (ffn, 32)]  # R1, R4, R5: channels, clusters
    labels = sum(math.ceil(n * 5 / 8) for n, _ in whole) + 4 * math.ceil(dim * 2 / 8)
    quantisers = 5 * sum(k for _, k in whole) + 5 * 4 * heads * 4  # of q, k, v and context, 4 clusters a head
    expected = depth * (of_layers + 2 * 4 * dim + labels + quantisers)
    if bits >= 4:  # below, names and shapes of so small a body weigh more
        assert report.encoded_bytes == pytest.approx(expected, rel=0.02)
    sums = sum(tensor.encoded_bytes for tensor in report.tensors)
    assert sums == pytest.approx(expected, rel=0.01)


def test_four_bits_are_a_seventh_of_floats():
    model = transformer("opt", 192, 4)
    body = {name: x for name, x in weights(model).items() if ".layers." in name}
    assert 1 / rptq(bits="W4A16", rounding="rtn").encode(body).report.ratio >= 7.2


def test_flower_counts_the_bytes_of_the_blob():
    """As one array of bytes, a blob takes its own length and a constant in a Flower message."""
    model = transformer("opt")
    blob = rptq(bits="W4A4").encode(weights(model), context("opt", model)).blob
    record = array_record({"upload": torch.frombuffer(bytearray(blob), dtype=torch.uint8)})
    assert record.count_bytes() == pytest.approx(len(blob), rel=0.02, abs=1024)


def test_clients_of_different_clusterings_average_as_their_weights_do():
    """Channels travel in the model's order, so a mean of uploads is the mean of what the clients' models were."""
    model, codec = transformer("opt"), rptq(bits="W4A4")
    clients = [moved(weights(model), seed) for seed in (1, 2)]
    decoded, labels = [], []
    for seed, sent in enumerate(clients):
        one = transformer("opt")
        one.load_state_dict(sent)
        with torch.no_grad():  # so that the clients' channels differ in range
            one.get_submodule("model.decoder.layers.0.self_attn_layer_norm").weight[3 + 5 * seed] *= 9
        blob = codec.encode(weights(one), context("opt", one, seed=seed)).blob
        decoded.append(codec.decode(blob, layout(sent)))
        labels.append(codec.read(blob, layout(sent))["model.decoder.layers.0.self_attn.q_proj.weight"].parts[3].array)
        inner = deployed(codec, blob, transformer("opt")).inner.state_dict()
        assert all(torch.equal(inner[name], x) for name, x in decoded[-1].items())
    assert not torch.equal(*labels)
    name = "model.decoder.layers.0.self_attn.q_proj.weight"
    mean = (decoded[0][name] + decoded[1][name]) / 2
    exact = (clients[0][name] + clients[1][name]) / 2
    assert (mean - exact).norm() < 0.15 * exact.norm()


def test_error_feedback_keeps_what_was_lost_small():
    """Sum of 30 received changes against the sum of those made; without feedback the losses add up."""
    model = transformer("vit")
    start = weights(model)
    lost = {}
    for feedback in (True, False):
        codec = parse({"codec": "rptq", "bits": "W2A16", "rounding": "rtn", "error_feedback": feedback}).build()
        base, state, drift = dict(start), {}, moved(start, 9, 0.001)
        received = dict(start)
        for _ in range(30):
            update = {name: base[name] + drift[name] - start[name] for name in base}
            encoded = codec.encode(update, Context(Base(base), state=state))
            got = codec.decode(encoded.blob, layout(base), Base(base))
            received = {name: received[name] + got[name] - base[name] for name in base}
            state, base = encoded.state, got
        name = "blocks.0.mlp.up.weight"
        lost[feedback] = float((received[name] - start[name] - 30 * (drift[name] - start[name])).norm())
    assert lost[True] < 0.1 * lost[False]


def test_models_without_blocks_travel_too_where_no_data_are_asked_for():
    """Convolutions, linear layers, batch normalisation: rounded to the nearest; asked for more, it says why it cannot."""
    sent = mixed_weights()
    codec = codec_of("rptq", bits="W8A16", rounding="rtn")
    got = codec.decode(codec.encode(sent, mixed_context()).blob, layout(sent), mixed_context().base)
    assert all((got[name] - x).abs().max() < 0.01 for name, x in sent.items() if x.is_floating_point())
    with pytest.raises(CodecError, match="no transformer block"):
        codec_of("rptq", bits="W4A8").encode(sent, mixed_context())


def test_embeddings_can_be_rows_of_bytes():
    model = transformer("bert", 64)
    sizes = {}
    for bits in (8, 16, 32):
        codec = rptq(bits="W4A16", rounding="rtn", outside_bits=bits)
        encoded = codec.encode(weights(model))
        (table,) = [t for t in encoded.report.tensors if "word_embeddings" in t.name]
        sizes[bits] = table.encoded_bytes
        got = codec.decode(encoded.blob, layout(weights(model)))[table.name]
        assert (got - weights(model)[table.name]).norm() < 0.01 * got.norm()
    assert sizes == {8: 50 * (64 + 3), 16: 50 * 64 * 2, 32: 50 * 64 * 4}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": "W9A4"}, "2 to 8 or 16 bits"),
        ({"bits": "W1A4"}, "2 to 8 or 16 bits"),
        ({"bits": "4"}, "W<bits>A<bits>"),
        ({"bits": True}, "string"),
        ({"bits": 4.0}, "string"),
        ({"bits": "W16A4"}, "leaves the weights as they are"),
        ({"clusters": (0, 4, 4, 32, 32)}, "greater than or equal to 1"),
        ({"clusters": (257, 4, 4, 32, 32)}, "less than or equal to 256"),
        ({"clusters": (True, 4, 4, 32, 32)}, "integer"),
        ({"clusters": (2.0, 4, 4, 32, 32)}, "integer"),
        ({"granularity": "token"}, "no form to travel in"),
        ({"smooth": 0.5}, "no form to travel in"),
        ({"group": 4}, "greater than or equal to 8"),
        ({"percentile": 50}, "greater than 50"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(SpecError, match=message) as refused:
        parse({"codec": "rptq", **fields})
    assert next(iter(fields)) in str(refused.value)


@pytest.fixture(scope="module")
def upload():
    model = transformer("vit")
    codec = rptq(bits="W4A4")
    return codec, codec.encode(weights(model), context("vit", model)).blob, layout(weights(model))


def resealed(blob, change):
    """Change the blob's header or body, and make its lengths and checksums right again."""
    magic, version, head_bytes, _, _, _ = struct.unpack_from("<4sHIQII", blob)
    head, body = change(blob[26 : 26 + head_bytes], bytearray(blob[26 + head_bytes :]))
    prefix = struct.pack("<4sHIQII", magic, version, len(head), len(body), zlib.crc32(head), zlib.crc32(body))
    return prefix + head + bytes(body)


def replaced(old, new):
    def change(head, body):
        assert old in head
        return head.replace(old, new, 1), body

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-1], "declares"),
        (lambda b: b + b"\0", "declares"),
        (lambda b: b"RPQ1" + b[4:], "not an encoded update"),
        (lambda b: b[:4] + b"\x09\0" + b[6:], "format version 9"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "checksum"),
        (lambda b: resealed(b, replaced(b'"bits":4', b'"bits":9')), "bits = 9"),
        (lambda b: resealed(b, replaced(b'"bits":4', b'"bits":8')), "left of the payload|NaN"),
        (lambda b: resealed(b, replaced(b'"in_bits"', b'"groups":99,"in_bits"')), "groups = 99"),
        (lambda b: resealed(b, replaced(b'"in_clusters":32', b'"in_clusters":999')), "in_clusters = 999"),
        (lambda b: resealed(b, replaced(b'"in_clusters":32', b'"in_clusters":32,"in_heads":7')), "does not divide"),
        (lambda b: resealed(b, replaced(b'"exponent":-', b'"exponent":-99')), "exponent = -99"),
        (lambda b: resealed(b, replaced(b"[96,32]", b"[96,99]")), "expected"),
    ],
)
def test_damaged_uploads_are_refused(upload, damage, message):
    codec, blob, expected = upload
    with pytest.raises(PayloadError, match=message):
        codec.decode(damage(blob), expected)


def test_values_that_no_encoder_writes_are_refused(upload):
    """A label that no cluster has, a scale that is not positive, a zero beyond the codes."""
    codec, _, _ = upload
    stage = codec.stages[0]
    meta = {"bits": 4, "exponent": 0, "in_bits": 4, "in_clusters": 3}
    shape = (8, 16)
    good = [torch.zeros(part.shape, dtype=part.dtype) for part in stage.layout(meta, shape)]
    good[1] += 1
    good[4] += 1
    assert stage.decode(meta, good, shape).shape == shape
    for index, value, message in (
        (1, 0.0, "scale is not positive"),
        (2, 16, "a zero is above"),
        (3, 255, "a code is 3"),
        (4, -1.0, "activation scale"),
        (5, 16, "a zero is above"),
    ):
        bad = [x.clone() for x in good]
        bad[index].fill_(value)
        with pytest.raises(PayloadError, match=message):
            stage.decode(meta, bad, shape)


def test_weights_alone_describe_no_quantised_model(upload):
    model = transformer("vit")
    codec = rptq(bits="W4A16")
    blob = codec.encode(weights(model), context("vit", model)).blob
    with pytest.raises(PayloadError, match="carries weights only"):
        deployed(codec, blob, model)
    other = parse({"codec": "int8", "target": "weights"}).build()
    with pytest.raises(CodecError, match="only uploads of 'rptq'"):
        deployed(other, other.encode(weights(model)).blob, model)


def test_an_upload_of_another_architecture_is_refused(upload):
    codec, blob, _ = upload
    with pytest.raises(PayloadError):
        codec.decode(blob, layout(weights(transformer("vit", 64))))
