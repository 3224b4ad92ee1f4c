"""A byte-level OPT trained on English prose that Python ships, and outliers put into it that change nothing it computes."""

from __future__ import annotations

import copy
import math
import pydoc_data.topics
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedcosim.compression.rptq.blocks import blocks

LENGTH = 64


def text() -> Tensor:
    """Return the text as bytes, one token each."""
    joined = "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    return torch.tensor([byte for byte in joined.encode() if byte < 128])


@dataclass(frozen=True)
class LanguageModel:
    """A trained model, windows to calibrate on and to judge by, and the perplexity of byte frequencies alone."""

    module: nn.Module
    calibration: Tensor
    held_out: Tensor
    unigram: float

    def perplexity(self, module: nn.Module | None = None) -> float:
        """Return the perplexity of a byte, of this model or another one."""
        with torch.no_grad():
            return math.exp((module or self.module)(self.held_out, labels=self.held_out).loss)


def train(dim: int, depth: int, steps: int, seed: int) -> LanguageModel:
    """Train for so many steps of 8 windows; the last tenth of the text is held out."""
    import transformers

    tokens = text()
    last = len(tokens) * 9 // 10
    config = transformers.OPTConfig(
        vocab_size=128,
        hidden_size=dim,
        ffn_dim=4 * dim,
        num_hidden_layers=depth,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        word_embed_proj_dim=dim,
        dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = transformers.OPTForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)

    def windows(count: int, start: int, stop: int) -> Tensor:
        at = torch.randint(start, stop - LENGTH, (count,), generator=generator)
        return torch.stack([tokens[n : n + LENGTH] for n in at.tolist()])

    optimizer = torch.optim.AdamW(module.parameters(), 2e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20)
        batch = windows(8, 0, last)
        optimizer.zero_grad()
        module(batch, labels=batch).loss.backward()
        optimizer.step()
    counts = torch.bincount(tokens[:last], minlength=128) + 1.0
    held_out = windows(48, last, len(tokens))
    unigram = math.exp(-(counts / counts.sum()).log()[held_out].mean())
    return LanguageModel(module.eval(), windows(48, 0, last), held_out, unigram)


@torch.no_grad()
def with_outliers(module: nn.Module, seed: int) -> nn.Module:
    """Return a copy that computes the same with channels of very different ranges.

    A normalisation's channel is multiplied by 10 to 50 and the columns that read it divided; rows of values, of the hidden
    layer (ReLU commutes with positive factors), and of queries are scaled by log-normal factors and what reads them by their
    inverses.
    """
    made, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    for block in blocks(made):
        layer = made.get_submodule
        for norm, readers in zip(block.norms, (block.readers["attention_in"], block.up), strict=True):
            count = len(layer(norm).weight)
            chosen = torch.randperm(count, generator=generator)[:4]
            factor = torch.ones(count)
            factor[chosen] = 10 + 40 * torch.rand(4, generator=generator)
            layer(norm).weight.mul_(factor)
            layer(norm).bias.mul_(factor)
            for reader in readers:
                layer(reader).weight.div_(factor)
        pairs = ((block.v.layer, block.out), (block.up[0], block.down))
        for rows, columns in pairs:
            factor = torch.randn(len(layer(rows).bias), generator=generator).exp()
            layer(rows).weight.mul_(factor[:, None])
            layer(rows).bias.mul_(factor)
            layer(columns).weight.div_(factor)
        factor = torch.randn(len(layer(block.q.layer).bias), generator=generator).exp()
        for name, scale in ((block.q.layer, factor), (block.k.layer, 1 / factor)):
            layer(name).weight.mul_(scale[:, None])
            layer(name).bias.mul_(scale)
    return made
