"""Copies a run's events.jsonl into the store, line by line, while the run writes it.

The file is the truth: it is written whether the database answers or not, and what the database has missed is copied when it
answers again. Every line has a number, so copying twice changes nothing.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...core.errors import FedcosimError
from .store import Store

URL, ATTEMPT = "FEDCOSIM_STORE", "FEDCOSIM_ATTEMPT"
"""Environment variables by which the service tells a driver where the store is, and which attempt it is."""
EVERY_S = 0.5
PATIENCE_S = 600.0
"""How long a run that has ended waits for a database that is away."""
AT_ONCE = 500

log = logging.getLogger(__name__)


@contextmanager
def mirrored(folder: Path, final: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
    """Copy the events of a run while it runs, if the environment names a store; interrupt the run when it is to stop.

    Parameters
    ----------
    folder : Path
        The run's directory; its name is the experiment's id.
    final : callable
        Returns the final figures so far.
    """
    url = os.environ.get(URL)
    if url is None:
        yield
        return
    mirror = _Mirror(Store(url, migrate=False), folder, final, int(os.environ.get(ATTEMPT, "1")))
    mirror.start()
    try:
        yield
    finally:
        mirror.finish()


def copy(store: Store, folder: Path, final: Mapping[str, Any]) -> None:
    """Copy all events that the store has not got."""
    last = store.last_event(folder.name)
    new = [(number, line) for number, line in enumerate(read_events(folder), start=1) if number > last and line]
    for start in range(0, len(new), AT_ONCE):
        store.append(folder.name, new[start : start + AT_ONCE], final)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return the whole lines of events.jsonl; one that a dying process left half written is empty."""
    path = folder / "events.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [_parsed(line) for line in lines]


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}


class _Mirror(threading.Thread):
    """The thread that copies, renews the driver's lease, and passes on that the run is to stop."""

    def __init__(self, store: Store, folder: Path, final: Callable[[], Mapping[str, Any]], attempt: int) -> None:
        super().__init__(name="mirror", daemon=True)
        self._store, self._folder, self._final, self._attempt = store, folder, final, attempt
        self._over = threading.Event()
        self._size = -1
        self._interrupted = False

    def run(self) -> None:
        """Copy until the run is over."""
        while not self._over.wait(EVERY_S):
            self._turn()

    def finish(self) -> None:
        """Copy the rest, patiently."""
        self._over.set()
        self.join()
        deadline = time.monotonic() + PATIENCE_S
        self._interrupted = True  # it has ended already
        while not self._turn() and time.monotonic() < deadline:
            time.sleep(1)
        self._store.close()

    def _turn(self) -> bool:
        """Do all of it once; say whether the store took it."""
        try:
            size = (self._folder / "events.jsonl").stat().st_size
            if size != self._size:
                copy(self._store, self._folder, self._final())
                self._size = size
            if self._store.beat(self._folder.name, self._attempt) and not self._interrupted:
                self._interrupted = True
                os.kill(os.getpid(), signal.SIGTERM)
        except (FedcosimError, OSError) as error:
            log.warning("the store did not take events: %s", error)
            return False
        return True
