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

Statistic = Literal["abs_mean", "abs_max", "second_moment", "gradient"]
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
    statistic : {"abs_mean", "abs_max", "second_moment", "gradient"}
        Of each input over tokens: mean or maximum of |x|, shape (i,); mean of x x^T, shape (i, i). Or the root of the weight's
        mean squared gradient over outputs and batches, shape (i,), which needs `calibration.loss`.
    names : iterable of str
        Of weights; those that no layer that can be scaled has, or that no batch reached, are not in the answer.

    Raises
    ------
    CalibrationError
        If there are no batches, an input is not finite, or the loss is missing.
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
    totals: dict[str, Tensor] = {}
    tokens: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            x_ti = _tokens(layer, arguments[0].detach())
            if not bool(x_ti.isfinite().all()):
                raise CalibrationError(f"calibration: the inputs of {name!r} hold NaN or infinity")
            seen = _summary(x_ti, statistic)
            if name in totals:
                seen = torch.maximum(totals[name], seen) if statistic == "abs_max" else totals[name] + seen
            totals[name], tokens[name] = seen, tokens.get(name, 0) + len(x_ti)

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in wanted.items()]
    try:
        with torch.no_grad():
            for batch in calibration.batches:
                run(calibration.module, batch)
    finally:
        for handle in handles:
            handle.remove()
    if statistic == "abs_max":
        return totals
    return {name: total / tokens[name] for name, total in totals.items() if tokens[name]}


def _tokens(layer: nn.Module, x: Tensor) -> Tensor:
    """Return a layer's input as a matrix (t, i)."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)  # `layers` leaves those out
        columns_nit = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return columns_nit.transpose(1, 2).flatten(0, 1)
    return x.reshape(-1, x.shape[-1])


def _summary(x_ti: Tensor, statistic: Statistic) -> Tensor:
    if statistic == "second_moment":
        return (x_ti.T @ x_ti).double()
    if statistic == "abs_max":
        return x_ti.abs().amax(0).double() if len(x_ti) else x_ti.new_zeros(x_ti.shape[1]).double()
    return x_ti.abs().sum(0, dtype=torch.float64)


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
