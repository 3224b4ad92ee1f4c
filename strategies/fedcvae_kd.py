"""FedCVAE-KD: FedCVAE whose decoders are distilled into one before anything is sampled.

Source: Heinbaugh, Luz-Ricca, Shao, "Data-Free One-Shot Federated Learning Under Very High Statistical Heterogeneity", ICLR
2023.
Every client's decoder makes images x from truncated latents z and labels y of its own classes; one decoder then learns to make
the same x of the same (z, y), by the reconstruction loss that the clients train with. All decoders start from the same
weights, or else the same z would mean something else to each. Ours: latents, labels and numbers of images follow
`strategy.allocation` here as well, where the authors' code samples the distilled decoder for all classes alike.

Shapes: N = samples, Z = latent width, C, H, W = channels, height, width.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..clients.tasks.cvae import CvaeOptions, initial, reconstruction
from ..clients.uploads import Upload
from ..core.errors import SpecError
from ..core.seeds import torch_stream
from .fedcvae import FedCvaeOptions
from .generative import Cell, Generative, Pool, allocate
from .options import Setting


class FedCvaeKdOptions(FedCvaeOptions):
    """FedCVAE, but the server distils the clients' decoders into one and samples that."""

    name: Literal["fedcvae-kd"] = "fedcvae-kd"  # type: ignore[assignment]
    distil_samples: Annotated[int, Field(ge=1)] = 5000
    """Images that the clients' decoders make for the one to learn from, over all clients and classes."""
    distil_epochs: Annotated[int, Field(ge=1)] = 10
    """Passes over them."""
    distil_batch_size: Annotated[int, Field(ge=1)] = 32
    """Images a step."""
    distil_lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of Adam."""

    def fits(self, shape_CHW: tuple[int, int, int], classes: int, clients: int) -> None:
        """Refuse what these images cannot be used for.

        Raises
        ------
        SpecError
            If there would be fewer images than classes.
        """
        super().fits(shape_CHW, classes, clients)
        if self.distil_samples < classes:
            raise SpecError(
                f"strategy.distil_samples = {self.distil_samples}: the data have {classes} classes; choose at least {classes}"
            )

    def build(self, setting: Setting) -> Generative:
        """Make the Flower strategy."""
        return Distilled(setting, self)


class Distilled(Generative):
    """Samples the one decoder for every client's classes."""

    options: FedCvaeKdOptions

    def synthesise(self, received: Sequence[Upload]) -> tuple[Pool, float]:
        """Distil, then sample the one decoder in place of every client's own; the CPU seconds are those of both."""
        decoders = {upload.client: upload.generator for upload in received}
        wanted = allocate(received, self.options.model_copy(update={"samples": self.options.distil_samples}))
        ((weights, distilling_s),) = self.compute(distil, [(self.options, self.setting, decoders, wanted)])
        pool, sampling_s = super().synthesise([replace(upload, generator=weights) for upload in received])
        return pool, distilling_s + sampling_s


def distil(
    options: FedCvaeKdOptions, setting: Setting, decoders: Mapping[int, Mapping[str, Tensor]], wanted: Mapping[Cell, int]
) -> tuple[dict[str, Tensor], float]:
    """Teach one decoder what several others make of their classes.

    Parameters
    ----------
    decoders : mapping of int to weights
        By client.
    wanted : mapping of (client, class) to int
        How many images of each class each of them makes.

    Returns
    -------
    weights : dict of Tensor
    cpu_s : float
    """
    started = time.process_time()
    z_NZ, y_N, x_NCHW = lessons(options.generator, setting, decoders, wanted)
    student = initial(options.generator, setting.shape_CHW, setting.classes, setting.seed).decoder
    optimizer = torch.optim.Adam(student.parameters(), lr=options.distil_lr)
    order = torch_stream(setting.seed, "distil", "order")
    for _ in range(options.distil_epochs):
        for batch in torch.randperm(len(y_N), generator=order).split(options.distil_batch_size):
            optimizer.zero_grad()
            reconstruction(student(z_NZ[batch], y_N[batch]), x_NCHW[batch]).mean().backward()
            optimizer.step()
    return student.state_dict(), time.process_time() - started


def lessons(
    generator: CvaeOptions, setting: Setting, decoders: Mapping[int, Mapping[str, Tensor]], wanted: Mapping[Cell, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents (N, Z), labels (N,), and what the clients' decoders make of them (N, C, H, W)."""
    latents, labels, images = [], [], []
    for (client, label), count in wanted.items():
        z_NZ = generator.latents(count, torch_stream(setting.seed, "distil", client, label))
        y_N = torch.full((count,), label)
        decoder = generator.decoder(decoders[client], setting.shape_CHW, setting.classes)
        latents.append(z_NZ)
        labels.append(y_N)
        images.append(decoder.images(z_NZ, y_N))
    return torch.cat(latents), torch.cat(labels), torch.cat(images)
