"""What a generative model of one client's data can do, whichever kind it is.

A kind is one file beside this one, with an options class that derives from `GeneratorOptions`: `diffusion.py`, `cvae.py`.

Shapes: N = samples, C, H, W = channels, height, width, K = classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.options import Options
from ...core.records import Layout
from ..privacy import Private

Sampler = Callable[[Tensor, torch.Generator], Tensor]
"""Labels (N,) and a generator of random numbers to images (N, C, H, W) in -1..1."""


@dataclass(frozen=True)
class Fitted:
    """A trained generator: what is uploaded, mean training loss (None where that would be an un-noised statistic), steps."""

    weights: dict[str, Tensor]
    loss: float | None
    steps: int


class GeneratorOptions(Options):
    """Base of the settings of a generative model: its shape, its training, its sampling."""

    steps: int
    batch_size: int

    @abstractmethod
    def layout(self, client: int, shape_CHW: tuple[int, int, int], classes: int) -> Layout:
        """Return names, dtypes and shapes of what `fit` gives for a client.

        Raises
        ------
        SpecError
            If there is no such model for images of this shape.
        """

    @abstractmethod
    def fit(self, client: int, x_NCHW: Tensor, y_N: Tensor, classes: int, seed: int, private: Private | None = None) -> Fitted:
        """Train on one client's images, in -1..1, and labels; random numbers derive from `seed` and the client's number."""

    @abstractmethod
    def sampler(self, client: int, weights: Mapping[str, Tensor], shape_CHW: tuple[int, int, int], classes: int) -> Sampler:
        """Make what turns labels into images from what a client uploaded."""
