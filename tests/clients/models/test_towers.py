"""The modality-agnostic transformer: equal towers for all types, an explicit map of layers, gates that change nothing at 0."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedcosim.clients.data.silos import Classes, Pixels, SiloType, Tokens
from fedcosim.clients.models.gates import attach, gated_layers, merge
from fedcosim.clients.models.towers import Towers, TowersOptions, part_of
from fedcosim.clients.models.vit import ViT, VitOptions
from fedcosim.core.errors import DataError, SpecError

OPTIONS = TowersOptions(dim=16, depth=2, heads=2, patch=4)
IMAGE, TEXT = Pixels((3, 8, 8)), Tokens(vocabulary=20, length=5)
IMAGES, TEXTS = SiloType("images", {"image": IMAGE}, Classes(4)), SiloType("texts", {"text": TEXT}, Classes(3))
PAIRS = SiloType("pairs", {"image": IMAGE, "text": TEXT})


def model(kind: SiloType, seed: int = 1) -> Towers:
    return OPTIONS.build_for(kind, seed)


def others(tower: nn.Module, count: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        path: torch.randn(count, *tower.get_submodule(path).weight.shape, generator=generator)
        for path in gated_layers(2, "blocks")
    }


def test_types_start_with_equal_towers_whatever_else_they_hold():
    """A type's tower must not depend on the other tower: otherwise types would start apart, and averages mix strangers."""
    pairs, images, texts = (model(kind).state_dict() for kind in (PAIRS, IMAGES, TEXTS))
    for key, tensor in pairs.items():
        for alone in (images, texts):
            if key.startswith("towers.") and key in alone:
                assert torch.equal(tensor, alone[key])
    key = "towers.image.embed.project.weight"
    assert not torch.equal(model(IMAGES, 2).state_dict()[key], images[key])


def test_every_parameter_is_of_a_known_part():
    """The map is by anchored path; a tower called `head` or `norm` must not confuse it."""
    odd = SiloType("odd", {"head": TEXT, "norm": IMAGE})
    found: dict[tuple[str | None, str], int] = {}
    for key in [*model(IMAGES).state_dict(), *model(odd).state_dict()]:
        part = part_of(key)
        found[part.modality, part.kind] = found.get((part.modality, part.kind), 0) + 1
    for modality, embedding in (("image", 4), ("head", 5), ("norm", 4)):
        # a block has 4 tensors of attention, 4 of its MLP and 4 of its norms
        assert [found[modality, kind] for kind in ("embedding", "attention", "mlp", "norm")] == [embedding, 8, 8, 8]
    assert (found[None, "norm"], found[None, "head"]) == (4, 2)
    with pytest.raises(KeyError):
        part_of("towers.image.blocks.0.plugin.down.weight")


def test_an_image_tower_is_the_vit_with_its_patches_in_the_same_order():
    """The same blocks: with the ViT's weights a tower gives the ViT's logits."""
    vit = VitOptions(dim=16, depth=2, heads=2, patch=4).build((3, 8, 8), 4)
    assert isinstance(vit, ViT)
    tower = OPTIONS.build((3, 8, 8), 4)
    names = {"embed": "towers.image.embed.project", "cls": "towers.image.embed.cls", "position": "towers.image.embed.position"}
    renamed = {}
    for key, tensor in vit.state_dict().items():
        first, _, rest = key.partition(".")
        name = names.get(first, "towers.image.blocks" if first == "blocks" else first)
        renamed[f"{name}.{rest}" if rest else name] = tensor
    tower.load_state_dict(renamed)
    x = torch.randn(6, 3, 8, 8)
    torch.testing.assert_close(tower(x), vit(x))


def test_gates_at_zero_are_the_plain_model_bit_for_bit():
    plain, gated, x = model(IMAGES), model(IMAGES), torch.randn(5, 3, 8, 8)
    attach(gated.towers["image"], others(gated.towers["image"]), trained=True)
    assert torch.equal(plain(x), gated(x))


@pytest.mark.parametrize("count", [1, 3])
def test_the_merged_model_is_the_gated_one(count):
    """What is uploaded must compute what was trained; and look like a plain model: no gate, no borrowed weight."""
    gated, x = model(TEXTS), torch.randint(0, 20, (5, 5))
    tower = gated.towers["text"]
    borrowed = others(tower, count)
    gates = attach(tower, borrowed, trained=False)
    own = {path: tower.get_submodule(path).parametrizations.weight.original.detach().clone() for path in borrowed}
    for i, gate in enumerate(gates):
        nn.init.constant_(gate.g_K, 0.1 * (i + 1))
    before = gated(x).detach()
    merge(tower)
    torch.testing.assert_close(gated(x), before, rtol=1e-5, atol=1e-5)
    assert {k: t.shape for k, t in gated.state_dict().items()} == {k: t.shape for k, t in model(TEXTS).state_dict().items()}
    for i, (path, weights) in enumerate(borrowed.items()):
        expected = own[path] + 0.1 * (i + 1) * weights.sum(0)
        torch.testing.assert_close(tower.get_submodule(path).weight.detach(), expected)


def test_gates_learn_and_the_borrowed_weights_only_if_asked():
    for trained in (False, True):
        gated = model(IMAGES)
        gates = attach(gated.towers["image"], others(gated.towers["image"]), trained)
        gated(torch.randn(5, 3, 8, 8)).square().sum().backward()
        assert all(gate.g_K.grad.abs().sum() > 0 for gate in gates)
        assert all((gate.others_KOI.grad is not None) == trained for gate in gates)


def test_gates_sit_where_they_are_asked_for():
    assert gated_layers(2, "none") == []
    assert gated_layers(1, "attention") == ["blocks.0.attention.qkv", "blocks.0.attention.proj"]
    assert gated_layers(1, "mlp") == ["blocks.0.mlp.up", "blocks.0.mlp.down"]
    assert len(gated_layers(3, "blocks")) == 12


def test_padding_alone_is_no_reason_for_nan():
    assert torch.isfinite(model(TEXTS)(torch.zeros(2, 5, dtype=torch.long))).all()


def test_bad_types_and_sizes_are_refused():
    with pytest.raises(DataError, match=r"2 modalities with labels"):
        SiloType("pairs", {"image": IMAGE, "text": TEXT}, Classes(3))
    with pytest.raises(DataError, match=r"1 modalities without labels"):
        SiloType("images", {"image": IMAGE})
    with pytest.raises(DataError, match=r"modality 'im.age'"):
        SiloType("images", {"im.age": IMAGE}, Classes(3))
    with pytest.raises(SpecError, match=r"model.patch = 3: the image is 8 x 8; choose one of 1, 2, 4, 8"):
        TowersOptions(dim=16, patch=3).build((3, 8, 8), 4)
