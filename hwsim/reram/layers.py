"""Which matrices a model multiplies by, seen while it runs: what an estimate without data is asked about.

Recognised are the modules that `convert` maps. Whatever else multiplies is digital, and known by its amount only: all
multiply-accumulates less those of these layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from .convert import count_macs, is_mapped
from .request import LayerShape


@dataclass
class Seen:
    """One layer's matrix and how many vectors it was multiplied by."""

    name: str
    kind: str
    inputs: int
    outputs: int
    groups: int
    vectors: int = 0
    input_gradient: bool = False

    def shape(self, samples: int) -> LayerShape:
        """Return what a request says of it if so many samples were run."""
        fields = {name: getattr(self, name) for name in ("name", "kind", "inputs", "outputs", "groups", "input_gradient")}
        return LayerShape(positions=max(1, round(self.vectors / samples)), **fields)


@dataclass
class Watch:
    """What the layers of one model have done so far, in the order in which they ran first."""

    seen: dict[str, Seen] = field(default_factory=dict)

    def shapes(self, samples: int) -> list[LayerShape]:
        """Return the layers of a run of so many samples."""
        return [layer.shape(samples) for layer in self.seen.values() if layer.vectors]

    def note(self, name: str, kind: str, sizes: tuple[int, int, int], vectors: int, gradient: bool) -> None:
        """Count one call of a layer; `sizes` are inputs, outputs, groups."""
        layer = self.seen.setdefault(name, Seen(name, kind, *sizes))
        layer.vectors += vectors
        layer.input_gradient |= gradient


@contextmanager
def watch(model: nn.Module) -> Iterator[Watch]:
    """See what a model's layers do inside; all that run there count, however often."""
    watching = Watch()
    hooks = [
        module.register_forward_hook(_noting(watching, name or "model"), with_kwargs=True)
        for name, module in model.named_modules()
        if is_mapped(module)
    ]
    try:
        yield watching
    finally:
        for hook in hooks:
            hook.remove()


def _noting(watching: Watch, name: str) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(module, nn.MultiheadAttention):
            _note_attention(watching, name, module, args, kwargs)
            return
        x = args[0] if args else next(iter(kwargs.values()))
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            groups = module.groups
            inputs = module.in_channels // groups * math.prod(module.kernel_size)
            vectors = output.numel() // module.out_channels
            watching.note(name, "conv", (inputs, module.out_channels // groups, groups), vectors, x.requires_grad)
        else:
            inputs, outputs = x.shape[-1], output.shape[-1]
            watching.note(name, "linear", (inputs, outputs, 1), x.numel() // inputs, x.requires_grad)

    return note


def _note_attention(
    watching: Watch, name: str, attention: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Count the four projections; scores and weighted sums are products of activations."""
    names = ("query", "key", "value")
    given = dict(zip(names, args, strict=False)) | {part: kwargs[part] for part in names if part in kwargs}
    width = attention.embed_dim
    for part in names:
        x = cast(Tensor, given[part])
        watching.note(f"{name}.{part[0]}_proj", "attention", (x.shape[-1], width, 1), x.numel() // x.shape[-1], x.requires_grad)
    vectors = given["query"].numel() // width
    watching.note(f"{name}.out_proj", "attention", (width, width, 1), vectors, attention.out_proj.weight.requires_grad)


def layers(model: nn.Module, inputs: tuple[Tensor, ...], samples: int) -> list[LayerShape]:
    """Return a model's layers, and what else it multiplies as one digital layer, from a forward pass; meta tensors will do."""
    with watch(model) as watching:
        macs = count_macs(model, *inputs) // samples
    shapes = watching.shapes(samples)
    return shapes + digital(macs - sum(shape.macs for shape in shapes))


def digital(macs: int) -> list[LayerShape]:
    """Return so many multiply-accumulates of a sample that are not in crossbars, as a layer if there are any."""
    return (
        [LayerShape(name="products outside of crossbars", kind="digital", inputs=1, outputs=1, positions=macs)]
        if macs > 0
        else []
    )
