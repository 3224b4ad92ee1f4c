"""Co-Boosting: DENSE with hard samples, varied on the fly, and an ensemble that is weighted by them.

Source: Dai et al., "Enhancing One-Shot Federated Learning Through Data and Ensemble Co-Boosting", arXiv:2402.15070 (ICLR 2024),
and the authors' code, which agrees with the following:

- The generator's cross-entropy counts a sample by (1 - p)^hardness, p the teacher's probability of the label: what the teacher
  finds easy counts little. The divergence between teacher and student, at temperature 3, counts everywhere.
- Before each step of the student, pixels move by eta / 255 of their range along the sign of the gradient of a random mixture of
  the teacher's probabilities, the mixture drawn anew for every sample from the uniform distribution on -1..1.
- After each batch of images, the members' weights move by `weight_step` against the sign of the cross-entropy's gradient, for
  every batch of all images made so far; weights stay in 0..1 and sum to 1. The step falls by 1 % an epoch.

Ours: what `dense.py` says; the newest images take part in the first pass, which the authors' code leaves out; no clipping of
gradients, no weight decay. Weights that have become 0 may grow again.

Shapes: N = samples, C, H, W = channels, height, width, K = classes, M = members.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from .dense import Dense, DenseOptions
from .distillation import Teacher, divergence, together
from .generative import from_bytes
from .options import Setting

ADVERSARIAL_TEMPERATURE = 3.0  # the authors' code
STEP_DECAY = 0.99  # an epoch; the authors' code


class CoBoostingOptions(DenseOptions):
    """DENSE, but images are hard for the ensemble, varied on the fly, and weight its members."""

    name: Literal["coboosting"] = "coboosting"  # type: ignore[assignment]
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Divides the logits of teacher and student before they are compared, and the teacher's before images are varied."""
    hardness: Annotated[float, Field(ge=0)] = 1.0
    """Exponent of the weight of a sample in the generator's loss; 0 weighs all alike."""
    eta: Annotated[float, Field(ge=0)] = 8.0
    """How far a pixel moves when images are varied, of 255 grey levels."""
    weight_step: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Step of the members' weights."""

    def teach(self, setting: Setting, teacher: Teacher, student: nn.Module) -> dict[str, Any]:
        """Make up hard images, weight the members by them, train the student on them."""
        figures = CoBoosting(self, setting, teacher, student).run()
        return {**figures, "member_weights": teacher.weights_M.tolist()}


class CoBoosting(Dense):
    """One run of the algorithm."""

    options: CoBoostingOptions

    def generator_loss(self, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
        """Return what the generator minimises."""
        teacher_NK, student_NK = self.teacher(x_NCHW), self.student(x_NCHW)
        hard = hard_cross_entropy(teacher_NK, y_N, self.options.hardness)
        apart = divergence(teacher_NK, student_NK, ADVERSARIAL_TEMPERATURE).mean()
        return self.options.label * hard - self.options.adversarial * apart

    def improve_teacher(self, epoch: int) -> None:
        """Move the members' weights once for every batch of all images."""
        size = self.options.weight_step * STEP_DECAY**epoch
        for batch in torch.randperm(len(self.labels_N), generator=self.order).split(self.options.batch_size):
            logits_MNK = self.teacher.apart(from_bytes(self.images_NCHW[batch]))
            self.teacher.weights_M = reweighed(self.teacher.weights_M, logits_MNK, self.labels_N[batch], size)

    def diversify(self, x_NCHW: Tensor) -> Tensor:
        """Move pixels to where the teacher says something else."""
        return perturbed(self.teacher, x_NCHW, self.options.eta, self.options.temperature, self.draws)


def hard_cross_entropy(logits_NK: Tensor, y_N: Tensor, hardness: float) -> Tensor:
    """Return the mean of (1 - p)^hardness times the cross-entropy, p the label's probability, through which nothing flows."""
    loss_N = F.cross_entropy(logits_NK, y_N, reduction="none")
    return ((1 - (-loss_N.detach()).exp()) ** hardness * loss_N).mean()


def perturbed(teacher: Teacher, x_NCHW: Tensor, eta: float, temperature: float, draws: torch.Generator) -> Tensor:
    """Move every pixel by eta / 255 of the range -1..1, up or down, to change a random mixture of probabilities most.

    Pixels where the gradient is zero stay; others may leave -1..1, as the authors' may.
    """
    x_NCHW = x_NCHW.detach().requires_grad_()
    p_NK = (teacher(x_NCHW) / temperature).softmax(1)
    mixture_NK = 2 * torch.rand(p_NK.shape, generator=draws) - 1
    (slope_NCHW,) = torch.autograd.grad((mixture_NK * p_NK).sum(), x_NCHW)
    return x_NCHW.detach() + 2 * eta / 255 * slope_NCHW.sign()


def reweighed(weights_M: Tensor, logits_MNK: Tensor, y_N: Tensor, size: float) -> Tensor:
    """Move weights by `size` each, against the sign of the gradient of the ensemble's cross-entropy.

    Parameters
    ----------
    weights_M : Tensor
        Not negative, and sum to 1.

    Returns
    -------
    Tensor, shape (M,)
        The same. They never all fall to 0: the loss depends on their proportions only, so its gradient is orthogonal to them.
    """
    moving_M = weights_M.clone().requires_grad_()
    loss = F.cross_entropy(together(moving_M / moving_M.sum(), logits_MNK), y_N)
    (slope_M,) = torch.autograd.grad(loss, moving_M)
    moved_M = (weights_M - size * slope_M.sign()).clamp(0, 1)
    return moved_M / moved_M.sum()
