"""A spec is refused with a sentence that names field, value and what is allowed, and survives every form it travels in."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from small import SMALL, small

from fedcosim.core.errors import SpecError
from fedcosim.server.spec import from_run_config, load, override, parse

ROOT = Path(__file__).parents[2]

BAD = [
    ("federation.per_round=64", "federation.per_round = 64: only 6 clients exist (federation.clients); choose 1 to 6"),
    ("federation.per_round=0", "federation.per_round = 0: input should be greater than or equal to 1"),
    ("federation.per_round=2.5", "federation.per_round = 2.5: input should be a valid integer"),
    ("federation.min_reply_fraction=1.5", "federation.min_reply_fraction = 1.5: input should be less than or equal to 1"),
    ("federation.cleints=3", "federation.cleints: unknown field; did you mean 'clients'?"),
    ("fedaration.clients=3", "fedaration: unknown field; did you mean 'federation'?"),
    ("seed=-1", "seed = -1: input should be greater than or equal to 0"),
    ("name=../escape", "name = '../escape': string should match pattern"),
    ("data.source=fashion_mnist", "data.source = 'fashion_mnist'"),
    ("data.alpha=0", "data.alpha = 0: input should be greater than 0"),
    ("data.alpha=nan", "data.alpha = nan: input should be a finite number"),
    ("model.name=resnet", "model.name = 'resnet': did you mean 'lenet'? choose one of lenet, cnn, vit"),
    ("model.name=[1]", "model.name = [1]: choose one of lenet, cnn, vit"),
    ("model.heads=3", "model.heads = 3"),
    ("model.depth=0", "model.depth = 0: input should be greater than or equal to 1"),
    ("strategy.name=fedprefix", "strategy.name = 'fedprefix': did you mean 'fedperfix'?"),
    ("strategy.rank=4", "strategy.rank: unknown field"),
    ("train.lr=0", "train.lr = 0: input should be greater than 0"),
    ("train.optimizer=lion", "train.optimizer = 'lion': input should be 'sgd', 'adam' or 'adamw'"),
    ("evaluate.split=train", "evaluate.split = 'train': input should be 'test' or 'validation'"),
    ("engine.address=somewhere", "engine.address = 'somewhere': must be 'local', 'auto' or 'ray://host:port'"),
    ("engine.workers=0", "engine.workers = 0: input should be greater than or equal to 1"),
    ("engine.state=/shared/states", "engine.state = '/shared/states': must be a URL like 's3://bucket/prefix'"),
    ("engine.state=s3://", "engine.state = 's3://': must be a URL"),
    ("engine.state=simplecache::s3://bucket", "engine.state = 'simplecache::s3://bucket': must be a URL"),
    ("engine.state=abfs://c@account/p?sig=x", "engine.state = 'abfs://c@account/p?sig=x': must be a URL"),
    ("engine.state=s4://bucket", "engine.state = 's4://bucket': fsspec knows no protocol 's4'; choose s3, gs, abfs, sftp"),
    ("engine.state=sftp://me:hush@host/p", "engine.state = 'sftp://***@host/p': would write a password into the record"),
    ("stop.accuracy=90", "stop.accuracy = 90: input should be less than or equal to 1"),
]
BAD_FEDPERFIX = [
    ("strategy.rank=0", "strategy.rank = 0: input should be greater than or equal to 1"),
    ("strategy.scale=inf", "strategy.scale = inf: input should be a finite number"),
    ("strategy.plugin=prefix", "strategy.plugin = 'prefix': input should be 'add', 'concat' or 'vector'"),
    ("strategy.depth=3", "strategy.depth = 3"),
    ("strategy.depth=0", "strategy.depth = 0: input should be greater than or equal to 1"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_a_bad_field_is_named_with_its_value(change, sentence):
    with pytest.raises(SpecError) as refused:
        small("fedavg", change)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(("change", "sentence"), BAD_FEDPERFIX)
def test_a_bad_plugin_is_named_as_the_strategys_field(change, sentence):
    with pytest.raises(SpecError) as refused:
        small("fedperfix", change)
    assert sentence in str(refused.value)


def test_fedperfix_needs_a_vit():
    fields = override(SMALL, ["strategy.name=fedperfix"]) | {"model": {"name": "lenet"}}
    with pytest.raises(SpecError, match=r"strategy 'fedperfix' needs model.name = 'vit'"):
        parse(fields)


@pytest.mark.parametrize("name", ["krum", "multikrum", "bulyan"])
def test_a_cohort_too_small_for_the_malicious_is_refused(name):
    with pytest.raises(SpecError, match=rf"per_round = 4: {name} with strategy.num_malicious_nodes = 1 needs at least"):
        small(name, "strategy.num_malicious_nodes=1")


def test_all_problems_are_told_at_once():
    with pytest.raises(SpecError) as refused:
        small("fedavg", "train.lr=-1", "strategy.x=1", "seed=-1")
    assert len(refused.value.problems) == 3


def test_a_missing_section_is_named():
    with pytest.raises(SpecError, match="model: missing"):
        parse({key: value for key, value in SMALL.items() if key != "model"})


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda p: p.stem)
def test_a_spec_survives_toml_and_flowers_run_config(path):
    """The record, the workers and `flwr run` must all see the experiment the user wrote."""
    spec = load(path)
    assert parse(tomllib.loads(spec.to_toml())) == spec
    assert from_run_config(spec.to_run_config()) == spec
    assert from_run_config({"spec": spec.to_toml()}) == spec


def test_overrides_are_toml_values_and_empty_removes():
    fields = override({"a": {"b": 1, "c": 2}}, ["a.b=2.5", "a.d=text", "x.y=true", "a.c="])
    assert fields == {"a": {"b": 2.5, "d": "text"}, "x": {"y": True}}


@pytest.mark.parametrize("item", ["a.b", "=3", "a..b=3", "a.b.c=3"])
def test_a_malformed_override_is_refused(item):
    with pytest.raises(SpecError, match="--set"):
        override({"a": {"b": 1}}, [item])


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.toml: cannot be read"):
        load(tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("a = [")
    with pytest.raises(SpecError, match=r"broken\.toml: not valid TOML"):
        load(tmp_path / "broken.toml")


def test_few_clients_all_take_part_by_default():
    fields = override(SMALL, ["federation.clients=5", "federation.per_round="])
    assert parse(fields).federation.per_round == 5


@pytest.mark.parametrize("text", ["a = [", "name = 'x'"])
def test_a_broken_spec_in_a_run_config_is_a_sentence(text):
    with pytest.raises(SpecError):
        from_run_config({"spec": text})
