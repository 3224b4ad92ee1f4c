import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fedcosim.clients.data import DataOptions
from fedcosim.clients.data.partition import partition, split
from fedcosim.core.errors import DataError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 30))
KINDS = [
    {"partition": "iid"},
    {"partition": "dirichlet", "alpha": 1.0},
    {"partition": "pathological", "classes_per_client": 3},
    {"partition": "shard", "shards_per_client": 2},
]
kinds = st.sampled_from(KINDS)
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def of(**fields) -> DataOptions:
    return DataOptions.model_validate({"source": "digits", **fields})


@quick
@given(kind=kinds, clients=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_no_sample_belongs_to_two_clients(kind, clients, seed):
    rows = np.concatenate(partition(of(**kind), LABELS, clients, seed))
    assert len(np.unique(rows)) == len(rows)
    assert set(rows) <= set(range(len(LABELS)))


@quick
@given(kind=st.sampled_from(KINDS[:2]), clients=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_iid_and_dirichlet_leave_no_sample_out(kind, clients, seed):
    rows = np.concatenate(partition(of(**kind), LABELS, clients, seed))
    assert sorted(rows) == list(range(len(LABELS)))


@quick
@given(kind=kinds, clients=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_partition(kind, clients, seed):
    first, second = (partition(of(**kind), LABELS, clients, seed) for _ in range(2))
    for mine, yours in zip(first, second, strict=True):
        np.testing.assert_array_equal(mine, yours)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["partition"])
def test_another_seed_gives_another_partition(kind):
    first, second = (partition(of(**kind), LABELS, 5, seed) for seed in (1, 2))
    assert any(list(mine) != list(yours) for mine, yours in zip(first, second, strict=True))


@given(samples=st.integers(1, 200), clients=st.integers(1, 40), seed=st.integers(0, 99))
@quick
def test_iid_clients_differ_by_at_most_one_sample(samples, clients, seed):
    assume(clients <= samples)
    sizes = [len(rows) for rows in partition(of(), np.zeros(samples, int), clients, seed)]
    assert max(sizes) - min(sizes) <= 1


def test_iid_mixes_a_data_set_that_is_sorted_by_class():
    """flwr-datasets' IID partition takes contiguous rows: without a shuffle, sorted data would be one class a client."""
    for rows in partition(of(), np.repeat(np.arange(10), 100), 10, seed=1):
        assert len(np.unique(rows // 100)) == 10


def test_pathological_clients_hold_exactly_their_number_of_classes():
    for rows in partition(of(partition="pathological", classes_per_client=3), LABELS, 10, seed=1):
        assert len(np.unique(LABELS[rows])) == 3


def test_a_shard_is_a_run_of_the_sorted_labels():
    """20 shards of 15 samples, 30 samples a class: every shard is of one class, so a client sees at most 2."""
    for rows in partition(of(partition="shard", shards_per_client=2), LABELS, 10, seed=1):
        assert len(rows) == 30
        assert set(np.bincount(LABELS[rows])) <= {0, 15, 30}


def test_a_small_alpha_skews_more_than_a_large_one():
    def largest_share(alpha):
        parts = partition(of(partition="dirichlet", alpha=alpha), LABELS, 5, seed=1)
        return np.mean([np.bincount(LABELS[rows], minlength=10).max() / len(rows) for rows in parts])

    assert largest_share(0.1) > 2 * largest_share(100.0)


def test_an_unattainable_minimum_reports_what_was_achieved():
    """Random shares of 300 samples never give all of 10 clients 29 of the 30 that an even split would."""
    options = of(partition="dirichlet", alpha=0.1, train_per_client=20, test_per_client=9)
    with pytest.raises(DataError) as error:
        partition(options, LABELS, 10, seed=1)
    assert str(error.value).startswith("data.alpha = 0.1: every one of 10 clients needs 29 samples")
    best = int(str(error.value).split("smallest client got ")[1].split()[0])
    assert 0 <= best < 29


def test_a_rare_but_attainable_minimum_is_found_by_redrawing():
    options = of(partition="dirichlet", alpha=0.3, train_per_client=10, test_per_client=2)
    assert min(len(rows) for rows in partition(options, LABELS, 10, seed=1)) >= 12


@pytest.mark.parametrize(
    ("fields", "clients", "complaint"),
    [
        ({"train_per_client": 20, "test_per_client": 11}, 10, "10 clients need 310 samples, but there are 300, at most 30 a"),
        ({}, 301, "at least one each: 301 clients need 301 samples, but there are 300"),
        ({}, 0, "federation.clients = 0: must be at least 1"),
        ({"partition": "pathological", "classes_per_client": 11}, 2, "data.classes_per_client = 11: the data have 10 classes"),
        ({"partition": "pathological", "classes_per_client": 9}, 200, "data.partition = 'pathological': cannot be drawn"),
        ({"partition": "shard", "shards_per_client": 31}, 10, "data.shards_per_client = 31: 310 shards, but only 300 samples"),
        (
            {"partition": "shard", "shards_per_client": 7, "train_per_client": 20, "test_per_client": 10},
            10,
            "data.shards_per_client = 7: every one of 10 clients needs 30 samples "
            "(data.train_per_client + validation_per_client + test_per_client = 20 + 0 + 10), but the smallest client got 28",
        ),
    ],
)  # fmt: skip
def test_an_impossible_partition_says_why(fields, clients, complaint):
    with pytest.raises(DataError) as error:
        partition(of(**fields), LABELS, clients, seed=1)
    assert complaint in str(error.value)


def test_natural_ids_may_be_numbers():
    options = DataOptions(source="hub", dataset="d", partition="natural", natural_id_column="patient")
    ids = np.array([70, 7, 70, 9])
    rows = partition(options, np.zeros(4, int), 3, seed=1, natural_ids_N=ids)
    assert [part.tolist() for part in rows] == [[1], [3], [0, 2]]


# Splitting one client's samples -------------------------------------------------------------------------------------------


@given(
    rows=st.lists(st.integers(0, 10**6), max_size=60, unique=True),
    validation=st.floats(0, 0.99),
    test=st.floats(0.001, 0.99),
    client=st.integers(0, 9),
)
def test_fractions_split_all_of_a_clients_samples(rows, validation, test, client):
    """Each part is within half a sample of its share, and no sample is lost or used twice."""
    assume(validation + test < 1)
    parts = split(of(validation_fraction=validation, test_fraction=test), np.array(rows, int), client, seed=1)
    assert sorted(np.concatenate(parts)) == sorted(rows)
    assert abs(len(parts[1]) - validation * len(rows)) <= 0.5 + 1e-9
    assert abs(len(parts[2]) - test * len(rows)) <= 0.5 + 1e-9


def test_exact_sizes_are_exact():
    parts = split(of(train_per_client=5, validation_per_client=2, test_per_client=3), np.arange(50), 0, seed=1)
    assert [len(part) for part in parts] == [5, 2, 3]
    assert len(np.unique(np.concatenate(parts))) == 10


def test_a_clients_split_does_not_depend_on_the_others():
    """Each client has a stream of its own, so the order in which clients are split does not matter."""
    forwards = [split(of(), np.arange(20), client, seed=1)[2].tolist() for client in range(5)]
    backwards = [split(of(), np.arange(20), client, seed=1)[2].tolist() for client in reversed(range(5))]
    assert forwards == backwards[::-1]
    assert len({tuple(part) for part in forwards}) == 5
