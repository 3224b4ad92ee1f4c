"""Fourier magnitude filtering (FMF), the client's part: what a client tells of the spectra of its images, and how privately.

The idea is FedDiff's (arXiv:2405.01494, section 5.3): under differential privacy some generated images are poor, and those
whose Fourier magnitudes are far from the client's real ones are thrown away. The paper's formula is not public to us, so this
is our specification: magnitudes of the orthonormal transform, one mean for each client and class, mean absolute difference.

By Parseval an image's magnitudes have the image's own L2 norm, so pixels in -1..1 bound the sensitivity and nothing needs to
be clipped. A record touches the sum of its own class only: the sums of all classes together are one Gaussian release.

Shapes: N = samples, C, H, W = channels, height, width, K = classes, F = features of a spectrum, R = rings of frequencies.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Bins = Literal["full", "radial"]
"""`full`: every coefficient of every channel; `radial`: for every channel, the L2 norm of each ring of frequencies."""
Shape = tuple[int, int, int]


def sensitivity(shape_CHW: Shape) -> float:
    """Return the largest L2 norm of one image's spectrum, in either form, for pixels in -1..1: sqrt(C H W)."""
    return math.sqrt(math.prod(shape_CHW))


def features(shape_CHW: Shape, bins: Bins) -> int:
    """Return F, the length of one image's spectrum."""
    channels, height, width = shape_CHW
    return channels * (height * (width // 2 + 1) if bins == "full" else min(height, width) // 2 + 1)


def spectrum(x_NCHW: Tensor, bins: Bins) -> Tensor:
    """Return the spectra of images in the form that `bins` says, shape (N, F)."""
    return magnitude(x_NCHW) if bins == "full" else radial(x_NCHW)


def magnitude(x_NCHW: Tensor) -> Tensor:
    """Return the Fourier magnitudes of every channel, shape (N, F), of the same L2 norm as the image.

    The transform of a real image is symmetric, so half of it is kept; columns that stand for two are scaled by sqrt(2).
    """
    a_NCHV = torch.fft.rfft2(x_NCHW, norm="ortho").abs()
    a_NCHV[..., 1 : (x_NCHW.shape[3] + 1) // 2] *= math.sqrt(2)
    return a_NCHV.flatten(1)


def radial(x_NCHW: Tensor) -> Tensor:
    """Return the L2 norms of rings of Fourier magnitudes, for every channel, shape (N, F), of the image's L2 norm as well.

    A ring is a whole number of cycles over the shorter side, rounded; the corners, beyond that side's highest frequency,
    belong to the last ring.
    """
    channels, height, width = x_NCHW.shape[1:]
    side = min(height, width)
    radius_HV = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)) * side
    ring_F = radius_HV.round().long().clamp(max=side // 2).flatten()
    power_NCF = magnitude(x_NCHW).square().unflatten(1, (channels, -1))
    power_NCR = power_NCF.new_zeros(*power_NCF.shape[:2], side // 2 + 1).index_add_(2, ring_F, power_NCF)
    return power_NCR.sqrt().flatten(1)


def template_sum(x_NCHW: Tensor, y_N: Tensor, classes: int, bins: Bins) -> Tensor:
    """Return the sum of the spectra of each class, shape (K, F); zeros for a class without images.

    One image more or less changes it by at most `sensitivity` in L2 norm if pixels are in -1..1.
    """
    sums_KF = x_NCHW.new_zeros(classes, features((x_NCHW.shape[1], x_NCHW.shape[2], x_NCHW.shape[3]), bins))
    return sums_KF.index_add_(0, y_N, spectrum(x_NCHW, bins))


def private_template(x_NCHW: Tensor, y_N: Tensor, classes: int, bins: Bins, sigma: float, generator: torch.Generator) -> Tensor:
    """Return `template_sum` with Gaussian noise: one release of noise multiplier `sigma` on all records, shape (K, F).

    Parameters
    ----------
    x_NCHW : Tensor
        Pixels in -1..1; what lies outside is clamped, so that the sensitivity holds for any input.
    sigma : float
        Standard deviation of the noise over `sensitivity`, for one record added or removed.
    """
    sums_KF = template_sum(x_NCHW.clamp(-1, 1), y_N, classes, bins)
    scale = sigma * sensitivity((x_NCHW.shape[1], x_NCHW.shape[2], x_NCHW.shape[3]))
    return sums_KF + scale * torch.randn(sums_KF.shape, generator=generator)


def means(sums_KF: Tensor, counts_K: Tensor) -> Tensor:
    """Return the mean spectrum of each class, shape (K, F), given sums and (noisy) counts; counts below 1 count as 1."""
    return sums_KF / counts_K.clamp(min=1)[:, None]


def distance(a_NF: Tensor, template_F: Tensor, log: bool) -> Tensor:
    """Return how far spectra are from a template: the mean absolute difference, shape (N,).

    Parameters
    ----------
    log : bool
        Compare log(1 + magnitude), which counts weak frequencies more.
    """
    template_F = template_F.clamp(min=0)  # noise may go below, a magnitude cannot; without the log no order depends on it
    if log:
        a_NF, template_F = a_NF.log1p(), template_F.log1p()
    return (a_NF - template_F).abs().mean(1)
