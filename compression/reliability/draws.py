"""Calibration sets as they may turn out: the factors of the report.

Source: arXiv:2303.13003 names three (distribution, paradigm, augmentation or sampling); the levels are ours.

Shapes: N = samples of the pool, M = samples drawn, C, H, W = channels, height, width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import CalibrationError
from ...core.options import Options
from ...core.seeds import numpy_stream, torch_stream

Distribution = Literal["matched", "single_class", "missing_classes", "dirichlet", "client", "inverted", "gaussian"]
Noise = Literal["none", "gaussian", "salt", "blur", "contrast", "outlier"]


@dataclass(frozen=True)
class Pool:
    """What may be drawn from: samples, labels, and whose they are.

    Attributes
    ----------
    loss_N : callable, optional
        Gives the float model's loss on each sample, for draws that prefer hard or easy ones.
    """

    x_NCHW: Tensor
    y_N: Tensor
    clients_N: Tensor
    loss_N: Callable[[], Tensor] | None = field(default=None, compare=False)


class Draw(Options):
    """How a calibration set is drawn."""

    samples: Annotated[int, Ge(1)] = 64
    """How many."""
    distribution: Distribution = "matched"
    """As in the pool; one class; all but some classes; classes by a Dirichlet draw; one client's; negatives of images;
    noise in place of images."""
    classes: tuple[Annotated[int, Ge(0)], ...] = ()
    """Of `single_class` and `missing_classes`."""
    alpha: Annotated[float, Gt(0)] = 0.1
    """Of `dirichlet`."""
    client: Annotated[int, Ge(0)] | None = None
    """Of `client`."""
    noise: Noise = "none"
    """What is done to the samples: gaussian noise, salt and pepper, blur, half the contrast, one sample times 100."""
    strength: Annotated[float, Gt(0)] = 0.2
    """Of `noise`: standard deviation over that of the data; share of pixels."""
    sampling: Literal["random", "balanced", "hardest", "easiest"] = "random"
    """At random; equally of each class; those of the largest or least loss."""
    augmentation: Literal["none", "shift", "mixup"] = "none"
    """Nothing; shifts by up to two pixels; means of two samples."""
    order: Literal["shuffled", "ascending", "descending"] = "shuffled"
    """As drawn, or by norm: matters to ranges that are blended."""
    allow_fewer: bool = False
    """Take what there is where there are fewer samples than asked for."""
    repeat: Annotated[int, Ge(0)] = 0
    """Number of the draw: others are other samples."""

    @model_validator(mode="after")
    def _complete(self) -> Draw:
        if self.distribution in ("single_class", "missing_classes") and not self.classes:
            raise ValueError(f"classes: missing; distribution = {self.distribution!r} needs some")
        if self.distribution == "client" and self.client is None:
            raise ValueError("client: missing; distribution = 'client' needs one")
        return self


def draw(pool: Pool, how: Draw, seed: int) -> Tensor:
    """Draw a calibration set.

    Returns
    -------
    Tensor, shape (M, C, H, W)

    Raises
    ------
    CalibrationError
        If there are fewer samples than asked for, and that is not allowed.
    """
    key = how.model_dump_json(exclude={"noise", "strength", "order", "augmentation"})
    stream = numpy_stream(seed, "calibration", key)
    found = np.flatnonzero(_candidates(pool, how))
    if not len(found) or (len(found) < how.samples and not how.allow_fewer):
        raise CalibrationError(
            f"samples = {how.samples}: only {len(found)} samples are {how.distribution} (classes {list(how.classes)}, "
            f"client {how.client}); ask for fewer, or set allow_fewer"
        )
    chosen = _sampled(pool, how, found, stream)
    x_MCHW = pool.x_NCHW[torch.from_numpy(chosen)]
    if how.distribution == "inverted":
        x_MCHW = -x_MCHW
    noise = torch_stream(seed, "calibration", "noise", key)
    if how.distribution == "gaussian":
        x_MCHW = pool.x_NCHW.mean() + pool.x_NCHW.std() * torch.randn(x_MCHW.shape, generator=noise)
    x_MCHW = AUGMENTATIONS[how.augmentation](x_MCHW, noise)
    x_MCHW = disturbed(x_MCHW, how.noise, how.strength, noise)
    if how.order != "shuffled":
        x_MCHW = x_MCHW[x_MCHW.flatten(1).norm(dim=1).argsort(descending=how.order == "descending", stable=True)]
    return x_MCHW


def _candidates(pool: Pool, how: Draw) -> np.ndarray:
    y_N = pool.y_N.numpy()
    if how.distribution == "client":
        return pool.clients_N.numpy() == how.client
    listed = np.isin(y_N, how.classes)
    return {"single_class": listed, "missing_classes": ~listed}.get(how.distribution, np.ones(len(y_N), bool))


def _sampled(pool: Pool, how: Draw, found: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    count, y_N = min(how.samples, len(found)), pool.y_N.numpy()
    if how.sampling in ("hardest", "easiest"):
        if pool.loss_N is None:
            raise CalibrationError(f"sampling = {how.sampling!r}: the pool tells no losses")
        order = np.argsort(pool.loss_N().numpy()[found], kind="stable")
        return found[order[::-1][:count] if how.sampling == "hardest" else order[:count]]
    weights = np.ones(len(found))
    classes, index, counts = np.unique(y_N[found], return_inverse=True, return_counts=True)
    if how.sampling == "balanced":
        weights = 1 / counts[index]
    if how.distribution == "dirichlet":
        shares = stream.dirichlet(np.full(len(classes), how.alpha))
        weights = np.maximum(shares, 1e-9)[index] / counts[index]
    return stream.choice(found, count, replace=False, p=weights / weights.sum())


def disturbed(x_MCHW: Tensor, noise: Noise, strength: float, stream: torch.Generator) -> Tensor:
    """Return noisy samples; what noise there is, see `Draw.noise`."""
    if noise == "gaussian":
        return x_MCHW + strength * x_MCHW.std() * torch.randn(x_MCHW.shape, generator=stream)
    if noise == "salt":
        u_MCHW = torch.rand(x_MCHW.shape, generator=stream)
        return torch.where(u_MCHW < strength / 2, x_MCHW.min(), torch.where(u_MCHW > 1 - strength / 2, x_MCHW.max(), x_MCHW))
    if noise == "blur":
        kernel = torch.full((x_MCHW.shape[1], 1, 3, 3), 1 / 9)
        return F.conv2d(F.pad(x_MCHW, (1, 1, 1, 1), mode="replicate"), kernel, groups=x_MCHW.shape[1])
    if noise == "contrast":
        return x_MCHW * 0.5
    if noise == "outlier":
        return torch.cat([x_MCHW[:1] * 100, x_MCHW[1:]])
    return x_MCHW


def _shifted(x_MCHW: Tensor, stream: torch.Generator) -> Tensor:
    by_M2 = torch.randint(-2, 3, (len(x_MCHW), 2), generator=stream).tolist()
    return torch.stack([x_CHW.roll(tuple(by), (1, 2)) for x_CHW, by in zip(x_MCHW, by_M2, strict=True)])


def _mixed(x_MCHW: Tensor, stream: torch.Generator) -> Tensor:
    return (x_MCHW + x_MCHW[torch.randperm(len(x_MCHW), generator=stream)]) / 2


AUGMENTATIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda x_MCHW, _: x_MCHW,
    "shift": _shifted,
    "mixup": _mixed,
}
