"""The numbers the simulator assumes, from `constants.toml`, where each has a unit, a kind and a source."""

from __future__ import annotations

import hashlib
import tomllib
from functools import lru_cache
from importlib import resources
from typing import Any

VERSION = "1"
"""Of the model: raised when the same request would be answered with other numbers."""


@lru_cache(maxsize=1)
def _text() -> str:
    return resources.files(__package__).joinpath("constants.toml").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def constants() -> dict[str, Any]:
    """Return all entries, nested as in the file."""
    return tomllib.loads(_text())


def constant(path: str) -> Any:
    """Return one value: ``constant("pebs.period")``."""
    entry = constants()
    for part in path.split("."):
        entry = entry[part]
    return entry["value"]


def section(path: str) -> dict[str, Any]:
    """Return the values of one table: ``section("neomem.paper")``."""
    entry = constants()
    for part in path.split("."):
        entry = entry[part]
    return {name: field["value"] for name, field in entry.items()}


def digest() -> str:
    """Return the SHA-256 of the file, which reports carry."""
    return hashlib.sha256(_text().encode()).hexdigest()
