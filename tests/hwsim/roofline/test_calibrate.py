"""Measuring this computer: the arithmetic of it, and the way into your own file of devices."""

from __future__ import annotations

import tomllib

import pytest
import torch

from fedcosim.hwsim.devices import Device, Efficiency, Peak, device, devices
from fedcosim.hwsim.roofline.calibrate import add, best_s, measure


@pytest.fixture
def own(tmp_path, monkeypatch):
    path = tmp_path / "new" / "devices.toml"
    monkeypatch.setenv("FEDCOSIM_DEVICES", str(path))
    return path


MEASURED = Device(
    summary='a "board"',
    peak=Peak(fp32=1.5e11, bf16=9e11),
    memory_bytes_per_s=1.28e10,
    memory_bytes=2**34,
    efficiency=Efficiency(overhead_s=1.5e-6),
)


def test_a_measured_device_is_known_by_its_name_from_then_on(own):
    assert add("bench", MEASURED) == own
    assert device("bench") == MEASURED
    add("other", MEASURED)
    assert {"bench", "other", "xeon-8480"} <= set(devices())


def test_a_device_that_is_measured_again_takes_the_place_of_the_first(own):
    add("bench", MEASURED)
    again = MEASURED.model_copy(update={"memory_bytes_per_s": 5e9})
    add("bench", again)
    assert device("bench") == again


def test_every_figure_in_the_file_says_that_it_was_measured(own):
    add("bench", MEASURED)
    entry = tomllib.loads(own.read_text())["bench"]
    figures = [entry["peak"]["fp32"], entry["memory_bytes"], entry["efficiency"]["overhead_s"]]
    assert {(figure["kind"], figure["source"]) for figure in figures} == {("measured", "fedcosim hwsim calibrate")}


def test_the_best_of_several_tries_is_a_time_for_one():
    """Counted, not timed: as many calls as were asked for, and a time that all of them together do not exceed."""
    calls = []
    seconds = best_s(lambda: calls.append(sum(range(1000))), tries=3, at_least_s=0.001)
    assert len(calls) > 3
    assert 0 < seconds < 1


@pytest.mark.slow
def test_this_computer_has_figures_of_a_computer():
    """Between a tenth of a Raspberry Pi and a rack; and torch has as many threads as before."""
    threads = torch.get_num_threads()
    here = measure()
    assert torch.get_num_threads() == threads
    assert 1e10 < here.peak.fp32 < 1e15
    assert here.peak.bf16 > 1e8
    assert 1e9 < here.memory_bytes_per_s < 1e13
    assert here.memory_bytes > 2**28
    assert 0 < here.efficiency.overhead_s < 1e-3
    assert "measured" in here.summary
