"""Random bytes with random labels: nothing to learn, for measuring the engine at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.seeds import numpy_stream
from .options import DataOptions
from .source import Pool


def files(options: DataOptions) -> list[Path]:
    """Return no files: the samples are drawn."""
    return []


def load(options: DataOptions, clients: int, seed: int) -> Pool:
    """Draw exactly the samples that `clients` clients need."""
    stream = numpy_stream(seed, "synthetic")
    samples, classes = clients * options.samples_needed, options.synthetic_classes or 0
    shape_CHW = [int(size) for size in (options.synthetic_shape or "").split("x")]
    images_NCHW = stream.integers(0, 256, (samples, *shape_CHW), dtype=np.uint8)
    return Pool(images_NCHW, stream.integers(0, classes, samples), tuple(map(str, range(classes)))).check("synthetic")
