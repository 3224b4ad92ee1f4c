"""What silos are: client types, the modalities each holds, what samples look like, and what is learnt. No samples here.

A *type* is a set of clients with the same modalities, data set and task: one model is kept for it (FedCola, arXiv:2404.12467).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...core.errors import DataError

PAD, UNKNOWN = 0, 1
"""Token ids that every vocabulary starts with."""


@dataclass(frozen=True)
class Pixels:
    """A view in pixels: images of one shape, bytes."""

    shape_CHW: tuple[int, int, int]


@dataclass(frozen=True)
class Tokens:
    """A view in tokens: rows of `length` ids below `vocabulary`, `PAD` after the last."""

    vocabulary: int
    length: int


View = Pixels | Tokens


@dataclass(frozen=True)
class Classes:
    """Labels are one of `count` classes: int64, shape (N,)."""

    count: int

    @property
    def outputs(self) -> int:
        """Width of the model's head."""
        return self.count


@dataclass(frozen=True)
class Number:
    """Labels are numbers, float64, shape (N,); learnt is (y - mean) / deviation, of the logarithms where `log`."""

    mean: float
    deviation: float
    log: bool = False

    @property
    def outputs(self) -> int:
        """Width of the model's head."""
        return 1


@dataclass(frozen=True)
class Function:
    """Labels are truth tables, bool, shape (N, patterns); embeddings are to be as far apart as functions differ."""

    patterns: int

    @property
    def outputs(self) -> int:
        """Width of the model's head: there is none."""
        return 0


Target = Classes | Number | Function


@dataclass(frozen=True)
class SiloType:
    """A client type.

    Parameters
    ----------
    name : str
        The type's arrays are named `<name>/<parameter>` on the server.
    views : mapping of str to View
        What a sample looks like in each modality that the type's clients hold.
    target : Classes, Number or Function, optional
        What the type's labels are; None where samples are matched across modalities instead.

    Raises
    ------
    DataError
        If a name cannot be part of a parameter's name, or there is nothing to learn: one modality without labels.
    """

    name: str
    views: Mapping[str, View]
    target: Target | None = None

    def __post_init__(self) -> None:
        for name in self.views:
            if not name.isidentifier():
                raise DataError(f"modality {name!r} of type {self.name!r}: must be a word of letters, digits and underscores")
        if not self.name or set(self.name) & set("/."):
            raise DataError(f"type {self.name!r}: must be a name without dots and slashes")
        if (self.target is not None) != (len(self.views) == 1):
            raise DataError(
                f"type {self.name!r}: {len(self.views)} modalities {'without' if self.target is None else 'with'} labels; "
                "one modality needs labels, several are matched without"
            )

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities that its clients hold."""
        return frozenset(self.views)


def named(types: Iterable[SiloType]) -> dict[str, SiloType]:
    """Return types by name.

    Raises
    ------
    DataError
        If two have the same name.
    """
    known: dict[str, SiloType] = {}
    for one in types:
        if one.name in known:
            raise DataError(f"type {one.name!r}: there are two of that name")
        known[one.name] = one
    return known
