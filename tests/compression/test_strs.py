"""The search for ranks, against trying every cut, and its sensitivities, against truncating by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from updates import context, normal

from fedcosim.compression.lowrank import decompose
from fedcosim.compression.strs import Candidate, by_loss, by_stable_rank, candidate_ranks, cost, search
from fedcosim.core.errors import CalibrationError, CodecError

RATIOS = [n / 10 for n in range(1, 10)]


def random_search(seed: int, layers: int) -> tuple[dict[str, tuple[int, int]], list[Candidate]]:
    rng = np.random.default_rng(seed)
    shapes = {f"layer{n}": (int(rng.integers(16, 200)), int(rng.integers(16, 200))) for n in range(layers)}
    candidates = [
        Candidate(name, rank, float(rng.normal())) for name, shape in shapes.items() for rank in candidate_ranks(*shape, RATIOS)
    ]
    return shapes, candidates


def every_cut(shapes, candidates):
    """Yield what each cut leaves to travel, and the ranks, straight from the definition."""
    ordered = sorted(candidates, key=lambda c: (-c.sensitivity, c.layer, c.rank))
    for cut in range(len(ordered) + 1):
        ranks = {name: min((c.rank for c in ordered[cut:] if c.layer == name), default=None) for name in shapes}
        yield sum(ranks[n] * (o + i) if ranks[n] else o * i for n, (o, i) in shapes.items()), ranks


@given(seed=st.integers(0, 500), layers=st.integers(1, 6), ratio=st.floats(0.1, 1))
def test_the_best_cut_is_found_and_what_it_leaves_over_is_used(seed, layers, ratio):
    shapes, candidates = random_search(seed, layers)
    total = sum(o * i for o, i in shapes.values())
    feasible = [(travels, ranks) for travels, ranks in every_cut(shapes, candidates) if travels <= ratio * total]
    if not feasible:
        with pytest.raises(CodecError, match="smallest candidates"):
            search(shapes, candidates, ratio)
        return
    best = max(travels for travels, _ in feasible)
    found = search(shapes, candidates, ratio)
    assert best <= cost(shapes, found) <= ratio * total
    of_best_cut = [ranks for travels, ranks in feasible if travels == best]
    assert any(sum(found.get(name) != rank for name, rank in ranks.items()) <= 1 for ranks in of_best_cut)


def test_vision_transformers_reach_targets_within_a_point():
    """72 matrices of ViT-B, random sensitivities: the published search misses targets upwards in one of five."""
    block = {"q": (768, 768), "k": (768, 768), "v": (768, 768), "o": (768, 768), "fc1": (3072, 768), "fc2": (768, 3072)}
    shapes = {f"{n}.{kind}": shape for n in range(12) for kind, shape in block.items()}
    total = sum(o * i for o, i in shapes.values())
    for seed in range(5):
        rng = np.random.default_rng(seed)
        candidates = [Candidate(n, k, float(rng.normal())) for n, s in shapes.items() for k in candidate_ranks(*s, RATIOS)]
        achieved = [cost(shapes, search(shapes, candidates, ratio)) / total for ratio in RATIOS]
        assert all(ratio - 0.01 <= reached <= ratio for reached, ratio in zip(achieved, RATIOS, strict=True) if ratio > 0.1)
        assert achieved == sorted(achieved)


def test_infeasible_targets_name_what_can_be_reached():
    shapes, candidates = random_search(1, 4)
    least = min(travels for travels, _ in every_cut(shapes, candidates)) / sum(o * i for o, i in shapes.values())
    with pytest.raises(CodecError, match=f"ratio = 0.05: the smallest candidates reach {least:.4f}"):
        search(shapes, candidates, 0.05)


def test_candidates_that_save_nothing_are_left_out():
    assert candidate_ranks(100, 100, [0.001, 0.5, 0.98, 0.99, 1.0]) == [25, 49]


def test_sensitivities_by_loss_are_those_of_one_layer_truncated_by_hand():
    calibration = context().calibration
    weights = {name: calibration.module.get_parameter(name).detach() for name in ("4.weight", "6.weight")}
    decompositions = {name: decompose(x) for name, x in weights.items()}

    def lost(name, rank):
        left_ok, right_ki = decompositions[name].factors(rank)
        return (weights[name].double() - left_ok @ right_ki).float()

    found = by_loss(calibration, {name: tuple(x.shape) for name, x in weights.items()}, [0.2, 0.6], lost)
    assert len(found) == 4
    for candidate in found:
        u, s, vt = np.linalg.svd(weights[candidate.layer].numpy())
        k = candidate.rank
        swapped = {candidate.layer: torch.from_numpy(u[:, :k] * s[:k] @ vt[:k])}
        with torch.no_grad():
            logits = [torch.func.functional_call(calibration.module, swapped, (x,)) for x in calibration.batches]
        expected = np.mean([float(torch.nn.functional.cross_entropy(y, torch.arange(16) % 10)) for y in logits])
        assert candidate.sensitivity == pytest.approx(expected, rel=1e-5)


def test_layers_that_the_model_lacks_are_named():
    with pytest.raises(CalibrationError, match="no parameter 'stranger'"):
        by_loss(context().calibration, {"stranger": (10, 10)}, [0.5], lambda *_: torch.zeros(10, 10))


@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_stable_ranks_are_the_published_formula(shape):
    weight_oi = normal(*shape)
    s = np.linalg.svd(weight_oi.double().numpy(), compute_uv=False)
    for candidate in by_stable_rank({"w": weight_oi}, [0.3, 0.6]):
        ratio = candidate.rank * 80 / 1500
        expected = -np.sqrt((s**2).sum() / s[0] ** 2) * ratio**0.1
        assert candidate.sensitivity == pytest.approx(expected, rel=1e-5)
