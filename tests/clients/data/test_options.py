import pytest

from fedcosim.clients.data import SOURCES, DataOptions
from fedcosim.core.errors import SpecError
from fedcosim.core.options import Options, validate


def complaint(**fields) -> str:
    with pytest.raises(SpecError) as error:
        validate(DataOptions, {"source": "digits", **fields}, "data")
    return str(error.value)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"alpha": 0.5}, "data.alpha = 0.5: only partition = 'dirichlet' uses it; the partition is 'iid'"),
        ({"splits": ["train"]}, "data.splits = ['train']: only source = 'hub' uses it; the source is 'digits'"),
        ({"path": "/x"}, "data.path = '/x': only source = 'fashion-mnist' or 'mnist' or 'cifar10' or 'hub' uses it"),
        ({"synthetic_classes": 3}, "data.synthetic_classes = 3: only source = 'synthetic' uses it; the source is 'digits'"),
        (
            {"source": "hub", "dataset": "d", "natural_id_column": "writer"},
            "data.natural_id_column = 'writer': only partition = 'natural' uses it; the partition is 'iid'",
        ),
    ],
)
def test_a_field_without_effect_is_refused(fields, sentence):
    """A setting that silently does nothing is a wrong experiment."""
    assert complaint(**fields).startswith(sentence)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"partition": "dirichlet"}, "data.alpha: missing; partition = 'dirichlet' needs it"),
        ({"partition": "pathological"}, "data.classes_per_client: missing; partition = 'pathological' needs it"),
        ({"partition": "shard"}, "data.shards_per_client: missing; partition = 'shard' needs it"),
        ({"source": "hub"}, "data.dataset: missing; source = 'hub' needs a data set's name, or data.path to a local copy"),
        (
            {"train_per_client": 9},
            "data.test_per_client: missing; train_per_client gives exact sizes, so this must be given too",
        ),
        ({"source": "synthetic"}, "data.synthetic_shape: missing; source = 'synthetic' needs it"),
        (
            {"source": "synthetic", "synthetic_shape": "1x8x8", "synthetic_classes": 2},
            "data.train_per_client: missing; source = 'synthetic' needs train_per_client and test_per_client",
        ),
    ],
)
def test_a_choice_says_which_field_it_lacks(fields, sentence):
    assert complaint(**fields) == sentence


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"partition": "dirichlet", "alpha": 0}, "data.alpha = 0: input should be greater than 0"),
        ({"partition": "dirichlet", "alpha": float("nan")}, "data.alpha = nan: "),
        ({"source": "mnits"}, "data.source = 'mnits': input should be 'digits', 'fashion-mnist', 'mnist', 'cifar10'"),
        ({"partition": "natural"}, "data.partition = 'natural': only source = 'hub' knows whose a sample is, not 'digits'"),
        (
            {"test_fraction": 0.6, "validation_fraction": 0.4},
            "data.test_fraction = 0.6: with validation_fraction = 0.4 nothing is left to train on; "
            "their sum must be less than 1",
        ),
        (
            {"train_per_client": 9, "test_per_client": 9, "test_fraction": 0.2},
            "data.test_fraction = 0.2: train_per_client gives exact sizes; choose one of the two",
        ),
        (
            {"source": "synthetic", "synthetic_shape": "3x32", "synthetic_classes": 2},
            "data.synthetic_shape = '3x32': write channels x height x width, such as '3x32x32'",
        ),
        (
            {"source": "hub", "path": "/x", "dataset": "d"},
            "data.dataset = 'd': data.path is given too; choose one of the two",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(fields, sentence):
    assert complaint(**fields).startswith(sentence)


def test_the_sentence_is_the_same_inside_a_whole_experiment():
    """There the complaint comes from one level below, where pydantic would add the whole section's value."""

    class Experiment(Options):
        data: DataOptions

    with pytest.raises(SpecError) as error:
        validate(Experiment, {"data": {"source": "digits", "alpha": 0.5}})
    assert error.value.problems == ["data.alpha = 0.5: only partition = 'dirichlet' uses it; the partition is 'iid'"]


def test_options_survive_being_written_out_in_full():
    """A record holds every field, the unused ones as null, and must be readable as a spec."""
    options = validate(DataOptions, {"source": "hub", "dataset": "d", "splits": ["train"]}, "data")
    assert validate(DataOptions, options.model_dump(mode="json"), "data") == options


def test_every_source_of_the_registry_is_a_choice():
    assert list(SOURCES) == list(DataOptions.model_fields["source"].annotation.__args__)
