"""RPTQ (arXiv:2304.01089): quantised weights and activations by clusters of channels; an evaluator, and an upload codec."""

from __future__ import annotations

from .blocks import Block, blocks
from .calibrate import Quantised, QuantisedModel, quantise
from .recipe import Recipe

__all__ = ["Block", "Quantised", "QuantisedModel", "Recipe", "blocks", "quantise"]
