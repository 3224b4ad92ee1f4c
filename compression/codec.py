"""What every codec is: a stage that turns tensors into smaller parts, with its options, and what it may know besides them.

A stage sees the whole update at once, so that it may calibrate itself, share a budget or keep state between tensors. For
each tensor that it encodes it gives a few whole numbers (`Parts.meta`) and some arrays. From those numbers and the tensor's
shape, which the receiver knows, `Stage.layout` tells which arrays there must be; nothing else about sizes travels. Tensors
that a stage leaves out go on as they are. `Codec` (codec chains, in `chain`) does everything else: deltas, error feedback,
composition, the wire.

A codec that sends more than weights (labels of channel clusters, quantisers of activations) makes them further parts of the
tensor they belong to, and `Codec.read` gives them back to whoever needs them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import CodecError, PayloadError
from ..core.options import Options
from .wire import Base

SMALL = 64
"""Tensors of fewer values travel as they are: what tells of an encoding takes as much as it would save."""


class CodecOptions(Options):
    """Base of what `[upload]` accepts for one codec; a subclass adds its fields and narrows `codec` to its name or names."""

    targets: ClassVar[frozenset[str]] = frozenset({"weights", "delta"})
    """What it can be applied to."""
    codec: str
    """The name."""

    @abstractmethod
    def build(self) -> Stage:
        """Make the stage."""


@dataclass(frozen=True)
class Calibration:
    """A model and some of its inputs, for codecs that look at activations. Neither ever leaves the client.

    Attributes
    ----------
    module : Module
        The trained model; its parameters have the names that the update's tensors have. Left as it was found.
    batches : sequence
        Each what the module takes in one call: a Tensor, a tuple of arguments, or a mapping of keyword arguments.
    loss : callable, optional
        Takes the module and a batch to a scalar mean loss, for codecs that rank layers or columns by it.
    """

    module: nn.Module
    batches: Sequence[Any]
    loss: Callable[[nn.Module, Any], Tensor] | None = None


@dataclass(frozen=True)
class Context:
    """What an encoder may know besides the update.

    Attributes
    ----------
    base : Base, optional
        The model the update started from; needed where the target is the delta, and only there do stages get it.
    generator : torch.Generator, optional
        For codecs that draw random numbers. Shared-seed codecs (random-k) are linear only if all clients draw from equal ones.
    calibration : Calibration, optional
        For codecs that need it.
    state : mapping of str to Tensor
        What `Encoded.state` was in this client's last round; empty forgets the past.
    buffers : frozenset of str
        Tensors that are not trained (running statistics); they travel as they are.
    """

    base: Base | None = None
    generator: torch.Generator | None = None
    calibration: Calibration | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()

    def under(self, prefix: str) -> Context:
        """Return the same context with the state whose keys start with `prefix`, without it."""
        return replace(self, state={k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)})


@dataclass(frozen=True)
class Part:
    """The shape and dtype of one array that a tensor was encoded to."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Parts:
    """What a tensor was encoded to: whole numbers for the header and arrays for the body, as `Stage.layout` tells."""

    meta: Mapping[str, int]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Encoding:
    """What a stage makes of an update.

    Attributes
    ----------
    parts : dict of str to Parts
        By tensor; tensors that are not here go on as they are.
    notes : dict of str to str
        Why a tensor goes on as it is, where that is worth telling.
    state : dict of str to Tensor
        What the stage wants to be given the next time.
    """

    parts: dict[str, Parts]
    notes: dict[str, str] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)


class Stage(ABC):
    """One codec of a chain. Holds its options, never anything of a client or a round."""

    terminal: ClassVar[bool] = True
    """Nothing is left for a later codec; otherwise later codecs get the float32 parts, and all tensors that were left out."""
    randomised: ClassVar[bool] = False
    """Needs `Context.generator`."""
    biased: ClassVar[bool] = True
    """Its expected error is not 0, so that error feedback is worth its memory."""
    contracts: ClassVar[bool] = True
    """It never loses more than it got; otherwise what error feedback adds would grow from round to round."""
    nonlinear_because: ClassVar[str] = "each client's rounding depends on its own numbers"
    """Why encodings of several clients cannot be added before decoding, as secure aggregation must; empty if they can."""

    @property
    def needs_calibration(self) -> bool:
        """It needs `Context.calibration`, which is private data where the client's data are."""
        return False

    @abstractmethod
    def encode(self, update: Mapping[str, Tensor], context: Context) -> Encoding:
        """Encode float32 tensors, each of at least `SMALL` values, all finite.

        Raises
        ------
        CodecError
            If a tensor cannot be encoded.
        CalibrationError
            If what it is to calibrate itself on cannot be used.
        """

    @abstractmethod
    def layout(self, meta: Mapping[str, int], shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Tell which arrays a tensor of this shape was encoded to. Checks `meta`, which comes from a stranger.

        Raises
        ------
        PayloadError
            If no encoding of such a tensor has this `meta`.
        """

    @abstractmethod
    def decode(self, meta: Mapping[str, int], tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Reconstruct a float32 tensor of `shape` from arrays that are as `layout` tells.

        Raises
        ------
        PayloadError
            If the arrays hold what no encoder writes.
        """


class TensorStage(Stage):
    """A stage that treats every tensor alone and keeps no state."""

    @abstractmethod
    def encode_tensor(self, x: Tensor, context: Context) -> Parts:
        """Encode one tensor.

        Raises
        ------
        CodecError
            If it cannot be encoded.
        """

    def encode(self, update: Mapping[str, Tensor], context: Context) -> Encoding:
        """Encode one tensor after the other."""
        encoding = Encoding({})
        for name, x in update.items():
            try:
                encoding.parts[name] = self.encode_tensor(x, context)
            except CodecError as error:
                raise CodecError(f"tensor {name!r}: {error}") from None
        return encoding


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return the shape of a tensor as a matrix: outputs times everything else; what has less than two dimensions is one row."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def matrix(x: Tensor) -> Tensor:
    """View a tensor as the matrix of which `matrix_shape` tells."""
    return x.reshape(matrix_shape(x.shape))


def numbers(meta: Mapping[str, int], **ranges: tuple[int, int]) -> tuple[int, ...]:
    """Return the numbers of a received `meta`, in the order of `ranges`.

    Parameters
    ----------
    **ranges : tuple of int
        The least and the greatest allowed value, by name.

    Raises
    ------
    PayloadError
        If others, fewer or more numbers are given, or one is out of its range.
    """
    if meta.keys() != ranges.keys():
        raise PayloadError(f"an encoding has {sorted(meta)}; it must have {sorted(ranges)}")
    for name, (least, greatest) in ranges.items():
        if type(meta[name]) is not int or not least <= meta[name] <= greatest:
            raise PayloadError(f"{name} = {meta[name]!r}: must be a whole number from {least} to {greatest}")
    return tuple(meta[name] for name in ranges)
