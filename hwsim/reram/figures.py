"""Pictures of reports: bit lines and the ranges that convert them, energy by component, accuracy against A/D operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .report import LayerReport, ReramReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase


def page(report: ReramReport) -> Figure:
    """Draw all that one report has on a page: bit lines on the left; power and, if it is known, accuracy on the right."""
    figure = _figure(13, max(6, 1.6 * len(report.layers)))
    grid = figure.add_gridspec(1, 2)
    right = figure.add_subfigure(grid[1])
    draw_bit_lines(figure.add_subfigure(grid[0]), report)
    if report.accuracy_crossbar is None:
        draw_power(right.subplots(), {"lossless": lossless(report), "these": report})
        return figure
    power, accuracy = right.subplots(2, 1)
    draw_power(power, {"lossless": lossless(report), "these": report})
    draw_accuracy(accuracy, report)
    return figure


def lossless(report: ReramReport) -> ReramReport:
    """Return what a report would say of energy with lossless converters: all other components are the same."""
    saved_j = report.energy_low_j * (report.energy_reduction - 1)
    adc_j = {"adc": report.energy_j["adc"] + saved_j}
    parts = {"energy_j": report.energy_j | adc_j, "energy_upper_j": report.energy_upper_j | adc_j}
    return report.model_copy(
        update=parts | {"energy_low_j": report.energy_low_j + saved_j, "energy_high_j": report.energy_high_j + saved_j}
    )


def draw_bit_lines(figure: FigureBase, report: ReramReport) -> None:
    """Draw how often each level occurs, a panel a layer; a TRQ setting's dense range is shaded if it is for all columns."""
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


def _levels(axes: Axes, layer: LayerReport) -> None:
    axes.bar(range(len(layer.levels)), layer.levels, width=1.0)
    axes.set_yscale("log")
    axes.set_ylabel("share")
    axes.set_title(f"{layer.name}: {layer.mean_ops:.2f} operations a conversion", loc="left", fontsize="medium")


def draw_power(axes: Axes, reports: Mapping[str, ReramReport]) -> None:
    """Draw the low ends of each report's components on top of each other, a bar a report; whiskers reach to the high ends.

    Power is energy over latency, which is the same for all converters.
    """
    names = [name for report in reports.values() for name, value in report.energy_j.items() if value]
    bottoms = [0.0] * len(reports)
    for name in dict.fromkeys(names):
        heights = [report.energy_j.get(name, 0.0) / report.latency_s for report in reports.values()]
        axes.bar(list(reports), heights, bottom=bottoms, label=name)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    spread = [(report.energy_high_j - report.energy_low_j) / report.latency_s for report in reports.values()]
    if any(spread):
        axes.errorbar(list(reports), bottoms, yerr=[[0.0] * len(spread), spread], fmt="none", capsize=4, color="black")
    axes.set_ylim(top=1.05 * max(bottom + more for bottom, more in zip(bottoms, spread, strict=True)))
    axes.set_ylabel("mean power, W")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def draw_accuracy(axes: Axes, report: ReramReport) -> None:
    """Draw accuracy against A/D operations: lines of what calibration tried on tuning data, crosses of test data.

    Accuracy is in points above that of integers; on tuning data, less a standard error.
    """
    tested = {
        "these": (report.trials, report.mean_ops, report.accuracy_crossbar),
        "calibrated uniform": (report.trials_uniform, report.mean_ops_uniform, report.accuracy_uniform),
    }
    for name, (trials, mean_ops, accuracy) in tested.items():
        tried = sorted((trial.mean_ops, -100 * trial.lost) for trial in trials)
        (line,) = axes.plot([x for x, _ in tried], [y for _, y in tried], marker=".", label=f"{name}, tuning")
        if accuracy is not None and report.accuracy_int is not None:
            gained = 100 * (accuracy - report.accuracy_int)
            axes.plot([mean_ops], [gained], "X", color=line.get_color(), markersize=9, label=f"{name}, test")
    axes.set_xlabel("A/D operations a conversion")
    axes.set_ylabel("accuracy, points above integers'")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -20))
    axes.legend()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
