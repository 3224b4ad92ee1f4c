"""The key of a function does not depend on what its inputs are called; distances are shares of patterns."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcosim.clients.data.circuits import distances
from fedcosim.clients.data.circuits.functions import key, support

tables = st.integers(2, 6).flatmap(lambda inputs: st.lists(st.integers(0, 1), min_size=2**inputs, max_size=2**inputs))


def renamed(truth: list[int], order: list[int], inverted: int, complement: int) -> np.ndarray:
    """Return the function g(x) = f(y) ^ complement with y[i] = x[order[i]] ^ (bit i of inverted), pattern by pattern."""
    table = []
    for pattern in range(len(truth)):
        source = sum((pattern >> order[i] & 1) << i for i in range(len(order)))
        table.append(truth[source ^ inverted] ^ complement)
    return np.array(table, dtype=np.uint8)


@settings(max_examples=150)
@given(truth=tables, data=st.data())
def test_renaming_and_inverting_inputs_and_output_keeps_the_key(truth, data):
    inputs = len(truth).bit_length() - 1
    order = data.draw(st.permutations(range(inputs)))
    inverted, complement = data.draw(st.integers(0, 2**inputs - 1)), data.draw(st.integers(0, 1))
    assert key(renamed(truth, order, inverted, complement)) == key(np.array(truth, dtype=np.uint8))


@given(truth=tables)
def test_an_input_without_influence_keeps_the_key(truth):
    truth_P = np.array(truth, dtype=np.uint8)
    assert key(np.tile(truth_P, 2)) == key(truth_P)
    assert len(truth).bit_length() - 1 not in support(np.tile(truth_P, 2))


def test_keys_tell_all_classes_of_three_inputs_apart():
    """There are 14 classes of functions of up to three inputs, counted by trying every renaming."""
    tables = [[number >> pattern & 1 for pattern in range(8)] for number in range(256)]
    renamings = list(itertools.product(itertools.permutations(range(3)), range(8), range(2)))
    classes = {min(renamed(table, list(order), *rest).tobytes() for order, *rest in renamings) for table in tables}
    assert len(classes) == 14
    assert len({key(np.array(table, dtype=np.uint8)) for table in tables}) == 14


@given(truth=tables)
def test_the_support_is_where_flipping_an_input_can_flip_the_output(truth):
    inputs = len(truth).bit_length() - 1
    felt = [i for i in range(inputs) if any(truth[p] != truth[p ^ 1 << i] for p in range(len(truth)))]
    assert support(np.array(truth, dtype=np.uint8)) == felt


def test_distances_are_shares_of_patterns():
    random = np.random.default_rng(0)
    left, right = random.integers(0, 2, (5, 32), dtype=np.uint8), random.integers(0, 2, (4, 32), dtype=np.uint8)
    counted = [[(one != other).mean() for other in right] for one in left]
    np.testing.assert_allclose(distances(left, right), counted, atol=1e-6)
    np.testing.assert_allclose(distances(left, 1 - right), 1 - np.array(counted), atol=1e-6)
