"""Which matrices of a model crossbars can hold, and how often they are multiplied, seen while the model runs.

That is all an estimate without data needs to be asked about. Whatever else a model multiplies is digital, and known by its
amount only: all multiply-accumulates less those of these layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import Tensor, nn

if TYPE_CHECKING:
    from .request import LayerShape

Mapped = Literal["linear", "conv", "conv1d_of_transformers", "attention"]


def mapped_kind(module: nn.Module) -> Mapped | None:
    """Say how crossbars hold a module's matrices, None if they do not; a subclass with a forward of its own is not known."""
    forward = type(module).forward
    if forward is nn.Linear.forward:
        return "linear"
    if forward in (nn.Conv1d.forward, nn.Conv2d.forward):
        return "conv"
    if type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers."):
        return "conv1d_of_transformers"
    if isinstance(module, nn.MultiheadAttention) and module.bias_k is None and not module.add_zero_attn:
        return "attention"
    return None


@dataclass
class SeenLayer:
    """One layer's matrix.

    Attributes
    ----------
    inputs, outputs, groups : int
        Of the matrix; the first two of one group.
    vectors : int
        What it was multiplied by so far.
    input_gradient : bool
        Whether gradients of its inputs were wanted.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    groups: int
    vectors: int = 0
    input_gradient: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates so far."""
        return self.inputs * self.outputs * self.groups * self.vectors

    def shape(self, samples: int) -> LayerShape:
        """Return what a request says of it if so many samples were run."""
        from .request import LayerShape

        fields = {name: getattr(self, name) for name in ("name", "kind", "inputs", "outputs", "groups", "input_gradient")}
        return LayerShape(positions=max(1, round(self.vectors / samples)), **fields)


@dataclass
class Watch:
    """What the layers of one model have done so far, in the order in which they ran first."""

    _seen: dict[str, SeenLayer] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[SeenLayer, ...]:
        """Those that ran on anything."""
        return tuple(layer for layer in self._seen.values() if layer.vectors)

    def note(self, name: str, kind: str, sizes: tuple[int, int, int], vectors: int, gradient: bool) -> None:
        """Count one call of a layer; `sizes` are inputs, outputs, groups."""
        layer = self._seen.setdefault(name, SeenLayer(name, kind, *sizes))
        layer.vectors += vectors
        layer.input_gradient |= gradient


@contextmanager
def watch(model: nn.Module) -> Iterator[Watch]:
    """See what the layers of a model, and of copies that are made meanwhile, do inside."""
    watching = Watch()
    hooks = [
        module.register_forward_hook(_noting(watching, name or "model"), with_kwargs=True)
        for name, module in model.named_modules()
        if mapped_kind(module) is not None
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
            sizes = module.in_channels // groups * math.prod(module.kernel_size), module.out_channels // groups, groups
            watching.note(name, "conv", sizes, output.numel() // module.out_channels, x.requires_grad)
        else:
            sizes = x.shape[-1], output.shape[-1], 1
            watching.note(name, "linear", sizes, x.numel() // x.shape[-1], x.requires_grad)

    return note


def _note_attention(
    watching: Watch, name: str, attention: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Count the four projections; scores and weighted sums are products of activations."""
    names, width = ("query", "key", "value"), attention.embed_dim
    given = dict(zip(names, args, strict=False)) | {part: kwargs[part] for part in names if part in kwargs}
    for part in names:
        x = cast(Tensor, given[part])
        watching.note(f"{name}.{part[0]}_proj", "attention", (x.shape[-1], width, 1), x.numel() // x.shape[-1], x.requires_grad)
    vectors = given["query"].numel() // width
    watching.note(f"{name}.out_proj", "attention", (width, width, 1), vectors, attention.out_proj.weight.requires_grad)


def layers(model: nn.Module, inputs: tuple[Tensor, ...], samples: int) -> list[LayerShape]:
    """Return a model's layers, and what else it multiplies as one digital layer, from a forward pass; meta tensors will do."""
    from .convert import count_macs
    from .request import LayerShape

    with watch(model) as watching:
        macs = count_macs(model, *inputs) // samples
    shapes = [layer.shape(samples) for layer in watching.layers]
    rest = macs - sum(shape.macs for shape in shapes)
    if rest <= 0:
        return shapes
    return [*shapes, LayerShape(name="products outside of crossbars", kind="digital", inputs=1, outputs=1, positions=rest)]
