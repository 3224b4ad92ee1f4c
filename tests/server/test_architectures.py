"""Architectures by name: the published sizes, built without memory, for any images they can take."""

from __future__ import annotations

import pytest
import torch

from fedcosim.clients.models import MODELS, initialise
from fedcosim.hwsim.roofline.simulator import ModelRequest
from fedcosim.hwsim.simulator import HwsimError
from fedcosim.server.architectures import example, names


def parameters(**fields) -> int:
    return sum(p.numel() for p in example(ModelRequest(**fields)).model.parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [("vit-b16", 86_567_656), ("vit-s16", 22_050_664), ("resnet18", 11_689_512), ("resnet50", 25_557_032)],
)
def test_well_known_architectures_have_their_published_sizes(name, published):
    """Dosovitskiy et al. and He et al. on ImageNet; torchvision and timm say the same."""
    assert parameters(name=name) == published


@pytest.mark.parametrize("name", MODELS.names())
def test_what_clients_train_has_the_size_it_has_in_a_run(name):
    in_a_run = initialise(MODELS.parse({"name": name}), (3, 56, 56), 100, seed=1)
    assert parameters(name=name, channels=3, height=56, width=56, classes=100) == sum(p.numel() for p in in_a_run.parameters())


@pytest.mark.parametrize("name", names())
def test_every_architecture_takes_its_batch_without_memory_for_anything(name):
    one = example(ModelRequest(name=name, batch=5))
    tensors = [*one.model.parameters(), *one.model.buffers(), *one.inputs, *one.targets]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {len(tensor) for tensor in (*one.inputs, *one.targets)} == {5}
    assert one.loss(one.model, *one.inputs, *one.targets).shape == ()


def test_building_draws_no_random_numbers():
    before = torch.random.get_rng_state()
    example(ModelRequest(name="lenet"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_unknown_name_is_not_found():
    with pytest.raises(HwsimError, match="did you mean 'resnet18'") as raised:
        example(ModelRequest(name="resnet-18"))
    assert (raised.value.code, raised.value.field) == ("NOT_FOUND", "model.name")


@pytest.mark.parametrize(
    ("name", "height", "sentence"),
    [
        ("lenet", 2, "at least 4 x 4"),
        ("vit", 27, "model.patch"),
        ("vit-b16", 100, "must be square"),
        ("unet-s", 3, "unshuffle"),
    ],
)
def test_images_that_do_not_suit_are_refused(name, height, sentence):
    with pytest.raises(HwsimError, match="cannot take images of") as raised:
        example(ModelRequest(name=name, height=height))
    assert sentence in str(raised.value)
    assert (raised.value.code, raised.value.field) == ("INVALID_ARGUMENT", "model")
