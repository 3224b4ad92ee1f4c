"""The roofline chart: what a device attains at each intensity, and where operators lie under it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .estimate import RooflineReport


def write_chart(reports: Sequence[RooflineReport], path: Path) -> None:
    """Draw the roofs of one or several devices, and each operator as a point whose area is its share of the time.

    Parameters
    ----------
    path : Path
        The suffix says what is written: .svg, .png or .pdf.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    points = [(op.intensity, op) for report in reports for op in report.operators if op.intensity]
    intensities = [intensity for intensity, _ in points] + [r.peak_flops_per_s / r.memory_bytes_per_s for r in reports]
    span = np.geomspace(min(intensities, default=0.1) / 3, max(intensities, default=100) * 3, 200)
    for place, report in enumerate(reports):
        roof = np.minimum(report.peak_flops_per_s, span * report.memory_bytes_per_s)
        axes.plot(span, roof, color=f"C{place}", linewidth=1.6, label=f"{report.device}, {report.precision}")
        rows = [op for op in report.operators if op.intensity]
        if rows:
            shares = np.array([op.time_s for op in rows]) / (report.time_s or 1.0)
            axes.scatter(
                np.array([op.intensity for op in rows], dtype=float),
                [op.attainable_flops_per_s for op in rows],
                s=10 + 900 * shares,
                color=f"C{place}",
                alpha=0.45,
                edgecolors="none",
            )
            for op in sorted(rows, key=lambda op: -op.time_s)[:4]:
                axes.annotate(
                    op.name,
                    (op.intensity or 0.0, op.attainable_flops_per_s),
                    fontsize=6.5,
                    xytext=(3, 4),
                    textcoords="offset points",
                )
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="attainable operations per second")
    axes.grid(visible=True, which="major", linewidth=0.4, alpha=0.5)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    figure.savefig(path)
