"""Reading records (`result.json`, described by record.schema.json), and writing their numbers for people.

Shapes: N = clients, C = classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import RunError

Record = dict[str, Any]

SCHEMA_VERSION = 1
MISSING = "–"
ENDED_WELL = ("finished", "stopped")


@cache
def record_schema() -> Record:
    """Return the JSON Schema of `result.json`."""
    return json.loads((Path(__file__).parent / "record.schema.json").read_text(encoding="utf-8"))


def load_record(run_dir: Path) -> Record:
    """Read the record of a run; numbers that are not finite become None.

    Raises
    ------
    RunError
        If there is no such directory, no readable `result.json` in it, or it is not a record this version understands.
    """
    path = Path(run_dir) / "result.json"
    if not path.parent.is_dir():
        raise RunError(f"{run_dir}: no such run directory")
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise RunError(f"{run_dir}: not a run directory, it has no result.json") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(record, dict):
        raise RunError(f"{path}: holds a JSON {type(record).__name__}, not a run record")
    if record.get("schema") != SCHEMA_VERSION:
        raise RunError(f"{path}: schema = {record.get('schema')!r}: this version reads schema {SCHEMA_VERSION} only")
    if absent := [key for key in record_schema()["required"] if key not in record]:
        raise RunError(f"{path}: not a complete run record, it lacks {', '.join(absent)}")
    return record


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy in the rounds that were evaluated; every array has one entry for each of them.

    `upload_bytes`, `sim_s` and `energy_j` count from the start of the run, rounds without evaluation included; the latter two
    are NaN as soon as a round's is not known.
    """

    round: NDArray[np.int64]
    mean: NDArray[np.float64]
    p10: NDArray[np.float64]
    p90: NDArray[np.float64]
    worst: NDArray[np.float64]
    upload_bytes: NDArray[np.int64]
    sim_s: NDArray[np.float64]
    energy_j: NDArray[np.float64]

    def knows(self, cost: str) -> bool:
        """Whether accuracy can be drawn over a cost, `sim_s` or `energy_j`."""
        return bool(len(self.round) and np.isfinite(getattr(self, cost)).all())


def learning_curve(record: Record) -> LearningCurve:
    """Return the accuracy of every evaluated round and the bytes uploaded by its end."""
    rounds = record["rounds"]
    kept = [i for i, entry in enumerate(rounds) if entry["accuracy_mean"] is not None]

    def column(key: str) -> NDArray[np.float64]:
        return np.array([rounds[i][key] for i in kept], dtype=np.float64)  # None becomes NaN, a gap in the line

    return LearningCurve(
        round=np.array([rounds[i]["round"] for i in kept], dtype=np.int64),
        **{name: column(f"accuracy_{name}") for name in ("mean", "p10", "p90", "worst")},
        upload_bytes=np.cumsum([entry["bytes_up"] for entry in rounds], dtype=np.int64)[kept],
        sim_s=np.cumsum([entry["sim_s"] for entry in rounds], dtype=np.float64)[kept],
        energy_j=np.cumsum([entry["energy_j"] for entry in rounds], dtype=np.float64)[kept],
    )


def retrieval_curve(record: Record) -> tuple[list[int], list[float], list[float]]:
    """Return the rounds that were evaluated, the sum of recalls at 1, 5 and 10 of each, and what it is by chance."""
    known = [entry for entry in record["rounds"] if "retrieval_sum_1_5_10" in entry.get("figures", {})]
    recalls, chance = ([entry["figures"][key] for entry in known] for key in ("retrieval_sum_1_5_10", "retrieval_chance"))
    return [entry["round"] for entry in known], recalls, chance


def loss_curves(record: Record) -> dict[str, tuple[list[int], list[float]]]:
    """Return rounds and training losses of the sampled clients, by type; types without labels share a loss, and a curve."""
    types = (record["partition"] or {}).get("types", {})
    shared = ", ".join(name for name, kind in types.items() if kind["target"] is None)
    curves = {}
    for name in (shared, *(name for name, kind in types.items() if kind["target"] is not None)):
        by_round = {
            entry["round"]: entry["train_loss"] if name == shared else entry.get("training", {}).get(f"train_loss_{name}")
            for entry in record["rounds"]
        }
        known = {number: loss for number, loss in by_round.items() if loss is not None}
        if known:
            curves[name] = list(known), list(known.values())
    return curves


def _evaluated(entry: Record) -> bool:
    return entry["accuracy_mean"] is not None or "figures" in entry


def standing(record: Record) -> Record:
    """Return the key figures: what the rounds so far add up to, and over it what the record says is final."""
    rounds = record["rounds"]
    if not rounds:
        return dict(record["final"])

    def total(key: str) -> float | None:
        known = [entry[key] for entry in rounds if entry[key] is not None]
        return sum(known) if known else None

    sums = {key: total(key) for key in ("bytes_up", "bytes_up_dense", "bytes_down", "wall_s", "sim_s", "energy_j")}
    latest: Record = next((entry for entry in reversed(rounds) if _evaluated(entry)), {})
    accuracies = {key: value for key, value in latest.items() if key.startswith("accuracy_")}
    return (
        accuracies
        | latest.get("figures", {})
        | sums
        | {"epsilon": rounds[-1]["epsilon"], "rounds": len(rounds)}
        | record["final"]
    )


def client_accuracies(record: Record) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the evaluated clients and their accuracies, worst first."""
    known = sorted((c["accuracy"], c["client"]) for c in record["clients"] if c["accuracy"] is not None)
    return np.array([c for _, c in known], dtype=np.int64), np.array([a for a, _ in known], dtype=np.float64)


def label_counts(record: Record) -> NDArray[np.int64] | None:
    """Return the training samples of each client and class, shape (N, C), or None where the data has no classes."""
    rows = (record["partition"] or {}).get("train_label_counts") or []
    return np.array(rows, dtype=np.int64) if any(rows) else None


def by_largest_class(counts_NC: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the clients ordered by their largest class, and within it by how much of their data it is."""
    largest_N = counts_NC.argmax(axis=1)
    share_N = counts_NC.max(axis=1) / np.maximum(counts_NC.sum(axis=1), 1)
    return np.lexsort((-share_N, largest_N))


def byte_unit(size_bytes: float) -> tuple[float, str]:
    """Return the decimal unit to state a size in: its number of bytes and its name."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if abs(size_bytes) >= 0.9995 * 1000**power:  # what would round to 1,000 of the smaller unit
            return 1000.0**power, unit
    return 1.0, "bytes"


def _significant(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def format_bytes(size_bytes: float) -> str:
    """Return a size in decimal units."""
    scale, unit = byte_unit(size_bytes)
    return f"{_significant(size_bytes / scale)} {unit}"


def format_seconds(duration_s: float) -> str:
    """Return a duration as seconds, minutes or hours."""
    if duration_s < 59.95:
        return f"{_significant(duration_s)} s"
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_joules(energy_j: float) -> str:
    """Return an energy in J, kJ or MJ."""
    for power, unit in ((2, "MJ"), (1, "kJ")):
        if abs(energy_j) >= 1000**power:
            return f"{_significant(energy_j / 1000**power)} {unit}"
    return f"{_significant(energy_j)} J"


def format_accuracy(fraction: float) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * fraction:.1f} %"


def format_recalls(total: float) -> str:
    """Return a sum of recalls in percentage points."""
    return f"{100 * total:.2f}"


def format_count(value: float) -> str:
    """Return a number with separated thousands."""
    return f"{value:,}" if isinstance(value, int) else _significant(value)


@dataclass(frozen=True)
class KeyFigure:
    """How one key figure is called and written."""

    label: str
    short: str
    unit: str
    format: Callable[[float], str]

    def __call__(self, value: float | None) -> str:
        """Return `value` for people, a dash where it is unknown."""
        return MISSING if value is None else self.format(value)


KEY_FIGURES = {
    "accuracy_mean": KeyFigure("accuracy, mean over clients", "accuracy", "fraction", format_accuracy),
    "accuracy_std": KeyFigure("accuracy, standard deviation over clients", "±", "fraction", format_accuracy),
    "accuracy_p10": KeyFigure("accuracy, 10th percentile of clients", "p10", "fraction", format_accuracy),
    "accuracy_p90": KeyFigure("accuracy, 90th percentile of clients", "accuracy p90", "fraction", format_accuracy),
    "accuracy_worst": KeyFigure("accuracy, worst client", "worst", "fraction", format_accuracy),
    "accuracy_weighted": KeyFigure("accuracy, weighted by samples", "accuracy weighted", "fraction", format_accuracy),
    "majority_class": KeyFigure("baseline: always the majority class", "majority", "fraction", format_accuracy),
    "retrieval_sum_1_5_10_last3": KeyFigure(
        "recalls at 1, 5 and 10, both ways, added, last three evaluations", "recalls", "% points", format_recalls
    ),
    "retrieval_sum_1_5_10": KeyFigure("recalls at 1, 5 and 10, both ways, added", "recalls, last", "% points", format_recalls),
    "retrieval_chance": KeyFigure("what these recalls add up to by chance", "by chance", "% points", format_recalls),
    "retrieval_sum_1_last3": KeyFigure(
        "recalls at 1, both ways, added, last three evaluations", "recalls at 1", "% points", format_recalls
    ),
    "retrieval_sum_1": KeyFigure("recalls at 1, both ways, added", "recalls at 1, last", "% points", format_recalls),
    "retrieval_gallery": KeyFigure("samples to retrieve from", "gallery", "", format_count),
    "bytes_up": KeyFigure("uploaded", "up", "bytes", format_bytes),
    "bytes_up_dense": KeyFigure("uploaded, had it been dense", "dense", "bytes", format_bytes),
    "bytes_down": KeyFigure("downloaded", "down", "bytes", format_bytes),
    "wall_s": KeyFigure("wall-clock time", "wall", "s", format_seconds),
    "sim_s": KeyFigure("simulated time", "sim. time", "s", format_seconds),
    "energy_j": KeyFigure("simulated energy", "energy", "J", format_joules),
    "epsilon": KeyFigure("privacy spent, ε", "ε", "", _significant),
    "rounds": KeyFigure("rounds completed", "rounds", "", format_count),
    "evaluated_round": KeyFigure("accuracies are those after round", "evaluated", "", format_count),
    "unevaluated_clients": KeyFigure("clients without an accuracy", "unevaluated clients", "", format_count),
}

_OF_TYPES = {
    "accuracy": KeyFigure("accuracy", "accuracy", "fraction", format_accuracy),
    "mae_constant": KeyFigure("mean absolute error of always saying the mean", "MAE of the mean", "", _significant),
    "mae": KeyFigure("mean absolute error", "MAE", "", _significant),
    "mape": KeyFigure("mean error as a share of the right number", "MAPE", "fraction", format_accuracy),
    "r2": KeyFigure("share of the variance explained", "R²", "", _significant),
    "spearman_balanced": KeyFigure(
        "rank correlation with distances of functions with as many ones", "correlation, balanced", "", _significant
    ),
    "spearman": KeyFigure("rank correlation with distances of functions", "correlation", "", _significant),
    "equivalence_auc": KeyFigure("equal functions nearer than others, AUC", "equivalence", "", _significant),
}
"""Figures of client types with labels, `<figure>_<type>` in the record."""


def figures_of_types(record: Record) -> list[str]:
    """Return the keys of all figures of the record's client types, in the order of types."""
    return [
        key
        for name in (record["partition"] or {}).get("types", {})
        for figure in _OF_TYPES
        if (key := f"{figure}_{name}") in standing(record)
    ]


def key_figure(key: str) -> KeyFigure | None:
    """Return how a figure is called and written, None where it is a strategy's own."""
    if key in KEY_FIGURES:
        return KEY_FIGURES[key]
    figure = next((figure for figure in _OF_TYPES if key.startswith(f"{figure}_")), None)
    if figure is None:
        return None
    known, name = _OF_TYPES[figure], key.removeprefix(f"{figure}_")
    return replace(known, label=f"{known.label}, mean over {name} clients", short=f"{known.short}, {name}")
