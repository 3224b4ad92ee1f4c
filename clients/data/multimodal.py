"""The data of a multimodal federation: one silo a client, made once, kept on disk, mapped into every process that needs it.

A source makes a `Federation` of plain NumPy arrays; what turns up as tensors in a client is a `Samples` of the client's own
rows. A view in pixels is bytes (N, C, H, W); a view in tokens is ids (N, V, L): V texts for each sample, any of which
describes it.

Shapes: N = samples, C, H, W = channels, height, width, V = texts of a sample, L = tokens.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from ...core.errors import DataError
from ...core.options import Options, Registry
from .cache import place
from .silos import Classes, Function, Number, Pixels, SiloType, Target, Tokens, View, named

FORMAT = 2
LEAST_GALLERY = 11  # recall among the first ten must not be certain


@dataclass(frozen=True)
class Samples:
    """Rows of one silo.

    Parameters
    ----------
    views : mapping of str to array
        Each modality's view of the same samples, in the same order.
    keys_N : array of int64
        Equal where two samples are the same thing: such samples are no negatives of each other.
    labels_N : array, optional
        What is to be told of each sample, as the type's `target` says.
    """

    views: Mapping[str, Any]
    keys_N: Any
    labels_N: Any = None

    def __len__(self) -> int:
        return len(self.keys_N)

    def columns(self) -> dict[str, Any]:
        """Return all arrays by name."""
        labels = {} if self.labels_N is None else {"labels": self.labels_N}
        return {f"views/{modality}": view for modality, view in self.views.items()} | {"keys": self.keys_N} | labels

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Samples:
        """Undo `columns`."""
        views = {name.removeprefix("views/"): array for name, array in columns.items() if name.startswith("views/")}
        return cls(views, columns["keys"], columns.get("labels"))


@dataclass(frozen=True)
class Silo:
    """One client's data.

    Parameters
    ----------
    type : str
        Which type the client is of.
    train, test : Samples
    examples : int
        What its training samples count in weighted means; a paired sample may count once for each of its texts.
    """

    type: str
    train: Samples
    test: Samples
    examples: int


@dataclass(frozen=True)
class Federation:
    """All silos, in client order, before they are stored.

    Parameters
    ----------
    types : sequence of SiloType
    silos : sequence of Silo
    public : Samples, optional
        Pairs that the server and all clients have; for strategies that need such.
    notes : mapping of str to int
        What the record should say of how the data came about, such as how many texts were cut.
    """

    types: Sequence[SiloType]
    silos: Sequence[Silo]
    public: Samples | None = None
    notes: Mapping[str, int] = field(default_factory=dict)

    def check(self) -> Federation:
        """Return this federation if its arrays are what its types promise.

        Raises
        ------
        DataError
            Naming the client, the array, and what is wrong.
        """
        types = named(self.types)
        for client, silo in enumerate(self.silos):
            if silo.type not in types:
                raise DataError(f"client {client}: type {silo.type!r} is unknown; choose one of {', '.join(types)}")
            kind = types[silo.type]
            for part in ("train", "test"):
                _check_samples(getattr(silo, part), kind, f"client {client}, {part}")
            _check_sizes(client, silo, kind)
        for name in types.keys() - {silo.type for silo in self.silos}:
            raise DataError(f"type {name!r}: no client is of this type")
        paired = next((kind for kind in self.types if len(kind.views) > 1), None)
        if self.public is not None and paired is not None:
            _check_samples(self.public, paired, "public pairs")
        return self


def _check_sizes(client: int, silo: Silo, kind: SiloType) -> None:
    if silo.examples < 1 or not len(silo.train):
        raise DataError(f"client {client}: has {len(silo.train)} training samples that count {silo.examples}; it needs some")
    if kind.target is not None:
        return
    if len(silo.train) < 2:
        raise DataError(f"client {client}: one pair has nothing to be told from; give it at least 2")
    if 0 < len(silo.test) < LEAST_GALLERY:
        raise DataError(
            f"client {client}: recall at 10 is certain in a gallery of {len(silo.test)}; hold out at least {LEAST_GALLERY}"
        )


def _check_samples(samples: Samples, kind: SiloType, where: str) -> None:
    if odd := sorted(samples.views.keys() ^ kind.modalities):
        raise DataError(f"{where}: modality {odd[0]!r} is missing, or not one of type {kind.name!r}")
    counts = {name: len(array) for name, array in samples.columns().items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{where}: every sample needs all its parts, but there are {counts}")
    for modality, view in kind.views.items():
        _check_view(samples.views[modality], view, f"{where}, {modality}")
    labels_N = samples.labels_N
    if (labels_N is None) != (kind.target is None):
        raise DataError(f"{where}: {'there are labels, but no target' if kind.target is None else 'labels are missing'}")
    if labels_N is not None and len(labels_N):
        _check_labels(labels_N, kind.target, where)


def _check_labels(labels_N: np.ndarray, target: Target | None, where: str) -> None:
    match target:
        case Classes(count) if not (labels_N.min() >= 0 and labels_N.max() < count):
            raise DataError(f"{where}: labels run from {labels_N.min()} to {labels_N.max()}; choose 0 to {count - 1}")
        case Number(log=log) if not np.isfinite(labels_N).all() or (log and labels_N.min() <= 0):
            raise DataError(f"{where}: labels run from {labels_N.min()}; {'positive' if log else 'finite'} numbers are needed")
        case Function(patterns) if labels_N.dtype != bool or labels_N.shape[1:] != (patterns,):
            raise DataError(
                f"{where}: labels are {labels_N.dtype}{list(labels_N.shape)}; bits of shape N, {patterns} are needed"
            )


def _check_view(array: np.ndarray, view: View, where: str) -> None:
    if isinstance(view, Pixels):
        if array.dtype != np.uint8 or array.shape[1:] != view.shape_CHW:
            raise DataError(f"{where}: {array.dtype}{list(array.shape)}; bytes (uint8) of shape N, {view.shape_CHW} are needed")
        return
    if array.ndim != 3 or array.shape[2] != view.length or array.dtype.kind not in "iu":
        raise DataError(f"{where}: {array.dtype}{list(array.shape)}; token ids of shape N, texts, {view.length} are needed")
    if array.size and not (array.min() >= 0 and array.max() < view.vocabulary):
        raise DataError(f"{where}: token {array.max() if array.min() >= 0 else array.min()}; choose 0 to {view.vocabulary - 1}")
    if array.size and not array.any(axis=2).all():
        raise DataError(f"{where}: sample {np.argwhere(~array.any(axis=2))[0][0]} has an empty text")


class MultimodalOptions(Options):
    """Base of what `[data]` accepts where clients differ in the modalities that they hold."""

    source: str

    @property
    @abstractmethod
    def clients(self) -> dict[str, int]:
        """How many clients of each type there are, in client order."""

    @abstractmethod
    def files(self) -> list[Path]:
        """Return files whose change means other data; a missing one is a `DataError`."""

    @abstractmethod
    def make(self, seed: int) -> Federation:
        """Make all silos from nothing but these options, the files and the seed."""


MULTIMODAL: Registry[MultimodalOptions] = Registry(
    "data",
    {"emoji": "clients.data.emoji:EmojiOptions", "circuits": "clients.data.circuits.source:CircuitSiloOptions"},
    key="source",
)
"""Sources of such data: one module a source, one line here."""


def gather(options: MultimodalOptions, seed: int) -> MultimodalData:
    """Make the silos, or open what an earlier call with the same arguments left in the cache, as `federate` does.

    Raises
    ------
    DataError
        If files are missing or damaged, or there are too few samples.
    """
    path = place({"silos": FORMAT, "options": options.model_dump(mode="json"), "seed": seed}, options.files())
    try:
        return MultimodalData(path)
    except DataError:  # not there yet, or damaged
        return store(options.make(seed), path)


class MultimodalData:
    """The silos of all clients, read from one file that all processes map.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    types : dict of str to SiloType
    type_of : list of str
        Each client's type.
    num_train, num_validation, num_test : ndarray of int64, shape (clients,)
        Samples of each client; nothing is held out for validation.
    examples : list of int
        What each client's training samples count in weighted means.
    notes : dict of str to int

    Raises
    ------
    DataError
        If the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safetensors.safe_open(path, "numpy")
            about = json.loads(self._file.metadata()["fedcosim.silos"])
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise DataError(f"{path}: silos cannot be read: {error}") from None
        if about["format"] != FORMAT or about["sha256"] != _digest(self._file.get_tensor(key) for key in about["keys"]):
            raise DataError(f"{path}: damaged, or of another version; remove it, and it will be made again")
        self.types = named(_type(**fields) for fields in about["types"])
        self.type_of: list[str] = about["type_of"]
        self.examples: list[int] = about["examples"]
        self.notes: dict[str, int] = about["notes"]
        self._keys: list[str] = about["keys"]
        self.num_clients = len(self.type_of)
        self.num_train, self.num_test = (
            np.array([len(self._file.get_slice(f"{c}/{part}/keys")[:]) for c in range(self.num_clients)], dtype=np.int64)
            for part in ("train", "test")
        )
        self.num_validation = np.zeros(self.num_clients, dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return MultimodalData, (self.path,)

    def train(self, client: int) -> Samples:
        """Return a client's training samples as tensors: pixels -1..1 in float32, tokens and classes in int64."""
        return self._samples(f"{client}/train/")

    def test(self, client: int) -> Samples:
        """Return a client's test samples, as `train` does."""
        return self._samples(f"{client}/test/")

    @cached_property
    def public(self) -> Samples | None:
        """The pairs that everybody has, as `train` gives them; None: there are none."""
        return self._samples("public/") if "public/keys" in self._keys else None

    def _samples(self, prefix: str) -> Samples:
        keys = [key for key in self._keys if key.startswith(prefix)]
        return Samples.of({key.removeprefix(prefix): _tensor(self._file.get_tensor(key)) for key in keys})

    def majority_accuracy(self, split: Literal["test", "validation"] = "test") -> np.ndarray:
        """Return the accuracy of always predicting the most frequent training class; NaN where there are no classes."""
        found = np.full(self.num_clients, np.nan)
        for client in range(self.num_clients):
            kind = self.types[self.type_of[client]]
            if isinstance(kind.target, Classes) and self.num_test[client] and split == "test":
                majority = self.train(client).labels_N.bincount().argmax()
                found[client] = (self.test(client).labels_N == majority).double().mean()
        return found

    def partition(self) -> dict[str, Any]:
        """Return who holds what, for the record."""
        types = {
            name: {
                "modalities": list(kind.views),
                "target": _described(kind.target),
                "clients": self.type_of.count(name),
            }
            for name, kind in self.types.items()
        }
        return {"types": types, "type_of": self.type_of, "examples": self.examples, "notes": self.notes}


_TARGETS: dict[str, type[Target]] = {"classes": Classes, "number": Number, "function": Function}


def _described(target: Target | None) -> dict[str, Any] | None:
    if target is None:
        return None
    return {"kind": type(target).__name__.lower(), **vars(target)}


def _type(name: str, target: dict[str, Any] | None, views: Mapping[str, Mapping[str, Any]]) -> SiloType:
    def view(fields: Mapping[str, Any]) -> View:
        return Pixels(tuple(fields["shape_CHW"])) if "shape_CHW" in fields else Tokens(**fields)  # type: ignore[arg-type]

    learnt = None if target is None else _TARGETS[target.pop("kind")](**target)
    return SiloType(name, {modality: view(fields) for modality, fields in views.items()}, learnt)


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype == np.uint8:  # pixels
        return torch.from_numpy(array.astype(np.float32)).div_(255).sub_(0.5).div_(0.5)
    if array.dtype.kind in "fb":  # numbers, truth tables
        return torch.from_numpy(array)
    return torch.from_numpy(array.astype(np.int64))


def _digest(arrays: Iterator[np.ndarray]) -> str:
    digest = sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def store(federation: Federation, path: Path) -> MultimodalData:
    """Write a federation in one step, and open it.

    Raises
    ------
    DataError
        If its arrays are not what its types promise, or the file cannot be written.
    """
    from ..state import write_atomically  # brings Flower with it, which who opens data does not need

    federation.check()
    parts = {f"{c}/{part}/": getattr(silo, part) for c, silo in enumerate(federation.silos) for part in ("train", "test")}
    if federation.public is not None:
        parts["public/"] = federation.public
    arrays = {
        prefix + name: np.ascontiguousarray(array)
        for prefix, samples in parts.items()
        for name, array in samples.columns().items()
    }
    types = [
        {
            "name": kind.name,
            "target": _described(kind.target),
            "views": {modality: vars(view) for modality, view in kind.views.items()},
        }
        for kind in federation.types
    ]
    about = {
        "format": FORMAT,
        "types": types,
        "type_of": [silo.type for silo in federation.silos],
        "examples": [silo.examples for silo in federation.silos],
        "notes": dict(federation.notes),
        "keys": list(arrays),
        "sha256": _digest(iter(arrays.values())),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, safetensors.numpy.save(arrays, {"fedcosim.silos": json.dumps(about)}))
    except OSError as error:
        raise DataError(f"{path}: the data cache cannot be written ({error}); set FEDCOSIM_CACHE to another folder") from None
    return MultimodalData(path)
