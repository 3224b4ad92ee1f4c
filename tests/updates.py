"""A small model with all kinds of tensors, and what its update may be encoded with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedcosim.compression import Base, Calibration, Codec, Context, parse

CHAINS: list[Any] = [
    "fp16",
    "bf16",
    "int8",
    "int4",
    "topk",
    "randomk",
    "qsgd",
    "fedpaq",
    "signsgd",
    "powersgd",
    "svd",
    "asvd",
    "svd-llm",
    "rptq",
    ["asvd", "int8"],
    ["svd", "fp16"],
    ["svd-llm", "int4"],
    ["powersgd", "int8"],
    ["topk", "qsgd"],
    ["topk", "rptq"],
]


def model() -> nn.Module:
    """Return a network with a convolution, batch normalisation (a counter among its buffers) and linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1, stride=2),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12 * 16, 80),
            nn.ReLU(),
            nn.Linear(80, 10),
        ).eval()


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed))


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Return the model's weights, moved a little."""
    generator = stream(seed)
    return {
        name: x + 0.02 * torch.randn(x.shape, generator=generator).abs() if x.is_floating_point() else x + 7 * seed
        for name, x in model().state_dict().items()
    }


def context(seed: int = 0, state: dict[str, Tensor] | None = None) -> Context:
    """Return everything a codec may ask for."""
    module = model()
    batches = [normal(16, 3, 8, 8, seed=90 + n) for n in range(2)]
    labels = torch.arange(16) % 10
    calibration = Calibration(module, batches, lambda m, x: nn.functional.cross_entropy(m(x), labels))
    buffers = frozenset(name for name, _ in module.named_buffers())
    return Context(Base(weights()), stream(seed), calibration, state or {}, buffers)


def codec(chain: Any, **fields: Any) -> Codec:
    return parse({"codec": chain, **fields}).build()
