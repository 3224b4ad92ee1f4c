"""Transformer architectures: the dimensions that decide what a forward pass costs, and those of well-known models."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from ...core.options import Options, choose
from ..simulator import HwsimError

Size = Annotated[int, Field(ge=1, le=2**20)]


class Architecture(Options):
    """Equal blocks of attention and MLP between an embedding and an output layer."""

    hidden_size: Size
    """Width of the residual stream."""
    layers: Annotated[int, Field(ge=1, le=2**12)]
    """Blocks."""
    heads: Annotated[int, Field(ge=1, le=2**12)]
    """Attention heads; must divide `hidden_size`."""
    kv_heads: Annotated[int, Field(ge=1, le=2**12)]
    """Heads of keys and values; must divide `heads`, and are fewer in grouped-query attention."""
    intermediate_size: Size
    """Width inside the MLP."""
    vocab_size: Annotated[int, Field(ge=0, le=2**24)]
    """Rows of the token embedding and of the output layer; 0: the blocks alone."""
    max_positions: Annotated[int, Field(ge=1, le=2**24)]
    """Longest sequence."""
    position_rows: Annotated[int, Field(ge=0, le=2**24)] = 0
    """Rows of a learned table of positions; 0: there is none."""
    gated: bool = True
    """The MLP multiplies the activation of one projection by a second projection (SwiGLU)."""
    biases: bool = False
    """Linear layers of the blocks, and norms, have biases."""
    tied: bool = False
    """The output layer's weights are the token embedding's."""
    decoder: bool = True
    """It generates tokens, with a KV cache; otherwise it encodes, and keeps the keys and values of one block at a time."""
    source: str = ""
    """Where the dimensions are from."""

    @field_validator("heads", "kv_heads")
    @classmethod
    def _divides(cls, value: int, info: ValidationInfo) -> int:
        whole = {"heads": "hidden_size", "kv_heads": "heads"}[info.field_name or ""]
        if info.data.get(whole, 0) % value:
            raise ValueError(f"does not divide {whole} = {info.data[whole]}; choose a divisor")
        return value

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.heads

    @property
    def norm_parameters(self) -> int:
        """Parameters of one norm: a scale, and with biases a shift."""
        return self.hidden_size * (2 if self.biases else 1)


@lru_cache(maxsize=1)
def presets() -> dict[str, Architecture]:
    """Return the architectures of `architectures.toml` by name."""
    text = files(__package__).joinpath("architectures.toml").read_text(encoding="utf-8")
    return {name: Architecture(**fields) for name, fields in tomllib.loads(text).items()}


def preset(name: str) -> Architecture:
    """Return the architecture of that name.

    Raises
    ------
    HwsimError
        NOT_FOUND if there is none; the message lists the ones there are.
    """
    if name not in presets():
        raise HwsimError(f"model = {name!r}: {choose(name, presets())}", "NOT_FOUND", "model")
    return presets()[name]
