"""Figures show what reports say."""

from __future__ import annotations

import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from fedcosim.hwsim.reram import figures
from fedcosim.hwsim.reram.adc import AdcOptions
from fedcosim.hwsim.reram.simulator import LayerShape, ReramRequest, estimate

LAYERS = [LayerShape(name="fc", inputs=200, outputs=10), LayerShape(inputs=9, outputs=9)]


@pytest.fixture(scope="module")
def report():
    return estimate(ReramRequest(mode="stats", layers=LAYERS))


def test_bit_lines_have_a_panel_a_layer_and_shade_the_dense_range(report):
    figure = Figure()
    figures.draw_bit_lines(figure, report)
    assert [len(axes.patches) - 1 for axes in figure.axes] == [len(layer.levels) for layer in report.layers]
    shaded = figure.axes[0].patches[-1]
    assert shaded.get_width() == report.trq[0].fine_step * 2 ** report.trq[0].fine_bits


def test_components_add_up_to_the_total(report):
    axes = Figure().subplots()
    figures.draw_power(axes, {"a": report, "b": report})
    tops = [bar.get_y() + bar.get_height() for bar in axes.patches]
    assert max(tops) == pytest.approx(report.energy_low_j / report.latency_s)
    assert len(axes.patches) == 2 * sum(value > 0 for value in report.energy_j.values())


def test_lossless_converters_are_drawn_as_an_estimate_of_them_says(report):
    asked = ReramRequest(mode="stats", layers=LAYERS, adc=AdcOptions(kind="ideal"))
    expected, drawn = estimate(asked), figures.lossless(report)
    assert drawn.energy_j == pytest.approx(expected.energy_j)
    assert drawn.energy_low_j == pytest.approx(expected.energy_low_j)
    assert drawn.energy_high_j == pytest.approx(expected.energy_high_j)


def test_accuracy_is_drawn_in_the_order_of_operations():
    axes = Figure().subplots()
    figures.draw_accuracy(axes, {"trq": [(4.0, 0.9), (3.0, 0.8)]})
    assert axes.lines[0].get_xydata().tolist() == [[3, 80], [4, 90]]


def test_a_page_shows_accuracy_where_it_is_known(report):
    """Three kinds of converters, lossless ones at 8 operations."""
    known = report.model_copy(update={"accuracy_int": 0.9, "accuracy_uniform": 0.8, "accuracy_crossbar": 0.85})
    assert figures.points(report) == {}
    assert figures.points(known)["lossless"] == [(pytest.approx(8), 0.9)]
    assert len(figures.page(known).axes) == len(figures.page(report).axes) + 1


def test_figures_import_matplotlib_only_when_drawn():
    code = "import sys, fedcosim.hwsim.reram.figures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
