"""RPTQ as an upload codec, and the quantised model that a receiver can build from such an upload.

Source: Yuan et al., arXiv:2304.01089. Ours, all of it, since the paper compresses a model in place: labels of clusters travel,
in the channels' own order, never permutations, so a receiver reconstructs and averages what clients of different clusterings
sent; scales of weights belong to rows; a round's change is rounded as well as weights are; what GPTQ would make larger than
it was is rounded to the nearest, so that error feedback is safe.

What travels of a matrix: packed codes, a half and a byte for each row (or group of it), and where activations are quantised
the labels, scales and zeros of its inputs or outputs. Vectors travel as halves over one power of two. Matrices outside the
blocks (embeddings, heads) likewise, or as rows of bytes.

Shapes: o = outputs, i = inputs, g = groups of columns, c = channels, h = heads, k = clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from ...core.errors import CodecError, PayloadError, SpecError
from ..chain import Codec
from ..codec import CodecOptions, Context, Encoding, Part, Parts, Stage, matrix, matrix_shape, numbers
from ..packing import pack, packed_bytes
from ..rows import unpacked
from ..wire import Base, layout
from .blocks import blocks
from .calibrate import QuantisedModel, evaluated_copy, quantise
from .quantiser import Quantiser
from .recipe import Recipe
from .rounding import Rounded, round_to_nearest
from .sites import End

OUTSIDE = ("*embed*", "*wte*", "*wpe*", "*position*", "*head*")
EXPONENTS = (-150, 128)
USUAL = {"groups": 1, "turned": 0, "in_heads": 1, "out_heads": 1, "out_first": 0}
"""Numbers that do not travel where they are these."""


class RptqOptions(Recipe, CodecOptions):
    """Reorder-based post-training quantisation: packed weights, and with them quantisers of activations by cluster."""

    codec: Literal["rptq"] = "rptq"
    outside: tuple[str, ...] = OUTSIDE
    """Matrices that are no part of the body; names with wildcards."""
    outside_bits: Literal[8, 16, 32] = 16
    """Of them: rows of bytes, halves, or as they are."""

    @model_validator(mode="after")
    def _travels(self) -> RptqOptions:
        if self.setting.weights == 16:
            raise ValueError(f"bits = {self.bits!r}: leaves the weights as they are; choose 2 to 8 bits, or the codec 'fp16'")
        if self.granularity not in ("tensor", "cluster"):
            raise ValueError(f"granularity = {self.granularity!r}: has no form to travel in; choose 'tensor' or 'cluster'")
        if self.smooth is not None:
            raise ValueError(f"smooth = {self.smooth}: has no form to travel in; leave it out")
        return self

    def build(self) -> Rptq:
        """Make the stage."""
        return Rptq(self)


class Rptq(Stage):
    """Sends matrices as small integers."""

    def __init__(self, options: RptqOptions) -> None:
        self.options = options

    @property
    def needs_calibration(self) -> bool:
        """True where ranges or roundings come from data."""
        return self.options.needs_calibration

    def encode(self, update: Mapping[str, Tensor], context: Context) -> Encoding:
        """Round every matrix, those of the model's blocks as the recipe says, others to the nearest."""
        options = self.options
        body = {name: x for name, x in update.items() if x.ndim > 1 and not any(fnmatchcase(name, p) for p in options.outside)}
        rounded, quantisers, notes = self._blocks(body, context)
        encoding = Encoding({}, notes)
        for name, x in update.items():
            if name in body:
                one = rounded.get(name)
                if one is not None and float((one.tensor() - x).norm()) > float(x.norm()):
                    one, notes[name] = None, "rounded to the nearest: GPTQ would lose more than all of it"
                if one is None:
                    if self.needs_calibration:
                        notes.setdefault(name, "rounded to the nearest: no transformer block has it")
                    one = round_to_nearest(matrix(x), options.setting.weights, options.group)
                layer = name.removesuffix(".weight")
                encoding.parts[name] = _packed(one, quantisers.get((layer, "in")), quantisers.get((layer, "out")))
            elif x.ndim > 1 and options.outside_bits == 8:
                encoding.parts[name] = _packed(round_to_nearest(matrix(x), 8), None, None)
            elif options.outside_bits < 32 or x.ndim == 1:
                encoding.parts[name] = _half(x)
        return encoding

    def _blocks(
        self, body: Mapping[str, Tensor], context: Context
    ) -> tuple[dict[str, Rounded], dict[End, Quantiser], dict[str, str]]:
        """Quantise the model's blocks; return each site's quantiser once, with the first layer that has it."""
        if not self.needs_calibration:
            return {}, {}, {}
        assert context.calibration is not None  # the chain has checked
        try:
            made = quantise(context.calibration, self.options, body, context.base.tensors if context.base else None)
        except SpecError as error:
            if self.options.setting.activations == 16:
                return {}, {}, {}
            raise CodecError(f"{error}; bits = 'W4A16' needs no blocks") from None
        owners = {(layers[0], "in") for block in blocks(made.module.inner) for layers in block.readers.values()}
        plain = {end: one for end, one in made.quantisers.items() if isinstance(one, Quantiser)}
        kept = {end: one for end, one in plain.items() if end[1] == "out" or end in owners}
        return made.rounded, kept, made.notes

    def layout(self, meta: Mapping[str, int], shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Tell of halves, or of codes, scales, zeros and what belongs to activations."""
        if meta.keys() == {"exponent"}:
            numbers(meta, exponent=EXPONENTS)
            return (Part(shape, torch.float16),)
        sides = [side for side in ("in", "out") if f"{side}_bits" in meta]
        meta = _whole(meta)
        outputs, inputs = matrix_shape(shape)[:: -1 if meta["turned"] == 1 else 1]
        known = {"bits": (2, 8), "exponent": EXPONENTS, "groups": (1, inputs), "turned": (0, 1)}
        for side, channels in (("in", inputs), ("out", outputs)):
            if side in sides:
                known |= {f"{side}_bits": (2, 8), f"{side}_heads": (1, channels), f"{side}_clusters": (1, min(channels, 256))}
                known |= {"out_first": (0, channels - 1)} if side == "out" else {}
        numbers(meta, **known)
        parts = [
            Part((packed_bytes(outputs * inputs, meta["bits"]),), torch.uint8),
            Part((outputs, meta["groups"]), torch.float16),
            Part((outputs, meta["groups"]), torch.uint8),
        ]
        for side in sides:
            channels = inputs if side == "in" else outputs - meta["out_first"]
            heads, clusters = meta[f"{side}_heads"], meta[f"{side}_clusters"]
            if channels % heads:
                raise PayloadError(f"{side}_heads = {heads}: does not divide {channels} channels")
            parts += [
                Part((packed_bytes(channels, _label_bits(clusters)),), torch.uint8),
                Part((heads, clusters)),
                Part((heads, clusters), torch.uint8),
            ]
        return tuple(parts)

    def decode(self, meta: Mapping[str, int], tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Multiply integers by scales."""
        if len(tensors) == 1:
            return tensors[0].float() * 2.0 ** meta["exponent"]
        meta = _whole(meta)
        packed, half_og, zero_og, *sites = tensors
        outputs, inputs = matrix_shape(shape)[:: -1 if meta["turned"] else 1]
        codes = unpacked(packed, meta["bits"], outputs * inputs, 2 ** meta["bits"] - 1).reshape(outputs, inputs)
        if not bool((half_og > 0).all()) or int(zero_og.max()) >= 2 ** meta["bits"]:
            raise PayloadError(f"a weight scale is not positive, or a zero is above {2 ** meta['bits'] - 1}")
        if sites:
            site_quantisers(meta, tensors, (outputs, inputs))
        x_oi = Rounded(codes, half_og, zero_og, meta["bits"], meta["exponent"]).values()
        return (x_oi.T if meta["turned"] else x_oi).reshape(shape)


def _packed(one: Rounded, inputs: Quantiser | None, outputs: Quantiser | None) -> Parts:
    meta = {"bits": one.bits, "exponent": one.exponent, "groups": one.half_og.shape[1], "turned": int(one.turned)}
    packed = torch.from_numpy(pack(one.codes_oi.flatten().numpy(), one.bits))
    arrays = [packed, one.half_og, one.zero_og]
    for side, quantiser in (("in", inputs), ("out", outputs)):
        if quantiser is not None:
            heads, clusters = quantiser.scale_hk.shape
            meta |= {f"{side}_bits": quantiser.bits, f"{side}_heads": heads, f"{side}_clusters": clusters}
            meta |= {"out_first": quantiser.first} if side == "out" else {}
            arrays += _site_arrays(quantiser)
    return Parts({key: value for key, value in meta.items() if USUAL.get(key) != value}, tuple(arrays))


def _whole(meta: Mapping[str, int]) -> dict[str, int]:
    """Return a matrix's numbers with those that did not travel, for the sides that it has."""
    there = ("groups", "turned", *(key for key in USUAL if f"{key.split('_')[0]}_bits" in meta))
    return {**{key: USUAL[key] for key in there}, **meta}


def _half(x: Tensor) -> Parts:
    most = float(x.abs().max())
    exponent = math.ceil(math.log2(most)) if most >= 2.0**-126 else 0
    return Parts({"exponent": exponent}, ((x / 2.0**exponent).half(),))


def _label_bits(clusters: int) -> int:
    return max(1, (clusters - 1).bit_length())


def _site_arrays(quantiser: Quantiser) -> list[Tensor]:
    labels_c = quantiser.labels_c.to(torch.uint8).numpy()
    packed = torch.from_numpy(pack(labels_c, _label_bits(quantiser.scale_hk.shape[1])))
    return [packed, quantiser.scale_hk.float(), quantiser.zero_hk.to(torch.uint8)]


def site_quantisers(meta: Mapping[str, int], tensors: Sequence[Tensor], shape_oi: tuple[int, int]) -> dict[str, Quantiser]:
    """Return the quantisers that came with a matrix, ``"in"`` and ``"out"``, from arrays that are as `Rptq.layout` tells.

    Raises
    ------
    PayloadError
        If a label, scale or zero is none that an encoder writes.
    """
    found, rest = {}, list(tensors[3:])
    for side, channels in (("in", shape_oi[1]), ("out", shape_oi[0])):
        if f"{side}_bits" not in meta:
            continue
        packed, scale_hk, zero_hk = rest[:3]
        del rest[:3]
        bits, clusters, first = meta[f"{side}_bits"], meta[f"{side}_clusters"], meta["out_first"] if side == "out" else 0
        labels_c = unpacked(packed, _label_bits(clusters), channels - first, clusters - 1).long()
        if not bool((scale_hk > 0).all()) or int(zero_hk.max()) >= 2**bits:
            raise PayloadError(f"an activation scale is not positive, or a zero is above {2**bits - 1}")
        found[side] = Quantiser(labels_c, len(scale_hk), scale_hk, zero_hk.float(), bits, first)
    return found


def deployed(codec: Codec, blob: bytes, module: nn.Module, base: Base | None = None) -> QuantisedModel:
    """Build the quantised model that an upload describes: its weights as received, its activations through its quantisers.

    Parameters
    ----------
    codec : Codec
        Whose first stage is `Rptq`.
    blob : bytes
        The upload.
    module : Module
        Of the uploaded model's architecture; copied, and left as it is.
    base : Base, optional
        As `Codec.decode`.

    Raises
    ------
    PayloadError
        If the blob is no such upload, or carries weights only.
    CodecError
        If the codec is another one.
    """
    stage = codec.stages[0]
    if not isinstance(stage, Rptq):
        raise CodecError(f"codec {' > '.join(codec.names)}: only uploads of 'rptq' describe a quantised model")
    inner = evaluated_copy(module)
    expected = layout(inner.state_dict())
    weights = codec.decode(blob, expected, base)
    ends: dict[End, Quantiser] = {}
    for name, node in codec.read(blob, expected, base).items():
        if node.stage == 0 and len(node.parts) > 3:
            arrays, meta = [part.array for part in node.parts if part.array is not None], _whole(node.meta)
            rows, columns = matrix_shape(expected[name][0])[:: -1 if meta["turned"] else 1]
            layer = name.removesuffix(".weight")
            found = site_quantisers(meta, arrays, (rows, columns))
            ends |= {(layer, "in" if side == "in" else "out"): one for side, one in found.items()}
    if not ends:
        raise PayloadError("the upload carries weights only: it has no quantisers of activations; use the decoded weights")
    inner.load_state_dict(weights)
    for block in blocks(inner):
        for layers in block.readers.values():
            if (layers[0], "in") in ends:
                ends |= {(layer, "in"): ends[layers[0], "in"] for layer in layers}
    return QuantisedModel(inner, ends, stage.options.softmax)
