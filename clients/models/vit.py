"""A compact Vision Transformer whose attention can carry a plugin.

Source: Dosovitskiy et al., arXiv:2010.11929, as timm builds it: pre-norm blocks, learned position embedding, class token,
GELU, a final LayerNorm, a linear head, LayerNorm's epsilon 1e-6. FedPerfix (arXiv:2308.09160) trains it from scratch: dim 384,
depth 12, heads 6, patch 16 on 224 x 224 images. Ours: patches are unfolded by a reshape and embedded by a linear layer
(the same numbers and parameters as the usual strided convolution); linear layers keep PyTorch's default weights, for timm's
standard deviation of 0.02 is a fifth of theirs at dim 32 and hardly trains (8 x 8 digits, 15 epochs of SGD at 0.1, 3 seeds:
17 to 26 % accuracy against 86 to 92 %); and because the head reads the class token only, the last block computes only that
token (8 to 11 % off a training step, the same logits).

Shapes: B = batch, C = channels, H, W = image, N = tokens (class token and patches), D = model width, E = heads,
Q = queries, S = keys and values (N or more with a plugin), X = D / E, K = classes, P = features of one patch.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from pydantic import ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from ...core.errors import SpecError
from .options import ModelOptions
from .plugin import Plugin, PluginOptions

EVERY_TOKEN = slice(None)
CLASS_TOKEN = slice(0, 1)


class VitOptions(ModelOptions):
    """A compact Vision Transformer, pre-LN, without convolutions; its attention can carry plugins."""

    name: Literal["vit"] = "vit"
    dim: Annotated[int, Ge(1)] = 64
    """Model width."""
    depth: Annotated[int, Ge(1)] = 4
    """Number of blocks."""
    heads: Annotated[int, Ge(1)] = 4
    """Attention heads; must divide `dim`."""
    patch: Annotated[int, Ge(1)] = 7
    """Side of a patch in pixels; must divide both sides of the image."""
    mlp_ratio: Annotated[float, Gt(0)] = 4.0
    """Hidden width of the MLP over `dim`."""
    plugin: PluginOptions | None = None
    """What attention carries (FedPerfix); absent: nothing."""

    @field_validator("heads")
    @classmethod
    def _heads_divide_dim(cls, heads: int, info: ValidationInfo) -> int:
        dim = info.data.get("dim")
        if dim is not None and dim % heads:
            raise ValueError(f"does not divide model.dim = {dim}; choose one of {_divisors(dim)}")
        return heads

    @model_validator(mode="after")
    def _plugin_fits(self) -> VitOptions:
        if self.plugin is not None and self.plugin.depth is not None and self.plugin.depth > self.depth:
            raise ValueError(
                f"model.plugin.depth = {self.plugin.depth}: model.depth gives {self.depth} blocks; choose 1 to {self.depth}"
            )
        if self.dim * self.mlp_ratio < 1:
            raise ValueError(f"model.mlp_ratio = {self.mlp_ratio}: leaves the MLP no unit; choose at least {1 / self.dim}")
        return self

    def build(self, shape_CHW: tuple[int, int, int], classes: int) -> ViT:
        """Build the model.

        Raises
        ------
        SpecError
            If the image cannot be cut into whole patches.
        """
        _, height, width = shape_CHW
        if height % self.patch or width % self.patch:
            allowed = _divisors(math.gcd(height, width))
            raise SpecError(f"model.patch = {self.patch}: the image is {height} x {width}; choose one of {allowed}")
        return ViT(self, shape_CHW, classes)


def _divisors(n: int) -> str:
    return ", ".join(str(i) for i in range(1, n + 1) if n % i == 0)


class Attention(nn.Module):
    """Multi-head self-attention, with a plugin on its keys and values where one is attached.

    The softmax is written out: at these sizes (17 tokens, 8 numbers a head) a training step is 8 % faster than with
    `scaled_dot_product_attention`, and `torch.func.vmap` takes it as it is.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.plugin: Plugin | None = None

    def forward(self, x_BND: Tensor, queries: slice = EVERY_TOKEN) -> Tensor:
        """Return what the chosen tokens gather from all tokens, shape (B, Q, D)."""
        q_BND, k_BSD, v_BSD = self.qkv(x_BND).chunk(3, dim=-1)
        if self.plugin is not None:
            k_BSD, v_BSD = self.plugin(x_BND, k_BSD, v_BSD)
        q_BEQX, k_BESX, v_BESX = (
            t_BTD.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t_BTD in (q_BND[:, queries], k_BSD, v_BSD)
        )
        scores_BEQS = (q_BEQX * q_BEQX.shape[-1] ** -0.5) @ k_BESX.mT
        gathered_BEQX = scores_BEQS.softmax(dim=-1) @ v_BESX
        return self.proj(gathered_BEQX.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and beside a residual connection."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(OrderedDict(up=nn.Linear(dim, hidden), gelu=nn.GELU(), down=nn.Linear(hidden, dim)))

    def forward(self, x_BND: Tensor, queries: slice = EVERY_TOKEN) -> Tensor:
        """Return the chosen tokens after this block, shape (B, Q, D)."""
        x_BQD = x_BND[:, queries] + self.attention(self.norm1(x_BND), queries)
        return x_BQD + self.mlp(self.norm2(x_BQD))


class ViT(nn.Module):
    """Patches to logits.

    Parameters
    ----------
    options : VitOptions
        Sizes and plugin.
    shape_CHW : tuple of int
        One image; height and width are multiples of `options.patch`.
    classes : int
        Width of the head.
    """

    channels_last: ClassVar[bool] = False  # no convolution that could gain from it

    def __init__(self, options: VitOptions, shape_CHW: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape_CHW
        dim, self.patch = options.dim, options.patch
        tokens = 1 + (height // self.patch) * (width // self.patch)
        self.embed = nn.Linear(channels * self.patch**2, dim)
        self.cls = nn.Parameter(torch.zeros(dim))
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, dim), std=0.02))
        hidden = int(dim * options.mlp_ratio)
        blocks = [Block(dim, options.heads, hidden) for _ in range(options.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)
        if options.plugin is not None:  # last, so that the base is drawn as without
            for block in blocks[-(options.plugin.depth or options.depth) :]:
                block.attention.plugin = options.plugin.build(dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits, shape (B, K)."""
        x_BND = self.embed(self.unfold(x_BCHW))
        x_BND = torch.cat([self.cls.expand(len(x_BND), 1, -1), x_BND], dim=1) + self.position
        for block in self.blocks[:-1]:
            x_BND = block(x_BND)
        x_BQD = self.blocks[-1](x_BND, CLASS_TOKEN)
        return self.head(self.norm(x_BQD[:, 0]))

    def unfold(self, x_BCHW: Tensor) -> Tensor:
        """Cut images into patches, row by row: shape (B, N - 1, P), a patch's features in the order of (C, patch, patch)."""
        x_BCyhxw = x_BCHW.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        return x_BCyhxw.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
