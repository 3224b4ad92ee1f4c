"""A picture of a report: how the run went, and how it compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .report import NeoMemReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(report: NeoMemReport) -> Figure:
    """Draw the share of accesses to fast memory and the threshold over time, and the speed over each other policy."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(10, 3.5), layout="constrained")
    over_time, compared = picture.subplots(1, 2)
    over_time.plot(report.series.time_s, report.series.fast_hit_ratio)
    over_time.set(xlabel="simulated time, s", ylabel="share of accesses to fast memory", ylim=(0, 1), title=report.policy)
    if max(report.series.theta) > 0:
        threshold = over_time.twinx()
        threshold.plot(report.series.time_s, report.series.theta, color="tab:orange", linewidth=0.8)
        threshold.set(ylabel="threshold, accesses", yscale="log")
    factors = {name: value for name, value in report.speedup.model_dump().items() if value is not None}
    compared.barh(list(factors), list(factors.values()))
    compared.axvline(1, color="black", linewidth=0.8)
    compared.set(xlabel=f"speed of {report.policy} over it")
    return picture
