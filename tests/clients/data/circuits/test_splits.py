"""No function is trained on and tested, or held by two silos, whatever the seed and however often it occurs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedcosim.clients.data.circuits import FAMILIES, SilosOptions, SplitOptions, concatenate, silos, split
from fedcosim.core.errors import DataError, SpecError
from fedcosim.core.options import validate

quick = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="session")
def repeated(circuits):
    """Return circuits in which every function occurs three times on average, also across families."""
    random = np.random.default_rng(0)
    return replace(circuits, keys_N=random.integers(0, len(circuits) // 3, len(circuits)))


@quick
@given(seed=seeds)
def test_no_function_is_in_two_parts_and_none_is_lost(repeated, seed):
    parts = split(repeated, SplitOptions(), seed)
    keys = [set(repeated.keys_N[rows]) for rows in (parts.train, parts.validation, parts.test)]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]
    assert sorted(np.concatenate((parts.train, parts.validation, parts.test))) == list(range(len(repeated)))


@quick
@given(seed=seeds, family=st.sampled_from(FAMILIES))
def test_of_a_held_out_family_no_function_is_trained_on(repeated, seed, family):
    parts = split(repeated, SplitOptions(held_out=(family,)), seed)
    rest = np.concatenate((parts.train, parts.validation))
    assert set(parts.test) == set(np.flatnonzero(repeated.families_N == FAMILIES.index(family)))
    assert not set(repeated.keys_N[rest]) & set(repeated.keys_N[parts.test])


@quick
@given(seed=seeds, alpha=st.floats(0.05, 100))
def test_no_function_is_in_two_silos_and_every_silo_has_its_number(repeated, seed, alpha):
    rows = split(repeated, SplitOptions(), seed).train
    options = SilosOptions(houses={"rtl": 3, "integrator": 2}, circuits={"rtl": 5, "integrator": 4}, alpha=alpha)
    made = silos(repeated, rows, options, seed)
    held = [set(repeated.keys_N[silo.rows]) for silo in made]
    assert sum(map(len, held)) == len(set().union(*held)) == 3 * 5 + 2 * 4
    assert [silo.house for silo in made] == ["rtl"] * 3 + ["integrator"] * 2
    assert [len(keys) for keys in held] == [5] * 3 + [4] * 2
    assert all(set(silo.rows) <= set(rows) for silo in made)


def test_a_silo_sees_what_its_house_works_on(circuits):
    options = SilosOptions(
        houses={"rtl": 1, "netlist": 1, "integrator": 1, "truth": 1, "layout": 1},
        circuits=dict.fromkeys(("rtl", "netlist", "integrator", "truth", "layout"), 3),
    )
    made = silos(circuits, np.arange(len(circuits)), options, seed=1)
    assert [silo.views for silo in made] == [("rtl",), ("netlist",), ("rtl", "netlist"), ("truth",), ("layout",)]


def test_small_alpha_makes_specialists(circuits):
    """The mean share of a silo's largest family falls with alpha."""

    def largest(alpha: float) -> float:
        options = SilosOptions(houses={"rtl": 6}, circuits={"rtl": 15}, alpha=alpha)
        made = [silo for seed in range(5) for silo in silos(circuits, np.arange(len(circuits)), options, seed)]
        return float(np.mean([np.bincount(circuits.families_N[silo.rows]).max() / len(silo.rows) for silo in made]))

    assert largest(0.1) > largest(100) + 0.2


def test_splits_and_silos_depend_on_their_seed_alone(circuits):
    options = SilosOptions(houses={"rtl": 2}, circuits={"rtl": 20})
    for seed in (1, 2):
        first, second = (split(circuits, SplitOptions(), seed) for _ in range(2))
        np.testing.assert_array_equal(first.test, second.test)
        pairs = zip(*(silos(circuits, first.train, options, seed) for _ in range(2)), strict=True)
        assert all(np.array_equal(one.rows, other.rows) for one, other in pairs)
    assert set(split(circuits, SplitOptions(), 1).test) != set(split(circuits, SplitOptions(), 2).test)


def test_more_circuits_move_none_from_one_part_to_the_next(circuits):
    fewer, order = circuits.take(np.arange(0, len(circuits), 2)), np.random.default_rng(0).permutation(len(circuits))
    tested = set(fewer.keys_N[split(fewer, SplitOptions(), 1).test])
    more = circuits.take(order)
    assert tested == set(fewer.keys_N) & set(more.keys_N[split(more, SplitOptions(), 1).test])


def test_the_real_share_can_be_held_out(circuits):
    parts = split(circuits, SplitOptions(held_out=("iscas", "itc", "epfl")), seed=1)
    assert circuits.real()[parts.test].all()
    assert not circuits.real()[parts.train].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation": 0.5, "test": 0.5}, "must be less than 1"),
        ({"test": 0}, "greater than 0"),
        ({"held_out": ["vhdl"]}, "'random', 'arithmetic'"),
    ],
)
def test_splits_that_leave_nothing_are_refused(fields, message):
    with pytest.raises(SpecError, match=message):
        validate(SplitOptions, fields, "split")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"houses": {}}, "no silo"),
        ({"houses": {"rtl": 0}}, "greater than or equal to 1"),
        ({"houses": {"foundry": 2}}, "'rtl', 'netlist', 'integrator'"),
        ({"houses": {"truth": 2}}, "silos.circuits.truth: missing"),
        ({"alpha": 0}, "greater than 0"),
    ],
)
def test_silos_that_cannot_be_are_refused(fields, message):
    with pytest.raises(SpecError, match=message):
        validate(SilosOptions, fields, "silos")


def test_too_few_functions_for_the_silos_are_refused(repeated):
    """Copies of a function do not count."""
    available = len(np.unique(repeated.keys_N))
    options = SilosOptions(houses={"netlist": 1}, circuits={"netlist": available + 1})
    with pytest.raises(DataError, match=f"need {available + 1} different functions, but there are {available}"):
        silos(repeated, np.arange(len(repeated)), options, seed=1)


def test_a_split_without_anything_to_train_on_is_refused(circuits):
    with pytest.raises(DataError, match="0 circuits to train on"):
        split(circuits, SplitOptions(held_out=FAMILIES), seed=1)


def test_parts_of_different_sizes_are_not_concatenated(circuits):
    assert len(concatenate([circuits, circuits])) == 2 * len(circuits)
    with pytest.raises(DataError, match="differ in sizes"):
        concatenate([circuits, replace(circuits, area_N=None)])
