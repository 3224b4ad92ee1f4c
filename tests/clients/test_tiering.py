"""Memory in two tiers: what a client's step becomes for the NeoMem simulator, and which settings there are."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import small

from fedcosim.clients.fleet import HardwareOptions
from fedcosim.clients.tiering import FEWEST_STEPS, MOST_ACCESSES, SIMULATED_S, NeoMemOptions, memory_request
from fedcosim.core.errors import SpecError
from fedcosim.hwsim.client import LocalClient
from fedcosim.hwsim.devices import Device
from fedcosim.hwsim.neomem.machine import presets
from fedcosim.hwsim.neomem.policies import POLICIES
from fedcosim.hwsim.neomem.traces import MAX_ACCESSES, TraceStore
from fedcosim.hwsim.neomem.training import generate, touches_per_step
from fedcosim.hwsim.neomem.workload import workload
from fedcosim.hwsim.roofline.estimate import RooflineReport, estimate
from fedcosim.hwsim.roofline.workload import Footprint, Operator, Workload
from fedcosim.server.spec import from_run_config

PI = {"raspberry-pi-5": 1}
PAGE = 4096


def step_of(footprint: Footprint, time_s: float, bytes_per_s: float = 1e11) -> RooflineReport:
    """A step that computes for so long on a device with so much bandwidth."""
    device = Device(peak={"fp32": 1e12}, memory_bytes_per_s=bytes_per_s)
    work = Workload(operators=[Operator(name="a", flops=math.ceil(time_s * 1e12))], footprint=footprint)
    return estimate("a", device, work)


def asked(footprint: Footprint, time_s: float, bytes_per_s: float = 1e11, **options):
    return memory_request(NeoMemOptions(**options), footprint, step_of(footprint, time_s, bytes_per_s))


@pytest.mark.parametrize(
    ("optimizer_bytes", "per_sample", "pages"),
    [
        (0, 0, 100 + 100 + 7 + 3),  # weights, gradients, activations, inputs
        (100, 0, 100 + 100 + 100 + 7 + 3),
        (199, 0, 100 + 100 + 200 + 7 + 3),  # Adam on all weights but a few that are frozen
        (0, 400, 100 + 100 + (7 + 400) + 3),
    ],
)
def test_the_pages_are_those_of_the_work(optimizer_bytes, per_sample, pages):
    """Counted by hand, from footprints of whole pages; and all of them are touched."""
    footprint = Footprint(
        weights_bytes=100 * PAGE,
        gradients_bytes=(100 + per_sample) * PAGE,
        optimizer_bytes=optimizer_bytes * PAGE,
        activations_bytes=7 * PAGE,
        inputs_bytes=3 * PAGE,
    )
    trace = generate(asked(footprint, 1.0).training, PAGE, 1)
    assert trace.pages == pages
    assert set(trace.pages_N.tolist()) == set(range(pages))


@given(
    weights=st.integers(1, 10**10), activations=st.integers(0, 10**11), time_s=st.floats(1e-5, 1e3), moments=st.integers(0, 2)
)
def test_steps_last_long_enough_and_not_too_long(weights, activations, time_s, moments):
    """Ten seconds where that is affordable, and ten steps in any case; what is asked can be simulated."""
    footprint = Footprint(weights_bytes=weights, optimizer_bytes=moments * weights, activations_bytes=activations)
    report = step_of(footprint, time_s)
    request = memory_request(NeoMemOptions(), footprint, report)
    steps, scale = request.training.steps, workload(request, TraceStore()).scale
    accesses = steps * touches_per_step(request.training, PAGE * scale)
    assert steps >= FEWEST_STEPS
    assert steps * report.time_s >= SIMULATED_S or accesses * (steps + 1) > MOST_ACCESSES * steps
    assert accesses <= MOST_ACCESSES or steps == FEWEST_STEPS
    assert accesses <= MAX_ACCESSES


def test_bandwidths_are_the_devices_where_it_has_less():
    """And slow memory is never quicker than fast memory."""
    footprint = Footprint(weights_bytes=PAGE)
    for bytes_per_s, slow in ((1e9, 1e9), (1e12, 42.6e9)):
        platform = asked(footprint, 1.0, bytes_per_s).platform
        assert (platform.fast_bytes_per_s, platform.slow_bytes_per_s) == (bytes_per_s, slow)


def test_what_fits_fast_memory_is_not_slowed_down():
    """Not even a step that does nothing but move memory."""
    footprint = Footprint(weights_bytes=500 * PAGE, gradients_bytes=500 * PAGE)
    slowdown = {
        share: LocalClient().estimate("neomem", asked(footprint, 1e-5, policy="first_touch", fast_to_slow=share))
        for share in (1e6, 1.0, 0.1)
    }
    assert slowdown[1e6].slowdown_vs_all_fast == 1.0
    assert 1.0 < slowdown[1.0].slowdown_vs_all_fast < slowdown[0.1].slowdown_vs_all_fast


def test_choices_are_the_simulators():
    """The options do not import it, for it compiles kernels; oracles and bounds are no policies of a device."""
    policies = set(get_args(NeoMemOptions.model_fields["policy"].annotation))
    assert policies == {name for name in POLICIES if not name.startswith(("oracle_", "all_"))}
    assert set(get_args(NeoMemOptions.model_fields["platform"].annotation)) == set(presets())


def test_the_table_can_be_left_out_and_its_defaults_are_recorded():
    options = HardwareOptions(devices=PI, memory="neomem")
    assert options.neomem == NeoMemOptions()
    assert HardwareOptions(devices=PI).neomem is None
    assert HardwareOptions.model_validate_json(options.model_dump_json()) == options


def test_workers_have_the_settings_of_the_file():
    spec = small("fedavg", "hardware.devices.raspberry-pi-5=1", "hardware.memory=neomem", "hardware.neomem.fast_to_slow=0.25")
    assert from_run_config(spec.to_run_config()).hardware == spec.hardware
    assert spec.hardware.neomem.fast_to_slow == 0.25


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("hardware.neomem.policy=tpp", "hardware.neomem: has no effect without hardware.memory = 'neomem'"),
        ("hardware.memory=cxl", "hardware.memory = 'cxl'"),
        ("hardware={devices={raspberry-pi-5=1}, memory='neomem', neomem={policy='oracle_free'}}", "hardware.neomem.policy ="),
        ("hardware={devices={raspberry-pi-5=1}, memory='neomem', neomem={fast_to_slow=0}}", "hardware.neomem.fast_to_slow ="),
        ("hardware={devices={raspberry-pi-5=1}, memory='neomem', neomem={threads=0}}", "hardware.neomem.threads ="),
    ],
)
def test_settings_that_make_no_sense_are_refused(override, sentence):
    with pytest.raises(SpecError) as error:
        small("fedavg", "hardware.devices.raspberry-pi-5=1", override)
    assert sentence in str(error.value)
