"""Statistics of groups, from hand-made predictions whose answers are known or follow from another library."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from fedcosim.compression.reliability import Items, Thresholds, compare, groups_by_id
from fedcosim.compression.reliability.groups import interval, judge, mcnemar
from fedcosim.core.errors import SpecError
from fedcosim.core.options import validate


def items(before, after, **groupings):
    """Right and wrong answers: 1 is right, 0 wrong, and a wrong answer is always the same one."""
    before, after = np.array(before, float), np.array(after, float)
    return Items(before, after, before, after, {name: np.array(groups) for name, groups in groupings.items()})


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (5, 1), (12, 12), (40, 13)])
def test_mcnemar_is_the_exact_binomial_test(lost, won):
    drop_n = np.array([1.0] * lost + [-1.0] * won + [0.0] * 20)
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(drop_n) == pytest.approx(expected)


def test_the_interval_is_that_of_resampled_items():
    """Drawing counts of distinct values is drawing items with replacement; close to the normal interval for many items."""
    drop_n = np.repeat([1.0, -1.0, 0.0], [120, 40, 1840])
    low, high = interval(drop_n, 0.05, 20000, 1)
    half = 1.96 * drop_n.std() / np.sqrt(2000)
    assert low == pytest.approx(0.04 - half, abs=0.001)
    assert high == pytest.approx(0.04 + half, abs=0.001)
    assert interval(drop_n, 0.05, 500, 1) == interval(drop_n, 0.05, 500, 1)


def test_the_worst_group_is_found_where_the_average_hides_it():
    """One class of ten loses a tenth of its items, the others win a little: the average does not move."""
    before, after, classes = [], [], []
    for label in range(10):
        right = np.ones(300)
        lost = right.copy()
        if label == 4:
            lost[:60] = 0
        else:
            right[:7] = 0
        before.append(right)
        after.append(lost)
        classes += [str(label)] * 300
    made = compare(items(np.concatenate(before), np.concatenate(after), **{"class": classes}), Thresholds())
    (grouping,) = made.groupings
    assert abs(made.average_drop) < 0.01
    assert grouping.worst.name == "4"
    assert (grouping.worst.drop, grouping.worst.lost, grouping.worst.won) == (0.2, 60, 0)
    assert grouping.cvar_drop == pytest.approx((0.2 - 7 / 300 * 2) / 3)
    assert grouping.chance_p < 0.01
    assert {one.figure: one.verdict for one in made.judgements} == {
        "average_drop": "PASS",
        "flip_rate": "PASS",
        "worst class drop": "FAIL",
    }
    assert made.verdict == "FAIL"


def test_the_group_that_lost_most_is_not_the_lowest_one():
    before = [1] * 100 + [1] * 40 + [0] * 60
    after = [1] * 80 + [0] * 20 + [1] * 40 + [0] * 60
    (grouping,) = compare(items(before, after, who=["a"] * 100 + ["b"] * 100), Thresholds()).groupings
    assert (grouping.worst.name, grouping.lowest.name) == ("a", "b")


def test_flips_in_both_directions_are_counted_though_accuracy_stays():
    made = compare(items([1, 0] * 100, [0, 1] * 100, all=["x"] * 200), Thresholds())
    assert (made.average_drop, made.flip_rate, made.right_to_wrong, made.wrong_to_right) == (0, 1, 0.5, 0.5)
    assert made.mcnemar == 1
    assert made.verdict == "FAIL"


def test_three_items_are_listed_and_never_the_worst():
    made = compare(items([1] * 103, [1] * 100 + [0] * 3, who=["many"] * 100 + ["few"] * 3), Thresholds())
    (grouping,) = made.groupings
    few = grouping.groups[-1]
    assert (few.name, few.items, few.drop, few.eligible) == ("few", 3, 1.0, False)
    assert grouping.worst.name == "many"


def test_chance_alone_is_told_from_groups():
    """60 groups of 50 items with the same true drop: the largest is far above it, and is said to be no wonder."""
    stream = np.random.default_rng(0)
    after = (stream.random(3000) > 0.05).astype(float)
    made = compare(items(np.ones(3000), after, who=np.repeat(np.arange(60), 50).astype(str)), Thresholds())
    (grouping,) = made.groupings
    assert grouping.worst.drop > 0.1
    assert grouping.chance_p > 0.05
    assert grouping.chance_drop == pytest.approx(grouping.worst.drop, abs=0.06)


def test_log_likelihoods_are_judged_too_without_mcnemar():
    """Language models: the score of a token is its log-likelihood, groups are documents; the mean drop is the excess loss."""
    stream = np.random.default_rng(0)
    before = -stream.exponential(2, 600)
    after = before - np.repeat([0.01, 0.3, 0.02], 200)
    made = compare(items(before, after, document=np.repeat(["a", "b", "c"], 200)), Thresholds())
    assert made.mcnemar is None
    assert made.worst.name == "b"
    assert made.worst.drop == pytest.approx(0.3)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abc")), min_size=5, max_size=80))
def test_drops_of_groups_add_up_to_the_average(rows):
    before, after, who = zip(*rows, strict=True)
    made = compare(items(before, after, who=who), Thresholds(min_group=1, resamples=100))
    (grouping,) = made.groupings
    assert sum(g.items * g.drop for g in grouping.groups) / made.items == pytest.approx(made.average_drop)
    assert sum(g.flips for g in grouping.groups) / made.items == pytest.approx(made.flip_rate)
    assert made.right_to_wrong - made.wrong_to_right == pytest.approx(made.average_drop)


def test_a_verdict_needs_the_whole_interval():
    assert judge("x", 0.01, (0.0, 0.02), 0.02).verdict == "PASS"
    assert judge("x", 0.01, (0.0, 0.03), 0.02).verdict == "WARN"
    assert judge("x", 0.05, (0.03, 0.07), 0.02).verdict == "FAIL"


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(SpecError, match="largest group has 3 items; min_group = 50 leaves none"):
        compare(items([1] * 6, [1] * 6, who=["a", "b"] * 3), Thresholds())
    with pytest.raises(SpecError, match="there are none to judge"):
        items([], [])
    with pytest.raises(SpecError, match="who: has 2 items, and there are 3"):
        items([1] * 3, [1] * 3, who=["a", "b"])
    with pytest.raises(SpecError, match="not finite"):
        items([np.nan], [1])
    for threshold in (-0.1, 1.5):
        with pytest.raises(SpecError, match="average_drop"):
            validate(Thresholds, {"average_drop": threshold})


def test_tables_of_ids_must_be_complete():
    ids = ["0/0", "0/1", "1/0"]
    assert groups_by_id({"0/0": "a", "1/0": "b", "0/1": "a"}, ids, "who").tolist() == ["a", "a", "b"]
    with pytest.raises(SpecError, match="item '0/1' has no group"):
        groups_by_id({"0/0": "a", "1/0": "b"}, ids, "who")
    with pytest.raises(SpecError, match="there is no item '7/7'"):
        groups_by_id({"0/0": "a", "1/0": "b", "0/1": "a", "7/7": "z"}, ids, "who")
    with pytest.raises(SpecError, match="same id"):
        groups_by_id({"0/0": "a"}, ["0/0", "0/0"], "who")
