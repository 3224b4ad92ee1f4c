"""Numbers and functions as labels: losses and figures by their definitions, and that they can be learnt."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from fedcosim.clients.data.multimodal import Samples
from fedcosim.clients.data.silos import Function, Number, SiloType, Tokens
from fedcosim.clients.models.towers import TowersOptions
from fedcosim.clients.tasks.labelled import judge_functions, judge_numbers, likeness, standardised
from fedcosim.clients.tasks.multimodal import MultimodalTrainOptions, fit, judge

OPTIONS = TowersOptions(dim=16, depth=1, heads=2)
TEXT = Tokens(vocabulary=12, length=6)
TRAIN = MultimodalTrainOptions(optimizer="adam", lr=0.01, epochs=60, batch_size=20)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(samples: int = 60, patterns: int = 8) -> torch.Tensor:
    return torch.randint(0, 2, (samples, patterns), generator=stream()).bool()


def apart(a, b) -> float:
    return 1 - float(a @ b / (a.norm() * b.norm()))


def test_likeness_is_how_far_normalised_distances_are_from_those_of_functions():
    z_BD, truth_BP = torch.randn(7, 5, generator=stream(), dtype=torch.float64), bits(7)
    pairs = list(itertools.combinations(range(7), 2))
    distances = np.array([apart(z_BD[i], z_BD[j]) for i, j in pairs])
    functions = np.array([float((truth_BP[i] != truth_BP[j]).double().mean()) for i, j in pairs])
    normal = [(values - values.mean()) / values.std(ddof=1) for values in (distances, functions)]
    assert likeness(z_BD, truth_BP).item() == pytest.approx(((normal[0] - normal[1]) ** 2).mean(), abs=1e-6)


@pytest.mark.parametrize("samples", [1, 2])
def test_distances_that_cannot_vary_teach_nothing(samples):
    z_BD = torch.randn(samples, 4, requires_grad=True)
    likeness(z_BD, bits(samples)).backward()
    assert not z_BD.grad.any()
    same = torch.ones(4, 4, requires_grad=True)
    likeness(same, bits(4)).backward()
    assert torch.isfinite(same.grad).all()


def test_numbers_are_judged_in_their_own_unit():
    number, right_N = Number(mean=math.log(4), deviation=2.0, log=True), torch.tensor([2.0, 4.0, 8.0], dtype=torch.float64)
    assert standardised(right_N, number).tolist() == pytest.approx([-math.log(2) / 2, 0, math.log(2) / 2])
    perfect = judge_numbers(standardised(right_N, number), right_N, number)
    assert (perfect["mae"], perfect["mape"]) == pytest.approx((0, 0), abs=1e-5)
    assert perfect["r2"] == pytest.approx(1)
    constant = judge_numbers(torch.zeros(3), right_N, number)
    assert constant["mae"] == pytest.approx(constant["mae_constant"]) == pytest.approx((2 + 0 + 4) / 3)
    assert constant["mape"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert constant["r2"] == pytest.approx(0)
    zeros = judge_numbers(torch.zeros(2), torch.tensor([0.0, 1.0]), Number(0.5, 0.5))
    assert "mape" not in zeros
    assert "r2" not in judge_numbers(torch.zeros(2), torch.ones(2), Number(0.5, 0.5))


def test_functions_are_judged_by_ranks_of_all_pairs():
    embedding_NVD = F.normalize(torch.randn(20, 1, 6, generator=stream(1)), dim=2)
    truth_NP, texts_NVL = bits(20, 16), torch.ones(20, 1, 3, dtype=torch.int64)
    found = judge_functions(embedding_NVD, texts_NVL, truth_NP)
    pairs = list(itertools.combinations(range(20), 2))
    differing = [float((truth_NP[i] != truth_NP[j]).double().mean()) for i, j in pairs]
    distances = [apart(embedding_NVD[i, 0], embedding_NVD[j, 0]) for i, j in pairs]
    assert found["spearman"] == pytest.approx(spearmanr(distances, differing).statistic, abs=1e-3)
    ones = truth_NP.double().mean(1)
    like = [n for n, (i, j) in enumerate(pairs) if abs(ones[i] - ones[j]) <= 0.05]
    balanced = spearmanr([distances[n] for n in like], [differing[n] for n in like]).statistic
    assert found["spearman_balanced"] == pytest.approx(balanced, abs=1e-3)
    assert "equivalence_auc" not in found


def test_equivalence_counts_other_writings_against_equally_long_others():
    """Sample 2 is longer and sample 3 was not rewritten: neither counts."""
    texts = torch.tensor([[[1, 2, 0], [2, 1, 0]], [[2, 2, 0], [1, 1, 0]], [[1, 2, 3], [3, 2, 1]], [[1, 1, 0], [1, 1, 0]]])
    angles = torch.tensor([[0.0, 0.1], [0.5, 0.9], [3.0, 1.0], [2.0, 2.0]])
    embedding = torch.stack([angles.cos(), angles.sin()], dim=2)
    auc = judge_functions(embedding, texts, bits(4))["equivalence_auc"]
    others = [0.5, 2.0, 1.5]  # angles between the first writings of 0 and 1, 0 and 3, 1 and 3
    same = [0.1, 0.4, 2.0]  # of 0, 1, 2
    assert auc == pytest.approx(np.mean([(a < b) + (a == b) / 2 for a in same for b in others]))


def test_functions_can_be_learnt():
    truth_NP = bits(patterns=6)
    view = 1 + truth_NP.long()[:, None]
    model = OPTIONS.build_for(SiloType("code", {"code": TEXT}, Function(6)), 0)
    samples = Samples({"code": view}, torch.arange(60), truth_NP)
    before = judge(model, samples)["spearman"]
    fit(model, samples, TRAIN, stream())
    assert judge(model, samples)["spearman"] > max(0.8, before)


def test_numbers_can_be_learnt():
    truth_NP = bits(patterns=6)
    counts_N = 1 + truth_NP.sum(1).double()
    number = Number(counts_N.log().mean().item(), counts_N.log().std().item(), log=True)
    model = OPTIONS.build_for(SiloType("code", {"code": TEXT}, number), 0)
    samples = Samples({"code": 1 + truth_NP.long()[:, None]}, torch.arange(60), counts_N)
    fit(model, samples, TRAIN, stream())
    found = judge(model, samples)
    assert found["r2"] > 0.8
    assert found["mae"] < found["mae_constant"] / 2
