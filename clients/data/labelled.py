"""Uni-modal silos: labelled samples of one data set, drawn equally from all classes and shared out over silos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt

from ...core.errors import DataError
from ...core.options import Options
from ...core.seeds import numpy_stream
from .multimodal import Samples, Silo
from .options import DataOptions
from .partition import partition, split

SPARE = 4  # times the samples needed are drawn where an uneven partition has to find enough for every silo
LabelMixing = Literal["given", "shuffled"]


class LabelledOptions(Options):
    """Base of what silos of one modality with labels are."""

    silos: Annotated[int, Ge(1)] = 8
    """Clients of this type."""
    train: Annotated[int, Ge(1)] = 445
    """Most training samples of a silo."""
    test: Annotated[int, Ge(1)] = 50
    """Most test samples of a silo."""
    alpha: Annotated[float, Gt(0)] | None = None
    """Dirichlet concentration of labels over silos; absent: every silo sees all classes alike. Not with source = "emoji"."""
    labels: LabelMixing = "given"
    """`shuffled` is a control: training labels change places at random, so that there is nothing to learn."""


def shared_out(
    options: LabelledOptions, kind: str, labels_N: np.ndarray, view: Callable[[np.ndarray], dict[str, np.ndarray]], seed: int
) -> list[Silo]:
    """Draw samples equally from all classes and share them out.

    Parameters
    ----------
    kind : str
        The silos' type; names their random stream.
    labels_N : ndarray of int64
        Classes of all samples that there are.
    view : callable
        Row numbers to the views of these samples.

    Raises
    ------
    DataError
        If there are too few samples.
    """
    needed = options.silos * (options.train + options.test)
    rows = balanced(labels_N, needed * (1 if options.alpha is None else SPARE), numpy_stream(seed, "draw", kind))
    if len(rows) < needed:
        raise DataError(
            f"data.{kind}s.train = {options.train}: {options.silos} silos need {needed} samples, there are {len(rows)}; "
            "ask for fewer samples or silos"
        )
    shares = DataOptions.model_construct(  # a partition asks nothing of the source
        source="digits",
        partition="iid" if options.alpha is None else "dirichlet",
        alpha=options.alpha,
        train_per_client=options.train,
        test_per_client=options.test,
    )
    parts = partition(shares, labels_N[rows], options.silos, seed)
    silos = []
    for number, part in enumerate(parts):
        train, _, test = split(shares, part, number, seed)
        held, judged = (samples(rows[chosen], labels_N, view) for chosen in (train, test))
        silos.append(silo(options.labels, kind, number, held, judged, seed))
    return silos


def samples(rows: np.ndarray, labels_N: np.ndarray, view: Callable[[np.ndarray], dict[str, np.ndarray]]) -> Samples:
    """Return some rows as samples."""
    return Samples(view(rows), rows.astype(np.int64), labels_N[rows])


def silo(labels: LabelMixing, kind: str, number: int, train: Samples, test: Samples, seed: int) -> Silo:
    """Return a silo of some samples, its training labels, if it has some, true or shuffled."""
    if labels == "shuffled" and train.labels_N is not None:
        mixed_N = numpy_stream(seed, "shuffle", kind, number).permutation(train.labels_N)
        train = Samples(train.views, train.keys_N, mixed_N)
    return Silo(kind, train, test, len(train))


def balanced(labels_N: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
    """Return up to `wanted` rows, as equally many of each class as there are, in random order."""
    order_N = random.permutation(len(labels_N))
    turn_N = np.empty(len(order_N), dtype=np.int64)  # how many of its class come before a row
    for label in np.unique(labels_N):
        mine = labels_N[order_N] == label
        turn_N[mine] = np.arange(mine.sum())
    return random.permutation(order_N[np.argsort(turn_N, kind="stable")][:wanted])
