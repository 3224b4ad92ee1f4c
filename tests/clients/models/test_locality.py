"""Which keys stay on the client: patterns mean module paths, never substrings."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from fedcosim.clients.models.locality import local_keys, split
from fedcosim.core.errors import SpecError

KEYS = [
    *("cls", "embed.weight", "blocks.0.attention.head_proj.weight", "blocks.0.attention.plugin.up.weight"),
    *("blocks.1.attention.qkv.weight", "blocks.1.attention.plugin.up.weight", "blocks.1.norm.running_mean"),
    *("blocks.10.attention.qkv.weight", "blocks.10.attention.plugin.up.weight", "headline.weight", "head.weight", "head.bias"),
]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["head"], ["head.weight", "head.bias"]),
        (["head.bias"], ["head.bias"]),
        (["cls"], ["cls"]),
        (["blocks.1"], [key for key in KEYS if key.startswith("blocks.1.")]),
        (["blocks.*.attention.plugin"], [key for key in KEYS if "plugin" in key]),
        (["head", "blocks.*.attention.plugin"], [key for key in KEYS if "plugin" in key or key.startswith("head.")]),
        (["blocks.*"], [key for key in KEYS if key.startswith("blocks.")]),
        (["*.weight"], ["embed.weight", "headline.weight", "head.weight"]),
        (["*"], KEYS),
    ],
)
def test_a_pattern_takes_what_lies_at_and_below_its_path(patterns, expected):
    assert local_keys(KEYS, patterns) == expected


def test_buffers_have_a_place_too():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    shared, local = split(model, ["1"])
    assert shared == ["0.weight", "0.bias"]
    assert local == ["1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (["hed"], "strategy.local = 'hed': takes nothing of this model; did you mean 'head'"),
        (["blocks.*.attn.plugin"], "strategy.local = 'blocks.*.attn.plugin': takes nothing of this model; did you mean"),
        (["lead*"], "strategy.local = 'lead*': takes nothing of this model; did you mean 'head'"),
        (["xyz"], "strategy.local = 'xyz': takes nothing of this model; its parts are cls, embed, blocks, headline, head"),
        ([""], "strategy.local = '': takes nothing of this model; its parts are"),
        (["head.weight.extra"], "strategy.local = 'head.weight.extra': takes nothing of this model"),
        (["head", "head"], "strategy.local = 'head': takes 'head.weight', as 'head' does; leave one of them out"),
        (["blocks.*", "blocks.1"], "strategy.local = 'blocks.1': takes 'blocks.1.attention.qkv.weight', as 'blocks.*' does"),
        (["head", "*"], "strategy.local = '*': takes 'head.weight', as 'head' does"),
        (
            ["cls", "embed", "blocks", "headline", "head"],
            "strategy.local = ['cls', 'embed', 'blocks', 'headline', 'head']: takes",
        ),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(patterns, sentence):
    with pytest.raises(SpecError) as error:
        split(KEYS, patterns)
    assert str(error.value).startswith(sentence)


def test_close_matches_name_the_pattern_that_was_meant():
    with pytest.raises(SpecError, match=r"blocks\.\*\.attention\.plugin"):
        split(KEYS, ["blocks.*.attn.plugin"])


PARTS = st.text("ab01", min_size=1, max_size=2)
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(tuple)
KEY_SETS = st.lists(PATHS.map(".".join), min_size=1, max_size=12, unique=True)


@given(keys=KEY_SETS, patterns=st.lists(st.lists(PARTS | st.just("*"), min_size=1, max_size=4).map(".".join), max_size=3))
def test_what_is_not_refused_is_a_partition_in_order(keys, patterns):
    try:
        shared, local = split(keys, patterns)
    except SpecError:
        assume(False)
    assert sorted(shared + local) == sorted(keys)
    assert shared == [key for key in keys if key in shared]
    assert local == [key for key in keys if key in local]
    assert bool(local) == bool(patterns)
    assert shared or patterns == ["*"]


@given(keys=KEY_SETS, data=st.data())
def test_a_path_takes_a_key_exactly_if_it_is_the_key_or_its_ancestor(keys, data):
    """The oracle is the dot: `a.b` takes `a.b` and `a.b.…`, never `a.bc`."""
    parts = data.draw(st.sampled_from(keys)).split(".")
    path = ".".join(parts[: data.draw(st.integers(1, len(parts)))])
    expected = [key for key in keys if (key + ".").startswith(path + ".")]
    assume(expected != keys)
    assert local_keys(keys, [path]) == expected


@given(keys=KEY_SETS, data=st.data())
def test_a_star_is_the_union_of_what_could_stand_there(keys, data):
    parts = data.draw(st.sampled_from(keys)).split(".")
    place = data.draw(st.integers(0, len(parts) - 1))
    starred = ".".join([*parts[:place], "*", *parts[place + 1 :]])
    candidates = {key.split(".")[place] for key in keys if key.count(".") >= place}
    single = [".".join([*parts[:place], part, *parts[place + 1 :]]) for part in candidates]
    expected = [key for key in keys if any((key + ".").startswith(path + ".") for path in single)]
    assume(expected != keys)
    assert local_keys(keys, [starred]) == expected
