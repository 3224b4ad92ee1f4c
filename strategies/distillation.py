"""Ensemble distillation: one classifier learns to predict what all uploaded classifiers predict together.

Clients train classifiers alone and upload them once. The server, which has no records, puts images before all of them and
trains the experiment's classifier, the student, to say what they, the teacher, say on average. Where the images come from is
what the methods differ by: a generator that is fitted to the teacher (`dense.py`, `coboosting.py`), or data that the server
has from elsewhere (`feddf.py`). Any number of members makes a teacher; nothing is asked of clients but their classifiers,
so that what comes out of privately trained ones is as private as they are.

Source of the loss: Hinton, Vinyals, Dean, arXiv:1503.02531, section 2.

Shapes: N = samples, C, H, W = channels, height, width, K = classes, M = members.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..clients.models import initialise
from ..core.records import array_record, tensors
from ..core.seeds import seed_globals
from .oneshot import OneShot
from .options import Setting, StrategyOptions

Weights = Mapping[str, Tensor]


class Teacher:
    """Classifiers that stay as they are, and what they say together: the weighted mean of their logits.

    Attributes
    ----------
    weights_M : Tensor
        One weight a member; they sum to 1, and are equal at first.
    """

    def __init__(self, setting: Setting, members: Sequence[Weights]) -> None:
        self.members = [_member(setting, weights) for weights in members]
        self.weights_M = torch.full((len(members),), 1 / len(members))

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """Return the mean of the members' logits, shape (N, K)."""
        return together(self.weights_M, self.apart(x_NCHW))

    def apart(self, x_NCHW: Tensor) -> Tensor:
        """Return every member's logits, shape (M, N, K)."""
        return torch.stack([member(x_NCHW) for member in self.members])


def together(weights_M: Tensor, logits_MNK: Tensor) -> Tensor:
    """Return the weighted mean over members, shape (N, K)."""
    return torch.einsum("m,mnk->nk", weights_M, logits_MNK)


def _member(setting: Setting, weights: Weights) -> nn.Module:
    model = _classifier(setting)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def _classifier(setting: Setting) -> nn.Module:
    model = initialise(setting.model, setting.shape_CHW, setting.classes, setting.seed)
    wants = torch.channels_last if getattr(model, "channels_last", False) else torch.preserve_format
    return model.to(memory_format=wants)  # type: ignore[call-overload]


class DistillationOptions(StrategyOptions):
    """Base of strategies that distil an ensemble; a subclass says how by `teach`."""

    one_shot: ClassVar = True
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images a step."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits of teacher and student before they are compared."""

    @abstractmethod
    def teach(self, setting: Setting, teacher: Teacher, student: nn.Module) -> dict[str, Any]:
        """Train the student in place; return what the record shall say of it, `train_loss` among that."""

    def student(self, setting: Setting, mean: Weights) -> nn.Module:
        """Return what is to learn: the experiment's initial classifier, whatever the mean of the uploads is."""
        return _classifier(setting)

    def build(self, setting: Setting) -> Distillation:
        """Make the Flower strategy."""
        return Distillation(setting, self)


class Distillation(OneShot):
    """The server's side: one job that turns all uploads into one classifier."""

    def __init__(self, setting: Setting, options: DistillationOptions) -> None:
        super().__init__(setting)
        self.options = options

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Distil the uploads; the metrics say what it was done with and what it cost."""
        replies = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        mean, _ = super().aggregate_train(server_round, replies)
        if mean is None:
            return None, None
        members = [tensors(next(iter(reply.content.array_records.values()))) for reply in replies]
        ((arrays, figures),) = self.compute(distil, [(self.options, self.setting, members, tensors(mean))])
        return array_record(arrays), MetricRecord(figures)


def distil(
    options: DistillationOptions, setting: Setting, members: Sequence[Weights], mean: Weights
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Make one classifier of many, in single precision; a function of the arguments alone.

    Parameters
    ----------
    members : sequence of weights
    mean : weights
        Their mean, weighted by what clients say of their numbers of records.

    Returns
    -------
    weights : dict of ndarray
    figures : dict
        What `options.teach` says, `members`, and `server_training_cpu_s`.
    """
    started = time.process_time()
    seed_globals(setting.seed, "distillation")  # for the student's dropout, if it has any
    student = options.student(setting, mean)
    figures = options.teach(setting, Teacher(setting, members), student)
    weights = {key: value.numpy() for key, value in student.state_dict().items()}
    cpu_s = round(time.process_time() - started, 3)
    return weights, {**figures, "members": len(members), "server_training_cpu_s": cpu_s}


def step(
    student: nn.Module, optimizer: torch.optim.Optimizer, x_NCHW: Tensor, teacher_NK: Tensor, temperature: float
) -> Tensor:
    """Bring the student nearer to the teacher's logits on a batch; return their mean divergence before."""
    optimizer.zero_grad()
    loss = divergence(teacher_NK, student(x_NCHW), temperature).mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def divergence(teacher_NK: Tensor, student_NK: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of each sample at a temperature, times the temperature's square, shape (N,).

    The square keeps the gradient's size as the temperature grows (arXiv:1503.02531, section 2).
    """
    target_NK, said_NK = ((logits_NK / temperature).log_softmax(1) for logits_NK in (teacher_NK, student_NK))
    return F.kl_div(said_NK, target_NK, reduction="none", log_target=True).sum(1) * temperature**2
