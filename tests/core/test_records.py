"""Lazy arrays are Flower arrays, byte for byte; means are means; files come back as they were."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedcosim.core.errors import PayloadError, StateError
from fedcosim.core.records import (
    LazyArray,
    WeightedMean,
    array_bytes,
    array_record,
    check_update,
    from_bytes,
    layout,
    lazy,
    private_copy,
    to_bytes,
    view,
)

any_array = st.one_of(
    arrays(np.float32, array_shapes(min_dims=0, max_dims=4, max_side=5), elements=st.floats(-100, 100, width=32)),
    arrays(np.int64, array_shapes(min_dims=0, max_dims=2, max_side=5), elements=st.integers(-9, 9)),
)


@given(ndarray=any_array)
def test_a_lazy_array_is_flowers_array_on_the_wire(ndarray):
    """A SuperNode, a mod or a byte count must not be able to tell the two apart."""
    lazy_array, flowers = LazyArray(ndarray), Array(ndarray)
    assert lazy_array.data == flowers.data
    assert lazy_array.object_id == flowers.object_id
    assert lazy_array == flowers
    assert flowers == lazy_array


@given(ndarray=arrays(np.float32, (2, 3, 4, 5), elements=st.floats(-1, 1, width=32)))
def test_strides_never_reach_the_wire(ndarray):
    """Channels-last models hold transposed memory; bytes are in C order all the same."""
    strided = np.ascontiguousarray(ndarray.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert LazyArray(strided).data == Array(ndarray).data


@given(arrays_=st.dictionaries(st.text(min_size=1, max_size=12), any_array, max_size=4))
def test_bytes_are_counted_as_flower_counts_them_without_serialising(arrays_):
    content = RecordDict({"arrays": array_record(arrays_)})
    counted = array_bytes(content)
    assert all("_data" not in array.__dict__ for array in content["arrays"].values())
    assert counted == ArrayRecord({key: Array(value) for key, value in arrays_.items()}).count_bytes()


def test_a_lazy_array_survives_pickling_and_serialises_late():
    array = LazyArray(np.arange(6, dtype=np.float32).reshape(2, 3))
    again = pickle.loads(pickle.dumps(array))  # noqa: S301
    assert "_data" not in again.__dict__
    assert again == array


def test_numpy_gives_what_may_be_written_to():
    """Flower's q-FedAvg computes in place in what `numpy()` returns."""
    array = LazyArray(np.ones(2))
    array.numpy()[:] = 5
    assert view(array).tolist() == [1, 1]


def test_lazy_parses_each_array_once_and_leaves_other_records_alone():
    config = ConfigRecord({"a": 1})
    content = lazy(RecordDict({"arrays": ArrayRecord([np.ones(3)]), "config": config}))
    assert content["config"] is config
    assert isinstance(content["arrays"]["0"], LazyArray)


def update(value: float, weight: float, **metrics: float) -> RecordDict:
    arrays_ = array_record({"w": np.full((3, 2), value, np.float32), "n": np.array([7])})
    return RecordDict({"arrays": arrays_, "metrics": MetricRecord({"num-examples": weight, **metrics})})


@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(1, 1000)), min_size=1, max_size=12), st.integers(1, 5))
def test_a_mean_of_chunk_means_is_the_weighted_mean(values, chunk):
    """Workers average chunks and the server averages those: the result must be the plain weighted mean."""
    total = WeightedMean()
    for start in range(0, len(values), chunk):
        part = WeightedMean()
        for value, weight in values[start : start + chunk]:
            part.add(update(value, weight, loss=value))
        total.add(part.content())
    mean = total.content()
    expected = np.average([v for v, _ in values], weights=[w for _, w in values])
    assert mean["metrics"]["num-examples"] == sum(w for _, w in values)
    np.testing.assert_allclose(mean["arrays"]["w"].numpy(), expected, atol=2e-5)
    assert mean["metrics"]["loss"] == pytest.approx(expected, abs=1e-9)
    check_update(mean, layout(update(1, 1)["arrays"]))  # the mean has the layout of what went in, integers included
    assert mean["arrays"]["n"].numpy().tolist() == [7]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["arrays"].__setitem__("w", LazyArray(np.full((3, 2), np.nan, np.float32))), "'w' holds NaN"),
        (lambda c: c["arrays"].__setitem__("w", LazyArray(np.full((3, 2), np.inf, np.float32))), "'w' holds NaN or infinity"),
        (lambda c: c["arrays"].__setitem__("w", LazyArray(np.zeros((2, 3), np.float32))), r"'w' is float32\[2, 3\], expected"),
        (lambda c: c["arrays"].__setitem__("w", LazyArray(np.zeros((3, 2)))), "'w' is float64"),
        (lambda c: c["arrays"].__delitem__("w"), "'w' is missing"),
        (lambda c: c["arrays"].__setitem__("x", LazyArray(np.zeros(1))), "'x' is unexpected"),
        (lambda c: c["metrics"].__setitem__("num-examples", 0), "num-examples"),
        (lambda c: c.__setitem__("more", ArrayRecord()), "exactly one ArrayRecord"),
    ],
)
def test_an_unusable_update_is_refused_with_the_reason(change, complaint):
    expected, content = layout(update(1, 1)["arrays"]), update(1, 1)
    check_update(content, expected)
    change(content)
    with pytest.raises(PayloadError, match=complaint):
        check_update(content, expected)


@given(
    st.dictionaries(st.text(max_size=8), any_array, max_size=3),
    st.dictionaries(st.text(max_size=8), st.one_of(st.binary(), st.text(), st.integers(-9, 9), st.booleans()), max_size=3),
)
def test_a_record_file_gives_back_what_was_written(arrays_, config):
    content = RecordDict({"a": array_record(arrays_), "c": ConfigRecord(config), "m": MetricRecord({"x": 0.1, "l": [1, 2]})})
    assert from_bytes(to_bytes(content)) == content
    assert to_bytes(content) == to_bytes(content)  # safetensors keeps metadata in random order: there must be one entry


def test_a_file_of_something_else_is_refused():
    with pytest.raises(StateError, match="not a fedcosim record file"):
        from_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00 nonsense nonsense")


def test_a_private_copy_can_be_changed_without_the_original_noticing():
    """Clients of a chunk share one content; what a mod does to one client's message must not reach the next."""
    original = RecordDict({"arrays": array_record({"w": np.ones(2)}), "config": ConfigRecord({"lr": 1.0})})
    copy = private_copy(original, arrays=True)
    copy["config"]["lr"] = 2.0
    view(copy["arrays"]["w"])[:] = 5
    assert original["config"]["lr"] == 1.0
    assert original["arrays"]["w"].numpy().tolist() == [1, 1]
