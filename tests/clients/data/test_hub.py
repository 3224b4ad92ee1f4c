import numpy as np
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pillow

from fedcosim.clients.data import federate
from fedcosim.clients.data.source import source
from fedcosim.core.errors import DataError

PIXELS = np.random.default_rng(1).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
PICTURES = [Pillow.fromarray(image) for image in PIXELS]
LABELS = [2, 0, 1, 2, 0, 1, 0, 0, 2]


def features(**extra) -> Features:
    return Features({"picture": Image(), "kind": ClassLabel(names=["ant", "bee", "cat"]), **extra})


@pytest.fixture
def saved(tmp_path):
    """A colour data set of two splits with the writer of each sample, as `save_to_disk` leaves it."""
    columns = {"picture": PICTURES, "kind": LABELS, "writer": ["u", "v", "w"] * 3}
    rows = Dataset.from_dict(columns, features=features(writer=Value("string")))
    DatasetDict({"train": rows.select(range(6)), "test": rows.select(range(6, 9))}).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


@pytest.fixture
def save(tmp_path):
    """Save one split with the given columns."""

    def build(columns: dict, features: Features) -> str:
        Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "one")
        return str(tmp_path / "one")

    return build


def load(options):
    return source("hub").load(options, clients=3, seed=1)


def test_a_saved_data_set_loads_with_its_columns_found(options, saved):
    pool = load(options(source="hub", path=saved))
    np.testing.assert_array_equal(pool.images_NCHW.transpose(0, 2, 3, 1), PIXELS)
    np.testing.assert_array_equal(pool.labels_N, LABELS)
    assert pool.class_names == ("ant", "bee", "cat")


def test_a_folder_of_parquet_files_loads(options, tmp_path, monkeypatch):
    rows = Dataset.from_dict({"picture": PICTURES, "kind": LABELS}, features=features())
    (tmp_path / "parquet").mkdir()
    rows.to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    pool = load(options(source="hub", path=str(tmp_path / "parquet")))
    np.testing.assert_array_equal(pool.images_NCHW.transpose(0, 2, 3, 1), PIXELS)


def test_only_the_chosen_splits_are_merged(options, saved):
    np.testing.assert_array_equal(load(options(source="hub", path=saved, splits=["test"])).labels_N, LABELS[6:])
    with pytest.raises(DataError, match=r"data\.splits: .* has no 'valid'; choose from train, test"):
        load(options(source="hub", path=saved, splits=["valid"]))


def test_natural_clients_hold_their_own_samples(options, saved):
    """Client i is the i-th writer in sorted order; nobody holds a sample of somebody else."""
    choice = options(source="hub", path=saved, partition="natural", natural_id_column="writer", test_fraction=0.34)
    data = federate(choice, clients=3, seed=1)
    for client in range(3):
        labels = np.concatenate([data.train(client)[1], data.test(client)[1]])
        assert sorted(labels) == sorted(LABELS[client::3])


def test_another_number_of_natural_clients_is_refused(options, saved):
    choice = options(source="hub", path=saved, partition="natural", natural_id_column="writer")
    with pytest.raises(DataError, match=r"federation\.clients = 5: 'writer' holds 3 natural clients; choose 3"):
        federate(choice, clients=5, seed=1)


def test_strings_become_classes_in_sorted_order(options, save):
    columns = {"picture": PICTURES[:3], "kind": ["dog", "ant", "dog"]}
    path = save(columns, Features({"picture": Image(), "kind": Value("string")}))
    pool = load(options(source="hub", path=path, label_column="kind"))
    assert pool.labels_N.tolist() == [1, 0, 1]
    assert pool.class_names == ("ant", "dog")


def test_arrays_of_bytes_are_images_too(options, save):
    images = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    path = save({"x": images, "y": [0, 1]}, Features({"x": Array2D((3, 3), "uint8"), "y": Value("int64")}))
    np.testing.assert_array_equal(load(options(source="hub", path=path)).images_NCHW[:, 0], images)


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"label_column": "nope"}, "data.label_column = 'nope': no such column; choose from picture, kind, writer"),
        ({"image_column": "nope"}, "data.image_column = 'nope': no such column"),
        ({"partition": "natural", "natural_id_column": "nope"}, "data.natural_id_column = 'nope': no such column"),
        ({"path": "/nowhere"}, "data.path = '/nowhere': no such folder"),
    ],
)
def test_a_wrong_name_is_refused(options, saved, choice, complaint):
    with pytest.raises(DataError) as error:
        federate(options(**{"source": "hub", "path": saved, **choice}), clients=3, seed=1)
    assert complaint in str(error.value)


def test_two_possible_label_columns_must_be_told_apart(options, save):
    path = save({"picture": PICTURES[:2], "kind": [0, 1], "age": [0, 1]}, features(age=ClassLabel(names=["old", "new"])))
    with pytest.raises(DataError, match=r"data\.label_column: missing; kind and age could be meant"):
        load(options(source="hub", path=path))


def test_a_missing_label_is_named_with_its_row(options, save):
    path = save({"picture": PICTURES[:3], "kind": [0, None, None]}, features())
    with pytest.raises(DataError, match="column 'kind' has no value in 2 rows, the first being row 1"):
        load(options(source="hub", path=path))


def test_an_unlabelled_split_is_refused(options, save):
    """The hub marks labels that are kept secret with -1."""
    path = save({"picture": PICTURES[:3], "kind": [0, -1, -1]}, features())
    with pytest.raises(DataError, match=r"label -1 of sample 1 \(and 1 more\) is outside 0 to 2"):
        load(options(source="hub", path=path))


def test_images_of_different_shape_are_refused(options, save):
    path = save({"picture": [PICTURES[0], Pillow.new("L", (4, 4))], "kind": [0, 1]}, features())
    with pytest.raises(DataError, match=r"image of row 1 is \(1, 4, 4\) .* row 0 is \(3, 4, 4\)"):
        load(options(source="hub", path=path))


def test_pictures_of_16_bits_are_refused(options, save):
    """Cutting them to bytes would wash the image out."""
    path = save({"picture": [Pillow.new("I;16", (4, 4))], "kind": [0]}, features())
    with pytest.raises(DataError, match="image of row 0: mode I;16"):
        load(options(source="hub", path=path))


def test_a_folder_that_is_no_data_set_is_refused(options, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.path = .*empty': cannot be loaded"):
        load(options(source="hub", path=str(tmp_path / "empty")))
