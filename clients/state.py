"""Client state between rounds, durably: personal layers, and whatever else a client keeps.

A client's state after round g is one immutable file or object, `<client>/<g>.safetensors`. Which generation counts is not
decided here but by the run's checkpoint, which holds a `StateRef` (generation and checksum) a client: a reply that was lost, a
round that failed and a resume from an earlier round all simply refer to an older one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from flwr.app import RecordDict

from ..core.errors import StateError
from ..core.records import from_bytes, to_bytes
from .objects import Objects


class StateRef(NamedTuple):
    """Which state a client has: the round that wrote it and the file's SHA-256."""

    generation: int
    sha256: str


class StateStore:
    """States of one run, shared by all its workers.

    Parameters
    ----------
    root : Path or str
        A folder every worker can reach, or the URL of one (see `Objects`).
    """

    def __init__(self, root: Path | str) -> None:
        self.root = root
        self._place: Folder | Objects = Objects(str(root)) if is_url(root) else Folder(Path(root))

    def load(self, client: int, ref: StateRef | None) -> RecordDict:
        """Return the state `ref` names; empty for a client that has none yet.

        Raises
        ------
        StateError
            If the file is missing or not what was committed. A client is never silently started anew.
        """
        if ref is None:
            return RecordDict()
        name = _name(client, ref.generation)
        where = self._place.where(name)
        try:
            blob = self._place.read(name)
        except OSError as error:
            raise StateError(
                f"client {client}: state of round {ref.generation} cannot be read ({error.strerror}: {where})"
            ) from None
        if sha256(blob).hexdigest() != ref.sha256:
            raise StateError(f"client {client}: state of round {ref.generation} is damaged ({where}: checksum differs)")
        return from_bytes(blob)

    def save(self, client: int, generation: int, state: RecordDict) -> StateRef:
        """Write a state durably and return how to find it again; it counts once a checkpoint refers to it."""
        blob, name = to_bytes(state), _name(client, generation)
        try:
            self._place.write(name, blob)
        except OSError as error:
            raise StateError(
                f"client {client}: state cannot be written ({error.strerror}: {self._place.where(name)})"
            ) from None
        return StateRef(generation, sha256(blob).hexdigest())

    def prune(self, client: int, keep: Iterable[StateRef]) -> None:
        """Delete a client's other generations."""
        folder, kept = _folder(client), {_name(client, ref.generation) for ref in keep}
        try:
            for name in {f"{folder}/{name}" for name in self._place.names(folder)} - kept:
                self._place.delete(name)
        except OSError as error:
            raise StateError(
                f"client {client}: old states cannot be deleted ({error.strerror}: {self._place.where(folder)})"
            ) from None


class Folder:
    """Files below a folder, by name; see `Objects`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return (self.root / name).read_bytes()

    def write(self, name: str, blob: bytes) -> None:
        """Write a file durably, as a whole or not at all."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, blob)

    def names(self, folder: str) -> list[str]:
        """Return what is directly in a folder."""
        return [path.name for path in (self.root / folder).iterdir()]

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        (self.root / name).unlink(missing_ok=True)

    def where(self, name: str) -> str:
        """Return a file's path, for messages."""
        return str(self.root / name)


def is_url(root: Path | str) -> bool:
    """Tell a URL from a path."""
    return "://" in str(root)


def _folder(client: int) -> str:
    return f"{client % 256:02x}/{client}"


def _name(client: int, generation: int) -> str:
    return f"{_folder(client)}/{generation:06d}.safetensors"


def write_atomically(path: Path, blob: bytes) -> None:
    """Write a file so that, whatever happens, its old or its new content is there: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
