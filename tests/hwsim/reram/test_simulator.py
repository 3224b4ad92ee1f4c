"""Requests in, reports out: what is asked is what is told, and what makes no sense is refused before work starts."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

from fedcosim.core.errors import SpecError
from fedcosim.core.options import validate
from fedcosim.hwsim.reram.adc import AdcOptions
from fedcosim.hwsim.reram.calibrate import CalibrationOptions
from fedcosim.hwsim.reram.crossbar import CrossbarOptions
from fedcosim.hwsim.reram.nonideal import NonidealOptions
from fedcosim.hwsim.reram.phases import WorkloadOptions
from fedcosim.hwsim.reram.simulator import LayerShape, ReramReport, ReramRequest, Samples, estimate
from fedcosim.hwsim.simulator import HwsimError, Job

LENET = [
    LayerShape(kind="conv", inputs=25, outputs=6, positions=784),
    LayerShape(kind="conv", inputs=150, outputs=16, positions=100),
    LayerShape(inputs=400, outputs=120),
    LayerShape(inputs=120, outputs=84),
    LayerShape(inputs=84, outputs=10),
]


@pytest.fixture(scope="module")
def trained():
    """A small network that knows which quadrant of an image is bright, and its data."""
    torch.manual_seed(0)
    y = torch.arange(4).repeat(150)
    x = torch.rand(600, 1, 8, 8) * 0.8
    for quadrant in range(4):
        rows, columns = 4 * (quadrant // 2), 4 * (quadrant % 2)
        x[y == quadrant, :, rows : rows + 4, columns : columns + 4] += 0.2
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:400]), y[:400]).backward()
        optimizer.step()
    return model.eval(), Samples(x[:64], x[400:480], y[400:480], x[480:], y[480:])


def run(trained, job=None, **fields):
    model, data = trained
    return estimate(ReramRequest(calibration=CalibrationOptions(accuracy_budget=0.02), **fields), job or Job(), model, data)


@pytest.mark.parametrize("encoding", ["offset", "differential"])
@pytest.mark.parametrize("granularity", ["layer", "slice"])
def test_a_calibrated_model_needs_fewer_steps_for_nearly_the_same_accuracy(trained, encoding, granularity):
    """The point of it all, on a network that trains in a second; sums of layers are totals."""
    report = run(trained, crossbar=CrossbarOptions(encoding=encoding), adc=AdcOptions(granularity=granularity))
    assert report.accuracy_float > 0.8
    assert report.accuracy_crossbar > report.accuracy_int - 0.05
    assert report.reduction > 1.5
    assert report.ad_operations_full == 8 * report.conversions
    assert sum(row.ad_operations for row in report.layers) == pytest.approx(report.ad_operations)
    assert sum(row.conversions for row in report.layers) == report.conversions
    assert sum(row.energy_adc_j for row in report.layers) == pytest.approx(report.energy_j["adc"])
    assert sum(report.areas_mm2.values()) == pytest.approx(report.area_mm2)
    assert report.mapped_mac_fraction == 1
    assert ReramReport.model_validate_json(report.model_dump_json()) == report
    again = run(trained, crossbar=CrossbarOptions(encoding=encoding), adc=AdcOptions(granularity=granularity, trq=report.trq))
    assert (again.ad_operations, again.accuracy_crossbar) == (report.ad_operations, report.accuracy_crossbar)


def test_lossless_converters_lose_nothing(trained):
    """Accuracy of integers, no reduction, no error, no warning of clipping."""
    report = run(trained, adc=AdcOptions(kind="ideal"), workers=2)
    assert report.accuracy_crossbar == report.accuracy_int
    assert (report.reduction, report.clipped, report.price) == (1, 0, None)
    assert [row.error_measured for row in report.layers] == [0, 0]


def test_both_ways_to_count_give_the_same_totals(trained):
    """One setting for all columns, told once or once a column: kernel's counters against histograms (acceptance D)."""
    once = run(trained)
    each = run(trained, adc=AdcOptions(trq=[p for p in once.trq for _ in range(8)]))
    for field in ("ad_operations", "clipped", "accuracy_crossbar", "conversions", "energy_low_j"):
        assert getattr(each, field) == pytest.approx(getattr(once, field), rel=1e-12)


def test_idle_cycles_can_be_skipped(trained):
    """Without conversions, hence without steps, and with the same products."""
    kept, skipped = (run(trained, adc=AdcOptions(kind="ideal", zero_skip=skip)) for skip in (False, True))
    assert skipped.conversions < kept.conversions
    assert skipped.ad_operations == 8 * skipped.conversions
    assert skipped.accuracy_crossbar == kept.accuracy_crossbar


def test_imperfect_cells_cost_accuracy_in_the_end(trained):
    """A sanity check of the whole chain: half of all cells stuck leaves guesses."""
    report = run(trained, adc=AdcOptions(kind="ideal"), nonideal=NonidealOptions(stuck_on=0.5, seed=1))
    assert report.accuracy_crossbar < report.accuracy_int - 0.3


def test_figures_are_of_the_whole_workload(trained):
    """Linear in samples and epochs; training adds transposes, gradients and writes, the last two as ranges."""
    one = run(trained, adc=AdcOptions(kind="ideal"))
    many = run(trained, adc=AdcOptions(kind="ideal"), workload=WorkloadOptions(samples=50, epochs=3))
    assert many.conversions == 150 * one.conversions
    assert many.energy_low_j == pytest.approx(150 * one.energy_low_j)
    train = run(trained, adc=AdcOptions(kind="ideal"), workload=WorkloadOptions(samples=50, epochs=3, phase="train"))
    ranges = {name for name, value in train.energy_j.items() if value != train.energy_upper_j[name]}
    assert ranges == {"digital", "write"}
    assert train.conversions > many.conversions
    assert train.crossbars > many.crossbars
    assert any("gradients of weights are digital" in warning for warning in train.warnings)


def test_an_estimate_without_data_counts_what_layers_by_hand_have():
    """LeNet-5's conversions are exact in any mode; only steps are expected."""
    request = ReramRequest(mode="stats", layers=LENET, crossbar=CrossbarOptions(encoding="differential"))
    report = estimate(request)
    assert (report.conversions, report.macs) == (949_536, 416_520)
    assert report.accuracy_crossbar is None
    assert 1 < report.reduction < 8
    doubled = request.model_copy(update={"layers": [layer.model_copy(update={"count": 2}) for layer in LENET]})
    assert estimate(doubled).energy_low_j == pytest.approx(2 * report.energy_low_j)


def test_digital_layers_lower_the_mapped_share():
    layers = [LayerShape(inputs=64, outputs=64), LayerShape(kind="digital", name="scores", inputs=64, outputs=64)]
    report = estimate(ReramRequest(mode="stats", layers=layers))
    assert report.mapped_mac_fraction == 0.5
    assert report.unmapped == ["scores: digital"]


def test_an_estimate_without_data_needs_no_torch():
    """Thousands of clients ask for one each round."""
    code = (
        "import sys; from fedcosim.hwsim.reram.simulator import *; "
        "estimate(ReramRequest(mode='stats', layers=[LayerShape(inputs=9, outputs=9)])); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"energy": {"model": "mystery"}}, "energy.model = 'mystery'"),
        ({"adc": {"kind": "flash"}}, "adc.kind = 'flash'"),
        ({"adc": {"trq": [{"fine_bits": -1, "coarse_bits": 2}]}}, "adc.trq.0.fine_bits = -1"),
        ({"layers": [{"inputs": 0, "outputs": 1}]}, "layers.0.inputs = 0"),
        ({"workload": {"samples": 0}}, "workload.samples = 0"),
        ({"crossbar": {"dac_bits": 9}}, "crossbar.dac_bits = 9"),
        ({"speed": 1}, "speed: unknown field"),
    ],
)
def test_requests_that_make_no_sense_are_refused(fields, told):
    with pytest.raises(SpecError) as refused:
        validate(ReramRequest, fields)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("request_", "code", "told"),
    [
        (ReramRequest(mode="stats"), "INVALID_ARGUMENT", "layers: none"),
        (ReramRequest(), "INVALID_ARGUMENT", "a model and data are needed"),
        (
            ReramRequest(mode="stats", layers=[LayerShape(inputs=4, outputs=4, activation_density=[0.5])]),
            "INVALID_ARGUMENT",
            "layers.0.activation_density: 1 shares for 8 bits",
        ),
        (
            ReramRequest(mode="stats", layers=[LayerShape(inputs=4, outputs=4, weight_density=[2.0] * 8)]),
            "INVALID_ARGUMENT",
            "shares of set bits are 0 to 1",
        ),
        (ReramRequest(mode="stats", layers=LENET, crossbar=CrossbarOptions(dac_bits=4)), "OUT_OF_RANGE", "11 bits"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(request_, code, told):
    with pytest.raises(HwsimError, match=told) as refused:
        estimate(request_)
    assert refused.value.code == code


def test_data_that_cannot_be_used_are_refused(trained):
    """Before anything is simulated."""
    model, good = trained
    for part, value, told in (
        ("calibration_x", good.calibration_x[:0], "data.calibration_x: is empty"),
        ("test_x", good.test_x / 0, "data.test_x: is not finite"),
        ("test_y", good.test_y[:3], "3 labels for 120 samples"),
    ):
        with pytest.raises(HwsimError, match=told):
            estimate(ReramRequest(), Job(), model, Samples(**{**vars(good), part: value}))
    negative = Samples(**{**vars(good), "calibration_x": good.calibration_x - 1})
    with pytest.raises(HwsimError, match="activations = 'unsigned': layer 0 gets inputs down to -1"):
        estimate(ReramRequest(activations="unsigned"), Job(), model, negative)
    with pytest.raises(HwsimError) as refused:
        estimate(ReramRequest(most_conversions=1000), Job(), model, good)
    assert refused.value.code == "RESOURCE_EXHAUSTED"


def test_models_that_are_mostly_digital_are_refused():
    model = nn.Sequential(nn.ConvTranspose2d(1, 8, 3), nn.Conv2d(8, 1, 1))
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(HwsimError, match="0: ConvTranspose2d") as refused:
        estimate(ReramRequest(), Job(), model, Samples(x, None, None, x, None))
    assert refused.value.code == "UNIMPLEMENTED"


def test_a_caller_that_leaves_ends_the_work_and_progress_only_grows(trained):
    told, gone = [], threading.Event()

    def progress(done):
        told.append(done)
        if done >= 0.4:
            gone.set()

    with pytest.raises(HwsimError) as ended:
        run(trained, Job(cancelled=gone.is_set, progress=progress))
    assert ended.value.code == "CANCELLED"
    assert told == sorted(told)


def test_every_cell_of_every_layer_is_written():
    """Two layers of 64 x 64, their transposes, 8 cells a weight, once a round, at 1.4 pJ at least."""
    layers = [LayerShape(inputs=64, outputs=64, count=2)]
    report = estimate(ReramRequest(mode="stats", layers=layers, workload=WorkloadOptions(phase="train")))
    assert report.energy_j["write"] == pytest.approx(2 * 2 * 64 * 64 * 8 * 1.4e-12)
    assert report.energy_upper_j["write"] == pytest.approx(2 * 2 * 64 * 64 * 8 * 120e-12)


def test_a_report_tells_what_was_tried(trained):
    """On tuning data; what was chosen is the cheapest of those that kept the budget of 0.02."""
    report = run(trained)
    for trials, chosen in ((report.trials, report.mean_ops), (report.trials_uniform, report.mean_ops_uniform)):
        kept = [trial.mean_ops for trial in trials if trial.lost <= 0.02]
        assert len(trials) >= 4
        assert chosen == pytest.approx(min(kept), rel=0.05)  # of other samples
    assert run(trained, adc=AdcOptions(kind="ideal")).trials == []
