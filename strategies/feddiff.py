"""FedDiff: one-shot federated learning with diffusion models.

Source: Mendieta, Sun, Chen, arXiv:2405.01494 (WACV 2025). Each client trains a class-conditioned diffusion model on its own
data and uploads it once; the server samples all of them and trains one classifier on the samples. Models are never averaged,
so clients may send U-Nets of different sizes. This is an independent re-implementation: docs/papers/feddiff.md lists what
the paper leaves open and what we chose.
"""

from __future__ import annotations

from typing import Literal

from ..clients.tasks.diffusion import DiffusionOptions
from .generative import GenerativeOptions


class FedDiffOptions(GenerativeOptions):
    """Clients upload a diffusion model once; the server samples them all and trains the classifier on that."""

    name: Literal["feddiff"] = "feddiff"
    generator: DiffusionOptions = DiffusionOptions()
    """The diffusion model, its training and its sampling."""
