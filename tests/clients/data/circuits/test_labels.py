"""Classes are balanced and separated by training circuits alone; the baseline for area and delay is a line, no more."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_percentage_error, r2_score

from fedcosim.clients.data.circuits import (
    FAMILIES,
    CircuitsOptions,
    SplitOptions,
    classes,
    gate_count_baseline,
    make,
    measure,
    score,
    split,
    tokens,
)
from fedcosim.core.errors import DataError

MEASURES = ["probability", "detectability", "ands", "depth", "area", "delay_ps"]


@pytest.mark.parametrize("label", MEASURES)
def test_bins_do_not_depend_on_what_is_tested_on(circuits, label):
    """Changing test circuits changes no name and no class of a training circuit."""
    train = np.arange(0, len(circuits), 2)
    all_made, alone = classes(circuits, label, train), classes(circuits.take(train), label, np.arange(len(train)))
    assert all_made.names == alone.names
    np.testing.assert_array_equal(all_made.labels_N[train], alone.labels_N)


@pytest.mark.parametrize("label", ["detectability", "area", "delay_ps"])
def test_bins_of_numbers_that_differ_are_balanced(circuits, label):
    train = np.arange(len(circuits))
    made = classes(circuits, label, train, bins=3)
    counts = np.bincount(made.labels_N, minlength=3)
    assert len(made.names) == 3
    assert counts.max() <= 0.45 * len(circuits)


def test_every_number_is_in_the_bin_that_its_name_says(circuits):
    made, values_N = classes(circuits, "ands", np.arange(len(circuits))), measure(circuits, "ands")
    lows = [-np.inf, *(float(name.split()[-1]) for name in made.names[1:])]
    assert float(made.names[0].split()[-1]) == lows[1]
    expected = [max(position for position, low in enumerate(lows) if value >= low) for value in values_N]
    assert made.labels_N.tolist() == expected


def test_detectability_is_the_mean_over_the_faults_there_are(circuits):
    for row in range(0, len(circuits), 30):
        nodes = int(circuits.inputs_N[row] + circuits.ands_N[row])
        expected = circuits.detectability_NG2[row, :nodes].mean()
        assert measure(circuits, "detectability")[row] == pytest.approx(expected, rel=1e-5)


def test_families_and_operations_are_classes(circuits):
    train = np.arange(len(circuits))
    families, operations = classes(circuits, "family", train), classes(circuits, "operation", train)
    assert families.names == (*FAMILIES, "uploaded")
    assert [families.names[label] for label in families.labels_N[:3]] == ["random"] * 3
    is_control = families.labels_N == FAMILIES.index("control")
    assert {operations.names[label] for label in operations.labels_N[is_control]} <= {"select"}
    assert {operations.names[label] for label in operations.labels_N[circuits.real()]} == {"logic"}


def test_area_without_a_library_is_refused(circuits):
    with pytest.raises(DataError, match="area needs a library"):
        measure(replace(circuits, area_N=None), "area")


@pytest.mark.parametrize(
    ("label", "train", "bins", "message"),
    [
        ("colour", [0, 1], 4, "choose family"),
        ("ands", [], 4, "some circuits"),
        ("ands", [0, 1], 1, "at least 2"),
        ("ands", [0], 4, "nothing"),
    ],
)
def test_classes_that_cannot_be_are_refused(circuits, label, train, bins, message):
    with pytest.raises(DataError, match=message):
        classes(circuits, label, np.array(train, dtype=np.int64), bins)


def test_the_baseline_is_a_line_through_the_logarithms(circuits):
    """Against scikit-learn's least squares and metrics."""
    parts = split(circuits, SplitOptions(), seed=1)
    made = gate_count_baseline(circuits, parts.train, parts.test)
    count_N1 = np.log(circuits.ands_N.astype(float))[:, None]
    for name, right_N in (("area", circuits.area_N), ("delay_ps", circuits.delay_ps_N)):
        logs_N = np.log(right_N.astype(float))
        predicted = LinearRegression().fit(count_N1[parts.train], logs_N[parts.train]).predict(count_N1[parts.test])
        assert made[name].r2 == pytest.approx(r2_score(logs_N[parts.test], predicted))
        assert made[name].mape == pytest.approx(mean_absolute_percentage_error(right_N[parts.test], np.exp(predicted)))


def test_areas_that_are_a_power_of_the_gate_count_are_predicted_exactly(circuits):
    ands_N = circuits.ands_N.astype(np.float64)
    exact = replace(circuits, area_N=3 * ands_N**0.9, delay_ps_N=20 * np.sqrt(ands_N))
    rows = np.arange(len(circuits))
    for made in gate_count_baseline(exact, rows[::2], rows[1::2]).values():
        assert made.mape == pytest.approx(0, abs=1e-9)
        assert made.r2 == pytest.approx(1)


def test_predicting_the_mean_of_the_logarithms_explains_nothing():
    right_N = np.array([1.0, 2, 4, 8])
    assert score(np.full(4, np.exp(np.log(right_N).mean())), right_N).r2 == pytest.approx(0)


@pytest.mark.parametrize(("predicted", "right"), [([1, 2], [0, 1]), ([-1, 2], [1, 2]), ([1, 1], [2, 2])])
def test_numbers_that_have_no_score_are_refused(predicted, right):
    with pytest.raises(DataError, match="must be above 0"):
        score(np.array(predicted, dtype=float), np.array(right, dtype=float))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("view", "label"),
    [
        *(("rtl", label) for label in ("family", "operation", "probability", "detectability")),
        *(("netlist", label) for label in ("family", "probability", "detectability")),
    ],
)
def test_what_a_silo_learns_can_be_learned_from_its_view(view, label, tmp_path_factory, monkeypatch):
    """A forest that only counts tokens is 15 points better than naming the most frequent class."""
    monkeypatch.setenv("FEDCOSIM_CACHE", str(tmp_path_factory.getbasetemp() / "learnable"))
    circuits = make(CircuitsOptions(samples={"random": 400, "arithmetic": 400, "control": 400}), seed=1)
    parts = split(circuits, SplitOptions(), seed=1)
    labels_N = classes(circuits, label, parts.train).labels_N
    made = tokens(circuits, view)
    counted_NV = np.stack([np.bincount(ids_T, minlength=made.vocabulary) for ids_T in made.ids_NT])
    forest = RandomForestClassifier(100, min_samples_leaf=2, random_state=0).fit(counted_NV[parts.train], labels_N[parts.train])
    majority = np.bincount(labels_N[parts.test]).max() / len(parts.test)
    assert forest.score(counted_NV[parts.test], labels_N[parts.test]) >= majority + 0.15
