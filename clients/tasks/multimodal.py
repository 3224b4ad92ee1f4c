"""What a client of a multimodal federation trains: labels where it holds one modality, matches where it holds several.

Source: Sun et al., arXiv:2404.12467, section 3, and its published code: cross-entropy on the class token; symmetric InfoNCE
(arXiv:1807.03748, as CLIP has it, arXiv:2103.00020) over the pairs of a batch, at a temperature that stays at 0.07. Ours: of
several texts of a sample, each pass draws one; images are shifted by a few pixels; pairs of the same thing are no negatives of
each other; batches of a pass are of equal size, up to one; more than two modalities are matched two by two; labels can be
numbers, or functions whose distances embeddings follow (DeepGate2, arXiv:2305.16373).

Shapes: N = samples, B = batch, D = width, V = texts of a sample, L = tokens, P = patterns of a truth table, C, H, W = channels,
height, width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.multimodal import Samples
from ..data.silos import Classes, Function, Number
from ..models.gates import Gate
from ..models.towers import Towers
from ..work import observe
from .classification import TrainOptions
from .labelled import judge_classes, judge_functions, judge_numbers, likeness, standardised
from .retrieval import judged

JUDGED_AT_ONCE = 256


class MultimodalTrainOptions(TrainOptions):
    """What every client does in a round: `[train]` of a multimodal federation."""

    pair_epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over its pairs of a client with several modalities; `epochs` are those over labelled samples."""
    pair_batch_size: Annotated[int, Field(ge=2)] = 40
    """Most pairs of a step: each is told from all others of its batch."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """By which similarities are divided when pairs are matched; not trained."""
    shift: Annotated[int, Field(ge=0)] = 2
    """Most pixels by which an image is moved in training, edges repeated."""
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate from one round to the next."""

    def in_round(self, number: int) -> MultimodalTrainOptions:
        """Return these options with the learning rate of a round."""
        return self.model_copy(update={"lr": self.lr * self.lr_decay ** (number - 1)})


@dataclass(frozen=True)
class Extras:
    """What a strategy adds to training.

    Parameters
    ----------
    gates : sequence of Gate
        Gates that sit on the model.
    gate_lr : float, optional
        Their learning rate, where it is not the model's.
    proximal_mu : float
        FedProx (arXiv:1812.06127, eq. 2): adds mu/2 |w - w_start|^2 over the model's parameters to the loss.
    """

    gates: Sequence[Gate] = ()
    gate_lr: float | None = None
    proximal_mu: float = 0.0


NOTHING = Extras()


def fit(
    model: Towers, samples: Samples, options: MultimodalTrainOptions, random: torch.Generator, extras: Extras = NOTHING
) -> float:
    """Train in place; return the mean loss over the samples seen, each at the weights it was trained with.

    Parameters
    ----------
    random : torch.Generator
        Decides the order of samples, and shifts and texts drawn.
    """
    epochs, batch_size = (
        (options.pair_epochs, options.pair_batch_size) if model.target is None else (options.epochs, options.batch_size)
    )
    _observe(model, samples, options, extras, epochs * math.ceil(len(samples) / batch_size), min(batch_size, len(samples)))
    return _train(model, samples, options, random, extras, epochs, batch_size)


def _observe(
    model: Towers, samples: Samples, options: MultimodalTrainOptions, extras: Extras, steps: int, batch_size: int
) -> None:
    """Tell those who price it what `fit` is about to do, without gates: these are a copy's own."""
    few = Samples.of({name: column[:batch_size] for name, column in samples.columns().items()})

    def some(copy: nn.Module, count: int) -> None:
        assert isinstance(copy, Towers)
        gates = [module for module in copy.modules() if isinstance(module, Gate)]
        like = Extras(gates, extras.gate_lr, extras.proximal_mu)
        _train(copy, few, options, torch.Generator(), like, count, batch_size)

    shapes = tuple((name, tuple(view.shape)) for name, view in few.views.items())
    settings = (shapes, options.weight_decay, bool(extras.proximal_mu), options.temperature)
    kind = "momentum" if options.optimizer == "sgd" and options.momentum else options.optimizer
    observe(model, some, steps, batch_size, settings, kind, options.precision)


def _train(
    model: Towers,
    samples: Samples,
    options: MultimodalTrainOptions,
    random: torch.Generator,
    extras: Extras,
    epochs: int,
    batch_size: int,
) -> float:
    model.train()
    gate_ids = {id(gate.g_K) for gate in extras.gates}
    weights = [p for p in model.parameters() if p.requires_grad and id(p) not in gate_ids]
    start = [p.detach().clone() for p in weights] if extras.proximal_mu else []
    optimizer = options.build_optimizer(weights)
    if extras.gates:
        optimizer.add_param_group({"params": [gate.g_K for gate in extras.gates], "lr": extras.gate_lr or options.lr})
    loss_of: Callable[[Samples], Tensor] = _matching(model, options) if model.target is None else _labelling(model)
    total = torch.zeros(())
    for rows in _batches(len(samples), epochs, batch_size, random):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            loss = loss_of(drawn(samples, rows, options.shift, random))
        total += loss.detach() * len(rows)
        if extras.proximal_mu:
            loss = loss + extras.proximal_mu / 2 * sum((p - p0).square().sum() for p, p0 in zip(weights, start, strict=True))
        loss.backward()
        optimizer.step()
    return total.item() / (epochs * len(samples))


def _batches(samples: int, epochs: int, batch_size: int, random: torch.Generator) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(samples, generator=random).tensor_split(math.ceil(samples / batch_size))


def drawn(samples: Samples, rows: Tensor, shift: int, random: torch.Generator) -> Samples:
    """Return some samples as one step sees them: one text of each, (B, L), images moved, (B, C, H, W)."""
    views = {}
    for modality, view in samples.views.items():
        if view.dtype == torch.int64:
            views[modality] = view[rows, torch.randint(view.shape[1], (len(rows),), generator=random)]
        else:
            views[modality] = shifted(view[rows], shift, random)
    labels_N = samples.labels_N
    return Samples(views, samples.keys_N[rows], None if labels_N is None else labels_N[rows])


def shifted(x_BCHW: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Move each image by up to `most` pixels in each direction, edges repeated."""
    if not most:
        return x_BCHW
    height, width = x_BCHW.shape[2:]
    windows = F.pad(x_BCHW, [most] * 4, mode="replicate").unfold(2, height, 1).unfold(3, width, 1)
    down_B, right_B = torch.randint(2 * most + 1, (2, len(x_BCHW)), generator=random)
    return windows[torch.arange(len(x_BCHW)), :, down_B, right_B]


def _labelling(model: Towers) -> Callable[[Samples], Tensor]:
    (modality,) = model.towers
    match model.target:
        case Number() as number:
            return lambda batch: F.mse_loss(model(batch.views[modality])[:, 0], standardised(batch.labels_N, number))
        case Function():
            return lambda batch: likeness(model.encode(modality, batch.views[modality]), batch.labels_N)
    return lambda batch: F.cross_entropy(model(batch.views[modality]), batch.labels_N)


def _matching(model: Towers, options: MultimodalTrainOptions) -> Callable[[Samples], Tensor]:
    def loss(batch: Samples) -> Tensor:
        embedded = {modality: F.normalize(model.encode(modality, x), dim=1) for modality, x in batch.views.items()}
        pairs = list(itertools.combinations(embedded.values(), 2))
        return sum((info_nce(a, b, batch.keys_N, options.temperature) for a, b in pairs), torch.zeros(())) / len(pairs)

    return loss


def info_nce(a_BD: Tensor, b_BD: Tensor, keys_B: Tensor, temperature: float) -> Tensor:
    """Return the symmetric cross-entropy of telling each sample's partner from the others'; 0 for a single pair.

    Parameters
    ----------
    a_BD, b_BD : Tensor
        Embeddings of unit length.
    keys_B : Tensor of int64
        Samples of one key are no negatives of each other.
    """
    same_BB = (keys_B[:, None] == keys_B) & ~torch.eye(len(keys_B), dtype=torch.bool)
    logits_BB = (a_BD @ b_BD.T / temperature).masked_fill(same_BB, -math.inf)
    partner_B = torch.arange(len(keys_B))
    return (F.cross_entropy(logits_BB, partner_B) + F.cross_entropy(logits_BB.T, partner_B)) / 2


@torch.inference_mode()
def embed(model: Towers, modality: str, view: Tensor) -> Tensor:
    """Return embeddings of unit length of everything in a view, shape (N, V, D); an image is one view of its sample."""
    model.eval()
    count, rows = (view.shape[1], view.flatten(0, 1)) if view.dtype == torch.int64 else (1, view)
    embedded = torch.cat([F.normalize(model.encode(modality, x), dim=1) for x in rows.split(JUDGED_AT_ONCE)])
    return embedded.unflatten(0, (-1, count))


def embed_all(model: Towers, samples: Samples) -> dict[str, Tensor]:
    """Return `embed` of every modality."""
    return {modality: embed(model, modality, view) for modality, view in samples.views.items()}


@torch.inference_mode()
def judge(model: Towers, samples: Samples) -> dict[str, float]:
    """Judge on held-out samples: what `labelled` says of the type's labels, or `judged` of matches.

    Classes and numbers are told from each sample's first text.
    """
    if model.target is None:
        return judged(embed_all(model, samples))
    ((modality, view),) = samples.views.items()
    if isinstance(model.target, Function):
        return judge_functions(embed(model, modality, view), view, samples.labels_N)
    model.eval()
    rows = view[:, 0] if view.dtype == torch.int64 else view
    said_NK = torch.cat([model(x) for x in rows.split(JUDGED_AT_ONCE)])
    if isinstance(model.target, Classes):
        return judge_classes(said_NK, samples.labels_N)
    return judge_numbers(said_NK[:, 0], samples.labels_N, model.target)


def borrowed(aux: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack other modalities' weights, named `<modality>/<layer>`, by layer: shape (K, O, I), modalities in sorted order."""
    by_layer: dict[str, list[Tensor]] = {}
    for name in sorted(aux):
        by_layer.setdefault(name.partition("/")[2], []).append(aux[name])
    return {layer: torch.stack(weights) for layer, weights in by_layer.items()}
