"""Time, bound, energy and memory of a workload on a device, each against arithmetic done by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roofline_requests import COMPLETE_DEVICES as COMPLETE
from roofline_requests import WORKLOADS

from fedcosim.hwsim.devices import Device, Efficiency, Peak
from fedcosim.hwsim.roofline.estimate import RooflineReport, estimate
from fedcosim.hwsim.roofline.figures import write_chart
from fedcosim.hwsim.roofline.workload import Footprint, Operator, Workload
from fedcosim.hwsim.simulator import HwsimError

BOARD = Device(peak=Peak(fp32=100.0, fp16=400.0), memory_bytes_per_s=10.0, memory_bytes=1000, link_bytes_per_s=5.0)


def on(device: Device, *operators: Operator, **rest) -> RooflineReport:
    asked = {key: rest.pop(key) for key in ("energy_model", "precision_fallback", "most_operators") if key in rest}
    return estimate("board", device, Workload(operators=operators, **rest), **asked)


def changed(device: Device, **fields) -> Device:
    return Device.model_validate(device.model_dump() | fields)


def op(flops: int = 0, memory_bytes: int = 0, **rest) -> Operator:
    return Operator(name="op", flops=flops, load_act_bytes=memory_bytes, **rest)


def test_time_is_the_larger_of_arithmetic_and_traffic_operator_by_operator():
    """5 s of arithmetic beside 2 s of traffic, three times, then 1 s beside 8 s: operators follow one another."""
    report = on(BOARD, op(500, 20, count=3), op(100, 80))
    assert report.time_s == 3 * 5 + 8
    assert [(row.time_s, row.bound) for row in report.operators] == [(15, "compute"), (8, "memory")]
    assert (report.flops, report.memory_bytes, report.bound) == (1600, 140, "compute")
    assert report.intensity == 1600 / 140
    assert [row.attainable_flops_per_s for row in report.operators] == [100, 12.5]
    assert [row.intensity for row in report.operators] == [25, 1.25]


def test_at_the_ridge_it_is_compute_that_bounds():
    """As Williams et al. draw it; 10 operations a byte is where this device's roofs meet."""
    for flops, bound in ((100, "compute"), (99, "memory"), (101, "compute")):
        assert on(BOARD, op(flops, 10)).operators[0].bound == bound


def test_all_kinds_of_bytes_are_traffic_and_are_told_apart():
    kinds = {"load_weight_bytes": 1, "load_act_bytes": 2, "store_act_bytes": 4, "load_kv_bytes": 8, "store_kv_bytes": 16}
    report = on(BOARD, Operator(name="op", count=2, **kinds))
    assert report.memory_bytes == 2 * 31
    assert report.time_s == 2 * 3.1
    assert {name: getattr(report, name) for name in kinds} == {name: 2 * amount for name, amount in kinds.items()}


def test_efficiencies_lower_the_roofs_and_overhead_is_beside_them():
    slow = changed(BOARD, efficiency=Efficiency(compute=0.5, memory=0.25, overhead_s=0.125).model_dump())
    report = on(slow, op(500, 1, count=4), op(0, 10))
    assert [row.time_s for row in report.operators] == [4 * (10 + 0.125), 4 + 0.125]


def test_operators_that_do_nothing_take_no_time():
    report = on(BOARD, op())
    assert (report.time_s, report.intensity, report.bound) == (0, None, "compute")
    assert (report.operators[0].intensity, report.operators[0].attainable_flops_per_s) == (None, 100)


def test_arithmetic_without_traffic_is_bound_by_compute():
    row = on(BOARD, op(200)).operators[0]
    assert (row.time_s, row.bound, row.intensity, row.attainable_flops_per_s) == (2, "compute", None, 100)


def test_links_come_after_the_work():
    """Nobody can send what is not there yet: their time is added, and they bound what they outlast."""
    report = on(BOARD, op(500, 20, link_bytes=10), op(link_bytes=15), op(500, link_bytes=26))
    assert [(row.time_s, row.bound) for row in report.operators] == [(7, "compute"), (3, "link"), (5 + 5.2, "link")]
    assert (report.link_bytes, report.memory_bytes) == (51, 20)


def test_a_device_without_links_cannot_send():
    lonely = changed(BOARD, link_bytes_per_s=None)
    with pytest.raises(HwsimError, match="has no link_bytes_per_s") as raised:
        on(lonely, op(link_bytes=1))
    assert raised.value.code == "FAILED_PRECONDITION"
    assert on(lonely, op(100)).time_s == 1


@pytest.mark.parametrize(
    ("peaks", "precision", "used"),
    [
        ({"fp32": 1.0, "fp16": 2.0}, "bf16", "fp16"),
        ({"fp32": 1.0}, "bf16", "fp32"),
        ({"fp32": 1.0, "bf16": 2.0}, "int8", "bf16"),
        ({"fp32": 1.0, "int8": 2.0}, "int4", "int8"),
        ({"fp32": 1.0, "fp16": 2.0}, "fp16", "fp16"),
    ],
)
def test_the_narrowest_wider_units_stand_in(peaks, precision, used):
    device = changed(BOARD, peak=peaks)
    report = on(device, op(7), precision=precision, precision_fallback=True)
    assert (report.precision, report.peak_flops_per_s) == (used, peaks[used])
    assert any(f"no {precision} units; {used} is assumed" in w for w in report.warnings) == (used != precision)
    if used != precision:
        with pytest.raises(HwsimError, match="or set precision_fallback") as raised:
            on(device, op(7), precision=precision)
        assert (raised.value.code, raised.value.field) == ("FAILED_PRECONDITION", "precision")


def test_narrower_units_never_stand_in():
    narrow = changed(BOARD, peak={"int8": 1.0})
    with pytest.raises(HwsimError, match=r"choose one of int8$") as raised:
        on(narrow, op(7), precision="fp32", precision_fallback=True)
    assert raised.value.code == "FAILED_PRECONDITION"


@pytest.mark.parametrize(("capacity", "fits", "deficit"), [(21, True, 0), (20, False, 1), (1, False, 20), (None, True, 0)])
def test_memory_fits_or_says_what_is_missing(capacity, fits, deficit):
    """1 + 2 + 3 + 4 + 5 + 6 bytes."""
    sizes = dict(zip(Footprint.model_fields, range(1, 7), strict=True))
    memory = on(changed(BOARD, memory_bytes=capacity), op(1), footprint=Footprint(**sizes)).memory
    assert (memory.total_bytes, memory.capacity_bytes, memory.fits, memory.deficit_bytes) == (21, capacity, fits, deficit)
    assert {name: getattr(memory, name) for name in sizes} == sizes


def test_the_slowest_operators_are_listed_first():
    operators = [op(0, size) for size in (10, 30, 20)]
    assert [row.memory_bytes for row in on(BOARD, *operators, most_operators=2).operators] == [30, 20]
    assert [row.memory_bytes for row in on(BOARD, *operators, most_operators=0).operators] == [10, 30, 20]
    assert on(BOARD, *operators, most_operators=2).operators_in_all == 3


def test_what_could_not_be_counted_is_said():
    report = on(BOARD, op(1), uncounted=("_fft_r2c",))
    assert (report.complete, report.uncounted) == (False, ["_fft_r2c"])
    assert any("_fft_r2c" in warning for warning in report.warnings)


# ----------------------------------------------------------------------------------------------------------------- energy


@pytest.mark.parametrize(
    ("model", "precision", "kind", "flop_pj", "byte_pj"),
    [
        ("7nm", "fp32", "ddr", (0.38 + 1.31) / 2, 1300 / 8),
        ("7nm", "fp16", "hbm2", (0.16 + 0.34) / 2, 250 / 8),
        ("45nm", "fp32", "ddr", (0.9 + 3.7) / 2, 1300 / 8),
        ("45nm", "fp16", "gddr6", (0.4 + 1.1) / 2, 350 / 8),
    ],
)
def test_energy_is_that_of_operations_and_bytes_and_of_waiting(model, precision, kind, flop_pj, byte_pj):
    """Half a multiplication and half an addition an operation, an eighth of 64 bits a byte (published pJ), and 2 W idle."""
    device = changed(BOARD, memory_kind=kind, idle_power_w=2.0, max_power_w=1e6)
    report = on(device, op(4_000_000, 8_000_000), precision=precision, energy_model=model)
    expected = 4_000_000 * flop_pj * 1e-12 + 8_000_000 * byte_pj * 1e-12 + 2 * report.time_s
    assert report.energy_low_j == pytest.approx(expected, rel=2e-2, abs=0)
    without = on(changed(device, idle_power_w=None), op(4_000_000, 8_000_000), precision=precision, energy_model=model)
    assert without.energy_low_j == pytest.approx(expected - 2 * report.time_s, rel=2e-2)
    assert report.energy_high_j == 1e6 * report.time_s


@settings(max_examples=50)
@given(COMPLETE, WORKLOADS, st.sampled_from(["7nm", "45nm"]))
def test_energy_is_a_range_below_the_largest_power(device, workload, model):
    report = estimate("x", device, workload, precision_fallback=True, energy_model=model)
    assert 0 <= report.energy_low_j <= report.energy_high_j
    if device.max_power_w is not None:
        assert report.energy_high_j <= device.max_power_w * report.time_s


# ------------------------------------------------------------------------------------------------------------- invariants


@settings(max_examples=50)
@given(COMPLETE, WORKLOADS, st.sampled_from(["memory_bytes_per_s", "link_bytes_per_s", "peak", "count"]))
def test_a_better_device_is_never_slower_and_more_work_never_faster(device, workload, what):
    before = estimate("x", device, workload, precision_fallback=True)
    if what == "count":
        more = tuple(each.model_copy(update={"count": each.count + 1}) for each in workload.operators)
        assert estimate("x", device, Workload(operators=more), precision_fallback=True).flops >= before.flops
        longer = workload.model_copy(update={"operators": more})
        assert estimate("x", device, longer, precision_fallback=True).time_s >= before.time_s
        return
    fields = device.model_dump()
    better = {k: v and v * 2 for k, v in fields["peak"].items()} if what == "peak" else fields[what] * 2
    after = estimate("x", changed(device, **{what: better}), workload, precision_fallback=True)
    assert after.time_s <= before.time_s
    assert (after.flops, after.memory_bytes, after.memory) == (before.flops, before.memory_bytes, before.memory)


@settings(max_examples=50)
@given(COMPLETE, WORKLOADS)
def test_time_is_between_its_parts_and_their_sum(device, workload):
    """At least what all arithmetic and what all traffic need alone; at most one after the other, and the rest."""
    report = estimate("x", device, workload, precision_fallback=True)
    compute_s = report.flops / report.peak_flops_per_s / device.efficiency.compute
    memory_s = report.memory_bytes / device.memory_bytes_per_s / device.efficiency.memory
    rest_s = report.link_bytes / device.link_bytes_per_s
    rest_s += sum(each.count for each in workload.operators) * device.efficiency.overhead_s
    assert (max(compute_s, memory_s) + rest_s) * (1 - 1e-9) <= report.time_s <= (compute_s + memory_s + rest_s) * (1 + 1e-9)


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_chart_is_drawn_of_any_operators(suffix, magic, tmp_path):
    """Of several devices, and of operators that do nothing, which have no place on logarithmic axes."""
    reports = [on(BOARD, op(500, 20), op(), op(3)), on(changed(BOARD, peak={"fp32": 1e3}), op())]
    write_chart(reports, tmp_path / f"chart{suffix}")
    assert (tmp_path / f"chart{suffix}").read_bytes().startswith(magic)
