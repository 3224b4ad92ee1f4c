"""What each codec does to one tensor, against NumPy or the paper's formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from updates import codec, normal, stream

from fedcosim.compression import Base, Context, layout
from fedcosim.core.errors import CodecError

SMALL_FLOATS = st.floats(-1e6, 1e6, width=32)


def round_trip(x: Tensor, seed: int = 0, **fields) -> Tensor:
    """Encode and decode one tensor as the delta to zero, without feedback."""
    made, base = codec(**fields), Base({"x": torch.zeros_like(x)})
    blob = made.encode({"x": x}, Context(base, stream(seed))).blob
    return made.decode(blob, layout({"x": x}), base)["x"]


@given(x=arrays(np.float32, (9, 11), elements=st.floats(-60000, 60000, width=32)))
def test_fp16_is_numpys_rounding(x):
    decoded = round_trip(torch.from_numpy(x), chain="fp16").numpy()
    assert np.array_equal(decoded, x.astype(np.float16).astype(np.float32))


def test_bf16_keeps_the_upper_half_of_float32_rounded_to_even():
    x = normal(40, 50)
    bits = x.numpy().view(np.uint32).astype(np.uint64)
    rounded = (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)
    assert np.array_equal(round_trip(x, chain="bf16").numpy(), rounded)


def test_numbers_beyond_half_precision_are_refused_with_the_way_out():
    with pytest.raises(CodecError, match="choose codec = 'bf16'"):
        round_trip(torch.full((8, 8), 1e5), chain="fp16")


@pytest.mark.parametrize(("name", "most"), [("int8", 127), ("int4", 7)])
@given(x=arrays(np.float32, (7, 13), elements=SMALL_FLOATS))
def test_row_integers_are_off_by_half_a_step_at_most(name, most, x):
    decoded = round_trip(torch.from_numpy(x), chain=name).numpy().astype(np.float64)
    step = np.abs(x).max(1, keepdims=True).astype(np.float64) / most
    assert (np.abs(decoded - x) <= step * (0.5 + 1e-5) + 1e-37).all()
    assert (np.abs(decoded) <= np.abs(x).max(1, keepdims=True) * (1 + 1e-6) + 1e-37).all()


def test_rows_have_their_own_scales():
    """A row a million times smaller than its neighbour keeps its seven bits."""
    x = normal(4, 64) * torch.tensor([1e-9, 1e-3, 1.0, 1e6])[:, None]
    error = (round_trip(x, chain="int8") - x).norm(dim=1) / x.norm(dim=1)
    assert (error < 0.02).all()


@pytest.mark.parametrize("keep", [0.004, 0.03, 0.2, 0.9])
def test_top_k_keeps_exactly_the_largest(keep):
    """Indices below one value in 32, a bitmap above: both must tell the same."""
    x = normal(30, 50)
    decoded = round_trip(x, chain="topk", keep=keep, error_feedback=False).numpy().ravel()
    kept = int(np.ceil(keep * 1500))
    largest = np.argsort(-np.abs(x.numpy().ravel()))[:kept]
    expected = np.zeros(1500, np.float32)
    expected[largest] = x.numpy().ravel()[largest]
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize(
    "fields", [{"chain": "qsgd", "bits": 3, "bucket": 50}, {"chain": "fedpaq"}, {"chain": "randomk", "keep": 0.3}], ids=str
)
def test_random_codecs_are_right_on_average(fields):
    """The mean of many draws is within five standard errors of what was sent, everywhere."""
    x, draws = normal(6, 40), 400
    decoded = torch.stack([round_trip(x, seed, **fields) for seed in range(draws)]).double()
    assert ((decoded.mean(0) - x).abs() <= 5 * decoded.std(0) / draws**0.5 + 1e-6).all()
    assert decoded.std(0).max() > 0


@given(x=arrays(np.float32, 130, elements=SMALL_FLOATS), bits=st.integers(2, 8), seed=st.integers(0, 99))
def test_qsgd_draws_a_neighbouring_level(x, bits, seed):
    decoded = round_trip(torch.from_numpy(x), seed, chain="qsgd", bits=bits, bucket=65).numpy().astype(np.float64)
    norms = np.repeat(np.linalg.norm(x.reshape(2, 65).astype(np.float64), axis=1), 65)
    assert (np.abs(decoded - x) <= norms / (2 ** (bits - 1) - 1) * (1 + 1e-4) + 1e-18).all()  # single-precision norms underflow
    assert (decoded * x >= 0).all()


def test_signs_have_the_mean_magnitude():
    x = normal(20, 30)
    x[0, 0] = 0.0
    expected = np.where(x.numpy() >= 0, 1, -1) * np.abs(x.numpy()).mean()
    np.testing.assert_allclose(round_trip(x, chain="signsgd", error_feedback=False), expected, rtol=1e-6)


def test_signs_take_one_bit():
    x = normal(400, 500)
    blob = codec("signsgd").encode({"x": x}, Context(Base({"x": torch.zeros_like(x)}))).blob
    assert len(blob) < 400 * 500 / 8 + 250


def test_power_sgd_converges_to_the_best_factors_over_rounds():
    """One iteration a round, each from the last one's end: on an update that stays, subspace iteration."""
    x, made, state = normal(40, 4) @ normal(4, 60, seed=1) + 0.1 * normal(40, 60, seed=2), codec("powersgd"), {}
    made.error_feedback = False
    base, errors = Base({"x": torch.zeros(40, 60)}), []
    for _ in range(6):
        encoded = made.encode({"x": x}, Context(base, stream(), state=state))
        state = encoded.state
        errors.append(encoded.report.error)
    s = np.linalg.svd(x.numpy(), compute_uv=False)
    best = float(np.sqrt((s[4:] ** 2).sum() / (s**2).sum()))
    assert errors[0] > 1.05 * best
    assert errors[-1] == pytest.approx(best, rel=1e-3)


def test_power_sgd_sends_four_bytes_a_number_of_both_factors():
    x = normal(100, 200)
    (report,) = codec("powersgd", rank=3).encode({"x": x}, Context(Base({"x": 0 * x}), stream())).report.tensors
    assert report.encoded_bytes == 4 * 3 * (100 + 200)


@pytest.mark.parametrize("chain", ["int8", "int4", "topk", "qsgd", "signsgd", "powersgd", "svd", ["svd", "int8"]], ids=str)
def test_an_update_of_nothing_decodes_to_nothing(chain):
    """Scales, norms and singular values of 0 must not divide."""
    assert torch.equal(round_trip(torch.zeros(20, 30), chain=chain), torch.zeros(20, 30))


def test_convolutions_are_matrices_of_outputs_times_the_rest():
    x = (normal(16, 5, seed=1) @ normal(5, 72, seed=2)).reshape(16, 8, 3, 3)
    torch.testing.assert_close(round_trip(x, chain="svd", ratio=0.5, error_feedback=False), x, rtol=1e-4, atol=1e-4)
