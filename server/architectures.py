"""Architectures that cost estimates can name: those that clients train, and well-known ones. No weights are loaded.

Shapes: N = batch, C, H, W = channels, height, width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..clients.models import MODELS
from ..clients.tasks.diffusion import DiffusionOptions, build
from ..core.errors import SpecError
from ..core.options import choose
from ..hwsim.roofline.simulator import ModelRequest
from ..hwsim.roofline.trace import Example
from ..hwsim.simulator import HwsimError

Shape = tuple[int, int, int]
_SMALL: Shape = (1, 28, 28)
_LARGE: Shape = (3, 224, 224)


def example(request: ModelRequest) -> Example:
    """Build an architecture, without memory for its weights, and a batch for it.

    Raises
    ------
    HwsimError
        NOT_FOUND for an unknown name, with the known ones; INVALID_ARGUMENT for images that it cannot take.
    """
    if request.name not in _BUILDERS:
        raise HwsimError(f"model.name = {request.name!r}: {choose(request.name, _BUILDERS)}", "NOT_FOUND", "model.name")
    usual, classes, make = _BUILDERS[request.name]
    channels, height, width = usual
    shape = request.channels or channels, request.height or height, request.width or width
    try:
        with torch.device("meta"):
            return make(request.batch, shape, request.classes or classes)
    except (ValueError, RuntimeError, SpecError) as error:
        raise HwsimError(f"model.name = {request.name!r}: cannot take images of {shape}: {error}", field="model") from None


def names() -> list[str]:
    """Return the names there are."""
    return list(_BUILDERS)


def _classifier(model: nn.Module, batch: int, shape: Shape) -> Example:
    return Example(model, (torch.empty(batch, *shape),), (torch.empty(batch, dtype=torch.long),), _cross_entropy)


def _cross_entropy(model: nn.Module, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
    logits_NK = model(x_NCHW)
    return nn.functional.cross_entropy(logits_NK if isinstance(logits_NK, Tensor) else logits_NK.logits, y_N)


def _ours(name: str) -> Callable[[int, Shape, int], Example]:
    def make(batch: int, shape: Shape, classes: int) -> Example:
        return _classifier(MODELS.parse({"name": name}).build(shape, classes), batch, shape)

    return make


def _vit(**sizes: Any) -> Callable[[int, Shape, int], Example]:
    def make(batch: int, shape: Shape, classes: int) -> Example:
        from transformers import ViTConfig, ViTForImageClassification

        channels, height, width = shape
        if height != width:
            raise ValueError("images must be square")
        labels: dict[str, Any] = {"num_labels": classes}
        config = ViTConfig(image_size=height, num_channels=channels, **labels, **sizes)
        return _classifier(ViTForImageClassification(config), batch, shape)

    return make


def _resnet(**sizes: Any) -> Callable[[int, Shape, int], Example]:
    def make(batch: int, shape: Shape, classes: int) -> Example:
        from transformers import ResNetConfig, ResNetForImageClassification

        config = ResNetConfig(num_channels=shape[0], **({"num_labels": classes} | sizes))
        return _classifier(ResNetForImageClassification(config), batch, shape)

    return make


def _unet(tier: Any) -> Callable[[int, Shape, int], Example]:
    def make(batch: int, shape: Shape, classes: int) -> Example:
        options = DiffusionOptions(tiers=(tier,), unshuffle=2)
        unet = build(options, tier, shape, classes)
        x_NCHW = nn.functional.pixel_unshuffle(torch.empty(batch, *shape), 2)
        when_and_what = torch.empty(batch, dtype=torch.long), torch.empty(batch, dtype=torch.long)
        return Example(unet, (x_NCHW, *when_and_what), (torch.empty_like(x_NCHW),), _squared_error)

    return make


def _squared_error(unet: nn.Module, x_NCHW: Tensor, t_N: Tensor, y_N: Tensor, target_NCHW: Tensor) -> Tensor:
    return nn.functional.mse_loss(unet(x_NCHW, t_N, y_N).sample, target_NCHW)


_BUILDERS: dict[str, tuple[Shape, int, Callable[[int, Shape, int], Example]]] = {
    **{name: (_SMALL, 10, _ours(name)) for name in MODELS.names()},
    **{f"unet-{tier.lower()}": (_SMALL, 10, _unet(tier)) for tier in ("XS", "S", "M")},
    "vit-s16": (_LARGE, 1000, _vit(hidden_size=384, num_attention_heads=6, intermediate_size=1536)),
    "vit-b16": (_LARGE, 1000, _vit()),
    "resnet18": (
        _LARGE,
        1000,
        _resnet(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], embedding_size=64),
    ),
    "resnet50": (_LARGE, 1000, _resnet()),
}
