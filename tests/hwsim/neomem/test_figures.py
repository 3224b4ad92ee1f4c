"""The picture of a report."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from neomem_runs import synthetic

from fedcosim.hwsim.neomem import TraceStore, estimate
from fedcosim.hwsim.neomem.figures import draw_chart, write_chart
from fedcosim.hwsim.simulator import Job


def test_picture_shows_the_run_and_every_policy_compared_with():
    """It is drawn from the report alone."""
    report = estimate(synthetic(against=["pebs", "tpp"]), Job(), TraceStore())
    draw_chart(figure := Figure(), report)
    hits, compared, threshold = figure.axes
    assert hits.lines[0].get_ydata().tolist() == report.series.fast_hit_ratio
    assert threshold.lines[0].get_ydata().tolist() == report.series.theta
    assert [label.get_text() for label in compared.get_yticklabels()] == ["first_touch", "tpp", "pebs", "all_fast"]
    assert [bar.get_width() for bar in compared.patches] == [
        *(report.speedup.first_touch, report.speedup.tpp, report.speedup.pebs, report.speedup.all_fast)
    ]


def test_policies_without_a_threshold_have_none_drawn():
    draw_chart(figure := Figure(), estimate(synthetic(policy="pebs"), Job(), TraceStore()))
    assert len(figure.axes) == 2


@pytest.mark.parametrize(("suffix", "head"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_files_suffix_says_what_is_written(suffix, head, tmp_path):
    path = tmp_path / f"chart.{suffix}"
    write_chart(estimate(synthetic(), Job(), TraceStore()), path)
    assert path.read_bytes().startswith(head)
