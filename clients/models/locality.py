"""Which parameters stay on the client: anchored module paths instead of substrings.

A pattern is a path from the root of the model, in which ``*`` stands for exactly one component, and it takes everything at and
below that path: ``head`` takes `head.weight` and `head.bias`, not `blocks.0.head_x.weight`; ``blocks.1`` does not take
`blocks.10`; ``blocks.*.attention.plugin`` takes every block's plugin; ``*`` takes the whole model. (The published
FedPerfix code matches substrings, where `head` and `11` take more than is meant.)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from torch import nn

from ...core.errors import SpecError

EVERYTHING = "*"


def split(model: nn.Module | Iterable[str], patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide the keys of a state dict into those that are shared and those that stay on the client.

    Parameters
    ----------
    model : Module or iterable of str
        A model, or the keys of its state dict (parameters and buffers).
    patterns : sequence of str
        What stays; none: nothing does.

    Returns
    -------
    global_keys, local_keys : list of str
        Each in the order of the state dict; together all keys.

    Raises
    ------
    SpecError
        If a pattern takes nothing, two patterns take the same key, or several together take everything (say ``*`` for that).
    """
    keys = list(model.state_dict() if isinstance(model, nn.Module) else model)
    owner: dict[str, str] = {}
    for pattern in patterns:
        taken = [key for key in keys if matches(key, pattern)]
        if not taken:
            raise SpecError(f"strategy.local = {pattern!r}: takes nothing of this model; {_instead(pattern, keys)}")
        for key in taken:
            if key in owner:
                raise SpecError(f"strategy.local = {pattern!r}: takes {key!r}, as {owner[key]!r} does; leave one of them out")
            owner[key] = pattern
    if owner.keys() == set(keys) and list(patterns) not in ([], [EVERYTHING]):
        raise SpecError(
            f"strategy.local = {list(patterns)!r}: takes the whole model, so nothing would be shared; "
            f"leave something out, or say {EVERYTHING!r} alone if that is meant"
        )
    return [key for key in keys if key not in owner], [key for key in keys if key in owner]


def local_keys(model: nn.Module | Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the keys that stay on the client; see `split`."""
    return split(model, patterns)[1]


def matches(key: str, pattern: str) -> bool:
    """Say whether `pattern` takes the parameter or buffer `key`."""
    path, wanted = key.split("."), pattern.split(".")
    return len(wanted) <= len(path) and all(want in ("*", part) for want, part in zip(wanted, path, strict=False))


def _instead(pattern: str, keys: Iterable[str]) -> str:
    """Name the paths that could have been meant: close ones, else the model's top level."""
    paths: dict[str, None] = {}  # a set that keeps order
    for key in keys:
        parts = key.split(".")
        paths |= dict.fromkeys(".".join(parts[:n]) for n in range(1, len(parts) + 1))
        general = ["*" if part.isdigit() else part for part in parts]
        paths |= dict.fromkeys(".".join(general[:n]) for n in range(1, len(parts) + 1))
    close = difflib.get_close_matches(pattern, paths, n=3)
    if close:
        return "did you mean " + " or ".join(map(repr, close)) + "?"
    return "its parts are " + ", ".join(path for path in paths if "." not in path)
