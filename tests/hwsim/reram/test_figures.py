"""Figures show what reports say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedcosim.hwsim.reram import figures
from fedcosim.hwsim.reram.simulator import LayerShape, ReramRequest, estimate


@pytest.fixture(scope="module")
def report():
    return estimate(
        ReramRequest(mode="stats", layers=[LayerShape(name="fc", inputs=200, outputs=10), LayerShape(inputs=9, outputs=9)])
    )


def test_bit_lines_have_a_panel_a_layer_and_shade_the_dense_range(report):
    panels = figures.bit_lines(report).axes
    assert [len(axes.patches) - 1 for axes in panels] == [len(layer.levels) for layer in report.layers]
    shaded = panels[0].patches[-1]
    assert shaded.get_width() == report.trq[0].fine_step * 2 ** report.trq[0].fine_bits


def test_components_add_up_to_the_total(report):
    (axes,) = figures.energy_by_component({"a": report, "b": report}).axes
    tops = [bar.get_y() + bar.get_height() for bar in axes.patches]
    assert max(tops) == pytest.approx(report.energy_low_j)
    assert len(axes.patches) == 2 * len(report.energy_j)


def test_accuracy_is_drawn_in_the_order_of_operations():
    (axes,) = figures.accuracy_against_operations({"trq": [(4.0, 0.9), (3.0, 0.8)]}).axes
    assert axes.lines[0].get_xydata().tolist() == [[3, 80], [4, 90]]


def test_figures_import_matplotlib_only_when_drawn():
    code = "import sys, fedcosim.hwsim.reram.figures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
