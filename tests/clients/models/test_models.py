"""Every architecture: what a spec may say, what comes out, and what its weights depend on."""

import pytest
import torch

from fedcosim.clients.models import MODELS, initialise
from fedcosim.clients.models.cnn import CnnOptions
from fedcosim.clients.models.lenet import LeNetOptions
from fedcosim.clients.models.vit import VitOptions
from fedcosim.core.errors import SpecError

PLUGINS = [None, {"mode": "add"}, {"mode": "add", "rank": 3}, {"mode": "concat"}, {"mode": "vector", "tokens": 2}]
SMALL_VIT = {"name": "vit", "dim": 8, "depth": 2, "heads": 2, "patch": 4}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("shape_CHW", [(1, 28, 28), (1, 8, 8), (3, 32, 32), (1, 8, 12)])
@pytest.mark.parametrize("section", [{"name": "lenet"}, {"name": "cnn"}, SMALL_VIT])
def test_every_model_takes_every_image_size_and_trains(section, shape_CHW):
    model = initialise(MODELS.parse(section), shape_CHW, classes=7, seed=1)
    logits_BK = model(torch.rand(5, *shape_CHW))
    assert logits_BK.shape == (5, 7)
    logits_BK.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("section", [{"name": "lenet"}, {"name": "cnn"}, SMALL_VIT])
def test_memory_format_changes_speed_and_not_results(section):
    model = initialise(MODELS.parse(section), (3, 32, 32), 10, seed=1).eval()
    assert isinstance(model.channels_last, bool)
    x_BCHW = torch.rand(4, 3, 32, 32)
    expected_BK = model(x_BCHW)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x_BCHW.to(memory_format=torch.channels_last)), expected_BK, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS.names())
def test_the_last_layer_is_called_head(name):
    model = initialise(MODELS.parse({"name": name, **({"patch": 8} if name == "vit" else {})}), (3, 32, 32), 11, seed=1)
    assert list(model.state_dict())[-2:] == ["head.weight", "head.bias"]
    assert model.head.out_features == 11


@pytest.mark.parametrize(("options", "parameters"), [(LeNetOptions(), 62_006), (CnnOptions(), 1_626_442)], ids=["lenet", "cnn"])
def test_parameter_counts_on_cifar_shapes_are_the_published_ones(options, parameters):
    assert count(options.build((3, 32, 32), 10)) == parameters


def test_lenet_sees_28_pixels_as_32():
    """LeCun's digits lie in a 32 x 32 field: the linear layers are as wide for both."""
    assert LeNetOptions().build((1, 28, 28), 10).fc1.in_features == LeNetOptions().build((1, 32, 32), 10).fc1.in_features == 400


@pytest.mark.parametrize("section", [{"name": "lenet"}, {"name": "cnn"}, {**SMALL_VIT, "plugin": {}}])
def test_weights_depend_on_the_seed_and_on_nothing_else(section):
    options = MODELS.parse(section)
    torch.manual_seed(1)
    first = initialise(options, (1, 8, 8), 5, seed=3).state_dict()
    torch.manual_seed(2)
    torch.rand(17)
    assert equal(initialise(options, (1, 8, 8), 5, seed=3).state_dict(), first)
    other = initialise(options, (1, 8, 8), 5, seed=4).state_dict()
    assert not any(torch.equal(other[key], first[key]) for key in first if key.endswith("weight") and "norm" not in key)


def test_initialising_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    initialise(MODELS.parse({**SMALL_VIT, "plugin": {}}), (1, 8, 8), 5, seed=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("plugin", PLUGINS[1:])
def test_the_base_does_not_depend_on_the_plugin(plugin):
    """Methods with and without plugins are compared from the same starting point (invariant I7)."""
    plain = initialise(MODELS.parse(SMALL_VIT), (1, 8, 8), 5, seed=3).state_dict()
    plugged = initialise(MODELS.parse({**SMALL_VIT, "plugin": plugin}), (1, 8, 8), 5, seed=3).state_dict()
    assert set(plugged) > set(plain)
    assert equal({key: plugged[key] for key in plain}, plain)


def test_the_plugin_does_not_depend_on_the_base_beyond_its_width():
    def plugin_of(**changes):
        state = initialise(MODELS.parse({**SMALL_VIT, "plugin": {}, **changes}), (1, 8, 8), 5, seed=3).state_dict()
        return {key: value for key, value in state.items() if "blocks.0.attention.plugin" in key}

    assert equal(plugin_of(), plugin_of(mlp_ratio=2.0, heads=4, patch=2))


@pytest.mark.parametrize(
    "section", [{"name": "lenet"}, {"name": "cnn", "dropout_hidden": 0.0}, *({**SMALL_VIT, "plugin": p} for p in PLUGINS)]
)
def test_what_is_dumped_can_be_parsed(section):
    options = MODELS.parse(section)
    assert MODELS.parse(options.model_dump()) == options
    assert MODELS.parse(options.model_dump(exclude_none=True)) == options


def vit(**changes):
    return lambda: initialise(MODELS.parse({"name": "vit", **changes}), (1, 28, 28), 10, seed=1)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: MODELS.parse({"name": "vitt"}), "model.name = 'vitt': did you mean 'vit'? choose one of lenet, cnn, vit"),
        (vit(dims=32), "model.dims: unknown field; did you mean 'dim'?"),
        (vit(dim=32, heads=5), "model.heads = 5: does not divide model.dim = 32; choose one of 1, 2, 4, 8, 16, 32"),
        (vit(dim=0), "model.dim = 0: input should be greater than or equal to 1"),
        (vit(patch=5), "model.patch = 5: the image is 28 x 28; choose one of 1, 2, 4, 7, 14, 28"),
        (vit(mlp_ratio=0.001), "model.mlp_ratio = 0.001: leaves the MLP no unit; choose at least 0.015625"),
        (vit(plugin={"rank": 0}), "model.plugin.rank = 0: input should be greater than or equal to 1"),
        (vit(plugin={"rank": -2}), "model.plugin.rank = -2: input should be greater than or equal to 1"),
        (vit(plugin={"tokens": 0}), "model.plugin.tokens = 0: input should be greater than or equal to 1"),
        (vit(plugin={"scale": float("nan")}), "model.plugin.scale = nan: input should be a finite number"),
        (vit(plugin={"scale": float("inf")}), "model.plugin.scale = inf: input should be a finite number"),
        (vit(plugin={"mode": "prefix"}), "model.plugin.mode = 'prefix': input should be 'add', 'concat' or 'vector'"),
        (vit(plugin={"init": "ones"}), "model.plugin.init = 'ones': input should be 'default' or 'zero'"),
        (vit(depth=3, plugin={"depth": 4}), "model.plugin.depth = 4: model.depth gives 3 blocks; choose 1 to 3"),
        (vit(depth=3, plugin={"depth": 0}), "model.plugin.depth = 0: input should be greater than or equal to 1"),
        (vit(plugin={"activation": "relu"}), "model.plugin.activation: unknown field; choose one of mode, rank, scale"),
        (
            lambda: MODELS.parse({"name": "cnn", "dropout_hidden": 1.0}),
            "model.dropout_hidden = 1.0: input should be less than 1",
        ),
        (lambda: CnnOptions().build((1, 5, 8), 10), "model.name = 'cnn': the image is 5 x 8; at least 6 x 6 is needed"),
        (lambda: LeNetOptions().build((1, 3, 8), 10), "model.name = 'lenet': the image is 3 x 8; at least 4 x 4 is needed"),
        (lambda: VitOptions(patch=4).build((1, 8, 14), 10), "model.patch = 4: the image is 8 x 14; choose one of 1, 2"),
    ],
)
def test_a_wrong_description_is_refused_by_name(build, sentence):
    with pytest.raises(SpecError) as error:
        build()
    assert str(error.value).startswith(sentence)
