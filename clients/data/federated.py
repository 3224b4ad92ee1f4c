"""One data set shared out over clients: built once, kept on disk, mapped into every process that needs it.

Shapes: N samples, C channels, H height, W width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError
from . import cache
from .options import DataOptions
from .partition import partition, split
from .source import Pool, source
from .transforms import as_is, check_square, draw_samples, rotate_labels, to_domain


class FederatedData:
    """The samples of all clients, read from one entry of the cache.

    Images are mapped, not loaded: processes that open the same entry share one copy, and pickling passes the folder on,
    not the samples.

    Parameters
    ----------
    folder : Path
        The entry.

    Attributes
    ----------
    num_clients : int
    classes : int
        Number of classes.
    class_names : tuple of str
    shape_CHW : tuple of int
        Shape of one image.
    num_train, num_validation, num_test : ndarray of int64, shape (clients,)
        Samples of each client.

    Raises
    ------
    DataError
        If the entry is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.class_names: tuple[str, ...] = tuple(cache.check(folder)["class_names"])
        self._images_NCHW = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        self._labels_N = np.load(folder / "labels.npy", allow_pickle=False)
        self._offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        self.num_clients, self.classes = len(self._offsets), len(self.class_names)
        channels, height, width = self._images_NCHW.shape[1:]
        self.shape_CHW = (channels, height, width)
        self.num_train, self.num_validation, self.num_test = np.diff(self._offsets).T

    def __reduce__(self) -> tuple[Any, ...]:
        return FederatedData, (self.folder,)

    def train(self, client: int) -> tuple[Tensor, Tensor]:
        """Return the client's training samples.

        Returns
        -------
        x_NCHW : Tensor of float32
            Bytes 0..255 mapped to -1..1, that is (x/255 - 0.5) / 0.5.
        y_N : Tensor of int64

        Raises
        ------
        DataError
            If there is no such client.
        """
        return self._samples(client, 0)

    def validation(self, client: int) -> tuple[Tensor, Tensor]:
        """Return the client's validation samples, as `train` does."""
        return self._samples(client, 1)

    def test(self, client: int) -> tuple[Tensor, Tensor]:
        """Return the client's test samples, as `train` does."""
        return self._samples(client, 2)

    def train_labels_histogram(self) -> np.ndarray:
        """Return how many training samples of each class each client holds, int64, shape (clients, classes)."""
        return self._histogram(0)

    def partition(self) -> dict[str, Any]:
        """Return who holds what, for the record."""
        return {"classes": self.classes, "train_label_counts": self.train_labels_histogram().tolist()}

    def majority_accuracy(self, split: Literal["test", "validation"] = "test") -> np.ndarray:
        """Return the accuracy of always predicting the client's most frequent training class, on its own held-out samples.

        The baseline that a model must beat to have learnt anything. Of equally frequent classes the first counts.

        Returns
        -------
        ndarray of float64, shape (clients,)
            NaN for a client without training or without held-out samples.
        """
        majority = self._histogram(0).argmax(axis=1)
        held_out = self._histogram(1 if split == "validation" else 2)
        hits, counts = held_out[np.arange(self.num_clients), majority], held_out.sum(axis=1)
        known = (self.num_train > 0) & (counts > 0)
        return np.divide(hits, counts, out=np.full(self.num_clients, np.nan), where=known)

    def _samples(self, client: int, part: int) -> tuple[Tensor, Tensor]:
        if not 0 <= client < self.num_clients:
            raise DataError(f"client {client}: there are {self.num_clients} clients; choose 0 to {self.num_clients - 1}")
        start, end = self._offsets[client, part : part + 2]
        x_NCHW = torch.from_numpy(self._images_NCHW[start:end].astype(np.float32))
        return x_NCHW.div_(255).sub_(0.5).div_(0.5), torch.from_numpy(self._labels_N[start:end].copy())

    def _histogram(self, part: int) -> np.ndarray:
        slices = self._offsets[:, part : part + 2]
        return np.stack([np.bincount(self._labels_N[start:end], minlength=self.classes) for start, end in slices])


def federate(options: DataOptions, clients: int, seed: int) -> FederatedData:
    """Share a data set out over clients, or open what an earlier call with the same arguments left in the cache.

    The cache is $FEDCOSIM_CACHE/data, or ~/.cache/fedcosim/data. Processes may race: each builds beside the cache, and
    all use what the first to finish puts there. A damaged entry is built again.

    Parameters
    ----------
    options : DataOptions
    clients : int
    seed : int
        Decides partition, splits and random transforms.

    Raises
    ------
    DataError
        If the data set is missing, unreadable, or cannot be split as asked, or the cache cannot be written.
    """
    folder = cache.entry(options, clients, seed)
    try:
        return FederatedData(folder)
    except DataError:  # not there yet, or damaged
        pool = _pool(options, clients, seed)
    view = to_domain if options.transform == "domains" else as_is
    cache.install(folder, pool, _splits(options, pool, clients, seed), view)
    return FederatedData(folder)


def _pool(options: DataOptions, clients: int, seed: int) -> Pool:
    pool = source(options.source).load(options, clients, seed)
    if options.samples is not None:
        pool = draw_samples(pool, options.samples, seed)
    if options.transform != "none":
        check_square(pool.images_NCHW, options.transform)
    return rotate_labels(pool, seed) if options.transform == "rotated-labels" else pool


def _splits(options: DataOptions, pool: Pool, clients: int, seed: int) -> cache.Splits:
    rows = partition(options, pool.labels_N, clients, seed, pool.natural_ids_N)
    splits = [split(options, rows[client], client, seed) for client in range(clients)]
    for part, kind in ((0, "training"), (2, "test")):
        if not any(len(parts[part]) for parts in splits):
            raise DataError(
                f"data.test_fraction = {options.fractions[1]}: no client of {clients} has {kind} samples, the largest has "
                f"{max(map(len, rows))} samples in all; choose other fractions or fewer clients (federation.clients)"
            )
    return splits
