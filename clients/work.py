"""What a client computed, for those who price it: equal steps of a training loop, and how many.

A training loop calls `observe` once with a way to take a step or two more. While somebody listens (the cost mod does), those
steps are recorded operator by operator, on a copy of the model and throw-away random numbers; the same work is recorded once
a process. While nobody listens, `observe` costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ..hwsim.reram.layers import SeenLayer, watch
from ..hwsim.roofline.trace import TRACED_STEPS, Optimizer, traced_step
from ..hwsim.roofline.workload import Workload


@dataclass(frozen=True)
class Work:
    """Equal steps of a training loop.

    Attributes
    ----------
    key : hashable
        Equal for equal steps.
    step : Workload
        One of them.
    steps : int
        How many there were.
    batch_size : int
        Samples of each.
    layers : tuple of SeenLayer
        Layers with a matrix, and what went through them while `recorded_samples` were.
    """

    key: Hashable
    step: Workload
    steps: int
    batch_size: int
    layers: tuple[SeenLayer, ...]

    @property
    def recorded_samples(self) -> int:
        """Samples of all steps that were recorded."""
        return TRACED_STEPS * self.batch_size


_listener: ContextVar[list[Work] | None] = ContextVar("listener", default=None)
_recorded: dict[Hashable, tuple[Workload, tuple[SeenLayer, ...]]] = {}


@contextmanager
def observed() -> Iterator[list[Work]]:
    """Listen; the list fills with the work that is done inside."""
    done: list[Work] = []
    token = _listener.set(done)
    try:
        yield done
    finally:
        _listener.reset(token)


def observe(
    model: nn.Module,
    train: Callable[[nn.Module, int], object],
    steps: int,
    batch_size: int,
    settings: Hashable,
    optimizer: Optimizer,
    precision: Literal["fp32", "bf16"] = "fp32",
    per_sample: bool = False,
) -> None:
    """Say what a training loop is about to do.

    Parameters
    ----------
    model : Module
        What is trained; stays as it is.
    train : callable
        ``train(copy, n)`` takes n steps of the loop with a copy of the model, each on `batch_size` samples.
    steps : int
        How many steps the loop takes.
    settings : hashable
        All else that decides what a step is.
    per_sample : bool
        A gradient for every sample is in memory at once (DP-SGD).
    """
    listener = _listener.get()
    if listener is None:
        return
    shapes = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    key = (type(model).__qualname__, shapes, batch_size, settings, optimizer, precision, per_sample)
    if key not in _recorded:
        with watch(model) as watching:
            step = traced_step(model, train, batch_size, optimizer, precision, per_sample)
        _recorded[key] = step, watching.layers
    step, layers = _recorded[key]
    listener.append(Work(key, step, steps, batch_size, layers))
