"""Factors against closed forms: Eckart-Young, the whitening theorem, outputs on data with planted structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fedcosim.compression.aggregate import mean_factors
from fedcosim.compression.asvd import AsvdOptions
from fedcosim.compression.lowrank import affordable_rank, cholesky_root, decompose, saves, warm
from fedcosim.core.errors import CodecError

SHAPES = [(40, 70), (70, 40), (50, 50)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def product(weight_oi: Tensor, scale: Tensor | None, rank: int, how: str = "gram") -> Tensor:
    left_ok, right_ki = decompose(weight_oi, scale, how).factors(rank)
    return left_ok @ right_ki


def relative(difference: Tensor, of: Tensor) -> float:
    return float(difference.norm() / of.norm())


@pytest.mark.parametrize("how", ["gram", "exact"])
@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_is_the_matrix_itself(shape, how):
    weight_oi = normal(*shape)
    for scale in (None, normal(shape[1], seed=1).abs() + 0.1, cholesky_root(normal(shape[1], 500, seed=2).cov())):
        assert (product(weight_oi, scale, min(shape), how) - weight_oi).abs().max() < 1e-10
    left_ok, right_ki = decompose(weight_oi.float()).factors(min(shape))
    assert relative(left_ok.float() @ right_ki.float() - weight_oi.float(), weight_oi) < 1e-4


@pytest.mark.parametrize("fuse", ["UV", "U", "V"])
@pytest.mark.parametrize("shape", SHAPES)
def test_without_scales_it_is_the_truncated_svd_of_lapack(shape, fuse):
    weight_oi = normal(*shape)
    u, s, vt = np.linalg.svd(weight_oi.numpy(), full_matrices=False)
    left_ok, right_ki = decompose(weight_oi).factors(12, fuse)
    np.testing.assert_allclose((left_ok @ right_ki).numpy(), u[:, :12] * s[:12] @ vt[:12], atol=1e-10)
    carries = {"UV": (np.sqrt(s[:12]), np.sqrt(s[:12])), "U": (s[:12], np.ones(12)), "V": (np.ones(12), s[:12])}[fuse]
    np.testing.assert_allclose(left_ok.norm(dim=0).numpy(), carries[0], rtol=1e-9)
    np.testing.assert_allclose(right_ki.norm(dim=1).numpy(), carries[1], rtol=1e-9)


@pytest.mark.parametrize("how", ["gram", "exact"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_diagonal_scale_gives_the_papers_factors(shape, how):
    """ASVD's eqs. 3-6 divide by S; the projection does not, and must give the same matrix."""
    weight_oi, scale_i = normal(*shape), normal(shape[1], seed=1).abs() + 0.05
    u, s, vt = np.linalg.svd(weight_oi.numpy() * scale_i.numpy(), full_matrices=False)
    paper = (u[:, :9] * s[:9]) @ (vt[:9] / scale_i.numpy())
    np.testing.assert_allclose(product(weight_oi, scale_i, 9, how).numpy(), paper, atol=1e-9)


def test_calibration_loss_of_whitening_is_what_its_singular_values_say():
    """SVD-LLM's theorem: |(W - W_k) X|_F^2 is the sum of the squared singular values that were cut, times the tokens."""
    x_ti, weight_oi = normal(3000, 96) @ normal(96, 96, seed=1), normal(64, 96, seed=2)
    decomposition = decompose(weight_oi, cholesky_root(x_ti.T @ x_ti / len(x_ti)))
    for rank in (1, 16, 40):
        left_ok, right_ki = decomposition.factors(rank)
        loss = float(((weight_oi - left_ok @ right_ki) @ x_ti.T).norm())
        assert loss == pytest.approx(decomposition.lost(rank) * len(x_ti) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_few_tokens_are_a_root_themselves(shape):
    """Any S with S S^T = C gives the same factors; as many ranks as tokens keep all outputs."""
    weight_oi, few_it = normal(*shape), normal(shape[1], 12, seed=1)
    shifted = few_it @ few_it.T + 1e-6 * few_it.square().sum() / shape[1] * torch.eye(shape[1])
    np.testing.assert_allclose(
        product(weight_oi, few_it, 20), product(weight_oi, torch.linalg.cholesky(shifted.double()), 20), atol=1e-4
    )
    kept = product(weight_oi, few_it, 12)
    assert relative(kept @ few_it - weight_oi @ few_it, weight_oi @ few_it) < 1e-2


def output_errors(weight_oi: Tensor, calibration_ti: Tensor, held_out_ti: Tensor, rank: int) -> dict[str, float]:
    """Return the relative error of outputs on held-out inputs."""
    mean_i, largest_i = calibration_ti.abs().mean(0), calibration_ti.abs().amax(0)
    scales = {
        "svd": None,
        "alpha 0": AsvdOptions(alpha=0).scale(mean_i),
        "alpha 0.5": AsvdOptions().scale(mean_i),
        "alpha 1": AsvdOptions(alpha=1).scale(mean_i),
        "abs_max": AsvdOptions(scale_by="abs_max").scale(largest_i),
        "whitening": cholesky_root(calibration_ti.T @ calibration_ti / len(calibration_ti)),
    }
    outputs = held_out_ti @ weight_oi.T
    return {
        name: relative(held_out_ti @ (weight_oi - product(weight_oi, scale, rank)).T, outputs) for name, scale in scales.items()
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_outlier_channels_are_kept(seed):
    """The paper's motive: eight inputs fifty times larger than the rest decide about the outputs."""
    weight_oi = normal(256, 512, seed=seed) / 512**0.5
    inputs = normal(8192, 512, seed=100 + seed)
    inputs[:, 3::64] *= 50
    errors = output_errors(weight_oi, inputs[:4096], inputs[4096:], 85)
    assert errors["alpha 0"] == pytest.approx(errors["svd"], rel=1e-9)
    assert all(errors[name] <= 0.25 * errors["svd"] for name in ("alpha 0.5", "alpha 1", "abs_max", "whitening"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_correlated_inputs_need_whitening_and_the_weights_pay(seed):
    """Outputs: whitening before ASVD before SVD. Weights: SVD is best, by Eckart-Young."""
    weight_oi = normal(128, 256, seed=seed) / 16
    inputs = normal(6000, 256, seed=10 + seed) @ (
        normal(256, 256, seed=20 + seed) * torch.logspace(0, -2, 256).double()[:, None]
    )
    inputs[:, 5::64] *= 50
    calibration_ti, held_out_ti = inputs[:4000], inputs[4000:]
    errors = output_errors(weight_oi, calibration_ti, held_out_ti, 42)
    assert errors["whitening"] < errors["alpha 0.5"] < errors["svd"]
    scale = AsvdOptions().scale(calibration_ti.abs().mean(0))
    assert relative(weight_oi - product(weight_oi, None, 42), weight_oi) <= relative(
        weight_oi - product(weight_oi, scale, 42), weight_oi
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_truncation_projects_so_norms_never_grow(shape):
    """A server may count on it in exact arithmetic: W_k = U U^T W. Inputs that are always 0 must not break it."""
    weight_oi, scale_i = normal(*shape), normal(shape[1], seed=1).abs()
    scale_i[::3] = 0
    for scale in (None, scale_i, cholesky_root(normal(shape[1], 20, seed=2).cov()), normal(shape[1], 20, seed=2)):
        truncated = product(weight_oi, scale, 15)
        assert truncated.norm() <= weight_oi.norm() * (1 + 1e-12)
        left_ok, _ = decompose(weight_oi, scale).factors(15, "V")
        gram = left_ok.T @ left_ok
        np.testing.assert_allclose(gram @ gram, gram, atol=1e-6)
        np.testing.assert_allclose(truncated, left_ok @ left_ok.T @ weight_oi, atol=1e-10)


def test_factors_do_not_depend_on_the_scales_unit():
    weight_oi, scale_i = normal(30, 40), normal(40, seed=1).abs() + 0.1
    options = AsvdOptions()
    np.testing.assert_allclose(
        product(weight_oi, options.scale(scale_i), 7), product(weight_oi, options.scale(1e6 * scale_i), 7), atol=1e-10
    )


def test_signs_are_chosen_by_the_largest_entry():
    weight_oi = normal(30, 50)
    left_ok, right_ki = decompose(weight_oi).factors(10)
    other_left_ok, other_right_ki = decompose(-weight_oi).factors(10)
    assert (left_ok.gather(0, left_ok.abs().argmax(0, keepdim=True)) > 0).all()
    np.testing.assert_allclose(left_ok, other_left_ok, atol=1e-9)
    np.testing.assert_allclose(right_ki, -other_right_ki, atol=1e-9)


@pytest.mark.parametrize(
    ("outputs", "inputs", "ranks"),
    [
        (4096, 4096, (204, 1024, 1843)),
        (11008, 4096, (298, 1492, 2686)),
        (3072, 768, (61, 307, 552)),
        (768, 768, (38, 192, 345)),
    ],
)
def test_ranks_are_the_published_codes(outputs, inputs, ranks):
    assert tuple(affordable_rank(outputs, inputs, ratio) for ratio in (0.1, 0.5, 0.9)) == ranks


@pytest.mark.parametrize(
    ("shape", "most"), [((4096, 4096), 2047), ((11008, 4096), 2985), ((3072, 768), 614), ((768, 768), 383)]
)
def test_factors_save_up_to_the_break_even_rank(shape, most):
    assert saves(most, *shape)
    assert not saves(most + 1, *shape)


@pytest.mark.parametrize("rank", [0, 41, -1])
def test_ranks_that_do_not_exist_are_refused(rank):
    with pytest.raises(CodecError, match="ranks from 1 to 40"):
        decompose(normal(40, 70)).factors(rank)


def test_matrices_and_scales_that_cannot_be_used_are_refused():
    weight_oi = normal(10, 20)
    with pytest.raises(CodecError, match="does not fit"):
        decompose(weight_oi, torch.ones(10))
    with pytest.raises(CodecError, match="not finite"):
        decompose(weight_oi, torch.full((20,), float("nan")))
    with pytest.raises(CodecError, match="not finite"):
        cholesky_root(torch.full((3, 3), float("inf")))


def test_a_warm_start_finds_what_a_cold_one_does():
    """The update of the next round resembles the last one's; two iterations from there suffice."""
    signal_oi = normal(60, 8) @ normal(8, 90, seed=1)
    before_oi = signal_oi + 0.05 * normal(60, 90, seed=2)
    now_oi = signal_oi + 0.05 * normal(60, 90, seed=3)
    started, lost = warm(now_oi, None, decompose(before_oi).left_or[:, :8])
    left_ok, right_ki = started.factors(8)
    best = relative(now_oi - product(now_oi, None, 8), now_oi)
    assert lost == pytest.approx(best, rel=1e-3)
    assert relative(now_oi - left_ok @ right_ki, now_oi) == pytest.approx(best, rel=1e-3)


def test_a_mean_of_factors_is_the_mean_of_products():
    """Averaging factors instead would even give 0 for two equal clients, one of whom has the other signs."""
    clients = [(w, normal(30, k, seed=k), normal(k, 50, seed=50 + k)) for w, k in ((1.0, 4), (3.0, 8), (2.0, 2))]
    dense_oi = sum(weight * (left_ok @ right_ki) for weight, left_ok, right_ki in clients) / 6
    left_oq, right_qi = mean_factors(clients)
    np.testing.assert_allclose(left_oq @ right_qi, dense_oi, atol=1e-10)
    u, s, vt = np.linalg.svd(dense_oi.numpy())
    left_oq, right_qi = mean_factors(clients, rank=5)
    np.testing.assert_allclose(left_oq @ right_qi, u[:, :5] * s[:5] @ vt[:5], atol=1e-10)
    left_ok, right_ki = clients[0][1:]
    left_oq, right_qi = mean_factors([(1, left_ok, right_ki), (1, -left_ok, -right_ki)])
    np.testing.assert_allclose(left_oq @ right_qi, left_ok @ right_ki, atol=1e-10)


@pytest.mark.parametrize(
    "clients", [[], [(0.0, torch.ones(3, 1), torch.ones(1, 3))], [(1.0, torch.ones(3, 2), torch.ones(1, 3))]]
)
def test_means_of_nothing_or_of_what_does_not_fit_are_refused(clients):
    with pytest.raises(CodecError):
        mean_factors(clients)
