"""What a run, or several, came to: report.html, comparisons, tables for the terminal.

Reads run directories (`result.json`, described by record.schema.json) and nothing else; starts no training code. Pages are
self-contained: figures are inline SVG, nothing is fetched, and the same record gives the same bytes.

Shapes: N = clients, C = classes.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import tomli_w
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ..core.errors import RunError

Record = dict[str, Any]

SCHEMA_VERSION = 1
HERE = Path(__file__).parent
MISSING = "–"
ENDED_WELL = ("finished", "stopped")


# ---------------------------------------------------------------------------------------------- reading


@cache
def record_schema() -> Record:
    """Return the JSON Schema of `result.json`."""
    return json.loads((HERE / "record.schema.json").read_text(encoding="utf-8"))


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

    `upload_bytes` counts from the start of the run, rounds without evaluation included.
    """

    round: NDArray[np.int64]
    mean: NDArray[np.float64]
    p10: NDArray[np.float64]
    p90: NDArray[np.float64]
    worst: NDArray[np.float64]
    upload_bytes: NDArray[np.int64]


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
    )


def standing(record: Record) -> Record:
    """Return the key figures: what the rounds so far add up to, and over it what the record says is final."""
    rounds = record["rounds"]
    if not rounds:
        return dict(record["final"])

    def total(key: str) -> float | None:
        known = [entry[key] for entry in rounds if entry[key] is not None]
        return sum(known) if known else None

    sums = {key: total(key) for key in ("bytes_up", "bytes_up_dense", "bytes_down", "wall_s", "sim_s", "energy_j")}
    latest: Record = next((entry for entry in reversed(rounds) if entry["accuracy_mean"] is not None), {})
    accuracies = {key: value for key, value in latest.items() if key.startswith("accuracy_")}
    return accuracies | sums | {"epsilon": rounds[-1]["epsilon"], "rounds": len(rounds)} | record["final"]


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


# ---------------------------------------------------------------------------------------------- numbers for people


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


# ---------------------------------------------------------------------------------------------- figures

COLOURS = 8
# matplotlib draws in these stand-ins; the page's style sheet decides what they look like, light or dark
_STAND_INS = {"ink": "#010203", "muted": "#010204", "grid": "#010205"} | {f"s{i}": f"#01020{i + 6:x}" for i in range(COLOURS)}
INK, MUTED, GRID = (_STAND_INS[name] for name in ("ink", "muted", "grid"))
SERIES = [_STAND_INS[f"s{i}"] for i in range(COLOURS)]
ACCENT = SERIES[0]
# opaque to transparent, so that it reads on any background; images cannot take their colours from the style sheet
SHARES = LinearSegmentedColormap.from_list("shares", [(0.23, 0.51, 0.96, 0.03), (0.23, 0.51, 0.96, 1.0)])
RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Picture:
    """A figure of a page: inline SVG and what it shows."""

    caption: str
    svg: Markup
    wide: bool = False


def picture(caption: str, draw: Callable[[Figure], None], height_in: float = 3.1, wide: bool = False) -> Picture:
    """Draw a figure and return it as SVG that takes its colours and fonts from the page around it."""
    buffer = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a personal matplotlibrc does not change a report
        matplotlib.rcParams.update(RC | {"svg.hashsalt": caption})
        figure = Figure(figsize=(11.8 if wide else 5.6, height_in))
        figure.patch.set_visible(False)
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every figure, and nothing refers to them
    svg = re.sub(r"(font: [^;']*)'[^;\"]*", r"\1system-ui, sans-serif", svg)
    for name, colour in _STAND_INS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Picture(caption, Markup(svg), wide)


def _accuracy_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("accuracy on own held-out data (%)")


def _round_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel="round", xlim=(0, None))


def _bytes_axis(axes: Axes, largest_bytes: float) -> None:
    scale, unit = byte_unit(largest_bytes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale:g}"))
    axes.set_xlabel(f"uploaded by all clients so far ({unit})")
    axes.set_xlim(left=0)


def _marker(points: int) -> str:
    return "o" if points <= 30 else ""


def draw_accuracy(axes: Axes, curve: LearningCurve, x: NDArray[np.int64], majority: float | None) -> None:
    """Draw mean, band from p10 to p90, and worst client over `x`, with the majority-class baseline."""
    style: dict[str, Any] = {"marker": _marker(len(x)), "markersize": 3.0}
    axes.fill_between(x, curve.p10, curve.p90, color=ACCENT, alpha=0.16, linewidth=0, label="10th to 90th percentile")
    axes.plot(x, curve.mean, color=ACCENT, linewidth=1.9, label="mean over clients", **style)
    axes.plot(x, curve.worst, color=SERIES[1], linewidth=0.9, label="worst client", **style)
    if majority is not None:
        axes.axhline(majority, color=MUTED, linewidth=1.0, linestyle="--", label="majority class")
    _accuracy_axis(axes)
    axes.figure.legend(loc="outside upper left", ncols=4, fontsize=8, handlelength=1.6, columnspacing=1.2)


def draw_clients(axes: Axes, clients: NDArray[np.int64], accuracy: NDArray[np.float64], majority: float | None) -> None:
    """Draw each client's accuracy: sorted bars for up to 40 clients, beyond that a histogram over a rug."""
    few = len(clients) <= 40
    if few:
        axes.bar(range(len(clients)), accuracy, color=ACCENT, alpha=0.6, width=0.8 if len(clients) > 3 else 0.3)
        axes.set_xticks(range(len(clients)), [str(c) for c in clients], fontsize=7 if len(clients) > 20 else 9)
        axes.set_xlim(min(-0.6, len(clients) / 2 - 2), max(len(clients) - 0.4, len(clients) / 2 + 1))
        axes.set_xlabel("client, worst first")
        axes.grid(visible=False, axis="x")
        _accuracy_axis(axes)
        axes.set_ylim(0, 1.02)
    else:
        counts, _, _ = axes.hist(accuracy, bins=25, range=(0, 1), color=ACCENT, alpha=0.6, rwidth=0.92)
        rug = -0.06 * np.max(counts)
        ticks_y = np.tile([rug, rug / 4, np.nan], len(accuracy))  # one path with gaps, not a path for every client
        axes.plot(np.repeat(accuracy, 3), ticks_y, color=ACCENT, linewidth=0.5, alpha=0.6)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set(xlabel="accuracy on own held-out data (%)", ylabel="clients", xlim=(-0.01, 1.01))
    line = axes.axhline if few else axes.axvline
    line(float(accuracy.mean()), color=SERIES[1], linewidth=1.3, label="mean over clients")
    if majority is not None:
        line(majority, color=MUTED, linewidth=1.0, linestyle="--", label="majority class")
    axes.figure.legend(loc="outside upper left", ncols=2, fontsize=8, handlelength=1.6)


def draw_partition(figure: Figure, counts_NC: NDArray[np.int64]) -> None:
    """Draw which share of each client's samples falls into each class, under the number of samples it holds.

    Up to 40 clients keep their order and few enough cells carry their counts; more are ordered by their largest class.
    """
    clients, classes = counts_NC.shape
    few = clients <= 40
    if not few:
        counts_NC = counts_NC[by_largest_class(counts_NC)]
    totals_N = counts_NC.sum(axis=1)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4 if classes <= 20 else 6))
    top.stairs(totals_N, np.arange(clients + 1) - 0.5, fill=True, color=MUTED, alpha=0.55)
    top.set(ylabel="samples", ylim=(0, max(1, totals_N.max()) * 1.05))
    top.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    top.grid(visible=False, axis="x")
    top.tick_params(bottom=False)
    share_CN = (counts_NC / np.maximum(totals_N, 1)[:, None]).T
    image = below.imshow(share_CN, cmap=SHARES, vmin=0, vmax=1, aspect="auto", interpolation="none")
    below.grid(visible=False)
    below.set_xlabel("client" if few else f"{clients:,} clients, ordered by their largest class")
    below.set_ylabel("class")
    below.yaxis.set_major_locator(MaxNLocator(10, integer=True))
    below.xaxis.set_major_locator(MaxNLocator(20, integer=True))
    if few:
        below.set_xticks(range(clients))
        below.set_yticks(range(classes) if classes <= 20 else range(0, classes, 10))
    if clients <= 24 and classes <= 20:
        for client, label in zip(*np.nonzero(counts_NC), strict=True):
            below.text(client, label, str(counts_NC[client, label]), ha="center", va="center", fontsize=7.5, color=INK)
    bar = figure.colorbar(image, ax=[top, below], label="share of the client's samples (%)", pad=0.01, aspect=30)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.outline.set_visible(False)


def _single(draw: Callable[[Axes], None]) -> Callable[[Figure], None]:
    return lambda figure: draw(figure.subplots())


def run_pictures(record: Record) -> list[Picture]:
    """Return the figures of one run; what has no data is left out."""
    curve, figures = learning_curve(record), standing(record)
    majority = figures.get("majority_class")
    losses = [(entry["round"], entry["train_loss"]) for entry in record["rounds"] if entry["train_loss"] is not None]
    clients, accuracy = client_accuracies(record)
    counts_NC = label_counts(record)

    def over_rounds(axes: Axes) -> None:
        draw_accuracy(axes, curve, curve.round, majority)
        _round_axis(axes)

    def over_bytes(axes: Axes) -> None:
        draw_accuracy(axes, curve, curve.upload_bytes, majority)
        _bytes_axis(axes, curve.upload_bytes[-1])

    def loss(axes: Axes) -> None:
        axes.plot(*zip(*losses, strict=True), color=ACCENT, linewidth=1.6, marker=_marker(len(losses)), markersize=3)
        axes.set_ylabel("training loss of the sampled clients")
        _round_axis(axes)

    pictures = []
    if len(curve.round):
        pictures.append(picture("Accuracy over rounds", _single(over_rounds)))
        pictures.append(picture("Accuracy for the bytes uploaded", _single(over_bytes)))
    if losses:
        pictures.append(picture("Training loss", _single(loss)))
    if len(clients):
        pictures.append(picture("Accuracy of each client", _single(lambda a: draw_clients(a, clients, accuracy, majority))))
    if counts_NC is not None:
        height_in = 1.9 + 0.2 * min(max(counts_NC.shape[1], 6), 20)
        pictures.append(picture("Who holds which labels", lambda f: draw_partition(f, counts_NC), height_in, wide=True))
    return pictures


# ---------------------------------------------------------------------------------------------- pages


@dataclass(frozen=True)
class Table:
    """A table for a page or a terminal; all columns but the first `text_columns` hold numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    note: str = ""

    def without_empty_columns(self) -> Table:
        """Leave out the columns in which nothing is known."""
        kept = [i for i in range(len(self.head)) if i < self.text_columns or any(row[i] != MISSING for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        return Table(self.title, [self.head[i] for i in kept], rows, self.text_columns, self.note)


@dataclass(frozen=True)
class Card:
    """One key figure at the head of a page."""

    label: str
    value: str
    hint: str = ""


@dataclass(frozen=True)
class Failure:
    """One client that failed in one round: the last line of its error, and all of it."""

    round: int
    client: int
    summary: str
    error: str


@dataclass(frozen=True)
class Page:
    """What report.html renders; sections without content do not appear."""

    title: str
    subtitle: str
    status: str = ""
    reason: str = ""
    cards: Sequence[Card] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    failures: Sequence[Failure] = ()
    failures_left_out: int = 0
    spec: str = ""
    versions: str = ""

    def write(self, path: Path) -> Path:
        """Write the page to `path` and return it."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        html = environment.get_template("report.html").render(page=self)
        path.write_text(html, encoding="utf-8", newline="\n")
        return path


def run_cards(record: Record) -> list[Card]:
    """Return the key figures of one run that are known."""
    figures, spec = standing(record), record["spec"]
    value = {key: KEY_FIGURES[key](figures.get(key)) for key in KEY_FIGURES}
    up, dense = figures.get("bytes_up"), figures.get("bytes_up_dense")
    federation = spec.get("federation", {})
    cards = [
        Card("accuracy", value["accuracy_mean"], f"± {value['accuracy_std']} over clients"),
        Card("worst client", value["accuracy_worst"], f"10th percentile {value['accuracy_p10']}"),
        Card("majority class", value["majority_class"], "the baseline to beat"),
        Card("uploaded", value["bytes_up"], f"{dense / up:.3g}× less than dense" if up and dense and dense != up else "dense"),
        Card("downloaded", value["bytes_down"]),
        Card("privacy, ε", value["epsilon"], f"δ = {spec.get('privacy', {}).get('delta', 'unknown')}"),
        Card("simulated time", value["sim_s"], "on the devices"),
        Card("simulated energy", value["energy_j"], "on the devices"),
        Card("wall-clock time", value["wall_s"], "of this simulation"),
        Card("rounds", value["rounds"], f"of {federation['rounds']} planned" if "rounds" in federation else ""),
    ]
    return [card for card in cards if card.value != MISSING]


def final_table(record: Record) -> Table:
    """Return every final figure, rounded for people and exactly as recorded; strategies' own ones last."""
    rows = []
    for key, value in sorted(standing(record).items(), key=lambda item: [*KEY_FIGURES, item[0]].index(item[0])):
        known = KEY_FIGURES.get(key)
        exact = MISSING if value is None else json.dumps(value)
        rows.append((known.label if known else key, key, known.unit if known else "", known(value) if known else exact, exact))
    title = "Final figures" if record["status"] in ENDED_WELL else "Figures so far"
    return Table(title, ("figure", "key", "unit", "value", "as recorded"), rows, text_columns=3)


def run_failures(record: Record) -> list[Failure]:
    """Return all failures of clients in the order they happened."""
    return [
        Failure(entry["round"], failed["client"], (failed["error"].strip().splitlines() or ["unknown"])[-1], failed["error"])
        for entry in record["rounds"]
        for failed in entry["failed"]
    ]


def spec_toml(spec: Mapping[str, Any]) -> str:
    """Return a spec as TOML, without the fields that are None."""

    def known(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: known(item) for key, item in value.items() if item is not None}
        return [known(item) for item in value if item is not None] if isinstance(value, list) else value

    return tomli_w.dumps(known(spec))


def run_page(record: Record, failures_shown: int = 200) -> Page:
    """Return the report of one run, ready to write."""
    failures = run_failures(record)
    started, ended = (record[key] or MISSING for key in ("started", "ended"))
    when = f"started {started} · ended {ended}".replace("T", " ").replace("+00:00", " UTC")
    return Page(
        title=record["name"],
        subtitle=f"{record['id']} · {when}",
        status=record["status"],
        reason=record["reason"] or "",
        cards=run_cards(record),
        pictures=run_pictures(record),
        tables=[final_table(record)] if standing(record) else [],
        failures=failures[:failures_shown],
        failures_left_out=max(0, len(failures) - failures_shown),
        spec=spec_toml(record["spec"]),
        versions=" · ".join(f"{name} {version}" for name, version in sorted(record["versions"].items())),
    )


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    Raises
    ------
    RunError
        If there is no record to report on.
    """
    return run_page(load_record(run_dir)).write(Path(run_dir) / "report.html")


# ---------------------------------------------------------------------------------------------- comparison

ACCURACY_FIGURES = ("accuracy_mean", "accuracy_std", "accuracy_p10", "accuracy_worst", "majority_class")
COST_FIGURES = ("bytes_up", "bytes_up_dense", "bytes_down", "wall_s", "sim_s", "energy_j", "epsilon")
ROW_FIGURES = ACCURACY_FIGURES + COST_FIGURES
GROUP_FIGURES = tuple(key for key in ROW_FIGURES if key not in ("accuracy_std", "majority_class", "bytes_up_dense"))
PAIRED_FIGURES = ("accuracy_mean", "accuracy_p10", "accuracy_worst", "bytes_up")
NOT_THE_METHOD = ("name", "seed", "engine", "tracking")  # parts of a spec that say nothing about what is compared


@dataclass(frozen=True)
class Row:
    """One run: who it is and its figures (keys of `ROW_FIGURES`, None where unknown)."""

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
    for table in comparison_tables(compared):
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
    costs = Table(
        "Runs: cost",
        ("run", *_heads(COST_FIGURES)),
        [(r.id, *_cells(r, COST_FIGURES)) for r in compared.rows],
        note="Uploads and downloads of all clients; dense: the uploads, had they not been compressed.",
    )
    groups = Table(
        "Methods over seeds",
        ("method", "seeds", *_heads(GROUP_FIGURES)),
        [
            (g.label, ", ".join(map(str, g.seeds)), *(_spread(k, g.figures.get(k)) for k in GROUP_FIGURES))
            for g in compared.groups
        ],
        text_columns=2,
        note="Mean ± sample standard deviation over seeds, of runs that finished or were stopped by a rule.",
    )
    pairs = Table(
        "Paired differences on common seeds",
        ("first", "second", "figure", "verdict", "seeds", "difference", "std. error"),
        [
            (p.first, p.second, KEY_FIGURES[p.figure].short, _verdict(p), str(len(p.seeds)), *_difference(p))
            for p in compared.pairs
        ],
        text_columns=4,
        note="Difference: first − second. Separates: at least three seeds and a mean difference larger than twice its standard "
        "error; not corrected for the number of comparisons.",
    )
    return [table.without_empty_columns() for table in (accuracies, costs, groups, pairs) if table.rows]


def _heads(keys: Iterable[str]) -> list[str]:
    return [KEY_FIGURES[key].short for key in keys]


def _cells(row: Row, keys: Iterable[str]) -> list[str]:
    return [KEY_FIGURES[key](row.figures[key]) for key in keys]


def _spread(key: str, spread: Spread | None) -> str:
    if spread is None:
        return MISSING
    mean, std = KEY_FIGURES[key](spread.mean), KEY_FIGURES[key](spread.std)
    return f"{mean.removesuffix(' %')} ± {std}" if spread.std else mean


def _difference(pair: Paired) -> tuple[str, str]:
    """Return the mean difference, with its sign, and its standard error; accuracies in percentage points."""
    if pair.figure.startswith("accuracy"):
        return f"{100 * pair.mean:+.2f} pp", f"{100 * pair.standard_error:.2f} pp"
    write = KEY_FIGURES[pair.figure]
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
    rows = []
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
                figures={key: figures.get(key) for key in ROW_FIGURES},
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
        for key in PAIRED_FIGURES
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
    for key in GROUP_FIGURES:
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
    """Return accuracy over rounds and over bytes: a line a run, a colour a method."""
    curves = [(learning_curve(record), method) for record, method in zip(records, methods, strict=True)]
    curves = [(curve, method) for curve, method in curves if len(curve.round)]
    if not curves:
        return []
    order = list(dict.fromkeys(method for _, method in curves))

    def draw(figure: Figure, over: str) -> None:
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
        else:
            _bytes_axis(axes, max(curve.upload_bytes[-1] for curve, _ in curves))
        short = [name if len(name) <= 70 else f"{name[:69]}…" for name in order]
        columns = 1 if max(map(len, short)) > 30 else 2
        handles, _ = axes.get_legend_handles_labels()
        figure.legend(handles, short, loc="outside lower left", ncols=columns, fontsize=8, handlelength=1.8)

    height_in = 3.3 + 0.19 * len(order)
    return [
        picture("Accuracy over rounds", lambda figure: draw(figure, "round"), height_in),
        picture("Accuracy for the bytes uploaded", lambda figure: draw(figure, "upload_bytes"), height_in),
    ]
