"""Asking a simulator service from a process of its own; such a process can only import what is not a test file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedcosim.hwsim.client import CachedClient, RemoteClient


def ask(endpoint: str, folder: Path, request: Any, start: Any, answers: Any, patience_s: float) -> None:
    """Ask when all are ready, through a cache in a folder; put the answer's time into a queue."""
    client = CachedClient(RemoteClient(endpoint), folder)
    start.wait(patience_s)
    answers.put(client.estimate("roofline", request).time_s)
