"""Several runs side by side: final figures, spread over seeds, paired differences, curves."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from .figures import (
    COLOURS,
    OVER,
    SERIES,
    Picture,
    _accuracy_axis,
    _bytes_axis,
    _cost_axis,
    _marker,
    _round_axis,
    draw_retrieval,
    picture,
)
from .page import Page, Table
from .reading import (
    ENDED_WELL,
    MISSING,
    KeyFigure,
    Record,
    figures_of_types,
    key_figure,
    learning_curve,
    load_record,
    retrieval_curve,
    standing,
)

ACCURACY_FIGURES = ("accuracy_mean", "accuracy_std", "accuracy_p10", "accuracy_worst", "majority_class")
RETRIEVAL_FIGURES = (
    *("retrieval_sum_1_5_10_last3", "retrieval_sum_1_5_10", "retrieval_chance", "retrieval_sum_1_last3", "retrieval_gallery"),
)
COST_FIGURES = ("bytes_up", "bytes_up_dense", "bytes_down", "wall_s", "sim_s", "energy_j", "epsilon")
ROW_FIGURES = ACCURACY_FIGURES + RETRIEVAL_FIGURES + COST_FIGURES
_SAID_ONCE = ("accuracy_std", "majority_class", "bytes_up_dense", "retrieval_chance", "retrieval_gallery")
GROUP_FIGURES = tuple(key for key in ROW_FIGURES if key not in _SAID_ONCE)
PAIRED_FIGURES = (
    *("accuracy_mean", "accuracy_p10", "accuracy_worst"),
    *("retrieval_sum_1_5_10_last3", "retrieval_sum_1_5_10", "retrieval_sum_1_last3"),
    *("bytes_up", "sim_s", "energy_j"),
)
NOT_THE_METHOD = ("name", "seed", "engine", "tracking")  # parts of a spec that say nothing about what is compared


@dataclass(frozen=True)
class Row:
    """One run: who it is and its figures (None where unknown): `ROW_FIGURES`, then those of client types that any run has."""

    id: str
    name: str
    group: str
    strategy: str
    seed: int | None
    status: str
    rounds: int
    figures: dict[str, float | None]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for a single seed) over `n` seeds."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Group:
    """Runs that ended well and differ in nothing but their seed."""

    label: str
    strategy: str
    seeds: list[int]
    runs: list[str]
    figures: dict[str, Spread]


@dataclass(frozen=True)
class Paired:
    """Mean difference `first` - `second` in one figure over the seeds both have.

    `separates` is the house rule: at least three seeds, and a mean difference larger than twice its standard error.
    """

    first: str
    second: str
    figure: str
    seeds: list[int]
    mean: float
    standard_error: float
    separates: bool


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side; `groups` and `pairs` are empty where no method ran with several seeds."""

    rows: list[Row]
    groups: list[Group] = field(default_factory=list)
    pairs: list[Paired] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and dicts, ready for JSON; a row's figures stand beside its other fields."""
        plain = asdict(self)
        return plain | {"rows": [row | row.pop("figures") for row in plain["rows"]]}


def comparison(run_dirs: Iterable[Path]) -> Comparison:
    """Compare runs: one row each, methods over seeds, and paired differences between methods.

    A method is a spec without its name, seed, engine and tracking. Only runs that finished, or that a stop rule ended, count
    towards a method; several runs of one seed count once, with their mean.

    Raises
    ------
    RunError
        If a directory holds no record.
    """
    return _compare(_load_distinct(run_dirs))


def write_comparison(run_dirs: Iterable[Path], out: Path) -> Path:
    """Write the comparison with its learning curves as one self-contained HTML page to `out`.

    Raises
    ------
    RunError
        If a directory holds no record.
    """
    records = _load_distinct(run_dirs)
    compared = _compare(records)
    page = Page(
        title=f"Comparison of {len(records)} runs",
        subtitle="Accuracies are means over clients, each on its own held-out data.",
        pictures=comparison_pictures(records, [row.group for row in compared.rows]),
        tables=comparison_tables(compared),
    )
    return page.write(Path(out))


def print_comparison(compared: Comparison, console: Console) -> None:
    """Print the tables of a comparison to a terminal."""
    print_tables(comparison_tables(compared), console)


def print_tables(tables: Iterable[Table], console: Console) -> None:
    """Print tables to a terminal."""
    for table in tables:
        title, note = Text(table.title, style="bold"), Text(table.note) if table.note else None
        shown = RichTable(
            title=title, title_justify="left", caption=note, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False
        )
        for i, name in enumerate(table.head):
            shown.add_column(Text(name), justify="left" if i < table.text_columns else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)


def comparison_tables(compared: Comparison) -> list[Table]:
    """Return the runs' accuracies and costs, the methods over seeds, and the paired differences as tables."""
    accuracies = Table(
        "Runs: accuracy",
        ("run", "method", "status", "seed", "rounds", *_heads(ACCURACY_FIGURES)),
        [(r.id, r.group, r.status, str(r.seed), str(r.rounds), *_cells(r, ACCURACY_FIGURES)) for r in compared.rows],
        text_columns=3,
        note="Over clients: mean, ± standard deviation, p10 the 10th percentile, worst. "
        "Majority: the accuracy of always answering a client's most frequent class.",
    )
    retrieval = Table(
        "Runs: retrieval",
        ("run", "method", *_heads(RETRIEVAL_FIGURES)),
        [(r.id, r.group, *_cells(r, RETRIEVAL_FIGURES)) for r in compared.rows],
        text_columns=2,
        note="Recalls at 1, 5 and 10, both ways, added, in percentage points: mean of the last three evaluations, and last. "
        "Means over clients with several modalities, each in its own gallery.",
    )
    types = Table(
        "Runs: client types",
        ("run", "method", *_heads(_of_types(compared.rows))),
        [(r.id, r.group, *_cells(r, _of_types(compared.rows))) for r in compared.rows],
        text_columns=2,
        note="Means over the clients of a type, each on its own held-out data.",
    )
    costs = Table(
        "Runs: cost",
        ("run", *_heads(COST_FIGURES)),
        [(r.id, *_cells(r, COST_FIGURES)) for r in compared.rows],
        note="Uploads and downloads of all clients; dense: the uploads, had they not been compressed.",
    )
    over_seeds = [*GROUP_FIGURES, *_of_types(compared.rows)]
    groups = Table(
        "Methods over seeds",
        ("method", "seeds", *_heads(over_seeds)),
        [(g.label, ", ".join(map(str, g.seeds)), *(_spread(k, g.figures.get(k)) for k in over_seeds)) for g in compared.groups],
        text_columns=2,
        note="Mean ± sample standard deviation over seeds, of runs that finished or were stopped by a rule.",
    )
    pairs = Table(
        "Paired differences on common seeds",
        ("first", "second", "figure", "verdict", "seeds", "difference", "std. error"),
        [(p.first, p.second, _known(p.figure).short, _verdict(p), str(len(p.seeds)), *_difference(p)) for p in compared.pairs],
        text_columns=4,
        note="Difference: first − second. Separates: at least three seeds and a mean difference larger than twice its standard "
        "error; not corrected for the number of comparisons.",
    )
    retrieved = [retrieval] if any(r.figures["retrieval_gallery"] for r in compared.rows) else []
    typed = [types] if _of_types(compared.rows) else []
    shown = (accuracies, *retrieved, *typed, costs, groups, pairs)
    return [table.without_empty_columns() for table in shown if table.rows]


def _of_types(rows: Sequence[Row]) -> list[str]:
    """Return the figures of client types that the runs have."""
    return [key for key in rows[0].figures if key not in ROW_FIGURES] if rows else []


def _heads(keys: Iterable[str]) -> list[str]:
    return [_known(key).short for key in keys]


def _cells(row: Row, keys: Iterable[str]) -> list[str]:
    return [_known(key)(row.figures[key]) for key in keys]


def _known(key: str) -> KeyFigure:
    known = key_figure(key)
    assert known is not None
    return known


def _spread(key: str, spread: Spread | None) -> str:
    if spread is None:
        return MISSING
    mean, std = _known(key)(spread.mean), _known(key)(spread.std)
    return f"{mean.removesuffix(' %')} ± {std}" if spread.std else mean


def _difference(pair: Paired) -> tuple[str, str]:
    """Return the mean difference, with its sign, and its standard error; accuracies in percentage points."""
    if pair.figure.startswith("retrieval"):
        return f"{100 * pair.mean:+.2f}", f"{100 * pair.standard_error:.2f}"
    if pair.figure.startswith("accuracy"):
        return f"{100 * pair.mean:+.2f} pp", f"{100 * pair.standard_error:.2f} pp"
    write = _known(pair.figure)
    return ("+" if pair.mean > 0 else "") + write(pair.mean), write(pair.standard_error)


def _verdict(pair: Paired) -> str:
    if pair.separates:
        return f"separates: first {'higher' if pair.mean > 0 else 'lower'}"
    return "does not separate" if len(pair.seeds) >= 3 else "does not separate (fewer than three seeds)"


def _load_distinct(run_dirs: Iterable[Path]) -> list[Record]:
    """Load every run once, however often and by whatever path it is named."""
    return [load_record(path) for path in {Path(path).resolve(): None for path in run_dirs}]


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return dotted field names and JSON values of a spec, without the fields that are None."""
    flat: dict[str, str] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = json.dumps(value, sort_keys=True)
    return flat


def method_labels(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name each spec's method: its strategy and, where several methods share that, the fields in which they differ."""
    methods = [_flat({key: value for key, value in spec.items() if key not in NOT_THE_METHOD}) for spec in specs]
    labels = []
    for method in methods:
        name = json.loads(method.get("strategy.name", '"unknown"'))
        rivals = [other for other in methods if other.get("strategy.name") == method.get("strategy.name")]
        fields = sorted({key for rival in rivals for key in {*rival, *method} if rival.get(key) != method.get(key)})
        labels.append(", ".join([name, *(f"{key} = {method.get(key, 'none')}" for key in fields)]))
    return labels


def _compare(records: Sequence[Record]) -> Comparison:
    rows, of_types = [], list(dict.fromkeys(key for record in records for key in figures_of_types(record)))
    for record, label in zip(records, method_labels([record["spec"] for record in records]), strict=True):
        figures, spec = standing(record), record["spec"]
        rows.append(
            Row(
                id=record["id"],
                name=record["name"],
                group=label,
                strategy=spec.get("strategy", {}).get("name", "unknown"),
                seed=spec.get("seed"),
                status=record["status"],
                rounds=len(record["rounds"]),
                figures={key: figures.get(key) for key in (*ROW_FIGURES, *of_types)},
            )
        )
    counted = [row for row in rows if row.status in ENDED_WELL and row.seed is not None]
    methods = {label: [row for row in counted if row.group == label] for label in dict.fromkeys(r.group for r in counted)}
    groups = [_group(label, members) for label, members in methods.items()]
    if all(len(group.seeds) < 2 for group in groups):
        return Comparison(rows)
    pairs = [
        _paired(first, second, key, *differences)
        for first, second in itertools.combinations(methods, 2)
        for key in (*PAIRED_FIGURES, *of_types)
        if len((differences := paired_values(methods[first], methods[second], key))[0]) >= 2
    ]
    return Comparison(rows, groups, pairs)


def by_seed(rows: Iterable[Row], key: str) -> dict[int, float]:
    """Return one figure for each seed that has it: the mean over the runs of that seed."""
    values: dict[int, list[float]] = {}
    for row in rows:
        value = row.figures[key]
        if value is not None and row.seed is not None:
            values.setdefault(row.seed, []).append(value)
    return {seed: float(np.mean(values[seed])) for seed in sorted(values)}


def _group(label: str, rows: Sequence[Row]) -> Group:
    figures = {}
    for key in (*GROUP_FIGURES, *_of_types(rows)):
        values = list(by_seed(rows, key).values())
        if values:
            std = float(np.std(values, ddof=1)) if len(values) > 1 else None
            figures[key] = Spread(float(np.mean(values)), std, len(values))
    seeds = sorted({row.seed for row in rows if row.seed is not None})
    return Group(label, rows[0].strategy, seeds, [row.id for row in rows], figures)


def paired_values(first: Iterable[Row], second: Iterable[Row], key: str) -> tuple[list[int], list[float]]:
    """Return the seeds that both methods have, and the difference first - second of each."""
    a, b = by_seed(first, key), by_seed(second, key)
    seeds = [seed for seed in a if seed in b]
    return seeds, [a[seed] - b[seed] for seed in seeds]


def _paired(first: str, second: str, key: str, seeds: list[int], differences: Sequence[float]) -> Paired:
    mean = float(np.mean(differences))
    standard_error = float(np.std(differences, ddof=1) / math.sqrt(len(differences)))
    separates = len(seeds) >= 3 and abs(mean) > 2 * standard_error
    return Paired(first, second, key, seeds, mean, standard_error, separates)


def comparison_pictures(records: Sequence[Record], methods: Sequence[str]) -> list[Picture]:
    """Return accuracy over rounds, bytes and, where all runs know them, simulated time and energy.

    A line is a run, a colour a method.
    """
    curves = [(learning_curve(record), method) for record, method in zip(records, methods, strict=True)]
    curves = [(curve, method) for curve, method in curves if len(curve.round)]
    if not curves:
        return retrieval_pictures(records, methods)
    order = list(dict.fromkeys(method for _, method in curves))

    def draw(figure: Figure, over: str) -> None:
        """Draw every run's mean accuracy over a column of its curve: rounds, bytes or a cost."""
        axes = figure.subplots()
        for curve, method in curves:
            i = order.index(method)
            style: dict[str, Any] = {"color": SERIES[i % COLOURS], "linestyle": ("-", "--", ":", "-.")[i // COLOURS % 4]}
            label = method if axes.get_legend_handles_labels()[1].count(method) == 0 else None
            x = getattr(curve, over)
            axes.plot(x, curve.mean, linewidth=1.5, alpha=0.85, marker=_marker(len(x)), markersize=2.5, label=label, **style)
        _accuracy_axis(axes)
        if over == "round":
            _round_axis(axes)
        elif over == "upload_bytes":
            _bytes_axis(axes, max(curve.upload_bytes[-1] for curve, _ in curves))
        else:
            _cost_axis(axes, over)
        short = [name if len(name) <= 70 else f"{name[:69]}…" for name in order]
        columns = 1 if max(map(len, short)) > 30 else 2
        handles, _ = axes.get_legend_handles_labels()
        figure.legend(handles, short, loc="outside lower left", ncols=columns, fontsize=8, handlelength=1.8)

    height_in = 3.3 + 0.19 * len(order)
    captions = {"round": "Accuracy over rounds", "upload_bytes": "Accuracy for the bytes uploaded"}
    captions |= {cost: OVER[cost][0] for cost in OVER if all(curve.knows(cost) for curve, _ in curves)}
    drawn = [picture(caption, partial(draw, over=over), height_in) for over, caption in captions.items()]
    return retrieval_pictures(records, methods) + drawn


def retrieval_pictures(records: Sequence[Record], methods: Sequence[str]) -> list[Picture]:
    """Return recalls over rounds where runs have such: a line a run, a colour a method."""
    curves = [(retrieval_curve(record), method) for record, method in zip(records, methods, strict=True)]
    curves = [(curve, method) for curve, method in curves if curve[0]]
    order = list(dict.fromkeys(method for _, method in curves))

    def draw(figure: Figure) -> None:
        axes, seen = figure.subplots(), set[str]()
        for (rounds, recalls, _), method in curves:
            label = None if method in seen else method[:70]
            draw_retrieval(axes, rounds, recalls, color=SERIES[order.index(method) % COLOURS], linewidth=1.5, label=label)
            seen.add(method)
        figure.legend(loc="outside lower left", ncols=1, fontsize=8, handlelength=1.8)

    return [picture("Retrieval over rounds", draw, 3.3 + 0.19 * len(order))] if curves else []
