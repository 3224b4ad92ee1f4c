"""Tiny transformers of every kind whose blocks are known, with weights that are not as even as fresh ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedcosim.clients.models import MODELS, initialise

KINDS = ("vit", "opt", "opt-post", "llama", "bert", "gpt2")
WORDS = 50


def transformer(kind: str, dim: int = 32, heads: int = 4, seed: int = 1) -> nn.Module:
    """Return a model of two blocks that takes `inputs(kind)`; weights and biases are drawn with outlier channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _fresh(kind, dim, heads)
        for name, x in model.named_parameters():
            if x.ndim == 1:
                with torch.no_grad():
                    x.add_(0.1 * torch.randn_like(x))
                    if "norm" in name.lower() or ".ln_" in name:
                        x[::7] *= 4
    return model.eval()


def _fresh(kind: str, dim: int, heads: int) -> nn.Module:
    if kind == "vit":
        return initialise(MODELS.parse({"name": "vit", "dim": dim, "depth": 2, "heads": heads, "patch": 4}), (1, 8, 8), 10, 1)
    import transformers

    sizes: dict[str, Any] = {"vocab_size": WORDS, "hidden_size": dim, "num_hidden_layers": 2, "num_attention_heads": heads}
    tokens: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
    if kind.startswith("opt"):
        more = {"ffn_dim": 2 * dim, "max_position_embeddings": 40, "word_embed_proj_dim": dim, "pad_token_id": None}
        return transformers.OPTForCausalLM(
            transformers.OPTConfig(**sizes, **tokens, **more, do_layer_norm_before=kind == "opt")
        )
    if kind == "llama":
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**sizes, **tokens, intermediate_size=2 * dim, num_key_value_heads=2)
        )
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=2 * dim), add_pooling_layer=False)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**tokens, vocab_size=WORDS, n_embd=dim, n_layer=2, n_head=heads, n_positions=40)
    )


def inputs(kind: str, count: int = 6, seed: int = 0) -> Tensor:
    """Return a batch: images, or twelve tokens a sample."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "vit":
        return torch.randn(count, 1, 8, 8, generator=generator)
    return torch.randint(0, WORDS, (count, 12), generator=generator)


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Return logits, or the last hidden values."""
    y = model(x)
    return y if isinstance(y, Tensor) else y[0]
