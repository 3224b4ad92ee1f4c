"""Figures show what reports say."""

from __future__ import annotations

import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from fedcosim.hwsim.reram import figures
from fedcosim.hwsim.reram.adc import AdcOptions
from fedcosim.hwsim.reram.calibrate import Trial
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


@pytest.fixture
def tried(report):
    """The report, had it run samples."""
    known = {"accuracy_int": 0.9, "accuracy_uniform": 0.8, "accuracy_crossbar": 0.85}
    trials = [Trial(mean_ops=4.0, lost=0.01), Trial(mean_ops=3.0, lost=0.1)]
    return report.model_copy(update=known | {"trials": trials, "trials_uniform": trials[:1]})


def test_accuracy_is_drawn_in_the_order_of_operations(tried):
    """Points below integers': what was tried as lines, what was chosen as crosses."""
    axes = Figure().subplots()
    figures.draw_accuracy(axes, tried)
    these, test, uniform, uniform_test = (line.get_xydata().tolist() for line in axes.lines)
    assert these == [[3, -10], [4, -1]]
    assert test == [[tried.mean_ops, pytest.approx(-5)]]
    assert uniform == [[4, -1]]
    assert uniform_test == [[tried.mean_ops_uniform, pytest.approx(-10)]]


def test_a_page_shows_accuracy_where_it_is_known(tried, report):
    assert len(figures.page(tried).axes) == len(figures.page(report).axes) + 1


def test_figures_import_matplotlib_only_when_drawn():
    code = "import sys, fedcosim.hwsim.reram.figures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
