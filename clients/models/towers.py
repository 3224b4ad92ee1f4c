"""A modality-agnostic transformer: one tower of the same blocks for each modality, one final norm, a head for labels.

Source: Sun et al., "Towards Multi-modal Transformers in Federated Learning", arXiv:2404.12467 (ECCV 2024), section 3, and its
published code: pre-norm blocks, a learned class token and learned positions, padding attended to like any token, one final
LayerNorm a model, a linear head on the class token for labels, and no head where samples are matched across modalities. Ours:
sizes for one CPU core, patches embedded by a linear layer, words by a table of their own with the norm of BERT behind it,
and weights that depend on the modality only, so that all types start with equal towers. Blocks are those of `vit`.

Shapes: B = batch, C, H, W = channels, height, width, N = tokens (class token first), L = words, D = width, K = classes,
P = numbers in a patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from pydantic import ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import SpecError
from ...core.seeds import derive
from ..data.silos import Classes, Pixels, SiloType, Target, Tokens, View
from .options import ModelOptions
from .vit import CLASS_TOKEN, Block

Kind = Literal["embedding", "attention", "mlp", "norm", "head"]
_KINDS: dict[str, Kind] = {"norm1": "norm", "attention": "attention", "norm2": "norm", "mlp": "mlp"}
"""What the children of a block are."""


class TowersOptions(ModelOptions):
    """A transformer tower for each modality a client holds (FedCola); with images alone, an image classifier."""

    name: Literal["towers"] = "towers"
    dim: Annotated[int, Ge(1)] = 64
    """Width of all towers."""
    depth: Annotated[int, Ge(1)] = 3
    """Blocks of each tower."""
    heads: Annotated[int, Ge(1)] = 4
    """Attention heads; must divide `dim`."""
    patch: Annotated[int, Ge(1)] = 4
    """Side of a patch in pixels; must divide both sides of the image."""
    mlp_ratio: Annotated[int, Ge(1)] = 4
    """Hidden width of the MLPs over `dim`."""

    @field_validator("heads")
    @classmethod
    def _heads_divide_dim(cls, heads: int, info: ValidationInfo) -> int:
        dim = info.data.get("dim")
        if dim is not None and dim % heads:
            fit = ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)
            raise ValueError(f"does not divide model.dim = {dim}; choose one of {fit}")
        return heads

    def build(self, shape_CHW: tuple[int, int, int], classes: int) -> Towers:
        """Build an image classifier.

        Raises
        ------
        SpecError
            If the image cannot be cut into whole patches.
        """
        return Towers({"image": Tower(self, Pixels(shape_CHW))}, self.dim, Classes(classes))

    def build_for(self, kind: SiloType, seed: int) -> Towers:
        """Build the model of one client type; the weights of a tower depend on its modality, view and the seed only.

        The process-wide generators are left as they were.

        Raises
        ------
        SpecError
            If its images cannot be cut into whole patches.
        """
        generator = torch.random.default_generator
        with torch.random.fork_rng(devices=[]):
            towers = {}
            for modality, view in kind.views.items():
                generator.manual_seed(derive(seed, "tower", modality))
                towers[modality] = Tower(self, view)
            generator.manual_seed(derive(seed, "head", kind.name))
            return Towers(towers, self.dim, kind.target)


class PatchEmbedding(nn.Module):
    """Patches, a class token before them, and their positions."""

    def __init__(self, dim: int, patch: int, shape_CHW: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape_CHW
        if height % patch or width % patch:
            allowed = ", ".join(str(n) for n in range(1, height + 1) if math.gcd(height, width) % n == 0)
            raise SpecError(f"model.patch = {patch}: the image is {height} x {width}; choose one of {allowed}")
        self.patch = patch
        self.project = nn.Linear(channels * patch**2, dim)
        self.cls = nn.Parameter(torch.zeros(dim))
        self.position = nn.Parameter(_positions(1 + height * width // patch**2, dim))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return tokens, shape (B, N, D)."""
        patches_BNP = F.unfold(x_BCHW, self.patch, stride=self.patch).transpose(1, 2)
        return _with_class_token(self.cls, self.project(patches_BNP)) + self.position


class WordEmbedding(nn.Module):
    """Words, a class token before them, and their positions, normalised."""

    def __init__(self, dim: int, vocabulary: int, length: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, dim)
        nn.init.trunc_normal_(self.word.weight, std=0.02)
        self.cls = nn.Parameter(torch.zeros(dim))
        self.position = nn.Parameter(_positions(1 + length, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x_BL: Tensor) -> Tensor:
        """Return tokens, shape (B, N, D)."""
        return self.norm(_with_class_token(self.cls, self.word(x_BL)) + self.position)


def _positions(tokens: int, dim: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(tokens, dim), std=0.02)


def _with_class_token(cls_D: Tensor, x_BND: Tensor) -> Tensor:
    return torch.cat([cls_D.expand(len(x_BND), 1, -1), x_BND], dim=1)


class Tower(nn.Module):
    """An embedding of one modality and a stack of blocks."""

    def __init__(self, options: TowersOptions, view: View) -> None:
        super().__init__()
        dim = options.dim
        if isinstance(view, Tokens):
            self.embed: nn.Module = WordEmbedding(dim, view.vocabulary, view.length)
        else:
            self.embed = PatchEmbedding(dim, options.patch, view.shape_CHW)
        self.blocks = nn.ModuleList(Block(dim, options.heads, dim * options.mlp_ratio) for _ in range(options.depth))

    def forward(self, x: Tensor) -> Tensor:
        """Return the class token after the last block, shape (B, D)."""
        x_BND = self.embed(x)
        for block in self.blocks[:-1]:
            x_BND = block(x_BND)
        return self.blocks[-1](x_BND, CLASS_TOKEN)[:, 0]


class Towers(nn.Module):
    """The model of one client type.

    Parameters
    ----------
    towers : mapping of str to Tower
        By modality.
    dim : int
        Their width.
    target : Target, optional
        What is learnt; it decides on the head.
    """

    channels_last: ClassVar[bool] = False

    def __init__(self, towers: Mapping[str, Tower], dim: int, target: Target | None) -> None:
        super().__init__()
        self.target = target
        self.towers = nn.ModuleDict(towers)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, target.outputs) if target is not None and target.outputs else nn.Identity()

    def encode(self, modality: str, x: Tensor) -> Tensor:
        """Return what one modality's view of some samples means, shape (B, D)."""
        return self.norm(self.towers[modality](x))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the head says of samples of the only modality, shape (B, K): logits, or a number (K = 1)."""
        (modality,) = self.towers
        return self.head(self.encode(modality, x))


@dataclass(frozen=True)
class Part:
    """What a parameter is part of: the tower of a modality (None: of no tower), and what kind of layer."""

    modality: str | None
    kind: Kind


def part_of(key: str) -> Part:
    """Say what a parameter of `Towers` is part of, by its anchored path.

    Raises
    ------
    KeyError
        If it is no parameter of `Towers`.
    """
    match key.split("."):
        case ["towers", modality, "embed", *_]:
            return Part(modality, "embedding")
        case ["towers", modality, "blocks", _, child, *_]:
            return Part(modality, _KINDS[child])
        case ["norm", *_]:
            return Part(None, "norm")
        case ["head", *_]:
            return Part(None, "head")
    raise KeyError(key)
