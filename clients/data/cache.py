"""The on-disk cache of federated data: one folder an entry, named by everything its content depends on.

An entry's arrays lie client by client, each client's samples as training, validation, test, so that what a client reads
is one contiguous slice.

    images.npy   uint8, (samples, channels, height, width)
    labels.npy   int64, (samples,)
    offsets.npy  int64, (clients, 4): where training, validation and test start, and where the client ends
    meta.json    format, class names, sizes of the arrays' files, checksums of the small ones
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import DataError
from .options import DataOptions
from .source import Pool, source

FORMAT = 1
ARRAYS = ("images.npy", "labels.npy", "offsets.npy")
CHECKSUMMED = ("labels.npy", "offsets.npy")

Splits = list[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Row numbers of each client's training, validation and test samples."""


def entry(options: DataOptions, clients: int, seed: int) -> Path:
    """Return the folder of the entry with this content, whether or not it is there.

    It changes with the options, the number of clients, the seed, the format, and name, size and modification time of
    every source file.

    Raises
    ------
    DataError
        If the source's files are missing.
    """
    content = {"format": FORMAT, "options": options.model_dump(mode="json"), "clients": clients, "seed": seed}
    return place(content, source(options.source).files(options))


def place(content: Mapping[str, Any], files: Iterable[Path]) -> Path:
    """Return where what depends on this content, and on name, size and modification time of these files, is kept."""
    stats = [(str(path.resolve()), path.stat()) for path in files]
    named = {**content, "files": [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]}
    root = Path(os.environ.get("FEDCOSIM_CACHE") or "~/.cache/fedcosim").expanduser()
    return root / "data" / sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def check(folder: Path) -> dict[str, Any]:
    """Return what an entry's meta.json says, if the entry can be trusted.

    The images' file is checked by its size only, because reading it all would cost what the cache is there to save.

    Raises
    ------
    DataError
        If the entry is missing, of another format, or damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        whole = meta["format"] == FORMAT and meta["bytes"] == _sizes(folder) and meta["sha256"] == _checksums(folder)
    except OSError as error:
        raise DataError(f"{error.filename}: an entry of the data cache cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'meta.json'}: damaged: {error}") from None
    if not whole:
        raise DataError(f"{folder}: this entry of the data cache is damaged; remove it, and it will be built again")
    return meta


def install(folder: Path, pool: Pool, splits: Splits, view: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Write an entry beside its place, then move it there in one step.

    Whoever comes first wins: an intact entry that another process has put there meanwhile stays; a damaged one goes.

    Parameters
    ----------
    folder : Path
        The entry's place.
    pool : Pool
    splits : Splits
    view : callable
        What a client sees of its images: (images_NCHW, client) -> images_NCHW.

    Raises
    ------
    DataError
        If the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            new.mkdir()
            _write(new, pool, splits, view)
            if folder.exists() and not _intact(folder):
                with contextlib.suppress(FileNotFoundError):  # another process has just done it
                    folder.rename(old)
            if not _intact(folder):
                new.rename(folder)
    except OSError as error:
        if not _intact(folder):
            raise DataError(
                f"{folder}: the data cache cannot be written ({error}); set FEDCOSIM_CACHE to another folder"
            ) from None


def _write(folder: Path, pool: Pool, splits: Splits, view: Callable[[np.ndarray, int], np.ndarray]) -> None:
    sizes = np.array([[len(rows) for rows in parts] for parts in splits], dtype=np.int64)
    ends = np.cumsum(sizes).reshape(sizes.shape)
    offsets = np.column_stack([ends[:, 0] - sizes[:, 0], ends])
    shape = (int(sizes.sum()), *pool.images_NCHW.shape[1:])
    images_NCHW = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    for client, parts in enumerate(splits):
        images_NCHW[offsets[client, 0] : offsets[client, 3]] = view(pool.images_NCHW[np.concatenate(parts)], client)
    images_NCHW.flush()
    np.save(folder / "labels.npy", pool.labels_N[np.concatenate([rows for parts in splits for rows in parts])])
    np.save(folder / "offsets.npy", offsets)
    meta = {
        "format": FORMAT,
        "class_names": pool.class_names,
        "bytes": _sizes(folder),
        "sha256": _checksums(folder),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _intact(folder: Path) -> bool:
    try:
        check(folder)
    except DataError:
        return False
    return True


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in ARRAYS}


def _checksums(folder: Path) -> dict[str, str]:
    return {name: sha256((folder / name).read_bytes()).hexdigest() for name in CHECKSUMMED}
