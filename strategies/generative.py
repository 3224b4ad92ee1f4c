"""One-shot learning from uploaded generative models: sample them, choose, train one classifier on what was chosen.

The server holds no data. It asks every client's generator for images of the classes the client says it has, as many of each as
an allocation policy gives, and trains the experiment's classifier on them. FedDiff and FedCVAE differ in the generator only.

Shapes: N = samples, C, H, W = channels, height, width, K = classes, F = features of a spectrum.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import safetensors.torch
import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field, SerializeAsAny
from torch import Tensor

from ..clients import fourier
from ..clients.models import initialise
from ..clients.tasks import classification
from ..clients.tasks.generator import GeneratorOptions
from ..clients.uploads import Upload
from ..core.errors import SpecError
from ..core.records import Layout, array_record, layout
from ..core.seeds import seed_globals, torch_stream
from .gallery import gallery
from .oneshot import OneShot
from .options import Setting, StrategyOptions
from .selection import SelectionOptions, candidates, falls_back, keep

SAMPLED_AT_ONCE = 250  # images; bounds a worker's memory
Allocation = Literal["proportional", "class-balanced", "per-client-equal"]
Cell = tuple[int, int]
"""A client and a class."""


class GenerativeOptions(StrategyOptions):
    """Base of strategies whose clients upload a generative model; `[train]` is how the server trains the classifier."""

    one_shot: ClassVar = True
    own_uploads: ClassVar = True
    samples: Annotated[int, Field(ge=1)] = 2000
    """Synthetic images that the classifier is trained on, over all clients and classes."""
    allocation: Allocation = "proportional"
    """Images of each client and class: like the clients' label counts, the same for each class, or for each client."""
    least_count: Annotated[float, Field(ge=0)] = 20
    """Under privacy, a class with a smaller noisy count (or one below four deviations of the noise) counts as absent."""
    generator: SerializeAsAny[GeneratorOptions]
    """The generative model."""
    selection: SelectionOptions = SelectionOptions()
    """Which of the sampled images are kept."""

    def fits(self, shape_CHW: tuple[int, int, int], classes: int, clients: int) -> None:
        """Refuse what these images cannot be used for.

        Raises
        ------
        SpecError
            If there would be fewer images than classes, or no generator for images of this shape.
        """
        if self.samples < classes:
            raise SpecError(f"strategy.samples = {self.samples}: the data have {classes} classes; choose at least {classes}")
        for client in range(clients):
            self.generator.layout(client, shape_CHW, classes)

    def batch_sizes(self, train: classification.TrainOptions) -> list[int]:
        """Return the expected batch sizes with which clients train."""
        return [self.generator.batch_size] + ([train.batch_size] if self.selection.method == "agreement" else [])

    def build(self, setting: Setting) -> Generative:
        """Make the Flower strategy."""
        return Generative(setting, self)


@dataclass(frozen=True)
class Pool:
    """Synthetic samples of all clients: images (N, C, H, W) as bytes, labels (N,), and whose generator made them (N,)."""

    images_NCHW: Tensor
    labels_N: Tensor
    clients_N: Tensor


class Generative(OneShot):
    """The server's side: allocate, sample, select, train."""

    action: ClassVar = "generator"
    sends_model: ClassVar = False

    def __init__(self, setting: Setting, options: GenerativeOptions) -> None:
        super().__init__(setting)
        self.options = options
        self._files: dict[str, bytes] = {}

    def expects(self, client: int) -> Layout | None:
        """Return the layout of a client's upload."""
        setting, selection = self.setting, self.options.selection
        parts = {"generator": self.options.generator.layout(client, setting.shape_CHW, setting.classes)}
        if selection.method == "agreement":
            model = initialise(setting.model, setting.shape_CHW, setting.classes, setting.seed)
            parts["classifier"] = layout(array_record(model.state_dict()))
        expected = {f"{part}/{key}": kind for part, keys in parts.items() for key, kind in keys.items()}
        if selection.method == "fmf":
            expected["template"] = ("float32", (setting.classes, fourier.features(setting.shape_CHW, selection.bins)))
        return expected

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Turn uploads into one classifier; the metrics say what was sampled and what it cost."""
        received = sorted((Upload.of(reply.content) for reply in replies), key=lambda upload: upload.client)
        pool, sampling_s = self.synthesise(received)
        arrays, loss, training_s = next(iter(self.compute(fit_classifier, [(self.setting, pool.images_NCHW, pool.labels_N)])))
        weights = {f"{upload.client}/{key}": value for upload in received for key, value in upload.generator.items()}
        self._files = {
            "synthetic.safetensors": _save(images=pool.images_NCHW, labels=pool.labels_N, clients=pool.clients_N),
            "uploads.safetensors": _save(**weights),
            "samples.png": gallery(pool.images_NCHW, pool.labels_N, pool.clients_N, self.setting.classes),
        }
        figures = {
            "train_loss": loss,
            "synthetic_images": len(pool.labels_N),
            "synthetic_classes": len(pool.labels_N.unique()),
            "selection_fell_back": self._fell_back(pool, received),
            "sampling_cpu_s": round(sampling_s, 3),
            "server_training_cpu_s": round(training_s, 3),
        }
        return array_record(arrays), MetricRecord(figures)

    def synthesise(self, received: Sequence[Upload]) -> tuple[Pool, float]:
        """Sample every client's generator, spread over the workers; return the pool and the CPU seconds it took.

        Raises
        ------
        SpecError
            If no client has a class that can be asked for.
        """
        wanted = allocate(received, self.options)
        judges = [(upload.classifier, upload.counts_K) for upload in received if upload.classifier]
        by_client = {upload.client: upload for upload in received}
        jobs = [(self.options, self.setting, by_client[k], c, count, judges) for (k, c), count in wanted.items()]
        images, cpu_s = [], 0.0
        for x_NCHW, seconds in self.compute(sample, jobs):
            images.append(x_NCHW)
            cpu_s += seconds
        cells = torch.tensor(list(wanted))
        repeats = torch.tensor([len(x_NCHW) for x_NCHW in images])
        return Pool(torch.cat(images), cells[:, 1].repeat_interleave(repeats), cells[:, 0].repeat_interleave(repeats)), cpu_s

    def _fell_back(self, pool: Pool, received: Sequence[Upload]) -> int:
        """Count the clients' classes for which too few samples are behind the template, so that chance chose instead."""
        cells = {(k, c) for k, c in zip(pool.clients_N.tolist(), pool.labels_N.tolist(), strict=True)}
        counts = {upload.client: upload.counts_K for upload in received}
        return sum(falls_back(self.options.selection, float(counts[k][c])) for k, c in cells)

    def artifacts(self) -> Mapping[str, bytes]:
        """Return the synthetic samples, the uploaded generators and a picture of some samples."""
        return self._files


def allocate(received: Sequence[Upload], options: GenerativeOptions) -> dict[Cell, int]:
    """Say how many images of each class each client's generator is asked for; they sum to `options.samples` exactly.

    Largest remainders decide about fractions, ties by client and class. A class that a client does not have, or whose noisy
    count does not stand out, gets nothing: its embedding was never trained.

    Raises
    ------
    SpecError
        If no client has a class that can be asked for.
    """
    counts = {(u.client, c): float(u.counts_K[c]) for u in received for c in u.present(options.least_count)}
    if not counts:
        raise SpecError(
            f"strategy.least_count = {options.least_count:g}: no client's label counts stand out from their noise; "
            "choose a smaller value, or a larger privacy.epsilon"
        )
    share: Mapping[Cell, float] = counts
    if options.allocation != "proportional":
        axis = 1 if options.allocation == "class-balanced" else 0
        totals: dict[int, float] = {}
        for cell, count in counts.items():
            totals[cell[axis]] = totals.get(cell[axis], 0.0) + count
        share = {cell: count / totals[cell[axis]] for cell, count in counts.items()}
    return _largest_remainders(share, options.samples)


def _largest_remainders(share: Mapping[Cell, float], total: int) -> dict[Cell, int]:
    scale = total / sum(share.values())
    wanted = {cell: int(weight * scale) for cell, weight in share.items()}
    left = total - sum(wanted.values())
    for cell in sorted(share, key=lambda cell: (wanted[cell] - share[cell] * scale, cell))[:left]:
        wanted[cell] += 1
    return {cell: count for cell, count in wanted.items() if count}


def sample(
    options: GenerativeOptions, setting: Setting, upload: Upload, label: int, wanted: int, judges: Sequence[tuple[dict, Tensor]]
) -> tuple[Tensor, float]:
    """Sample one client's generator for one class and keep the best; return bytes (N, C, H, W) and CPU seconds.

    The random numbers depend on the experiment's seed, the client and the class: not on what else is sampled, where, or when.
    """
    started = time.process_time()
    latents = torch_stream(setting.seed, "sample", upload.client, label)
    sampler = options.generator.sampler(upload.client, upload.generator, setting.shape_CHW, setting.classes)
    labels_N = torch.full((candidates(options.selection, wanted),), label)
    x_NCHW = torch.cat([sampler(labels_b, latents) for labels_b in labels_N.split(SAMPLED_AT_ONCE)])
    kept = keep(
        options.selection,
        x_NCHW,
        wanted,
        template_F=None if upload.template_KF is None else upload.template_KF[label],
        count=float(upload.counts_K[label]),
        probability_N=_probability(setting, judges, x_NCHW, label) if judges else None,
        generator=torch_stream(setting.seed, "select", upload.client, label),
    )
    return to_bytes(x_NCHW[kept]), time.process_time() - started


def _probability(setting: Setting, judges: Sequence[tuple[dict, Tensor]], x_NCHW: Tensor, label: int) -> Tensor:
    """Return what the uploaded classifiers think of `label`, each weighted by how much of that class its client has seen."""
    model = initialise(setting.model, setting.shape_CHW, setting.classes, setting.seed)
    total_N, weight = torch.zeros(len(x_NCHW)), 0.0
    for weights, counts_K in judges:
        if (count := float(counts_K[label])) > 0:
            model.load_state_dict(weights)
            total_N += count * classification.predict(model, x_NCHW, setting.train)[:, label].exp()
            weight += count
    return total_N / weight


def fit_classifier(setting: Setting, images_NCHW: Tensor, labels_N: Tensor) -> tuple[dict[str, np.ndarray], float, float]:
    """Train the experiment's classifier from its initial weights; return weights, mean loss and CPU seconds."""
    started = time.process_time()
    model = initialise(setting.model, setting.shape_CHW, setting.classes, setting.seed)
    seed_globals(setting.seed, "server")
    order = torch_stream(setting.seed, "server")
    loss = classification.train(model, from_bytes(images_NCHW), labels_N, setting.train, order)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    return weights, loss, time.process_time() - started


def to_bytes(x_NCHW: Tensor) -> Tensor:
    """Turn pixels in -1..1 into bytes."""
    return x_NCHW.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def from_bytes(images_NCHW: Tensor) -> Tensor:
    """Turn bytes into pixels in -1..1, as clients see theirs."""
    return images_NCHW.float().div(255).sub(0.5).div(0.5)


def _save(**tensors: Tensor) -> bytes:
    return safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()})
