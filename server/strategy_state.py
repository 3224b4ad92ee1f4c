"""Saving and restoring what a Flower strategy remembers between rounds (momentum, second moments), without pickling it.

Flower's strategies keep their memory in plain attributes and have no interface to save it. What can change is data: arrays,
records, numbers, text, and lists and dicts of arrays. Those are written by name; callables and other settings are rebuilt from
the spec by the constructor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from ..core.errors import StateError
from ..core.options import Options
from ..core.records import array_record
from ..strategies.options import Setting

_SCALARS = (bool, int, float, str)


def dump(strategy: Strategy) -> RecordDict:
    """Return the strategy's data attributes as records.

    Raises
    ------
    StateError
        If an attribute that may hold data is of a type that cannot be saved exactly.
    """
    content = RecordDict()
    scalars: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        if value is None or callable(value) or name.startswith("_") or isinstance(value, (Options, Setting)):
            continue  # settings are rebuilt by the constructor; what is private to a strategy of ours lives for one round
        if isinstance(value, (*_SCALARS, np.number)):
            scalars[name] = value.item() if isinstance(value, np.number) else value
        elif isinstance(value, ArrayRecord):
            content[f"record:{name}"] = value
        elif isinstance(value, list) and all(isinstance(v, np.ndarray) for v in value):
            content[f"list:{name}"] = array_record({f"{i:05d}": v for i, v in enumerate(value)})
        elif isinstance(value, dict) and all(isinstance(v, np.ndarray | np.number) for v in value.values()):
            content[f"dict:{name}"] = array_record({k: np.asarray(v) for k, v in value.items()})
        else:
            raise StateError(
                f"strategy {type(strategy).__name__}: attribute {name!r} ({type(value).__name__}) cannot be checkpointed"
            )
    content["scalars"] = ConfigRecord(scalars)
    return content


def restore(strategy: Strategy, content: RecordDict) -> None:
    """Put back what `dump` returned."""
    for name, record in content.items():
        kind, _, attribute = name.partition(":")
        if kind == "scalars":
            vars(strategy).update(record)
        elif kind == "record":
            setattr(strategy, attribute, record)
        else:
            values = {key: array.numpy() for key, array in record.items()}  # type: ignore[union-attr]
            setattr(strategy, attribute, list(values.values()) if kind == "list" else values)
