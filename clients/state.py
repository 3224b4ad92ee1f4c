"""Client state between rounds, on disk: personal layers, and whatever else a client keeps.

A client's state after round g is one immutable file, `<client>/<g>.safetensors`. Which generation counts is not decided here
but by the run's checkpoint, which holds a `StateRef` (generation and checksum) a client: a reply that was lost, a round that
failed and a resume from an earlier round all simply refer to an older file.
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


class StateRef(NamedTuple):
    """Which state a client has: the round that wrote it and the file's SHA-256."""

    generation: int
    sha256: str


class StateStore:
    """State files of one run under one folder, shared by all its workers.

    Parameters
    ----------
    root : Path
        A folder every worker can reach.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def load(self, client: int, ref: StateRef | None) -> RecordDict:
        """Return the state `ref` names; empty for a client that has none yet.

        Raises
        ------
        StateError
            If the file is missing or not what was committed. A client is never silently started anew.
        """
        if ref is None:
            return RecordDict()
        path = self._path(client, ref.generation)
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise StateError(
                f"client {client}: state of round {ref.generation} cannot be read ({error.strerror}: {path})"
            ) from None
        if sha256(blob).hexdigest() != ref.sha256:
            raise StateError(f"client {client}: state of round {ref.generation} is damaged ({path}: checksum differs)")
        return from_bytes(blob)

    def save(self, client: int, generation: int, state: RecordDict) -> StateRef:
        """Write a state durably and return how to find it again; it counts once a checkpoint refers to it."""
        blob = to_bytes(state)
        path = self._path(client, generation)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, blob)
        except OSError as error:
            raise StateError(f"client {client}: state cannot be written ({error.strerror}: {path})") from None
        return StateRef(generation, sha256(blob).hexdigest())

    def prune(self, client: int, keep: Iterable[StateRef]) -> None:
        """Delete a client's other generations."""
        kept = {self._path(client, ref.generation) for ref in keep}
        for path in set(self._path(client, 0).parent.iterdir()) - kept:
            path.unlink(missing_ok=True)

    def _path(self, client: int, generation: int) -> Path:
        return self.root / f"{client % 256:02x}" / str(client) / f"{generation:06d}.safetensors"


def write_atomically(path: Path, blob: bytes) -> None:
    """Write a file so that, whatever happens, its old or its new content is there: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
