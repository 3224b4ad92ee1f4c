"""What is done to a data set before or while clients share it: fewer samples, or clients that differ by more than labels.

The transforms are ours, stand-ins at small scale for the regimes of FedPerfix (arXiv:2308.09160): `domains` for Office-Home,
where clients see different styles; `rotated-labels` for CIFAR-100, where classes are many. Rotations are counter-clockwise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...core.errors import DataError
from ...core.seeds import numpy_stream
from .source import Pool

DOMAINS = ("identity", "inverted", "rotated 90", "rotated 180")


def to_domain(images_NCHW: np.ndarray, client: int) -> np.ndarray:
    """Show the images as client `client` sees them: in domain ``client % 4`` of `DOMAINS`."""
    domain = DOMAINS[client % len(DOMAINS)]
    if domain == "inverted":
        return 255 - images_NCHW
    return rotate(images_NCHW, {"identity": 0, "rotated 90": 1, "rotated 180": 2}[domain])


def draw_samples(pool: Pool, samples: int, seed: int) -> Pool:
    """Keep this many samples, drawn at random without replacement, in their order.

    Raises
    ------
    DataError
        If there are not as many.
    """
    if samples > len(pool.labels_N):
        raise DataError(f"data.samples = {samples}: the source has {len(pool.labels_N)}; choose 1 to {len(pool.labels_N)}")
    kept = np.sort(numpy_stream(seed, "samples").choice(len(pool.labels_N), samples, replace=False))
    ids = None if pool.natural_ids_N is None else pool.natural_ids_N[kept]
    return replace(pool, images_NCHW=pool.images_NCHW[kept], labels_N=pool.labels_N[kept], natural_ids_N=ids)


def rotate_labels(pool: Pool, seed: int) -> Pool:
    """Turn each image by one of four angles at random; label ``4 * class + quarter turns``, so four times the classes."""
    quarters_N = numpy_stream(seed, "rotated-labels").integers(0, 4, len(pool.labels_N))
    images_NCHW = np.empty_like(pool.images_NCHW)
    for quarters in range(4):
        turned = quarters_N == quarters
        images_NCHW[turned] = rotate(pool.images_NCHW[turned], quarters)
    names = tuple(f"{name}, {90 * quarters} degrees" for name in pool.class_names for quarters in range(4))
    return replace(pool, images_NCHW=images_NCHW, labels_N=4 * pool.labels_N + quarters_N, class_names=names)


def rotate(images_NCHW: np.ndarray, quarters: int) -> np.ndarray:
    """Turn images by `quarters` quarter turns."""
    return np.rot90(images_NCHW, quarters, axes=(2, 3))


def check_square(images_NCHW: np.ndarray, transform: str) -> None:
    """Refuse to turn images whose shape a quarter turn would change.

    Raises
    ------
    DataError
        If height and width differ.
    """
    height, width = images_NCHW.shape[2:]
    if height != width:
        raise DataError(f"data.transform = {transform!r}: turns images, so they must be square; these are {height} x {width}")


def as_is(images_NCHW: np.ndarray, client: int) -> np.ndarray:
    """Show every client its images as they are."""
    return images_NCHW
