"""How many synthetic images each client's generator is asked for."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcosim.clients.uploads import Upload
from fedcosim.core.errors import SpecError
from fedcosim.strategies.feddiff import FedDiffOptions
from fedcosim.strategies.generative import allocate


def upload(client: int, counts: list[float], noise: float = 0.0) -> Upload:
    return Upload(client, torch.tensor(counts), noise, {}, {}, None)


def per(axis: int, wanted: dict[tuple[int, int], int]) -> dict[int, int]:
    totals: Counter[int] = Counter()
    for cell, count in wanted.items():
        totals[cell[axis]] += count
    return dict(totals)


COUNTS = st.lists(st.lists(st.integers(0, 500), min_size=4, max_size=4), min_size=1, max_size=6)


@given(COUNTS, st.integers(4, 3000), st.sampled_from(["proportional", "class-balanced", "per-client-equal"]))
def test_the_total_is_exact_and_absent_classes_get_nothing(counts, samples, allocation):
    """An embedding of a class that a client has never seen is untrained noise."""
    if not any(map(any, counts)):
        return
    options = FedDiffOptions(samples=samples, allocation=allocation)
    wanted = allocate([upload(k, row) for k, row in enumerate(counts)], options)
    assert sum(wanted.values()) == samples
    assert all(counts[k][c] > 0 and count > 0 for (k, c), count in wanted.items())


def test_proportional_mirrors_the_counts():
    wanted = allocate([upload(0, [30, 10]), upload(1, [0, 60])], FedDiffOptions(samples=200))
    assert wanted == {(0, 0): 60, (0, 1): 20, (1, 1): 120}


def test_class_balanced_gives_each_class_the_same_and_splits_it_by_counts():
    received = [upload(0, [30, 10, 5]), upload(1, [0, 30, 5])]
    wanted = allocate(received, FedDiffOptions(samples=300, allocation="class-balanced"))
    assert per(1, wanted) == {0: 100, 1: 100, 2: 100}
    assert (wanted[0, 1], wanted[1, 1]) == (25, 75)


def test_per_client_equal_gives_each_client_the_same():
    received = [upload(0, [900, 100]), upload(1, [0, 10])]
    assert per(0, allocate(received, FedDiffOptions(samples=200, allocation="per-client-equal"))) == {0: 100, 1: 100}


def test_a_noisy_count_must_stand_out():
    """Below four deviations of its noise a count may well be of a class that is not there."""
    received = [upload(0, [100, 39, 41], noise=10.0)]
    assert set(allocate(received, FedDiffOptions(samples=10))) == {(0, 0), (0, 2)}
    with pytest.raises(SpecError, match=r"strategy.least_count = 500: no client's label counts"):
        allocate(received, FedDiffOptions(samples=10, least_count=500))
