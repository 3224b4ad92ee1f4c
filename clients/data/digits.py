"""Handwritten digits that come with scikit-learn: 1797 grey images of 8x8 pixels, 10 classes; no files, no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .options import DataOptions
from .source import Pool


def files(options: DataOptions) -> list[Path]:
    """Return no files: the images are part of scikit-learn."""
    return []


def load(options: DataOptions, clients: int, seed: int) -> Pool:
    """Return all digits, their 17 grey levels 0..16 spread over bytes as 0, 15, ..., 240."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images_NHW = (digits.images * 15).astype(np.uint8)
    return Pool(images_NHW[:, None], digits.target, tuple(str(name) for name in digits.target_names)).check("digits")
