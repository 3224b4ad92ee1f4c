"""Recall at k: against a definition written out, with ties against the model, several right answers, and what chance gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from fedcosim.clients.tasks.retrieval import chance, judged, ranks, recalls


@given(st.data())
def test_ranks_are_those_of_the_definition(data):
    """One query after the other: sort candidates by score, wrong ones first where equal; the first right one's place."""
    samples, queries, candidates = (data.draw(st.integers(1, n)) for n in (4, 5, 8))
    owner_c = list(range(samples)) + data.draw(st.lists(st.integers(0, samples - 1), max_size=candidates))
    owner_q = data.draw(st.lists(st.integers(0, samples - 1), min_size=queries, max_size=queries))
    scores = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=queries * len(owner_c), max_size=queries * len(owner_c))))
    scores = scores.reshape(queries, -1).astype(np.float32)
    found = ranks(torch.tensor(scores), torch.tensor(owner_q), torch.tensor(owner_c))
    for query, owner in enumerate(owner_q):
        order = sorted(range(len(owner_c)), key=lambda c: (-scores[query, c], owner_c[c] == owner))
        places = [place for place, c in enumerate(order) if owner_c[c] == owner]
        wrong_before = places[0] - sum(owner_c[c] == owner for c in order[: places[0]])
        assert found[query] == 1 + wrong_before


def test_a_model_that_says_the_same_of_everything_finds_nothing():
    """Collapsed embeddings tie everywhere; counted kindly they would look perfect."""
    same = torch.ones(20, 1, 4) / 2
    figures = judged({"image": same, "text": same})
    assert figures["retrieval_sum_1_5_10"] == 0


def test_a_perfect_model_finds_everything_and_sums_are_what_their_names_say():
    exact = torch.eye(20)[:, None]
    figures = judged({"image": exact, "text": exact})
    assert figures["retrieval_sum_1"] == 2
    assert figures["retrieval_sum_1_5_10"] == 6
    assert figures["retrieval_gallery"] == 20
    assert figures["retrieval_chance"] == pytest.approx(2 * (1 + 5 + 10) / 20)


def test_the_chance_level_is_what_random_embeddings_reach():
    """Two captions an image: text to image has 20 right of 20 candidates each, image to text two of 40."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(200):
        images, texts = (F.normalize(torch.randn(20, views, 16, generator=generator), dim=2) for views in (1, 2))
        found.append(judged({"image": images, "text": texts}))
    mean = np.mean([figures["retrieval_sum_1_5_10"] for figures in found])
    error = np.std([figures["retrieval_sum_1_5_10"] for figures in found]) / 200**0.5
    assert abs(mean - found[0]["retrieval_chance"]) < 4 * error


def test_chance_counts_draws_without_replacement():
    for candidates, correct, k in ((5, 1, 2), (6, 2, 3), (7, 3, 1)):
        draws = list(itertools.combinations(range(candidates), k))
        assert chance(candidates, correct, k) == pytest.approx(sum(any(c < correct for c in d) for d in draws) / len(draws))


def test_three_modalities_are_judged_two_by_two():
    exact, same = torch.eye(20)[:, None], torch.ones(20, 1, 20)
    figures = judged({"a": exact, "b": exact, "c": same})
    assert figures["recall_at_1_a_to_b"] == 1
    assert figures["recall_at_10_a_to_c"] == 0
    assert figures["retrieval_sum_1"] == pytest.approx(2 / 3)


def test_a_recall_that_is_certain_is_refused():
    few = torch.eye(10)
    with pytest.raises(ValueError, match="10 candidates: recall at 10 needs more"):
        recalls(few, few, torch.arange(10), torch.arange(10))
