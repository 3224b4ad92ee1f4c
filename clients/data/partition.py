"""Which samples each client holds, and how it splits them into training, validation and test.

The partitions are flwr-datasets' partitioners. What is ours: the rows are shuffled first (its IID partition takes
contiguous rows), and a random partition is redrawn until every client has the samples it needs, up to `DRAWS` times,
each draw with a seed of its own; where that never happens the best minimum is reported.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from ...core.errors import DataError
from ...core.seeds import derive, numpy_stream
from .options import DataOptions

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

DRAWS = 100
"""Draws of a random partition before it counts as unattainable (our choice)."""
RANDOM = ("dirichlet", "pathological")
"""Partitions whose client sizes another draw changes."""


def partition(
    options: DataOptions, labels_N: np.ndarray, clients: int, seed: int, natural_ids_N: np.ndarray | None = None
) -> list[np.ndarray]:
    """Share samples out over clients.

    Parameters
    ----------
    options : DataOptions
        The partition, its parameter, and the samples that every client needs.
    labels_N : ndarray of int, shape (samples,)
    clients : int
    seed : int
    natural_ids_N : ndarray of str or int, shape (samples,), optional
        Whose sample it is; client i is the i-th id in sorted order.

    Returns
    -------
    list of ndarray of int64
        Row numbers of each client, ascending; no row twice. Shards of equal size may leave a few rows to nobody, as do
        classes that no client of a pathological partition drew.

    Raises
    ------
    DataError
        If there are too few samples, or no draw gives every client enough of them (with the best minimum that was
        achieved), or the data do not have one natural id a client.
    """
    from datasets import Dataset

    _check_enough(options, labels_N, clients, natural_ids_N)
    order_N = numpy_stream(seed, "partition", "order").permutation(len(labels_N))
    columns = {"row": order_N, "label": labels_N[order_N]}
    if natural_ids_N is not None:
        columns["natural_id"] = natural_ids_N[order_N]
    table = Dataset.from_dict(columns).with_format("arrow")
    best = -1
    for draw in range(DRAWS if options.partition in RANDOM else 1):
        partitioner = _partitioner(options, clients, derive(seed, "partition", draw))
        partitioner.dataset = table
        drawn = _draw(options, partitioner, clients, best)
        smallest = min(map(len, drawn))
        if smallest >= options.samples_needed:
            return drawn
        best = max(best, smallest)
    raise DataError(_unattainable(options, clients, best))


def split(options: DataOptions, rows: np.ndarray, client: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split one client's rows at random into training, validation and test.

    Exact sizes leave surplus rows unused. Shares are rounded to the nearest whole number, and training gets the rest, so a
    client with very few rows may have none of a kind.
    """
    shuffled = numpy_stream(seed, "split", client).permutation(rows)
    if options.exact_sizes is not None:
        train, validation, test = options.exact_sizes
    else:
        validation, test = (int(len(rows) * share + 0.5) for share in options.fractions)
        train = len(rows) - validation - test
    return shuffled[:train], shuffled[train : train + validation], shuffled[train + validation : train + validation + test]


def _partitioner(options: DataOptions, clients: int, seed: int) -> Partitioner:
    from flwr_datasets import partitioner as flwr

    match options.partition:
        case "dirichlet":
            return flwr.DirichletPartitioner(
                clients, "label", alpha=options.alpha, min_partition_size=0, self_balancing=False, shuffle=False, seed=seed
            )
        case "pathological":
            return flwr.PathologicalPartitioner(
                clients, "label", options.classes_per_client, "first-deterministic", shuffle=False, seed=seed
            )
        case "shard":
            return flwr.ShardPartitioner(clients, "label", options.shards_per_client, shuffle=False, seed=seed)
        case "natural":
            return flwr.NaturalIdPartitioner("natural_id")
        case _:
            return flwr.IidPartitioner(clients)


def _draw(options: DataOptions, partitioner: Partitioner, clients: int, best: int) -> list[np.ndarray]:
    """Return the clients' rows, up to the first client with no more than `best` of them: such a draw is of no use."""
    drawn: list[np.ndarray] = []
    try:
        # Unused classes are no news in a pathological partition, and the natural one draws a progress bar.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            while len(drawn) < clients and (not drawn or len(drawn[-1]) > best):
                drawn.append(np.sort(partitioner.load_partition(len(drawn))[:]["row"].to_numpy()))
    except ValueError as error:
        raise DataError(f"data.partition = {options.partition!r}: cannot be drawn for {clients} clients: {error}") from None
    return drawn


def _check_enough(options: DataOptions, labels_N: np.ndarray, clients: int, natural_ids_N: np.ndarray | None) -> None:
    if clients < 1:
        raise DataError(f"federation.clients = {clients}: must be at least 1")
    if options.partition == "natural":
        ids = 0 if natural_ids_N is None else len(np.unique(natural_ids_N))
        if ids != clients:
            raise DataError(
                f"federation.clients = {clients}: {options.natural_id_column!r} holds {ids} natural clients; choose {ids}"
            )
    samples, needed = len(labels_N), clients * options.samples_needed
    if samples < needed:
        raise DataError(
            f"{_sizes(options)}: {clients} clients need {needed} samples, but there are {samples}, at most "
            f"{samples // clients} a client; ask for fewer samples or fewer clients (federation.clients)"
        )
    classes = len(np.unique(labels_N))
    if options.partition == "pathological" and (options.classes_per_client or 0) > classes:
        raise DataError(
            f"data.classes_per_client = {options.classes_per_client}: the data have {classes} classes; choose 1 to {classes}"
        )
    shards = clients * (options.shards_per_client or 0)
    if shards > samples:
        raise DataError(f"data.shards_per_client = {options.shards_per_client}: {shards} shards, but only {samples} samples")


def _unattainable(options: DataOptions, clients: int, best: int) -> str:
    cause, cure = {
        "dirichlet": (f"data.alpha = {options.alpha}", "raise it"),
        "pathological": (f"data.classes_per_client = {options.classes_per_client}", "change it"),
        "shard": (f"data.shards_per_client = {options.shards_per_client}", "lower it"),
    }.get(options.partition, (f"data.partition = {options.partition!r}", "choose another"))
    tries = f"in {DRAWS} draws " if options.partition in RANDOM else ""
    return (
        f"{cause}: every one of {clients} clients needs {options.samples_needed} samples ({_sizes(options)}), but {tries}the "
        f"smallest client got {best} at best; {cure}, ask for fewer samples, or fewer clients (federation.clients)"
    )


def _sizes(options: DataOptions) -> str:
    if options.exact_sizes is None:
        return f"data.min_per_client = {options.min_per_client}" if options.min_per_client else "at least one each"
    train, validation, test = options.exact_sizes
    return f"data.train_per_client + validation_per_client + test_per_client = {train} + {validation} + {test}"
