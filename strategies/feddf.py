"""FedDF with one round: an ensemble distilled on unlabelled images that the server has from elsewhere.

Source: Lin et al., "Ensemble Distillation for Robust Model Fusion in Federated Learning", arXiv:2006.07242 (NeurIPS 2020),
algorithm 1: the student starts from the mean of the uploads, weighted by their numbers of records, and learns the mean of their
logits with Adam, its learning rate falling along a cosine. The paper goes on for many rounds and stops each by accuracy on
validation data; here is one round, and the server has no labelled data, so it takes `steps` steps, fewer than the authors'
10 000, to suit a CPU.

**This is an assumption that the other one-shot strategies do not make**: the server has images of the experiment's shape. They
are declared as `strategy.proxy`, and the record counts them. Their labels are never read. A proxy that is the clients' own
data set would put their images, those held out for testing among them, before the student.

Shapes: N = samples, C, H, W = channels, height, width, K = classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..clients.data.options import DataOptions
from ..clients.data.source import source
from ..core.errors import DataError, SpecError
from ..core.seeds import numpy_stream, torch_stream
from .distillation import DistillationOptions, Teacher, Weights, step
from .generative import from_bytes
from .options import Setting

Proxy = Literal["digits", "fashion-mnist", "mnist", "cifar10"]


class FedDfOptions(DistillationOptions):
    """Clients upload classifiers once; the server distils them into one on images of another source."""

    name: Literal["feddf"] = "feddf"
    proxy: Proxy
    """Where the server's unlabelled images come from; another source than the clients' data."""
    proxy_path: str | None = None
    """Folder with the proxy's files; without it, the same places are searched as for `data.source`."""
    proxy_samples: Annotated[int, Field(ge=1)] = 5000
    """Images of the proxy that are used, drawn at random."""
    steps: Annotated[int, Field(ge=1)] = 1000
    """Optimizer steps."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of Adam at first; it falls to 0 along half a cosine."""

    def fits(self, shape_CHW: tuple[int, int, int], classes: int, clients: int) -> None:
        """Refuse a proxy whose images the classifiers cannot see as they are.

        Raises
        ------
        SpecError
            If the proxy is missing or damaged, has images of another shape, or too few.
        """
        images_NCHW = self._images()
        if images_NCHW.shape[1:] != torch.Size(shape_CHW):
            theirs, ours = (" x ".join(map(str, shape)) for shape in (images_NCHW.shape[1:], shape_CHW))
            raise SpecError(f"strategy.proxy = {self.proxy!r}: its images are {theirs}; choose a source of {ours} images")
        if len(images_NCHW) < self.proxy_samples:
            raise SpecError(
                f"strategy.proxy_samples = {self.proxy_samples}: {self.proxy} has {len(images_NCHW)}; "
                f"choose 1 to {len(images_NCHW)}"
            )

    def student(self, setting: Setting, mean: Weights) -> nn.Module:
        """Return the mean of the uploads as a classifier."""
        student = super().student(setting, mean)
        student.load_state_dict(mean)
        return student

    def teach(self, setting: Setting, teacher: Teacher, student: nn.Module) -> dict[str, Any]:
        """Train the student on the proxy's images; `train_loss` is the mean over the last pass."""
        x_NCHW = self.proxies(setting.seed)
        with torch.no_grad():
            teacher_NK = torch.cat([teacher(x_b) for x_b in x_NCHW.split(self.batch_size)])
        optimizer = torch.optim.Adam(student.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        student.train()
        losses = []
        for batch in islice(_batches(len(x_NCHW), self.batch_size, torch_stream(setting.seed, "feddf", "order")), self.steps):
            losses.append(step(student, optimizer, x_NCHW[batch], teacher_NK[batch], self.temperature))
            schedule.step()
        a_pass = math.ceil(len(x_NCHW) / self.batch_size)
        return {"train_loss": torch.stack(losses[-a_pass:]).mean().item(), "proxy_images": len(x_NCHW)}

    def proxies(self, seed: int) -> Tensor:
        """Return the images the student learns from, in -1..1, shape (N, C, H, W)."""
        images_NCHW = self._images()
        drawn = numpy_stream(seed, "feddf", "proxy").choice(len(images_NCHW), self.proxy_samples, replace=False)
        return from_bytes(images_NCHW[torch.from_numpy(drawn)])

    def _images(self) -> Tensor:
        try:
            pool = source(self.proxy).load(DataOptions(source=self.proxy, path=self.proxy_path), clients=1, seed=0)
        except DataError as error:
            raise SpecError(f"strategy.proxy = {self.proxy!r}: {error}") from None
        return torch.from_numpy(pool.images_NCHW)


def _batches(count: int, size: int, order: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(count, generator=order).split(size)
