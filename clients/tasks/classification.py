"""Image classification on one client: cross-entropy, one joint pass over shared and local parameters.

Shapes: N = batch, C, H, W = channels, height, width, K = classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.options import Options
from ..privacy import DpSgd, Private, poisson_batches
from ..work import observe


class TrainOptions(Options):
    """What every client does in a round: `[train]`."""

    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the client's own training data a round."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Samples a step; the last, smaller batch is kept."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Made anew every round; its state does not outlive the round."""
    lr: Annotated[float, Field(gt=0)] = 0.05
    """Learning rate, constant within a round."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of `sgd`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 penalty (`sgd`, `adam`) or decoupled decay (`adamw`)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` runs forward and backward under autocast; weights stay fp32. fp32 is the reference."""

    def build_optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Make this round's optimizer."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, lr=self.lr, weight_decay=self.weight_decay)


def train(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    options: TrainOptions,
    order: torch.Generator,
    proximal_mu: float = 0.0,
) -> float:
    """Train in place.

    Parameters
    ----------
    order : torch.Generator
        Decides the order of samples in every epoch.
    proximal_mu : float
        FedProx (arXiv:1812.06127, eq. 2): adds mu/2 |w - w_start|^2 over all parameters to the loss.

    Returns
    -------
    float
        Mean cross-entropy over all samples seen, each at the weights it was trained with.
    """
    model.train()
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters] if proximal_mu else []
    optimizer = options.build_optimizer(parameters)
    x_NCHW = _as_model_wants(model, x_NCHW)
    total = torch.zeros(())
    for _ in range(options.epochs):
        for batch in torch.randperm(len(y_N), generator=order).split(options.batch_size):
            optimizer.zero_grad()
            with _autocast(options):
                loss = F.cross_entropy(model(x_NCHW[batch]), y_N[batch])
            total += loss.detach() * len(batch)
            if proximal_mu:
                loss = loss + proximal_mu / 2 * sum((p - p0).square().sum() for p, p0 in zip(parameters, start, strict=True))
            loss.backward()
            optimizer.step()
    return total.item() / (options.epochs * len(y_N))


def fit(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    options: TrainOptions,
    order: torch.Generator,
    private: Private | None = None,
    proximal_mu: float = 0.0,
) -> float | None:
    """Train in place, by DP-SGD where `private` says how; return the mean loss, None where that would tell of records."""
    _observe(model, x_NCHW, y_N, options, private, proximal_mu)
    if private is None:
        return train(model, x_NCHW, y_N, options, order, proximal_mu)
    train_private(model, x_NCHW, y_N, options, private.sigma, private.max_grad_norm, order, private.noise)
    return None


def _observe(
    model: nn.Module, x_NCHW: Tensor, y_N: Tensor, options: TrainOptions, private: Private | None, proximal_mu: float
) -> None:
    """Tell those who price it what `fit` is about to do: steps on full batches, the last one of a pass among them."""
    batch_size = min(options.batch_size, len(y_N))
    x_BCHW, y_B = x_NCHW[:batch_size], y_N[:batch_size]

    def steps(copy: nn.Module, count: int) -> None:
        few = options.model_copy(update={"epochs": count, "batch_size": batch_size})
        order = torch.Generator()
        if private is None:
            train(copy, x_BCHW, y_B, few, order, proximal_mu)
        else:
            quiet = private.rehearsal()
            train_private(copy, x_BCHW, y_B, few, quiet.sigma, quiet.max_grad_norm, order, quiet.noise)

    observe(
        model,
        steps,
        private_steps(len(y_N), options),
        batch_size,
        (tuple(x_BCHW.shape), options.weight_decay, bool(proximal_mu)),
        "momentum" if options.optimizer == "sgd" and options.momentum else options.optimizer,
        options.precision,
        private is not None,
    )


def private_steps(num_records: int, options: TrainOptions) -> int:
    """Return how many steps `train_private` takes: as many as `train` on that many samples."""
    return options.epochs * math.ceil(num_records / options.batch_size)


def train_private(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    options: TrainOptions,
    sigma: float,
    max_grad_norm: float,
    order: torch.Generator,
    noise: torch.Generator,
) -> int:
    """Train in place by DP-SGD, in steps that sample every record with probability `options.batch_size` / N.

    Inputs stay in NCHW order whatever layout the model wants: Opacus needs that one, and would have them copied back.

    Parameters
    ----------
    sigma, max_grad_norm : float
        Noise multiplier and clip norm of `DpSgd`.
    order : torch.Generator
        Decides which records each step samples.
    noise : torch.Generator
        Gives the noise.

    Returns
    -------
    int
        Steps taken. There is no loss to return: it would be a statistic without noise.
    """
    model.train()
    steps = private_steps(len(y_N), options)
    optimizer = options.build_optimizer(list(model.parameters()))
    with DpSgd(model, optimizer, sigma, max_grad_norm, options.batch_size, noise) as dp:
        for batch in poisson_batches(len(y_N), options.batch_size / len(y_N), steps, order):
            dp.step(partial(_row_losses, x_NCHW=x_NCHW[batch], y_N=y_N[batch], options=options), len(batch))
    return steps


def _row_losses(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, options: TrainOptions) -> Tensor:
    with _autocast(options):
        return F.cross_entropy(model(x_NCHW), y_N, reduction="none")


@torch.inference_mode()
def predict(model: nn.Module, x_NCHW: Tensor, options: TrainOptions) -> Tensor:
    """Return the logarithm of the probability of every class, shape (N, K)."""
    model.eval()
    batches = []
    for x_b in _as_model_wants(model, x_NCHW).split(256):
        with _autocast(options):
            batches.append(model(x_b).float().log_softmax(dim=1))
    return torch.cat(batches)


def score(log_p_NK: Tensor, y_N: Tensor) -> dict[str, float | list[int]]:
    """Judge predictions.

    Returns
    -------
    dict
        `loss`, the mean cross-entropy; `accuracy`, 0 to 1; `class_correct` and `class_total`, samples of each class.
    """
    classes = log_p_NK.shape[1]
    hits_N = log_p_NK.argmax(1) == y_N
    return {
        "loss": F.nll_loss(log_p_NK, y_N).item(),
        "accuracy": hits_N.double().mean().item(),
        "class_correct": torch.bincount(y_N[hits_N], minlength=classes).tolist(),
        "class_total": torch.bincount(y_N, minlength=classes).tolist(),
    }


def _as_model_wants(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    return x_NCHW.to(memory_format=torch.channels_last) if getattr(model, "channels_last", False) else x_NCHW


def _autocast(options: TrainOptions) -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16")
