"""The roofline chart: what a device attains at each intensity, and where operators lie under it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .estimate import RooflineReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_chart(reports: Sequence[RooflineReport], path: Path) -> None:
    """Draw the chart into a file; its suffix says what is written: .svg, .png or .pdf."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    draw_chart(figure, reports)
    figure.savefig(path)


def draw_chart(figure: Figure, reports: Sequence[RooflineReport]) -> None:
    """Draw the roofs of one or several devices, and each operator as a point whose area is its share of the time."""
    axes = figure.subplots()
    attained = [op.intensity for report in reports for op in report.operators if op.intensity]
    ridges = [report.peak_flops_per_s / report.memory_bytes_per_s for report in reports]
    span = np.geomspace(min(attained + ridges) / 3, max(attained + ridges) * 3, 200)
    for place, report in enumerate(reports):
        roof = np.minimum(report.peak_flops_per_s, span * report.memory_bytes_per_s)
        axes.plot(span, roof, color=f"C{place}", linewidth=1.6, label=f"{report.device}, {report.precision}")
        rows = [op for op in report.operators if op.intensity]
        axes.scatter(
            np.array([op.intensity for op in rows], dtype=float),
            [op.attainable_flops_per_s for op in rows],
            s=[10 + 900 * op.time_s / report.time_s for op in rows],
            color=f"C{place}",
            alpha=0.45,
            edgecolors="none",
        )
        for op in sorted(rows, key=lambda op: -op.time_s)[:4]:
            at = (op.intensity or 0.0, op.attainable_flops_per_s)
            axes.annotate(op.name, at, fontsize=6.5, xytext=(3, 4), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="attainable operations per second")
    axes.legend(frameon=False, loc="lower right", fontsize=8)
