"""DENSE: an ensemble distilled on images that a generator makes up to suit it.

Source: Zhang et al., "DENSE: Data-Free One-Shot Federated Learning", arXiv:2112.12371 (NeurIPS 2022), and the authors' code.
In every epoch a new generator and its latents are fitted until the teacher sees labels that were drawn at random in the
generator's images (`label`), and sees something else than the student does where the two disagree (`adversarial`). The batch
with the least loss joins all images made so far, on which the student then learns from the teacher for one pass.

The paper's third term matches the statistics of the members' batch normalisation. Our classifiers have none, and under
DP-SGD they could not: the term does not exist here, and the images resemble the clients' less than in the paper. Ours, too:
a narrower generator, fewer epochs and smaller batches than the authors' (64, 200, 256), to suit a CPU; no crops and flips,
which change what a digit means; a learning rate that falls along a cosine, as Co-Boosting's does. Images are kept as bytes.

Shapes: N = samples, C, H, W = channels, height, width, K = classes, Z = latent width.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import SpecError
from ..core.seeds import torch_stream
from .distillation import DistillationOptions, Teacher, divergence, step
from .generative import from_bytes, to_bytes
from .options import Setting

LEAST_SIDE = 4  # the generator doubles height and width twice


class DenseOptions(DistillationOptions):
    """Clients upload classifiers once; a generator makes up images on which the server distils them into one."""

    name: Literal["dense"] = "dense"
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images an epoch makes up, and images a step."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Divides the logits of teacher and student before they are compared."""
    epochs: Annotated[int, Field(ge=1)] = 40
    """Batches of images made up, each followed by one pass over all made so far."""
    lr: Annotated[float, Field(gt=0)] = 0.05
    """Learning rate of the student's SGD at first; it falls to 0 along half a cosine."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of the student's SGD."""
    latent: Annotated[int, Field(ge=1)] = 256
    """Width of the generator's latent vector."""
    width: Annotated[int, Field(ge=1)] = 16
    """Channels of the generator's last hidden layer; twice as many before."""
    generator_steps: Annotated[int, Field(ge=1)] = 30
    """Steps in which each epoch's generator and latents are fitted."""
    generator_lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of their Adam."""
    label: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the teacher's cross-entropy in the generator's loss."""
    adversarial: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the divergence between teacher and student in it."""

    def fits(self, shape_CHW: tuple[int, int, int], classes: int, clients: int) -> None:
        """Refuse images that are too small.

        Raises
        ------
        SpecError
            If a side is below 4 pixels.
        """
        height, width = shape_CHW[1:]
        if min(height, width) < LEAST_SIDE:
            raise SpecError(
                f"strategy.name = {self.name!r}: the images are {height} x {width}; its generator makes images from "
                f"{LEAST_SIDE} x {LEAST_SIDE} up"
            )

    def teach(self, setting: Setting, teacher: Teacher, student: nn.Module) -> dict[str, Any]:
        """Make up images and train the student on them."""
        return Dense(self, setting, teacher, student).run()


class Dense:
    """One run of the algorithm.

    Attributes
    ----------
    images_NCHW : Tensor of uint8
        All images made so far.
    labels_N : Tensor of int64
        What the teacher was meant to see in them.
    """

    def __init__(self, options: DenseOptions, setting: Setting, teacher: Teacher, student: nn.Module) -> None:
        self.options, self.setting, self.teacher, self.student = options, setting, teacher, student
        self.draws, self.order = (torch_stream(setting.seed, "dense", name) for name in ("draws", "order"))
        self.optimizer = torch.optim.SGD(student.parameters(), lr=options.lr, momentum=options.momentum)
        self.images_NCHW = torch.empty((0, *setting.shape_CHW), dtype=torch.uint8)
        self.labels_N = torch.empty(0, dtype=torch.int64)

    def run(self) -> dict[str, Any]:
        """Alternate between making images up and learning from all of them; `train_loss` is that of the last pass."""
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.options.epochs)
        loss = math.nan
        for epoch in range(self.options.epochs):
            x_NCHW, y_N = self.synthesise()
            self.images_NCHW = torch.cat([self.images_NCHW, to_bytes(x_NCHW)])
            self.labels_N = torch.cat([self.labels_N, y_N])
            self.improve_teacher(epoch)
            loss = self.learn()
            schedule.step()
        return {"train_loss": loss, "synthetic_images": len(self.labels_N)}

    def synthesise(self) -> tuple[Tensor, Tensor]:
        """Fit a new generator together with its latents; return its best images, in -1..1, and the labels aimed at."""
        options = self.options
        generator = ImageGenerator(options.latent, options.width, self.setting.shape_CHW, self.draws)
        y_N = torch.randint(self.setting.classes, (options.batch_size,), generator=self.draws)
        z_NZ = torch.randn(options.batch_size, options.latent, generator=self.draws).requires_grad_()
        fitted = [*generator.parameters(), z_NZ]
        optimizer = torch.optim.Adam(fitted, lr=options.generator_lr, betas=(0.5, 0.999))
        self.student.eval()
        best_NCHW, least = torch.empty(0), math.inf
        for _ in range(options.generator_steps):
            x_NCHW = generator(z_NZ)
            loss = self.generator_loss(x_NCHW, y_N)
            if not len(best_NCHW) or loss.item() < least:
                best_NCHW, least = x_NCHW.detach(), loss.item()
            optimizer.zero_grad()
            loss.backward(inputs=fitted)
            optimizer.step()
        return best_NCHW, y_N

    def generator_loss(self, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
        """Return what the generator minimises."""
        teacher_NK, student_NK = self.teacher(x_NCHW), self.student(x_NCHW)
        disagree_N = teacher_NK.argmax(1) != student_NK.argmax(1)
        apart = (divergence(teacher_NK, student_NK, 1.0) * disagree_N).mean()
        return self.options.label * F.cross_entropy(teacher_NK, y_N) - self.options.adversarial * apart

    def improve_teacher(self, epoch: int) -> None:
        """Change the teacher before the student learns from it; DENSE leaves it as it is."""

    def diversify(self, x_NCHW: Tensor) -> Tensor:
        """Change images before teacher and student see them; DENSE leaves them as they are."""
        return x_NCHW

    def learn(self) -> float:
        """Train the student for one pass over all images; return the mean divergence, each at the weights it was met with."""
        self.student.train()
        total = torch.zeros(())
        for batch in torch.randperm(len(self.labels_N), generator=self.order).split(self.options.batch_size):
            x_NCHW = self.diversify(from_bytes(self.images_NCHW[batch]))
            with torch.no_grad():
                teacher_NK = self.teacher(x_NCHW)
            total += len(batch) * step(self.student, self.optimizer, x_NCHW, teacher_NK, self.options.temperature)
        return total.item() / len(self.labels_N)


class ImageGenerator(nn.Module):
    """Latents to images: a linear layer at a quarter of height and width, then twice larger and larger; DENSE's, any size.

    Parameters
    ----------
    latent, width : int
        Features of the latent vector, channels of the last hidden layer.
    shape_CHW : tuple of int
        One image; height and width from 4 pixels up.
    draws : torch.Generator
        Gives the weights: normal with a deviation of 0.02 as the authors' are.
    """

    def __init__(self, latent: int, width: int, shape_CHW: tuple[int, int, int], draws: torch.Generator) -> None:
        super().__init__()
        channels, *sides = shape_CHW
        quarter, half = (tuple(side // part for side in sides) for part in (4, 2))
        self.layers = nn.Sequential(
            nn.Linear(latent, 2 * width * math.prod(quarter)),
            nn.Unflatten(1, (2 * width, *quarter)),
            nn.BatchNorm2d(2 * width),
            nn.Upsample(half),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Upsample(tuple(sides)),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        )
        for layer in self.layers:
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.BatchNorm2d)):
                nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d)), 0.02, generator=draws)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.6 times as fast (28 x 28, 1 thread)

    def forward(self, z_NZ: Tensor) -> Tensor:
        """Return images in -1..1, shape (N, C, H, W)."""
        return self.layers(z_NZ)
