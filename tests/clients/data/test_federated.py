import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fedcosim.clients.data import FederatedData, federate
from fedcosim.clients.data.cache import entry
from fedcosim.core.errors import DataError

SKEWED = {"partition": "dirichlet", "alpha": 0.3, "train_per_client": 30, "validation_per_client": 5, "test_per_client": 20}


def everything(data: FederatedData) -> list[torch.Tensor]:
    return [t for client in range(data.num_clients) for part in (data.train, data.validation, data.test) for t in part(client)]


def digest(images, labels) -> list[tuple]:
    """Samples as a sorted list, to compare collections whatever their order."""
    return sorted((int(label), np.asarray(image).tobytes()) for image, label in zip(images, labels, strict=True))


def test_clients_together_hold_the_whole_data_set(options):
    """Every digit with its own label, exactly once, pixels mapped to -1..1 as (x/255 - 0.5) / 0.5."""
    data, digits = federate(options(validation_fraction=0.1), clients=7, seed=1), load_digits()
    parts = [part(client) for client in range(7) for part in (data.train, data.validation, data.test)]
    images = torch.cat([x for x, _ in parts]).numpy()
    expected = (digits.images * 15 / 255 - 0.5) / 0.5
    back = np.round((images + 1) * 127.5).astype(np.uint8)[:, 0]
    assert digest(back, torch.cat([y for _, y in parts])) == digest((digits.images * 15).astype(np.uint8), digits.target)
    assert images.min() == pytest.approx(expected.min())
    assert images.max() == pytest.approx(expected.max())


def test_sizes_shapes_and_types_are_as_promised(options):
    data = federate(options(**SKEWED), clients=8, seed=1)
    assert (data.num_clients, data.classes, data.shape_CHW) == (8, 10, (1, 8, 8))
    for sizes, expected in ((data.num_train, 30), (data.num_validation, 5), (data.num_test, 20)):
        assert sizes.tolist() == [expected] * 8
    x_NCHW, y_N = data.train(3)
    assert (x_NCHW.shape, x_NCHW.dtype, y_N.dtype) == ((30, 1, 8, 8), torch.float32, torch.int64)


def test_what_a_client_gets_is_its_own_to_change(options):
    """Augmentation in place must not reach the next round, nor other processes."""
    data = federate(options(), clients=3, seed=1)
    x_NCHW, y_N = data.train(0)
    before = x_NCHW.clone()
    x_NCHW.zero_()
    y_N.zero_()
    assert torch.equal(data.train(0)[0], before)
    assert data.train(0)[1].any()


def test_the_same_seed_gives_the_same_bytes_in_another_cache(options, tmp_path, monkeypatch):
    first = everything(federate(options(**SKEWED), 6, seed=3))
    monkeypatch.setenv("FEDCOSIM_CACHE", str(tmp_path / "elsewhere"))
    assert all(torch.equal(a, b) for a, b in zip(first, everything(federate(options(**SKEWED), 6, seed=3)), strict=True))


def test_another_seed_or_number_of_clients_is_another_entry(options):
    entries = {entry(options(**fields), clients, seed) for fields in ({}, SKEWED) for clients in (3, 4) for seed in (1, 2)}
    assert len(entries) == 8


def test_a_changed_source_file_is_another_entry(options, tmp_path):
    """Replacing the data set must not serve the old one from the cache."""
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 32, 32), np.uint8))
    np.save(tmp_path / "y.npy", np.zeros(4, int))
    choice = options(source="cifar10", path=str(tmp_path))
    before = entry(choice, 2, seed=1)
    os.utime(tmp_path / "y.npy", (1, 1))
    assert entry(choice, 2, seed=1) != before


def test_the_second_call_only_opens(options, own_cache):
    first = federate(options(), 5, seed=1)
    stamps = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    federate(options(), 5, seed=1)
    assert {file: file.stat().st_mtime_ns for file in first.folder.iterdir()} == stamps
    assert [folder.name for folder in own_cache.iterdir()] == [first.folder.name]


def test_opening_imports_nothing_heavy(options):
    """Workers open the cache; importing `datasets` and scikit-learn would cost each of them seconds and memory."""
    federate(options(), 5, seed=1)
    code = (
        "import sys; from fedcosim.clients.data import DataOptions, federate; "
        "federate(DataOptions(source='digits'), 5, 1).train(0); "
        "print([name for name in ('datasets', 'flwr_datasets', 'sklearn', 'pandas', 'flwr') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "offsets.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "changed"])
def test_a_damaged_entry_is_built_again(options, own_cache, file, damage):
    if (file, damage) == ("images.npy", "changed"):
        pytest.skip("images are checked by size only")
    data = federate(options(), 3, seed=1)
    good, path = everything(data), data.folder / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"truncated": content[:-8], "empty": b"", "changed": content[:-8] + bytes(8)}[damage])
    assert all(torch.equal(a, b) for a, b in zip(good, everything(federate(options(), 3, seed=1)), strict=True))
    assert [folder.name for folder in own_cache.iterdir()] == [data.folder.name]


def test_an_entry_stays_readable_while_it_is_replaced(options):
    """Another process may find the entry damaged and rebuild it under a running one."""
    data = federate(options(), 3, seed=1)
    good = everything(data)
    (data.folder / "meta.json").write_text("{}")
    federate(options(), 3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(good, everything(data), strict=True))


def _federate(options, barrier) -> None:
    barrier.wait()
    federate(options, 8, seed=1)


@pytest.mark.parametrize("start", ["empty", "damaged"])
def test_racing_processes_leave_one_good_entry(options, own_cache, start):
    if start == "damaged":
        (federate(options(**SKEWED), 8, seed=1).folder / "labels.npy").write_bytes(b"")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    racers = [context.Process(target=_federate, args=(options(**SKEWED), barrier)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert len(list(own_cache.iterdir())) == 1
    assert len(everything(federate(options(**SKEWED), 8, seed=1))) == 48


def test_pickling_passes_the_folder_not_the_samples(options):
    data = federate(options(), 3, seed=1)
    packed = pickle.dumps(data)
    assert len(packed) < 1000
    assert torch.equal(pickle.loads(packed).train(1)[0], data.train(1)[0])  # noqa: S301 - our own bytes


def test_an_unusable_cache_is_named(options, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDCOSIM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"the data cache cannot be written .* set FEDCOSIM_CACHE to another folder"):
        federate(options(), 3, seed=1)


def test_a_missing_entry_is_named():
    """A worker on another machine, without a shared cache, must say what it lacks."""
    with pytest.raises(DataError, match=r"/nowhere/meta\.json: an entry of the data cache cannot be read \(No such file"):
        FederatedData(Path("/nowhere"))


@pytest.mark.parametrize("client", [-1, 3])
def test_there_is_no_client_before_the_first_or_after_the_last(options, client):
    with pytest.raises(DataError, match=rf"client {client}: there are 3 clients; choose 0 to 2"):
        federate(options(), 3, seed=1).train(client)


def test_histogram_and_majority_baseline_are_what_counting_gives(options):
    data = federate(options(**SKEWED), clients=8, seed=2)
    histogram, accuracy = data.train_labels_histogram(), data.majority_accuracy()
    for client in range(8):
        train, test = data.train(client)[1].tolist(), data.test(client)[1].tolist()
        assert histogram[client].tolist() == [train.count(label) for label in range(10)]
        majority = max(sorted(set(train)), key=train.count)
        assert accuracy[client] == pytest.approx(test.count(majority) / len(test))


@pytest.fixture
def seven(options, tmp_path):
    """Seven samples, so that clients are tiny."""
    np.save(tmp_path / "x.npy", np.zeros((7, 32, 32, 3), np.uint8))
    np.save(tmp_path / "y.npy", np.arange(7))
    return lambda **fields: options(source="cifar10", path=str(tmp_path), **fields)


def test_tiny_clients_may_lack_a_split_and_then_have_no_baseline(seven):
    """Clients of 2, 2, 2 and 1 samples, of which a test share of 0.3 rounds to 1, 1, 1 and 0."""
    data = federate(seven(test_fraction=0.3), clients=4, seed=1)
    assert data.num_train.tolist() == [1, 1, 1, 1]
    assert data.num_test.tolist() == [1, 1, 1, 0]
    assert np.isnan(data.majority_accuracy()).tolist() == [False, False, False, True]
    assert [tuple(t.shape) for t in data.test(3)] == [(0, 3, 32, 32), (0,)]


@pytest.mark.parametrize(("fraction", "kind"), [(0.1, "test"), (0.99, "training")])
def test_a_federation_without_any_test_or_training_samples_is_refused(seven, fraction, kind):
    with pytest.raises(DataError, match=rf"data\.test_fraction = {fraction}: no client of 7 has {kind} samples"):
        federate(seven(test_fraction=fraction), clients=7, seed=1)


def test_synthetic_clients_have_exactly_their_sizes(options):
    fields = {"synthetic_shape": "3x8x8", "synthetic_classes": 5, "train_per_client": 4, "test_per_client": 2}
    data = federate(options(source="synthetic", **fields), clients=50, seed=1)
    assert data.num_train.tolist() == [4] * 50
    assert data.num_test.tolist() == [2] * 50
    assert (data.shape_CHW, data.classes) == ((3, 8, 8), 5)
