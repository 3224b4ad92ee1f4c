"""Pictures of reports: bit lines and the ranges that convert them, energy by component, accuracy against A/D operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .report import LayerReport, ReramReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def bit_lines(report: ReramReport) -> Figure:
    """Draw how often each level occurs, a panel a layer; a TRQ setting's dense range is shaded if it is for all columns."""
    figure = _figure(7, 1.6 * len(report.layers))
    panels = figure.subplots(len(report.layers), sharex=True, squeeze=False)[:, 0]
    shared = len(report.trq) == len(report.layers)
    for i, (axes, layer) in enumerate(zip(panels, report.layers, strict=True)):
        _levels(axes, layer)
        if shared:
            trq = report.trq[i]
            end = trq.start + trq.fine_step * 2**trq.fine_bits
            axes.axvspan(trq.start - 0.5, end - 0.5, alpha=0.2, label=f"R1: {trq.fine_bits} bits, R2: {trq.coarse_bits} bits")
            axes.legend(loc="upper right")
    panels[-1].set_xlabel("bit line")
    return figure


def _levels(axes: Axes, layer: LayerReport) -> None:
    axes.bar(range(len(layer.levels)), layer.levels, width=1.0)
    axes.set_yscale("log")
    axes.set_ylabel("share")
    axes.set_title(f"{layer.name}: {layer.mean_ops:.2f} operations a conversion", loc="left", fontsize="medium")


def energy_by_component(reports: Mapping[str, ReramReport]) -> Figure:
    """Draw the low ends of each report's components on top of each other, a bar a report; whiskers reach to the high ends."""
    figure = _figure(1.5 + 1.5 * len(reports), 4)
    axes = figure.subplots()
    names = [name for report in reports.values() for name in report.energy_j]
    bottoms = [0.0] * len(reports)
    for name in dict.fromkeys(names):
        heights = [report.energy_j.get(name, 0.0) for report in reports.values()]
        axes.bar(list(reports), heights, bottom=bottoms, label=name)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    spread = [report.energy_high_j - report.energy_low_j for report in reports.values()]
    if any(spread):
        axes.errorbar(list(reports), bottoms, yerr=[[0.0] * len(spread), spread], fmt="none", capsize=4, color="black")
    axes.set_ylabel("energy, J")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def accuracy_against_operations(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draw accuracy (0 to 1) over mean A/D operations of a conversion, a curve a kind of converter."""
    figure = _figure(6, 4)
    axes = figure.subplots()
    for name, points in curves.items():
        operations, accuracies = zip(*sorted(points), strict=True)
        axes.plot(operations, [100 * accuracy for accuracy in accuracies], marker="o", label=name)
    axes.set_xlabel("A/D operations a conversion")
    axes.set_ylabel("accuracy, %")
    axes.legend()
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
