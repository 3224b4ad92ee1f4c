"""What one training step of a model does to memory, page by page.

Forward: read weights layer by layer, write activations. Backward, in reverse: read activations and weights, write gradients.
Then the optimizer: SGD reads weights and gradients and writes weights; momentum also reads and writes its moment, Adam both
of its moments. Gradients are zeroed and the batch is read from the data set at the start. The pattern is a cycle in which
nearly every page is touched equally often: there is little for any tiering to gain.

A page touched once stands for all of its lines: an access moves a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...core.options import Options
from ..simulator import HwsimError, Job
from .traces import MAX_ACCESSES, Trace, pieces

_MOMENTS = {"sgd": 0, "momentum": 1, "adam": 2}


class TrainingOptions(Options):
    """A model and how it is trained."""

    param_count: Annotated[int, Field(ge=1, le=10**13)]
    """Parameters of the model."""
    bytes_per_param: Annotated[int, Field(ge=1, le=16)] = 4
    """Of weights, gradients and moments alike."""
    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    """What it keeps beside a weight: nothing, one moment, two."""
    activation_bytes_per_sample: Annotated[int, Field(ge=0, le=10**12)] = 0
    """Activations kept for the backward pass."""
    batch: Annotated[int, Field(ge=1, le=10**6)] = 32
    """Samples a step."""
    steps: Annotated[int, Field(ge=1, le=10**6)] = 10
    """Steps to simulate."""
    layers: Annotated[int, Field(ge=1, le=1000)] = 16
    """Layers, of equal size."""
    dataset_bytes: Annotated[int, Field(ge=0, le=10**15)] = 0
    """The data set, read from its beginning to its end and again."""
    sample_bytes: Annotated[int, Field(ge=0, le=10**9)] = 0
    """A sample of it."""
    compute_seconds_per_step: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    """Time of a step, memory aside."""


@dataclass(frozen=True)
class _Layout:
    """Regions of memory, as ranges of simulated pages, and the pages of a batch in the data set."""

    weights: range
    gradients: range
    moments: tuple[range, ...]
    activations: range
    batch: range
    dataset: range

    @property
    def pages(self) -> int:
        return self.dataset.stop


def _layout(options: TrainingOptions, unit_bytes: int) -> _Layout:
    weights = options.param_count * options.bytes_per_param
    batch = options.batch * options.sample_bytes
    moments = [weights] * _MOMENTS[options.optimizer]
    sizes = [weights, weights, *moments, options.activation_bytes_per_sample * options.batch, batch, options.dataset_bytes]
    ends = np.cumsum([-(-size // unit_bytes) for size in sizes]).tolist()
    regions = [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return _Layout(regions[0], regions[1], tuple(regions[2:-3]), *regions[-3:])


def footprint_pages(options: TrainingOptions, unit_bytes: int) -> int:
    """Return the pages, of `unit_bytes` each, that weights, gradients, moments, activations, batch and data set take."""
    return _layout(options, unit_bytes).pages


def touches_per_step(options: TrainingOptions, unit_bytes: int) -> int:
    """Return how many pages, of `unit_bytes` each, a step touches, counting each time."""
    layout = _layout(options, unit_bytes)
    weight_passes = 3 + 2 + 1 + 2 * len(layout.moments)  # weights: twice read, updated; gradients: zeroed, written, read
    return (weight_passes + 1) * len(layout.weights) + 2 * len(layout.activations) + len(layout.batch) + _loaded(layout)


def _loaded(layout: _Layout) -> int:
    return min(len(layout.batch), len(layout.dataset))


def generate(options: TrainingOptions, page_bytes: int, scale: int, job: Job = Job()) -> Trace:  # noqa: B008 - immutable
    """Make the trace of some steps.

    Raises
    ------
    HwsimError
        RESOURCE_EXHAUSTED if it would be too long; CANCELLED or DEADLINE_EXCEEDED by the job.
    """
    layout = _layout(options, page_bytes * scale)
    per_step = touches_per_step(options, page_bytes * scale)
    if per_step * options.steps > MAX_ACCESSES:
        raise HwsimError(
            f"training.steps = {options.steps}: {per_step * options.steps} page touches; at most {MAX_ACCESSES}, so choose "
            "fewer steps or a larger scale",
            "RESOURCE_EXHAUSTED",
            "training.steps",
        )
    step = list(_step(options.layers, layout))
    pages_T = np.concatenate([np.arange(part.start, part.stop, dtype=np.int32) for part, _ in step])
    writes_T = np.repeat(np.array([write for _, write in step], np.uint8), [len(part) for part, _ in step])
    pages_ST, writes_ST = np.empty((options.steps, per_step), np.int32), np.empty((options.steps, per_step), np.uint8)
    loaded = _loaded(layout)
    for part in pieces(job, options.steps, per_step):
        pages_ST[part], writes_ST[part] = pages_T, writes_T
        if loaded:
            turn_SB = np.arange(part.start * loaded, part.stop * loaded).reshape(-1, loaded) % len(layout.dataset)
            pages_ST[part, :loaded] = layout.dataset.start + turn_SB
    return Trace(pages_ST.ravel(), writes_ST.ravel(), layout.pages, page_bytes, page_bytes)


def _step(layers: int, layout: _Layout) -> Iterator[tuple[range, int]]:
    """Yield the pages touched, and whether they are written, beginning with the batch read from the data set."""
    weights, gradients, activations, *moments = (
        _split(region, layers) for region in (layout.weights, layout.gradients, layout.activations, *layout.moments)
    )
    yield layout.dataset[: _loaded(layout)], 0
    yield layout.batch, 1
    yield layout.gradients, 1
    for layer in range(layers):
        yield weights[layer], 0
        yield activations[layer], 1
    for layer in reversed(range(layers)):
        yield activations[layer], 0
        yield weights[layer], 0
        yield gradients[layer], 1
    for layer in range(layers):
        state = [moment[layer] for moment in moments]
        yield from ((part, 0) for part in (weights[layer], gradients[layer], *state))
        yield from ((part, 1) for part in (weights[layer], *state))


def _split(region: range, parts: int) -> list[range]:
    return [region[len(region) * part // parts : len(region) * (part + 1) // parts] for part in range(parts)]
