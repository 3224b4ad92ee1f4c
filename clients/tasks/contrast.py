"""CreamFL's local contrast: a client of one modality moves towards what the server makes of public pairs.

Source: Yu et al., "Multimodal Federated Learning via Contrastive Representation Ensemble", arXiv:2302.08888 (ICLR 2023),
section 3.2, and its published code. For public pair p, own feature z_p, global features G of the pairs in both modalities, all
of unit length:

    inter   cross-entropy of softmax over j of  z_p . G_other,j / T  at j = p
    intra   cross-entropy of softmax over {G_own,p ; z_p before the round}  of  z_p . {} / T  at the first   (as MOON)

The loss is weight (inter + intra), its gradient clipped to norm 2; one pass after the local training of a round.

Shapes: P = public pairs, B = batch, D = width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.multimodal import Samples
from ..models.towers import Towers
from ..work import observe
from .multimodal import MultimodalTrainOptions, embed

CLIP = 2.0


@dataclass(frozen=True)
class Contrast:
    """What a client needs for it: global features by modality, (P, D), the loss's weight and temperature."""

    features: Mapping[str, Tensor]
    weight: float
    temperature: float


def own_features(model: Towers, public: Samples) -> Tensor:
    """Return what a model of one modality makes of the public pairs, of their first text, shape (P, D)."""
    (modality,) = model.towers
    return embed(model, modality, public.views[modality])[:, 0].clone()


def fit(
    model: Towers,
    public: Samples,
    before_PD: Tensor,
    contrast: Contrast,
    options: MultimodalTrainOptions,
    random: torch.Generator,
) -> None:
    """Take one pass over the public pairs, in place; `before_PD` are `own_features` before the round."""
    rows = torch.arange(len(public))
    batch_size = min(options.batch_size, len(public))

    def some(copy: nn.Module, count: int) -> None:
        assert isinstance(copy, Towers)
        _pass(copy, public, before_PD, contrast, options, [rows[:batch_size]] * count)

    observe(model, some, math.ceil(len(public) / batch_size), batch_size, ("contrast", len(public)), "adam", options.precision)
    order = torch.randperm(len(public), generator=random)
    _pass(model, public, before_PD, contrast, options, list(order.tensor_split(math.ceil(len(public) / batch_size))))


def _pass(
    model: Towers,
    public: Samples,
    before_PD: Tensor,
    contrast: Contrast,
    options: MultimodalTrainOptions,
    batches: list[Tensor],
) -> None:
    model.train()
    (modality,) = model.towers
    view = public.views[modality]
    x = view[:, 0] if view.dtype == torch.int64 else view
    optimizer = options.build_optimizer(list(model.parameters()))
    for rows in batches:
        optimizer.zero_grad()
        z_BD = F.normalize(model.encode(modality, x[rows]), dim=1)
        loss = contrast.weight * loss_of(z_BD, rows, before_PD, modality, contrast)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()


def loss_of(z_BD: Tensor, rows: Tensor, before_PD: Tensor, modality: str, contrast: Contrast) -> Tensor:
    """Return inter + intra of some public pairs' features."""
    others = [features for name, features in contrast.features.items() if name != modality]
    inter = sum((F.cross_entropy(z_BD @ other_PD.T / contrast.temperature, rows) for other_PD in others), torch.zeros(()))
    towards_B = (z_BD * contrast.features[modality][rows]).sum(1)
    away_B = (z_BD * before_PD[rows]).sum(1)
    logits_B2 = torch.stack([towards_B, away_B], dim=1) / contrast.temperature
    return inter / len(others) + F.cross_entropy(logits_B2, torch.zeros(len(rows), dtype=torch.long))
