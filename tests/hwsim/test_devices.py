"""Devices: every figure has an origin, your own file adds to them, and a bad file is named."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fedcosim.hwsim import devices as module
from fedcosim.hwsim.devices import Quantity, device, devices
from fedcosim.hwsim.simulator import HwsimError

SHIPPED = tomllib.loads(Path(module.__file__).with_name("devices.toml").read_text())


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """Your own file of devices, which does not exist yet."""
    monkeypatch.setenv("FEDCOSIM_DEVICES", str(tmp_path / "devices.toml"))
    return tmp_path / "devices.toml"


def figures(entry: dict):
    for value in entry.values():
        if isinstance(value, dict):
            yield from [value] if "value" in value else figures(value)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_figure_has_a_kind_and_a_source(name):
    found = list(figures(SHIPPED[name]))
    assert len(found) >= 2
    for figure in found:
        assert Quantity.model_validate(figure).source


@pytest.mark.parametrize(
    ("name", "precision", "peak", "bandwidth"),
    [
        ("raspberry-pi-5", "fp32", 4 * 2.4e9 * 16, 4 * 4267e6),  # cores x clock x operations a cycle; 32 bits x transfers
        ("jetson-orin-nano", "int8", 20e12, 68e9),  # 40e12 are with structured sparsity
        ("a100-80gb", "fp16", 312e12, 2039e9),
        ("h100-sxm", "bf16", 989.5e12, 3350e9),
        ("llmviewer:nvidia_H100", "fp16", 989.5e12, 3072e9),
        ("llmviewer:intel_13900k", "fp16", 1.3824e12, 89.6e9),
    ],
)
def test_peaks_are_dense_and_the_makers(name, precision, peak, bandwidth):
    known = device(name)
    assert getattr(known.peak, precision) == pytest.approx(peak, rel=1e-3)
    assert known.memory_bytes_per_s == pytest.approx(bandwidth, rel=1e-3)


def test_no_shipped_device_claims_measured_efficiency(own):
    assert all(known.efficiency == module.Efficiency() for known in devices().values())


def test_an_unknown_name_is_not_found_and_a_close_one_proposed():
    with pytest.raises(HwsimError) as raised:
        device("raspbery-pi-5")
    assert (raised.value.code, raised.value.field, raised.value.exit_code) == ("NOT_FOUND", "device", 2)
    assert "did you mean 'raspberry-pi-5'?" in str(raised.value)


ENTRY = """
[mine]
summary = "my board"
peak.fp32 = { value = 2e9, kind = "measured", source = "here" }
memory_bytes_per_s = { value = 1e9, kind = "measured", source = "here" }
"""


def test_your_own_file_adds_devices_and_is_read_again_when_it_changes(own):
    assert "mine" not in devices()
    own.write_text(ENTRY)
    assert device("mine").peak.fp32 == 2e9
    own.write_text(ENTRY + 'max_power_w = { value = 5, kind = "measured", source = "plug" }\n')
    assert device("mine").max_power_w == 5
    assert device("xeon-8480")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[mine", "not valid TOML"),
        (ENTRY.replace("2e9", "-2e9"), "peak.fp32"),
        (ENTRY.replace("2e9", "nan"), "peak.fp32"),
        (ENTRY.replace("1e9", "inf"), "memory_bytes_per_s"),
        (ENTRY.replace("1e9", "0"), "memory_bytes_per_s"),
        (ENTRY.replace('kind = "measured", ', "", 1), "kind"),
        (ENTRY + "colour = 1\n", "colour: unknown field"),
    ],
)
def test_a_bad_file_is_named_with_its_field(text, sentence, own):
    own.write_text(text)
    with pytest.raises(HwsimError) as raised:
        devices()
    assert raised.value.code == "FAILED_PRECONDITION"
    assert str(own) in str(raised.value)
    assert sentence in str(raised.value)
