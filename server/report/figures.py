"""The figures of reports and comparisons, as inline SVG: the same record gives the same bytes.

Shapes: N = clients, C = classes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from .reading import (
    LearningCurve,
    Record,
    by_largest_class,
    byte_unit,
    client_accuracies,
    label_counts,
    learning_curve,
    loss_curves,
    retrieval_curve,
    standing,
)

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


OVER = {
    "sim_s": ("Accuracy after simulated time", "seconds on the simulated devices and links"),
    "energy_j": ("Accuracy for simulated energy", "joules of all simulated devices so far, at most"),
}
"""Costs that accuracy is drawn over where they are known: the figure's caption, and its axis."""


def _cost_axis(axes: Axes, cost: str) -> None:
    axes.set_xlabel(OVER[cost][1])
    axes.set_xlim(left=0)


def _marker(points: int) -> str:
    return "o" if points <= 30 else ""


def draw_accuracy(axes: Axes, curve: LearningCurve, x: NDArray[Any], majority: float | None) -> None:
    """Draw mean, band from p10 to p90, and worst client over `x`, with the majority-class baseline."""
    style: dict[str, Any] = {"marker": _marker(len(x)), "markersize": 3.0}
    axes.fill_between(x, curve.p10, curve.p90, color=ACCENT, alpha=0.16, linewidth=0, label="10th to 90th percentile")
    axes.plot(x, curve.mean, color=ACCENT, linewidth=1.9, label="mean over clients", **style)
    axes.plot(x, curve.worst, color=SERIES[1], linewidth=0.9, label="worst client", **style)
    if majority is not None:
        axes.axhline(majority, color=MUTED, linewidth=1.0, linestyle="--", label="majority class")
    _accuracy_axis(axes)
    axes.figure.legend(loc="outside upper left", ncols=4, fontsize=8, handlelength=1.6, columnspacing=1.2)


def draw_retrieval(axes: Axes, rounds: Sequence[int], recalls: Sequence[float], **style: Any) -> None:
    """Draw the sum of recalls at 1, 5 and 10 over rounds."""
    axes.plot(rounds, recalls, marker=_marker(len(rounds)), markersize=3, **style)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.set_ylabel("recalls at 1, 5, 10, both ways, added (%)")
    _round_axis(axes)


def draw_losses(figure: Figure, curves: Mapping[str, tuple[list[int], list[float]]]) -> None:
    """Draw training losses over rounds: side by side, each on its own scale, since types differ in what they are to learn."""
    for axes, (name, (rounds, losses)) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        axes.plot(rounds, losses, color=ACCENT, linewidth=1.6, marker=_marker(len(rounds)), markersize=3)
        axes.set_title(name, fontsize=9)
        axes.set_ylabel("training loss of the sampled clients" if len(curves) == 1 else "training loss")
        _round_axis(axes)


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
    """Return the figures of one run; what has no data is left out, and one round makes no curve."""
    curve, figures = learning_curve(record), standing(record)
    majority = figures.get("majority_class")
    losses = loss_curves(record)
    clients, accuracy = client_accuracies(record)
    counts_NC = label_counts(record)

    def over_rounds(axes: Axes) -> None:
        draw_accuracy(axes, curve, curve.round, majority)
        _round_axis(axes)

    def over_bytes(axes: Axes) -> None:
        draw_accuracy(axes, curve, curve.upload_bytes, majority)
        _bytes_axis(axes, curve.upload_bytes[-1])

    def over_cost(axes: Axes, cost: str) -> None:
        draw_accuracy(axes, curve, getattr(curve, cost), majority)
        _cost_axis(axes, cost)

    rounds, recalls, chance = retrieval_curve(record)

    def retrieval(axes: Axes) -> None:
        draw_retrieval(axes, rounds, recalls, color=ACCENT, linewidth=1.6, label="mean over clients with pairs")
        axes.plot(rounds, chance, color=MUTED, linewidth=1.0, linestyle="--", label="by chance")
        axes.figure.legend(loc="outside upper left", ncols=2, fontsize=8, handlelength=1.6)

    pictures = []
    if len(rounds) > 1:
        pictures.append(picture("Retrieval over rounds", _single(retrieval)))
    in_rounds = record["spec"].get("federation", {}).get("rounds") != 1
    if in_rounds and len(curve.round):
        pictures.append(picture("Accuracy over rounds", _single(over_rounds)))
        pictures.append(picture("Accuracy for the bytes uploaded", _single(over_bytes)))
        known = [cost for cost in OVER if curve.knows(cost)]
        pictures += [picture(OVER[cost][0], _single(partial(over_cost, cost=cost))) for cost in known]
    if in_rounds and losses:
        pictures.append(picture("Training loss", lambda f: draw_losses(f, losses), wide=len(losses) > 1))
    if len(clients):
        pictures.append(picture("Accuracy of each client", _single(lambda a: draw_clients(a, clients, accuracy, majority))))
    if counts_NC is not None:
        height_in = 1.9 + 0.2 * min(max(counts_NC.shape[1], 6), 20)
        pictures.append(picture("Who holds which labels", lambda f: draw_partition(f, counts_NC), height_in, wide=True))
    return pictures
