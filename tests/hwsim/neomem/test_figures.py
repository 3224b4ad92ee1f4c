"""The picture of a report."""

from __future__ import annotations

import io

from neomem_runs import synthetic

from fedcosim.hwsim.neomem import TraceStore, estimate
from fedcosim.hwsim.neomem.figures import figure
from fedcosim.hwsim.simulator import Job


def test_picture_shows_the_run_and_every_policy_compared_with():
    """It is drawn from the report alone."""
    report = estimate(synthetic(against=["pebs", "tpp"]), Job(), TraceStore())
    picture = figure(report)
    over_time, compared, _ = picture.axes
    assert over_time.lines[0].get_ydata().tolist() == report.series.fast_hit_ratio
    assert [label.get_text() for label in compared.get_yticklabels()] == ["first_touch", "tpp", "pebs", "all_fast"]
    picture.savefig(io.BytesIO(), format="png")
