"""Image classification on one client: cross-entropy, one joint pass over shared and local parameters.

Shapes: N = batch, C, H, W = channels, height, width, K = classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.options import Options


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


@torch.inference_mode()
def evaluate(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, options: TrainOptions) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy (0 to 1) over the given samples."""
    model.eval()
    loss = correct = 0.0
    for x_b, y_b in _batches(_as_model_wants(model, x_NCHW), y_N, size=256):
        with _autocast(options):
            logits_NK = model(x_b).float()
        loss += F.cross_entropy(logits_NK, y_b, reduction="sum").item()
        correct += (logits_NK.argmax(1) == y_b).sum().item()
    return loss / len(y_N), correct / len(y_N)


def _batches(x_NCHW: Tensor, y_N: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(x_NCHW.split(size), y_N.split(size), strict=True)


def _as_model_wants(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    return x_NCHW.to(memory_format=torch.channels_last) if getattr(model, "channels_last", False) else x_NCHW


def _autocast(options: TrainOptions) -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16")
