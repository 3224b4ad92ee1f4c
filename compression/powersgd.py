"""PowerSGD: factors from one power iteration that starts where the last round's ended.

Source: Vogels et al., arXiv:1905.13727, algorithm 1. There the workers average P and Q inside the iteration; here every
client's factors are its own, as an upload through a server demands, and the server averages what they stand for. Error
feedback, which the paper calls essential, is on unless the spec turns it off.

Shapes: o = outputs, i = inputs, k = rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from .codec import CodecOptions, Context, Encoding, Parts, Stage, matrix
from .lowrank import FactorStage, canonical, saves


class PowerSgdOptions(CodecOptions):
    """One power iteration a round, warm-started."""

    targets: ClassVar = frozenset({"delta"})
    codec: Literal["powersgd"] = "powersgd"
    rank: Annotated[int, Ge(1)] = 4
    """Of every matrix for which that saves something; others go on as they are."""

    def build(self) -> Stage:
        """Make the stage."""
        return PowerSgd(self.rank)


class PowerSgd(FactorStage):
    """Sends matrices as an orthonormal factor and what it catches of the matrix."""

    randomised: ClassVar = True

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def encode(self, update: Mapping[str, Tensor], context: Context) -> Encoding:
        """Iterate once on every matrix."""
        encoding = Encoding({})
        for name, x in update.items():
            weight_oi = matrix(x)
            outputs, inputs = weight_oi.shape
            if x.ndim < 2 or not saves(self.rank, outputs, inputs):
                continue
            start_ik = context.state.get(name)
            if start_ik is None or start_ik.shape != (inputs, self.rank):
                start_ik = torch.randn(inputs, self.rank, generator=context.generator)
            left_ok = canonical(torch.linalg.qr(weight_oi @ start_ik).Q)
            right_ki = left_ok.T @ weight_oi
            encoding.parts[name] = Parts({"rank": self.rank}, (left_ok.T.contiguous(), right_ki))
            encoding.state[name] = right_ki.T.contiguous()
        return encoding
