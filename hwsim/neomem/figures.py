"""A picture of a report: how the run went, and how it compares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .report import NeoMemReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_chart(report: NeoMemReport, path: Path) -> None:
    """Draw the picture into a file; its suffix says what is written: .svg, .png or .pdf."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    draw_chart(figure, report)
    figure.savefig(path)


def draw_chart(figure: Figure, report: NeoMemReport) -> None:
    """Draw the share of accesses to fast memory and NeoMem's threshold over time, and the speed over each other policy."""
    series, has_threshold = report.series, max(report.series.theta) >= 0
    places: list[Any] = [["hits", "compared"], ["threshold", "compared"]][: 1 + has_threshold]
    axes = figure.subplot_mosaic(places, height_ratios=[2, 1][: 1 + has_threshold])
    axes["hits"].plot(series.time_s, series.fast_hit_ratio, linewidth=1.6)
    axes["hits"].set(ylabel="accesses to fast memory", ylim=(0, 1.02), title=report.policy)
    lowest = axes["hits"]
    if has_threshold:
        lowest = axes["threshold"]
        lowest.plot(series.time_s, series.theta, color="C1", linewidth=1.6, drawstyle="steps-post")
        lowest.set(ylabel="threshold, accesses", yscale="log")
        lowest.sharex(axes["hits"])
        axes["hits"].tick_params(labelbottom=False)
    lowest.set_xlabel("simulated time, s")
    factors = report.speedup.model_dump()
    bars = axes["compared"].barh(list(factors), list(factors.values()))
    axes["compared"].bar_label(bars, fmt="%.2f", padding=3)
    axes["compared"].axvline(1, color="black", linewidth=0.8)
    axes["compared"].margins(x=0.15)
    axes["compared"].invert_yaxis()
    axes["compared"].set(xlabel="time of the policy over that of this one", title="compared with")
