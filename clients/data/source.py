"""What a data source is, which there are, and where their files are looked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from ...core.errors import DataError
from .options import DataOptions


@dataclass(frozen=True)
class Pool:
    """All samples of one data set, before clients share them.

    Official training and test samples are merged: the clients' own train and test splits are drawn after the partition
    (FedPerfix, arXiv:2308.09160, as its official code prepares data).

    Parameters
    ----------
    images_NCHW : ndarray of uint8, shape (samples, channels, height, width)
    labels_N : ndarray of int64, shape (samples,)
        Class of each sample, 0 .. C-1.
    class_names : tuple of str
        One name a class.
    natural_ids_N : ndarray of str or int, optional
        Whose sample it is, for partition = "natural".
    """

    images_NCHW: np.ndarray
    labels_N: np.ndarray
    class_names: tuple[str, ...]
    natural_ids_N: np.ndarray | None = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def check(self, origin: str) -> Pool:
        """Return this pool if its arrays are what the fields promise.

        Parameters
        ----------
        origin : str
            Where the samples came from, for messages.

        Raises
        ------
        DataError
            If there are no samples, pixels are not bytes, or a label is missing, fractional or outside 0..C-1.
        """
        images, labels = self.images_NCHW, self.labels_N
        if images.ndim != 4 or 0 in images.shape:
            raise DataError(f"{origin}: images have shape {images.shape}; samples x channels x height x width are needed")
        if images.dtype != np.uint8:
            raise DataError(f"{origin}: pixels are {images.dtype}; bytes (uint8, 0 to 255) are needed")
        if labels.shape != (len(images),):
            raise DataError(f"{origin}: labels have shape {labels.shape}, but there are {len(images)} images")
        return Pool(images, self._whole_labels(origin), self.class_names, self.natural_ids_N)

    def _whole_labels(self, origin: str) -> np.ndarray:
        labels = self.labels_N
        if not np.issubdtype(labels.dtype, np.number):
            raise DataError(f"{origin}: labels are {labels.dtype}; whole numbers 0 to {self.classes - 1} are needed")
        wrong = np.flatnonzero(~np.isin(labels, np.arange(self.classes)))
        if wrong.size:
            raise DataError(
                f"{origin}: label {labels[wrong[0]]} of sample {wrong[0]} (and {wrong.size - 1} more) is outside "
                f"0 to {self.classes - 1}"
            )
        return labels.astype(np.int64)


class Source(Protocol):
    """What the module of a source offers."""

    def files(self, options: DataOptions) -> list[Path]:
        """Return the files that will be read, found without reading them; a missing one is a `DataError`."""

    def load(self, options: DataOptions, clients: int, seed: int) -> Pool:
        """Read all samples; damaged files are a `DataError`."""


# Name in a spec to module of this package, imported when its name is used.
SOURCES = {
    "digits": "digits",
    "fashion-mnist": "idx",
    "mnist": "idx",
    "cifar10": "cifar10",
    "hub": "hub",
    "synthetic": "synthetic",
}


def source(name: str) -> Source:
    """Return the source called `name` in a spec."""
    return cast(Source, import_module(f".{SOURCES[name]}", __package__))


def find(
    options: DataOptions, names: Sequence[str], subfolders: Sequence[str], advice: str, suffixes: Sequence[str] = ("",)
) -> list[Path]:
    """Find a source's files below the first of `roots` that has them.

    Parameters
    ----------
    options : DataOptions
    names : sequence of str
        Files that must lie together in one folder.
    subfolders : sequence of str
        Where below a root they may lie; "" is the root itself.
    advice : str
        How a person gets the data set.
    suffixes : sequence of str
        Endings that each name may have, best first.

    Raises
    ------
    DataError
        If no folder holds any of the files, with the folders searched and `advice`; or if one holds only some of them.
    """
    for folder in (root / subfolder for root in roots(options) for subfolder in subfolders):
        found = {
            name: path for name in names for path in (folder / f"{name}{end}" for end in reversed(suffixes)) if path.is_file()
        }
        if len(found) == len(names):
            return [found[name] for name in names]
        if found:
            missing = ", ".join(name for name in names if name not in found)
            raise DataError(f"{folder}: {options.source} is incomplete here; missing {missing}")
    places = " and ".join(str(root) for root in roots(options))
    raise DataError(f"data.source = {options.source!r}: not found in {places}. {advice}")


def roots(options: DataOptions) -> list[Path]:
    """Return where to look: only `data.path` if given, else $FEDCOSIM_DATA/<source>, then /usr/share/datasets/<source>."""
    if options.path is not None:
        return [Path(options.path).expanduser()]
    configured = os.environ.get("FEDCOSIM_DATA")
    places = [Path(configured).expanduser()] if configured else []
    return [place / options.source for place in (*places, Path("/usr/share/datasets"))]
