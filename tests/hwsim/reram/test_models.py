"""What is derived from bit lines: calibration, statistics without data, energy, phases, imperfections."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom

from fedcosim.hwsim.reram import energy, phases, stats
from fedcosim.hwsim.reram.adc import AdcOptions, Trq, TrqParameters, Uniform, table
from fedcosim.hwsim.reram.calibrate import (
    CalibrationOptions,
    Choice,
    Histogram,
    Layer,
    Setting,
    calibrate,
    predicted_error,
)
from fedcosim.hwsim.reram.crossbar import CrossbarOptions, Crossbars, Tally
from fedcosim.hwsim.reram.energy import EnergyOptions
from fedcosim.hwsim.reram.nonideal import AnalogCrossbars, NonidealOptions
from fedcosim.hwsim.reram.phases import Shape, WorkloadOptions
from fedcosim.hwsim.simulator import HwsimError

CROSSBAR = CrossbarOptions()


def counted(options, seed=0, inputs=200, vectors=64):
    """Return crossbars with random contents, activations, and their histogram."""
    stream = np.random.default_rng(seed)
    weight = np.clip(np.rint(stream.normal(0, 32, (1, 20, inputs))), -127, 127).astype(int)
    x = np.clip(np.rint(stream.normal(0, 60, (vectors, 1, inputs))), 0, 255).astype(np.uint16)
    crossbars, tally = Crossbars(weight, options), Tally.with_histogram(options)
    exact = crossbars.multiply(x, table([Uniform(options.full_bits)], options), tally)
    return crossbars, x, Histogram.of(tally.histogram_CIY, inputs, options, float((exact.astype(float) ** 2).sum()), tally.idle)


@pytest.mark.parametrize("encoding", ["offset", "differential"])
@pytest.mark.parametrize("adc", [Uniform(4, 2), Uniform(3, 1), Trq(TrqParameters(fine_bits=2, coarse_bits=4, shift=1))])
def test_predicted_errors_are_near_simulated_ones(encoding, adc):
    """The prediction takes bit lines as independent, which clipping makes them least: it may be four times off, no more."""
    options = CrossbarOptions(encoding=encoding)
    crossbars, x, histogram = counted(options)
    levels = np.arange(options.y_max + 1)
    predicted = predicted_error(histogram, adc.convert(levels).value[None], levels)[0]
    error = crossbars.multiply(x, table([adc], options), Tally()) - crossbars.exact(x)
    simulated = float((error.astype(float) ** 2).sum()) / histogram.power
    assert simulated / 4 < predicted < 4 * simulated


@pytest.mark.parametrize("granularity", ["layer", "slice"])
def test_a_higher_price_buys_fewer_steps_and_more_error(granularity):
    """The trade-off that bisection relies on; and what is expected of a choice is what it does."""
    crossbars, x, histogram = counted(CROSSBAR)
    layer = Layer.search(histogram, AdcOptions(granularity=granularity), CROSSBAR)
    choices = [layer.cheapest(price) for price in (1e-7, 1e-4, 1e-2, 1)]
    assert all(a.steps >= b.steps and a.error <= b.error for a, b in pairwise(choices))
    tally = Tally.with_histogram(CROSSBAR)
    crossbars.multiply(x, table(choices[2].adcs, CROSSBAR), tally)
    settings = list(choices[2].settings) * (8 if granularity == "layer" else 1)
    steps = sum(
        setting.adc.steps(np.arange(129)) @ tally.histogram_CIY[column].sum(axis=0) for column, setting in enumerate(settings)
    )
    assert steps / tally.bit_lines == pytest.approx(choices[2].steps)


def test_calibration_takes_the_highest_price_that_the_budget_allows():
    """An oracle for bisection: accuracy is lost once error passes a limit."""
    _, _, histogram = counted(CROSSBAR)
    layer = Layer.search(histogram, AdcOptions(), CROSSBAR)
    found = calibrate([layer], CalibrationOptions(), lambda choices: 0.0 if choices[0].error < 1e-3 else 0.02)
    assert found.kept
    assert found.choices[0].error < 1e-3 <= layer.cheapest(found.price * 10 ** (1 / 3)).error
    unlabelled = calibrate([layer], CalibrationOptions(error=1e-3))
    assert unlabelled.choices == found.choices
    assert not calibrate([layer], CalibrationOptions(), lambda choices: 0.02).kept


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (np.ones((8, 8, 128)), "128 levels; bit lines of these crossbars have 129"),
        (np.ones((7, 8, 129)), "columns and cycles"),
        (-np.ones((8, 8, 129)), "not negative"),
        (np.zeros((8, 8, 129)), "not all 0"),
        (np.full((8, 8, 129), np.nan), "finite"),
        (np.arange(8 * 8 * 129.0).reshape(8, 8, 129), "the same total"),
    ],
)
def test_histograms_that_cannot_be_are_refused(counts, told):
    with pytest.raises(HwsimError, match=told):
        Histogram.of(counts, 100, CROSSBAR, 1.0)


def test_expected_bit_lines_of_one_bit_cells_are_binomial():
    """A tile of 128 rows and one of 72, against SciPy."""
    activation, weight = tuple(np.linspace(0.5, 0.02, 8)), tuple(np.linspace(0.6, 0.4, 8))
    histogram = stats.histogram(200, activation, weight, CROSSBAR)
    levels = np.arange(129)
    for column in (0, 5, 7):
        for cycle in (0, 3, 7):
            share = activation[cycle] * weight[column]
            expected = binom.pmf(levels, 128, share) + binom.pmf(levels, 72, share)
            np.testing.assert_allclose(histogram.counts_CIY[column, cycle], expected, atol=1e-12)
    idle = sum((1 - p) ** 128 + (1 - p) ** 72 for p in activation)
    assert histogram.idle == pytest.approx(8 * idle)


@pytest.mark.parametrize(("cell_bits", "dac_bits"), [(2, 1), (4, 2)])
def test_expected_bit_lines_of_wider_cells_match_drawn_ones(cell_bits, dac_bits):
    """Mean and variance over many rows of independent bits, drawn."""
    options = CrossbarOptions(cell_bits=cell_bits, dac_bits=dac_bits)
    activation, weight = (0.3,) * 8, (0.4,) * 8
    histogram = stats.histogram(128, activation, weight, options)
    stream = np.random.default_rng(0)
    digits = (stream.random((4000, 128, dac_bits)) < 0.3) @ (1 << np.arange(dac_bits))
    cells = (stream.random((4000, 128, cell_bits)) < 0.4) @ (1 << np.arange(cell_bits))
    y = (digits * cells).sum(axis=1)
    levels, share = np.arange(options.y_max + 1), histogram.counts_CIY[0, 0]
    mean = levels @ share
    assert share.sum() == pytest.approx(1)
    assert mean == pytest.approx(y.mean(), rel=0.02)
    assert (levels - mean) ** 2 @ share == pytest.approx(y.var(), rel=0.1)


def choice(adc, coarse=1.0):
    return Choice((Setting(adc, adc.coarse_steps, coarse, 0.0, 0.0, 0.0),))


def test_energy_of_lenet_by_hand():
    """949 536 conversions of 8 steps at 0.20833 pJ, and of 4 (case 14)."""
    full = 949_536 * energy.line_j(choice(Uniform(8)), EnergyOptions(), 8)
    assert full == pytest.approx(1.5826e-6, rel=1e-4)
    assert 949_536 * energy.line_j(choice(Uniform(4)), EnergyOptions(), 8) == pytest.approx(full / 2)


def test_tile_power_falls_by_less_than_the_converters():
    """The rest of a tile stays (case 15)."""
    assert energy.tile_power_w(1) == pytest.approx(0.330)
    assert energy.tile_power_w(1.6) == pytest.approx(0.258, abs=1e-4)
    assert energy.tile_power_w(2.3) == pytest.approx(0.2215, abs=1e-4)


def test_weighted_steps_add_up_to_a_full_conversion_and_leading_ones_are_dearer():
    """Skipping the large capacitors saves more than leaving out the small ones."""
    options = EnergyOptions(model="cdac_weighted")
    assert energy.range_j(Uniform(8), options, 8)[1] == pytest.approx(1.6667e-12)
    leading, trailing = Uniform(3, 32), Uniform(3, 1)
    assert energy.range_j(leading, options, 8)[1] > 1.4 * energy.range_j(trailing, options, 8)[1]


@pytest.mark.parametrize(
    ("bits", "picojoules"), [(4, 0.924), (5, 0.936), (6, 1.065), (7, 1.312), (8, 1.929), (9, 5.530), (10, 16.42)]
)
def test_murmanns_regression_gives_the_plug_ins_figures(bits, picojoules):
    """Evaluated from the same coefficients at 32 nm and 1.28 GS/s."""
    assert energy.conversion_j(EnergyOptions(model="murmann"), bits) * 1e12 == pytest.approx(picojoules, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "bits", "told"),
    [
        (EnergyOptions(model="murmann"), 3, "no figure for 3 bits"),
        (EnergyOptions(model="neurosim"), 10, "no figure for 10 bits"),
        (EnergyOptions(model="neurosim", node_nm=45), 8, "choose one of 22, 32, 65"),
        (EnergyOptions(node_nm=22), 8, "choose one of 32"),
        (EnergyOptions(), 11, "no figure for 11 bits"),
    ],
)
def test_nothing_is_extrapolated(options, bits, told):
    with pytest.raises(HwsimError, match=told) as refused:
        energy.conversion_j(options, bits)
    assert refused.value.code == "OUT_OF_RANGE"


def test_every_constant_has_a_source():
    def walk(part):
        for value in part.values():
            if isinstance(value, dict):
                if "value" in value:
                    yield value
                else:
                    yield from walk(value)

    found = list(walk(energy.constants()))
    assert len(found) > 30
    assert all(entry.keys() == {"value", "unit", "kind", "source"} for entry in found)
    assert {entry["kind"] for entry in found} == {"published", "derived", "assumption"}


def test_reads_drives_and_time_of_one_layer_by_hand():
    """400 -> 120, offset: 4 tiles of 960 columns are 32 crossbars, each read 8 times a vector."""
    shape = Shape("fc", "linear", 400, 120)
    work = phases.work(shape, choice(Uniform(8)), CROSSBAR, WorkloadOptions(samples=10))
    parts = energy.array_j(work, CROSSBAR)
    assert shape.crossbars(CROSSBAR) == 32
    assert parts["crossbar"] == pytest.approx(10 * 8 * 32 * 30e-12)
    assert parts["dac"] == pytest.approx(10 * 8 * 32 * 128 * 0.417e-12)
    assert parts["shift_add"] == pytest.approx(10 * 4 * 8 * 960 * 0.021e-12)
    assert energy.latency_s([work], CROSSBAR, "in_turn") == pytest.approx(10 * 0.8e-6)


def test_training_is_not_a_forward_pass():
    """Transposed matrices, digital gradients of weights, and writing: all three must be counted."""
    train = WorkloadOptions(phase="train", samples=600, epochs=2, batch_size=32, reprogram="step")
    assert train.writes == 2 * 19
    assert WorkloadOptions(phase="train", samples=600).writes == 1
    assert WorkloadOptions(samples=600).writes == 0
    assert phases.digital_macs(1000, 10, train) == 1200 * (1000 + 30)
    turned = Shape("fc", "linear", 400, 120).transposed()
    assert (turned.inputs, turned.outputs) == (120, 400)
    assert phases.endurance_warning(WorkloadOptions(phase="train", samples=10**6, batch_size=1, reprogram="step", rounds=2))
    assert not phases.endurance_warning(train)


def test_converters_are_chosen_anew_only_where_bit_lines_drifted():
    """A layer whose histogram is the same keeps its converter; total variation by hand."""
    _, _, histogram = counted(CROSSBAR)
    denser = Histogram.of(np.roll(histogram.counts_CIY, 1, axis=2), 200, CROSSBAR, histogram.power)
    assert histogram.distance(histogram) == 0
    spread = (histogram.counts_CIY - denser.counts_CIY).sum(axis=(0, 1))
    assert histogram.distance(denser) == pytest.approx(np.abs(spread).sum() / 2 / histogram.total)
    layers = [Layer.search(h, AdcOptions(), CROSSBAR) for h in (histogram, denser)]
    before = [layers[0].cheapest(1e-3)] * 2
    after, drifted = phases.recalibrate([histogram] * 2, [histogram, denser], before, layers, 1e-3)
    assert drifted == [1]
    assert after == [before[0], layers[1].cheapest(1e-3)]


@pytest.mark.parametrize(
    "effect",
    [
        {"programming_sigma": 0.2},
        {"on_off_ratio": 5.0, "programming_sigma": 0.05},
        {"stuck_on": 0.05},
        {"ir_drop": 0.2},
        {"offset_sigma": 2.0},
    ],
)
def test_imperfections_change_results_the_same_way_for_the_same_seed(effect):
    """An effect that has none is not modelled; one that is not seeded cannot be reproduced."""
    crossbars, x, _ = counted(CROSSBAR, vectors=8)
    lossless = table([Uniform(8)], CROSSBAR, resolution=2)

    def run(seed):
        noisy = AnalogCrossbars(crossbars.weight_GOK, CROSSBAR, NonidealOptions(seed=seed, **effect), "layer")
        return noisy.multiply(x, lossless, Tally())

    assert not np.array_equal(run(1), crossbars.exact(x))
    assert np.array_equal(run(1), run(1))
    assert np.array_equal(run(1), run(2)) == ("ir_drop" in effect)


def test_leakage_alone_is_subtracted():
    """A column of off cells measures the leak; only the smaller swing of cells that are on is left."""
    options = CrossbarOptions()
    leaky = AnalogCrossbars(np.zeros((1, 3, 100), int), options, NonidealOptions(on_off_ratio=4.0))
    x = np.full((2, 1, 100), 255, np.uint16)
    held = leaky.cells_GTOCR()[..., :100]
    assert set(np.unique(held)) == {0, 1}
    y = Tally.with_histogram(options)
    leaky.multiply(x, table([Uniform(8)], options, resolution=2), y)
    assert set(np.flatnonzero(y.histogram_CIY.sum(axis=(0, 1)))) == {0, 75}  # 100 cells of 1 - 1/4
