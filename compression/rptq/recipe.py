"""What is quantised, how finely, and how its ranges and roundings are found.

Source: RPTQ (Yuan et al., arXiv:2304.01089) and its published code, commit 9619069, for settings, sites and cluster counts.
Ours: the strict mode's name (the comparison in OmniQuant, arXiv:2308.13137, table A25, has such a variant); textbook min-max
quantisers, whose range includes 0, in place of the code's, which clip their upper edge by a step; weight scales a row, where
the code has one a row and input cluster, as many bits a weight again on a narrow model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import StrictInt, StrictStr, field_validator

from ...core.options import Options
from .blocks import SiteKind

WIDTHS = (*range(2, 9), 16)
"""Bits of a weight or an activation; 16 leaves them as they are."""
NORM_BITS = 8
"""Least bits of a normalisation's output in paper mode."""


@dataclass(frozen=True)
class Setting:
    """Bits of weights and activations; `kv_only` quantises no activations but keys and values."""

    weights: int
    activations: int
    kv_only: bool


def setting(bits: str) -> Setting:
    """Read ``W4A16``, ``W4A4``, ``W4A3KV``.

    Raises
    ------
    ValueError
        If it is none, or asks for a width there is not.
    """
    found = re.fullmatch(r"W(\d+)A(\d+)(KV)?", bits)
    if not found or int(found[1]) not in WIDTHS or int(found[2]) not in WIDTHS:
        raise ValueError("choose W<bits>A<bits> or W<bits>A<bits>KV, such as W4A8 or W4A3KV, with 2 to 8 or 16 bits")
    return Setting(int(found[1]), int(found[2]), found[3] is not None)


Metric = Literal["minmax", "ema", "percentile", "mse"]
Granularity = Literal["tensor", "cluster", "channel", "token"]
Clusters = Annotated[StrictInt, Ge(1), Le(256)]


class Recipe(Options):
    """How a model is quantised."""

    bits: StrictStr = "W4A16"
    """W<bits>A<bits>: of weights and activations, 2 to 8, or 16 for none; KV after it: of activations only keys and values."""
    mode: Literal["paper", "strict"] = "paper"
    """Outputs of normalisations: at least 8 bits, as the paper has it, or as narrow as all others."""
    softmax_bits: Literal[2, 3, 4, 5, 6, 7, 8, 16] = 8
    """Bits of attention probabilities, on a fixed grid from 0 to 1; 16 for none. They stay as they are in KV settings."""
    granularity: Granularity = "cluster"
    """What shares a range: a tensor, a cluster of channels (RPTQ), a channel, or a token (found anew at every call)."""
    clusters: tuple[Clusters, Clusters, Clusters, Clusters, Clusters] = (32, 4, 4, 32, 32)
    """R1 to R5: attention's input; queries and keys, and values and context, a head; the MLP's input; its hidden layer.
    At most one a channel: of more, as many as there are channels are made."""
    ranges: Metric = "minmax"
    """How ranges are found on calibration data: extremes; extremes blended from sample to sample (the published code's
    default, which depends on their order); percentiles; least squared error."""
    percentile: Annotated[float, Gt(50), Le(100)] = 99.9
    """Of `ranges = "percentile"`; the lower end is as far from 0 %."""
    rounding: Literal["gptq", "rtn"] = "gptq"
    """How weights are rounded: so that a layer's outputs on calibration data change least, or to the nearest."""
    group: Annotated[StrictInt, Ge(8)] | None = None
    """Most columns that share a weight scale; absent: the whole row."""
    smooth: Annotated[float, Gt(0), Le(1)] | None = None
    """SmoothQuant's alpha (arXiv:2211.10438): move the spread of a normalisation's outputs into the weights that read them."""

    @field_validator("bits")
    @classmethod
    def _known(cls, bits: str) -> str:
        setting(bits)
        return bits

    @property
    def setting(self) -> Setting:
        """`bits`, read."""
        return setting(self.bits)

    @property
    def needs_calibration(self) -> bool:
        """Ranges or roundings come from data."""
        ranges = self.setting.activations < 16 and self.granularity != "token"
        return ranges or self.smooth is not None or (self.setting.weights < 16 and self.rounding == "gptq")

    @property
    def softmax(self) -> int:
        """Bits of attention probabilities under this setting."""
        return 16 if self.setting.kv_only or self.setting.activations == 16 else self.softmax_bits

    @property
    def travels(self) -> bool:
        """It has a form as an upload."""
        return self.setting.weights < 16 and self.granularity in ("tensor", "cluster") and self.smooth is None

    def activation_bits(self, kind: SiteKind) -> int:
        """Return the bits of a site's activations."""
        one = self.setting
        if one.kv_only:
            return one.activations if kind in ("k", "v") else 16
        norm = kind in ("attention_in", "mlp_in") and self.mode == "paper"
        return max(NORM_BITS, one.activations) if norm else one.activations
