"""The packages that only circuits need, imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ....core.errors import DataError


def extra(module: str) -> Any:
    """Return a module of aigverse, circuitgraph or pyosys.

    Raises
    ------
    DataError
        If its package is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise DataError(f"circuits: the package {package} is missing; pip install 'fedcosim[circuits]'") from None
