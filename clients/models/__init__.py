"""Architectures a client can train: one a file, chosen by name, with weights that depend on the options and the seed only."""

from __future__ import annotations

import torch
from torch import nn

from ...core.options import Registry
from ...core.seeds import derive
from .options import ModelOptions
from .plugin import Plugin

__all__ = ["MODELS", "ModelOptions", "initialise"]

MODELS: Registry[ModelOptions] = Registry(
    "model",
    {
        "lenet": "clients.models.lenet:LeNetOptions",
        "cnn": "clients.models.cnn:CnnOptions",
        "vit": "clients.models.vit:VitOptions",
        "towers": "clients.models.towers:TowersOptions",
    },
)


def initialise(options: ModelOptions, shape_CHW: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """Build a model whose weights depend on nothing but the arguments.

    The base is drawn from the stream ``derive(seed, "model")`` and plugins from ``derive(seed, "plugin")``: which plugin a
    model carries, or whether it carries one, never changes the base. The process-wide generators are left as they were.

    Parameters
    ----------
    options : ModelOptions
        The architecture.
    shape_CHW : tuple of int
        Channels, height, width of one image.
    classes : int
        Width of the head.
    seed : int
        The experiment's seed.

    Raises
    ------
    SpecError
        If the architecture cannot take images of this shape.
    """
    generator = torch.random.default_generator  # torch.manual_seed would also reseed accelerators, which nobody restores
    with torch.random.fork_rng(devices=[]):
        generator.manual_seed(derive(seed, "model"))
        model = options.build(shape_CHW, classes)
        generator.manual_seed(derive(seed, "plugin"))
        for module in model.modules():
            if isinstance(module, Plugin):
                module.reset_parameters()
    return model
