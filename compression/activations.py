"""What a model's linear layers see on calibration data, as scales of their input columns.

Sources: ASVD (arXiv:2312.05821, eqs. 8 and 9, and its published code for the absolute maximum and the Fisher variant),
FWSVD (arXiv:2207.00112) for the gradient, SVD-LLM (arXiv:2403.07378) for the second moment. Ours: convolutions, as matrices
of outputs times (inputs x kernel), on unfolded inputs; batches of any size (the official hook flattens them wrongly).

Shapes: t = tokens (all positions of all samples), i = inputs (of a convolution: channels x kernel), o = outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import CalibrationError
from .codec import Calibration
from .lowrank import cholesky_root

Statistic = Literal["abs_mean", "abs_max", "root", "gradient"]
Layer = nn.Linear | nn.Conv2d


def run(module: nn.Module, batch: Any) -> Any:
    """Call a module on one calibration batch."""
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(*batch) if isinstance(batch, (tuple, list)) else module(batch)


def layers(module: nn.Module) -> dict[str, Layer]:
    """Return the layers that can be scaled, by their weight's name; a weight that several layers share has its first name."""
    found: dict[str, Layer] = {}
    seen: set[int] = set()
    for name, layer in module.named_modules():
        plain_convolution = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
        if isinstance(layer, nn.Linear) or (plain_convolution and not isinstance(layer.padding, str)):
            if id(layer.weight) not in seen:
                found[f"{name}.weight".removeprefix(".")] = layer
            seen.add(id(layer.weight))
    return found


def collect(calibration: Calibration, statistic: Statistic, names: Iterable[str]) -> dict[str, Tensor]:
    """Gather a statistic of the inputs of layers, in double precision.

    Parameters
    ----------
    calibration : Calibration
    statistic : {"abs_mean", "abs_max", "root", "gradient"}
        Of each input over tokens: mean or maximum of |x|, shape (i,); a root of the mean of x x^T, shape (i, min(t, i)). Or the
        root of the weight's mean squared gradient over outputs and batches, shape (i,), which needs `calibration.loss`.
    names : iterable of str
        Of weights; those that no layer that can be scaled has, or that no batch reached, are not in the answer.

    Raises
    ------
    CalibrationError
        If there are no batches, an input is not finite, or the loss is missing.
    CodecError
        If the second moment overflows.
    """
    if not calibration.batches:
        raise CalibrationError("calibration: there are no batches; give at least one")
    known = layers(calibration.module)
    wanted = {name: known[name] for name in names if name in known}
    with evaluating(calibration.module):
        if statistic == "gradient":
            return _gradients(calibration, wanted)
        return _inputs(calibration, wanted, statistic)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _inputs(calibration: Calibration, wanted: Mapping[str, Layer], statistic: Statistic) -> dict[str, Tensor]:
    summaries = {name: SUMMARIES[statistic]() for name in wanted}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            x_ti = _tokens(layer, arguments[0].detach())
            if not bool(x_ti.isfinite().all()):
                raise CalibrationError(f"calibration: the inputs of {name!r} hold NaN or infinity")
            if len(x_ti):
                summaries[name].add(x_ti)

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in wanted.items()]
    try:
        with torch.no_grad():
            for batch in calibration.batches:
                run(calibration.module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: summary.result() for name, summary in summaries.items() if summary.tokens}


def _tokens(layer: nn.Module, x: Tensor) -> Tensor:
    """Return a layer's input as a matrix (t, i)."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)  # `layers` leaves those out
        columns_nit = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return columns_nit.transpose(1, 2).flatten(0, 1)
    return x.reshape(-1, x.shape[-1])


class AbsMean:
    """The mean of |x| over tokens, (i,)."""

    def __init__(self) -> None:
        self.tokens, self.total_i = 0, torch.zeros((), dtype=torch.float64)

    def add(self, x_ti: Tensor) -> None:
        """Take more tokens."""
        self.tokens += len(x_ti)
        self.total_i = self.total_i + x_ti.abs().sum(0, dtype=torch.float64)

    def result(self) -> Tensor:
        """Return the mean."""
        return self.total_i / self.tokens


class AbsMax(AbsMean):
    """The largest |x| over tokens, (i,)."""

    def add(self, x_ti: Tensor) -> None:
        """Take more tokens."""
        self.tokens += len(x_ti)
        self.total_i = torch.maximum(self.total_i, x_ti.abs().amax(0).double())

    def result(self) -> Tensor:
        """Return the largest."""
        return self.total_i


class Root:
    """A root S of the second moment, S S^T = mean of x x^T, (i, s).

    Up to i tokens they are such a root themselves; a wide layer's (i, i) moment and its Cholesky factor would be far more work.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._kept: list[Tensor] = []
        self._moment_ii: Tensor | None = None

    def add(self, x_ti: Tensor) -> None:
        """Take more tokens."""
        self.tokens += len(x_ti)
        self._kept.append(x_ti)
        if self._moment_ii is not None or self.tokens > x_ti.shape[1]:
            for kept_ti in self._kept:
                moment_ii = (kept_ti.T @ kept_ti).double()
                self._moment_ii = moment_ii if self._moment_ii is None else self._moment_ii.add_(moment_ii)
            self._kept = []

    def result(self) -> Tensor:
        """Return the root."""
        if self._moment_ii is None:
            return torch.cat(self._kept).double().T / self.tokens**0.5
        return cholesky_root(self._moment_ii / self.tokens)


SUMMARIES: dict[str, type[AbsMean] | type[Root]] = {"abs_mean": AbsMean, "abs_max": AbsMax, "root": Root}


def _gradients(calibration: Calibration, wanted: Mapping[str, Layer]) -> dict[str, Tensor]:
    if calibration.loss is None:
        raise CalibrationError("calibration: the gradient of a loss is asked for, and there is no loss")
    weights = {name: layer.weight for name, layer in wanted.items()}
    before = {name: weight.requires_grad for name, weight in weights.items()}
    totals = {name: torch.zeros(weight[0].numel(), dtype=torch.float64) for name, weight in weights.items()}
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        for batch in calibration.batches:
            with torch.enable_grad():
                loss = calibration.loss(calibration.module, batch)
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    totals[name] += gradient.reshape(len(gradient), -1).double().square().mean(0)
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(before[name])
    if bad := [name for name, total in totals.items() if not bool(total.isfinite().all())]:
        raise CalibrationError(f"calibration: the loss's gradient by {bad[0]!r} holds NaN or infinity")
    return {name: (total / len(calibration.batches)).sqrt() for name, total in totals.items()}
