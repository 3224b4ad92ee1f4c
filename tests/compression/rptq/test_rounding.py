"""Weights as integers: the grid, GPTQ's gain, what happens to Hessians that are of no use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_models import inputs, transformer

from fedcosim.compression import Calibration
from fedcosim.compression.rptq import Recipe, blocks, quantise
from fedcosim.compression.rptq.calibrate import watching
from fedcosim.compression.rptq.quantiser import grid
from fedcosim.compression.rptq.ranges import ranges
from fedcosim.compression.rptq.rounding import gptq, round_to_nearest


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40)
@given(
    bits=st.integers(2, 8),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-12, 1e-4, 1.0, 1e6]),
    group=st.sampled_from([None, 8]),
)
def test_no_weight_moves_by_more_than_half_a_step(bits, seed, scale, group):
    """Whatever the magnitude: scales of a round's change lie far below a half's range. And nothing grows."""
    weight_oi = normal(6, 20, seed=seed) * scale * torch.logspace(-2, 0, 6)[:, None]
    one = round_to_nearest(weight_oi, bits, group)
    assert int(one.codes_oi.max()) < 2**bits
    for part in (range(20),) if group is None else (range(7), range(7, 14), range(14, 20)):
        w_oj, error_oj = weight_oi[:, part], (one.values() - weight_oi)[:, part]
        step_o = (w_oj.amax(1).clamp(min=0) - w_oj.amin(1).clamp(max=0)) / (2**bits - 1)
        # rounding the scale to a half may clip the ends by 2^-11 of the range
        assert (error_oj.abs().amax(1) <= step_o * (0.5 + 2**bits / 2**11) + 1e-30).all()
    assert (one.values() - weight_oi).norm() <= weight_oi.norm()


def test_zeros_stay_zeros():
    one = round_to_nearest(torch.zeros(4, 10), 4)
    assert torch.equal(one.values(), torch.zeros(4, 10))


@pytest.mark.parametrize("bits", [3, 4])
def test_gptq_changes_outputs_less_than_rounding_to_the_nearest(bits):
    """On the quantised inputs that each layer has: at least 95 % of all layers."""
    wins, layers = 0, 0
    for kind in ("vit", "opt", "llama", "bert", "gpt2"):
        model, x = transformer(kind), inputs(kind, 32)
        made = {how: quantise(Calibration(model, [x]), Recipe(bits=f"W{bits}A16", rounding=how)) for how in ("gptq", "rtn")}
        for block in blocks(model)[:1]:
            ends = [(layer, "in") for layer in block.layers]
            with watching(model, ends) as seen, torch.no_grad():
                model(x)
            for layer, _ in ends[:-2]:  # of the first block, the float inputs are what GPTQ saw for the first layers
                x_ti = torch.cat(seen[layer, "in"])
                name = f"{layer}.weight"
                exact = dict(model.named_parameters())[name].detach()
                exact = exact.T if made["rtn"].rounded[name].turned else exact
                lost = {how: float(((one.rounded[name].values() - exact) @ x_ti.T).square().sum()) for how, one in made.items()}
                wins += lost["gptq"] <= lost["rtn"]
                layers += 1
    assert layers > 12
    assert wins >= 0.95 * layers


def test_gptq_is_the_papers_algorithm():
    """Against its definition in NumPy: after each column, the others take the least-squares optimum of what is left."""
    weight_oi, x_ti = normal(5, 12), normal(40, 12, seed=1) @ normal(12, 12, seed=2)
    made = gptq(weight_oi, x_ti.T @ x_ti, 3)
    moment = (x_ti.T @ x_ti).double().numpy()
    moment += 0.01 * np.mean(np.diag(moment)) * np.eye(12)
    w = weight_oi.double().numpy().copy()
    scale = made.half_og.double().numpy() * 2.0**made.exponent
    zero = made.zero_og.double().numpy()
    for j in range(12):
        codes = np.clip(np.round(w[:, j : j + 1] / scale) + zero, 0, 7)
        assert np.array_equal(codes[:, 0], made.codes_oi[:, j].numpy())
        lost = w[:, j] - ((codes - zero) * scale)[:, 0]
        rest = np.arange(j + 1, 12)
        if len(rest):
            w[:, rest] += np.outer(lost, np.linalg.solve(moment[np.ix_(rest, rest)], moment[rest, j]))


def test_dead_inputs_and_useless_hessians():
    weight_oi = normal(4, 16)
    x_ti = normal(50, 16, seed=1)
    x_ti[:, 3] = 0
    made = gptq(weight_oi, x_ti.T @ x_ti, 4).values()
    assert torch.equal(made[:, 3], round_to_nearest(weight_oi, 4).values()[:, 3])  # other data may reach it
    few = gptq(weight_oi, x_ti[:2].T @ x_ti[:2], 4)
    assert not few.note
    indefinite = -100 * torch.eye(16) + 3 * torch.ones(16, 16)
    made = gptq(weight_oi, indefinite, 4)
    assert "rounded to the nearest" in made.note
    assert torch.equal(made.values(), round_to_nearest(weight_oi, 4).values())


def test_ranges_by_their_definitions():
    x_tc = normal(60, 6) * torch.tensor([1.0, 2, 1, 2, 5, 5])
    ids_c = torch.tensor([0, 1, 0, 1, 2, 2])
    groups = [x_tc[:, ids_c == k].numpy() for k in range(3)]
    low_k, high_k = ranges(x_tc, ids_c, "minmax", 4, 10, 99.9)
    assert low_k.tolist() == [float(g.min()) for g in groups]
    assert high_k.tolist() == [float(g.max()) for g in groups]
    low_k, high_k = ranges(x_tc, ids_c, "percentile", 4, 10, 90)
    np.testing.assert_allclose(high_k, [np.quantile(g, 0.9, method="nearest") for g in groups], rtol=1e-6)
    np.testing.assert_allclose(low_k, [np.quantile(g, 0.1, method="nearest") for g in groups], rtol=1e-6)
    ema_c = x_tc[:10].max(0).values.numpy()
    for start in range(10, 60, 10):
        ema_c = 0.99 * ema_c + 0.01 * x_tc[start : start + 10].max(0).values.numpy()
    low_k, high_k = ranges(x_tc, ids_c, "ema", 4, 10, 99.9)
    np.testing.assert_allclose(high_k, [ema_c[ids_c.numpy() == k].max() for k in range(3)], rtol=1e-5)


def test_ema_depends_on_the_order_of_samples_and_extremes_do_not():
    x_tc, ids_c = normal(60, 6).sort(0).values, torch.zeros(6, dtype=torch.int64)
    turned = x_tc.flip(0)
    for metric, same in (("minmax", True), ("ema", False)):
        a, b = (ranges(x, ids_c, metric, 4, 10, 99.9)[1] for x in (x_tc, turned))
        assert torch.equal(a, b) == same


def test_the_least_error_is_never_above_that_of_the_extremes():
    x_tc = normal(400, 4) ** 3
    ids_c = torch.arange(4)

    def error(metric):
        scale, zero = grid(*ranges(x_tc, ids_c, metric, 3, 400, 99.9), 3)
        codes = ((x_tc / scale).round() + zero).clamp(0, 7)
        return ((codes - zero) * scale - x_tc).square().mean(0)

    assert (error("mse") <= error("minmax") + 1e-6).all()
    assert error("mse").sum() < 0.95 * error("minmax").sum()
