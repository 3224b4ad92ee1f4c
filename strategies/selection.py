"""Which of a generator's candidates the server keeps: of each client and class separately, so that class balance is unchanged.

The server asks for more images than it wants and drops the share `drop` that looks worst. Fourier magnitude filtering is
FedDiff's idea (arXiv:2405.01494, section 5.3) in our specification (see clients/fourier.py); the other methods are ours: its
honest control (`random`), a template that costs no privacy (`generated-mean`), and the opinion of uploaded classifiers
(`agreement`). All of them work on what has been released already, so none of them costs any further privacy.

Shapes: N = candidates, C, H, W = channels, height, width, F = features of a spectrum.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..clients import fourier
from ..core.errors import PayloadError
from ..core.options import Options


class SelectionOptions(Options):
    """What `[strategy.selection]` accepts."""

    method: Literal["none", "fmf", "random", "generated-mean", "agreement"] = "none"
    """What makes a candidate good: Fourier magnitudes near the client's mean of the class (`fmf`) or near the candidates' own
    mean (`generated-mean`), a high probability of its label by uploaded classifiers (`agreement`), or luck (`random`)."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the candidates that is dropped; 1 / (1 - drop) times as many are sampled."""
    bins: fourier.Bins = "full"
    """Spectra of `fmf` and `generated-mean`: every coefficient, or the norms of rings of frequencies."""
    log: bool = False
    """Compare logarithms of magnitudes."""
    min_count: Annotated[float, Field(ge=0)] = 50
    """`fmf`: a class with a smaller (noisy) count has too noisy a template; its candidates are chosen at random."""


def candidates(options: SelectionOptions, wanted: int) -> int:
    """Return how many images to sample where `wanted` are to be kept."""
    if options.method == "none":
        return wanted
    return math.ceil(round(wanted / (1 - options.drop), 6))  # rounded: 7 / (1 - 0.3) is a little more than 10


def falls_back(options: SelectionOptions, count: float) -> bool:
    """Say whether candidates of a class with this (noisy) count are chosen at random, for want of a usable template."""
    return options.method == "fmf" and options.drop > 0 and count < options.min_count


def keep(
    options: SelectionOptions,
    x_NCHW: Tensor,
    wanted: int,
    *,
    template_F: Tensor | None,
    count: float,
    probability_N: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """Return which candidates of one client and class are kept.

    Parameters
    ----------
    x_NCHW : Tensor
        `candidates(options, wanted)` images in -1..1.
    template_F : Tensor, optional
        `fmf`: the client's mean spectrum of the class.
    count : float
        Its (noisy) number of training samples of the class.
    probability_N : Tensor, optional
        `agreement`: how probable classifiers find the requested label.
    generator : torch.Generator
        Decides wherever the choice is random; nothing else draws from it.

    Returns
    -------
    Tensor of int64, shape (wanted,)
        Indices in ascending order: all of them where nothing is dropped.

    Raises
    ------
    PayloadError
        If the method needs something that no client has uploaded.
    """
    if len(x_NCHW) == wanted:
        return torch.arange(wanted)
    if options.method == "random" or falls_back(options, count):
        order_N = torch.randperm(len(x_NCHW), generator=generator)
    elif options.method == "agreement":
        order_N = _uploaded(probability_N, options).neg().argsort(stable=True)
    else:
        a_NF = fourier.spectrum(x_NCHW, options.bins)
        template_F = a_NF.mean(0) if options.method == "generated-mean" else _uploaded(template_F, options)
        order_N = fourier.distance(a_NF, template_F, options.log).argsort(stable=True)
    return order_N[:wanted].sort().values


def _uploaded(tensor: Tensor | None, options: SelectionOptions) -> Tensor:
    if tensor is None:
        what = "classifier" if options.method == "agreement" else "template"
        raise PayloadError(
            f"strategy.selection.method = {options.method!r}: no {what} has been uploaded; the client must send one"
        )
    return tensor
