"""Quantise a model block by block, each on what the quantised blocks before it give.

Source: RPTQ's published code for the order: ranges of a block in floating point, quantisers of its activations, GPTQ on the
quantised inputs of its layers, then its outputs, as quantised, for the next block. Ours: it works on any model whose blocks
`blocks` knows and that runs them one after the other, and quantisers act by label on channels in the model's own order, which
gives the numbers that reordered channels would.

Shapes: t = tokens, c = channels, o = outputs, i = inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import CalibrationError, SpecError
from ..activations import run
from ..codec import Calibration
from .blocks import Block, blocks, is_transposed, outside, weight_oi
from .quantiser import Quantiser, RoundedSoftmax, Smoothed, TokenQuantiser
from .recipe import Recipe
from .rounding import Rounded, gptq, round_to_nearest
from .sites import End, ends, observed, quantisers

ActivationQuantiser = Quantiser | TokenQuantiser | Smoothed
FIRST_ARGUMENT = "a block's first argument is what the block before it returned"


class QuantisedModel(nn.Module):
    """A model whose layers see and give quantised activations.

    Parameters
    ----------
    inner : Module
        Hooks are added to its layers, and it is put into evaluation mode.
    quantisers : mapping
        By where they act; looked up at every call, so they may be added later.
    softmax_bits : int
        Of attention probabilities; 16 for none.
    """

    def __init__(self, inner: nn.Module, quantisers: Mapping[End, ActivationQuantiser], softmax_bits: int) -> None:
        super().__init__()
        self.inner = inner.eval()
        self.quantisers, self.softmax_bits = quantisers, softmax_bits
        for block in blocks(inner):
            for layer in block.layers:
                module = inner.get_submodule(layer)
                module.register_forward_pre_hook(self._inputs(layer))
                module.register_forward_hook(self._outputs(layer))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        with self.rounding():
            return self.inner(*args, **kwargs)

    @contextmanager
    def rounding(self) -> Iterator[None]:
        """Round attention probabilities."""
        with RoundedSoftmax(self.softmax_bits) if self.softmax_bits < 16 else nullcontext():
            yield

    def _inputs(self, layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            quantiser = self.quantisers.get((layer, "in"))
            return None if quantiser is None else (quantiser(arguments[0]), *arguments[1:])

        return hook

    def _outputs(self, layer: str) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def hook(_: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
            quantiser = self.quantisers.get((layer, "out"))
            return None if quantiser is None else quantiser(output)

        return hook


@dataclass(frozen=True)
class Quantised:
    """A quantised model and what it is made of.

    Attributes
    ----------
    module : QuantisedModel
        Takes what the model took.
    rounded : dict of str to Rounded
        By name of the weight.
    quantisers : dict
        By where they act.
    notes : dict of str to str
        What was done otherwise than asked for, by weight or site.
    untouched : list of str
        Weights of more than one dimension that are not quantised, for no block has them.
    """

    module: QuantisedModel
    rounded: dict[str, Rounded]
    quantisers: dict[End, ActivationQuantiser]
    notes: dict[str, str]
    untouched: list[str]


def quantise(
    calibration: Calibration,
    recipe: Recipe,
    values: Mapping[str, Tensor] | None = None,
    before: Mapping[str, Tensor] | None = None,
    only: Sequence[str] | None = None,
) -> Quantised:
    """Quantise a copy of a model.

    Parameters
    ----------
    calibration : Calibration
        The model, and inputs of it where the recipe needs some.
    recipe : Recipe
    values : mapping of str to Tensor, optional
        What is rounded, by name of the weight, in place of the weights: a round's change of them. Blocks' weights that are
        not there are left as they are.
    before : mapping of str to Tensor, optional
        What the receiver adds the rounded values to; absent: nothing.
    only : sequence of str, optional
        Names of the blocks to quantise; absent: all.

    Raises
    ------
    SpecError
        If the model has no block of a kind that is known, or does not run its blocks one after the other.
    CalibrationError
        If inputs are needed and there are none, or activations on them are not finite.
    """
    if recipe.needs_calibration and not calibration.batches:
        raise CalibrationError(f"calibration: {recipe.bits} needs batches, and there are none; give at least one")
    return _Calibrator(calibration, recipe, values, before, only).run()


class _Calibrator:
    def __init__(
        self,
        calibration: Calibration,
        recipe: Recipe,
        values: Mapping[str, Tensor] | None,
        before: Mapping[str, Tensor] | None,
        only: Sequence[str] | None,
    ) -> None:
        self.recipe, self.batches, self.before = recipe, calibration.batches, before
        self.inner = evaluated_copy(calibration.module)
        self.values = {name: x.detach().clone() for name, x in self.inner.named_parameters()} if values is None else values
        self.blocks = blocks(self.inner)
        self.chosen = set(only) if only is not None else {block.name for block in self.blocks}
        self.quantisers: dict[End, ActivationQuantiser] = {}
        self.model = QuantisedModel(self.inner, self.quantisers, recipe.softmax if only is None else 16)
        self.rounded: dict[str, Rounded] = {}
        self.notes: dict[str, str] = {}

    @torch.no_grad()
    def run(self) -> Quantised:
        """Calibrate block by block, each on what the quantised ones before it give, and return the model."""
        if self.recipe.needs_calibration:
            trace = Trace(self.inner, self.blocks, self.batches)
            hidden = trace.first
            for number, block in enumerate(self.blocks):
                if block.name in self.chosen:
                    self._calibrated(block, trace, number, hidden)
                hidden, _ = self._pass(trace, number, hidden, (), quantised=True)
        else:
            for block in (block for block in self.blocks if block.name in self.chosen):
                self.quantisers |= quantisers(block, {}, self.recipe, 1)
                self._round(block, {}, {})
        untouched = outside(self.inner, self.blocks)
        return Quantised(self.model, self.rounded, self.quantisers, self.notes, untouched)

    def _calibrated(self, block: Block, trace: Trace, number: int, hidden: list[Tensor]) -> None:
        smooth: dict[str, Tensor] = {}
        if self.recipe.setting.activations < 16 or self.recipe.smooth is not None:
            where = [site[0] for site in ends(block).values()]
            _, at = self._pass(trace, number, hidden, where, quantised=False)
            seen = observed(block, at)
            if self.recipe.smooth is not None:
                smooth = self._smooth(block, at)
                seen |= {
                    kind: seen[kind] / smooth[block.readers[kind][0]]
                    for kind in seen
                    if block.readers.get(kind, ("",))[0] in smooth
                }
            made = quantisers(block, seen, self.recipe, hidden[0].shape[1])
            self._note_few_clusters(block, made)
            self.quantisers |= {
                end: Smoothed(smooth[end[0]], one) if end[1] == "in" and end[0] in smooth else one for end, one in made.items()
            }
        hessians: dict[str, Tensor] = {}
        if self.recipe.setting.weights < 16 and self.recipe.rounding == "gptq":
            _, at = self._pass(trace, number, hidden, [(layer, "in") for layer in block.layers], quantised=True)
            for layer in block.layers:
                x_ti = at[layer, "in"] / smooth.get(layer, 1.0)
                if not bool(x_ti.isfinite().all()):
                    raise CalibrationError(f"calibration: the inputs of {layer!r} hold NaN or infinity")
                hessians[layer] = x_ti.T @ x_ti
        self._round(block, hessians, smooth)

    def _pass(
        self, trace: Trace, number: int, hidden: list[Tensor], where: Iterable[End], quantised: bool
    ) -> tuple[list[Tensor], dict[End, Tensor]]:
        """Run one block on all batches; return its outputs, and what its layers saw or gave, shapes (t, c)."""
        with self.model.rounding() if quantised else nullcontext(), watching(self.inner, where) as seen:
            outputs = [trace.run(number, x, batch) for batch, x in enumerate(hidden)]
        return outputs, {end: torch.cat(parts) for end, parts in seen.items()}

    def _smooth(self, block: Block, seen: Mapping[End, Tensor]) -> dict[str, Tensor]:
        """Return by layer what SmoothQuant divides its inputs by: the layers that read a normalisation."""
        assert self.recipe.smooth is not None
        scales: dict[str, Tensor] = {}
        for layers in (block.readers["attention_in"], block.up):
            spread_c = seen[layers[0], "in"].abs().amax(0)
            weight_c = torch.stack([weight_oi(self.inner.get_submodule(layer)).abs().amax(0) for layer in layers]).amax(0)
            least = torch.finfo(torch.float16).eps
            scale_c = spread_c.clamp(min=least) ** self.recipe.smooth / weight_c.clamp(min=least) ** (1 - self.recipe.smooth)
            scales |= dict.fromkeys(layers, scale_c)
        return scales

    def _round(self, block: Block, hessians: Mapping[str, Tensor], smooth: Mapping[str, Tensor]) -> None:
        bits, group = self.recipe.setting.weights, self.recipe.group
        for layer in block.layers if bits < 16 else ():
            name, module = f"{layer}.weight", self.inner.get_submodule(layer)
            if name not in self.values:
                continue
            turned = is_transposed(module)
            value_oi = (self.values[name].T if turned else self.values[name]).float()
            scale_i = smooth.get(layer, torch.ones(1))
            rounded = (
                gptq(value_oi * scale_i, hessians[layer], bits, group)
                if layer in hessians
                else round_to_nearest(value_oi * scale_i, bits, group)
            )
            self.rounded[name] = replace(rounded, turned=turned)
            if rounded.note:
                self.notes[name] = rounded.note
            received = (rounded.values() / scale_i).T if turned else rounded.values() / scale_i
            weight = self.inner.get_parameter(name)
            weight.copy_(received if self.before is None else self.before[name] + received)

    def _note_few_clusters(self, block: Block, made: Mapping[End, Any]) -> None:
        if self.recipe.granularity != "cluster":
            return
        where = [(block.q.layer, "in"), (block.k.layer, "out"), (block.out, "in"), (block.up[0], "in"), (block.down, "in")]
        for asked, (layer, side) in zip(self.recipe.clusters, where, strict=True):
            one = made.get((layer, side))
            if one is not None and (got := one.scale_hk.shape[1]) < asked:
                self.notes[f"{layer}:{side}"] = f"{got} clusters for {asked}: there are no more distinct channels"


class Trace:
    """How a model calls its blocks: the first one's inputs, and what each gets besides.

    Raises
    ------
    SpecError
        If a block is not called, or not with what the one before it returned.
    CalibrationError
        If the model cannot take a batch.
    """

    def __init__(self, module: nn.Module, known: Sequence[Block], batches: Sequence[Any]) -> None:
        self._blocks = [module.get_submodule(block.name) for block in known]
        self._extra: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [[] for _ in known]
        self.first: list[Tensor] = []
        for batch in batches:
            outputs: list[Any] = []
            handles = [
                part.register_forward_pre_hook(self._entering(number, known[number].name, outputs), with_kwargs=True)
                for number, part in enumerate(self._blocks)
            ]
            handles += [
                part.register_forward_hook(lambda *call, outputs=outputs: outputs.append(_hidden(call[-1])))
                for part in self._blocks
            ]
            try:
                run(module, batch)
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                told = (str(error).splitlines() or [type(error).__name__])[0]
                raise CalibrationError(f"calibration: the model cannot take batch {len(self.first)}: {told}") from error
            finally:
                for handle in handles:
                    handle.remove()
            if len(outputs) != len(known):
                raise SpecError(f"the model calls {len(outputs)} of its {len(known)} blocks; rptq needs each called once")

    def _entering(
        self, number: int, name: str, outputs: list[Any]
    ) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if len(outputs) != number or not args or (number and args[0] is not outputs[-1]):
                raise SpecError(f"block {name!r} is not called as rptq needs it: {FIRST_ARGUMENT}")
            if number == 0:
                self.first.append(args[0])
            self._extra[number].append((args[1:], kwargs))

        return hook

    def run(self, number: int, x: Tensor, batch: int) -> Tensor:
        """Call one block on other hidden values, with what it got besides in that batch."""
        args, kwargs = self._extra[number][batch]
        return _hidden(self._blocks[number](x, *args, **kwargs))


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def watching(module: nn.Module, where: Iterable[End]) -> Iterator[dict[End, list[Tensor]]]:
    """Gather what layers see or give, as later hooks find it, shapes (t, c)."""
    seen: dict[End, list[Tensor]] = {}

    def keep(end: End, x: Tensor) -> None:
        seen.setdefault(end, []).append(x.detach().reshape(-1, x.shape[-1]).float())

    handles = []
    for end in where:
        layer = module.get_submodule(end[0])
        if end[1] == "in":
            handles.append(layer.register_forward_pre_hook(lambda _, args, end=end: keep(end, args[0])))
        else:
            handles.append(layer.register_forward_hook(lambda _, args, output, end=end: keep(end, output)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def evaluated_copy(module: nn.Module) -> nn.Module:
    """Return a copy for inference: without gradients and caches, and with attention written out, so that it can be rounded."""
    inner: Any = copy.deepcopy(module).eval().requires_grad_(False)
    if hasattr(inner, "set_attn_implementation"):  # transformers
        inner.set_attn_implementation("eager")
        inner.config.use_cache = False
    return inner
