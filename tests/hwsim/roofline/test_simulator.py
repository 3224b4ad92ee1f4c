"""Requests to the roofline simulator: one device and one piece of work, whoever described them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from roofline_requests import COMPLETE_DEVICES, WORKLOADS, requests

from fedcosim.core.errors import SpecError
from fedcosim.core.options import validate
from fedcosim.hwsim.devices import device
from fedcosim.hwsim.roofline.estimate import estimate
from fedcosim.hwsim.roofline.llm import LlmRequest
from fedcosim.hwsim.roofline.simulator import ModelRequest, Roofline, RooflineRequest
from fedcosim.hwsim.roofline.trace import inference, training_step
from fedcosim.hwsim.roofline.workload import Operator, Workload
from fedcosim.hwsim.simulator import HwsimError, Job
from fedcosim.server.architectures import example

WORK = Workload(operators=(Operator(name="a", flops=7),))


@settings(max_examples=30)
@given(COMPLETE_DEVICES, WORKLOADS)
def test_a_device_of_your_own_is_as_good_as_a_known_one(own, workload):
    report = Roofline().estimate(RooflineRequest(custom=own, workload=workload, precision_fallback=True, most_operators=0))
    assert report == estimate("custom", own, workload, precision_fallback=True)


def test_a_model_is_what_its_trace_is():
    for train in (False, True):
        asked = ModelRequest(name="lenet", batch=4, train=train, optimizer="adam", per_sample=train)
        report = Roofline(example).estimate(RooflineRequest(device="raspberry-pi-5", model=asked))
        traced = training_step(example(asked), "adam", per_sample=True) if train else inference(example(asked))
        assert report == estimate("raspberry-pi-5", device("raspberry-pi-5"), traced, most_operators=20)


def test_a_language_model_on_a_known_device_is_as_published():
    """LLaMA-2-7B, one decode step after 2048 tokens on an A100: LLM-Viewer's 9.2046 ms, and its slip in the output layer."""
    asked = LlmRequest(model="llama-2-7b", mode="viewer", stage="decode", context=2048)
    report = Roofline().estimate(RooflineRequest(device="llmviewer:nvidia_A100", llm=asked))
    assert report.time_s == pytest.approx(0.00920459870, rel=1e-6)
    assert report.flops == 14_169_669_632


def test_fused_attention_needs_a_device_whose_buffer_is_known():
    asked = LlmRequest(model="llama-2-7b", context=64, fused_attention=True)
    assert Roofline().estimate(RooflineRequest(device="a100-80gb", llm=asked)).time_s > 0
    with pytest.raises(HwsimError) as raised:
        Roofline().estimate(RooflineRequest(device="raspberry-pi-5", llm=asked))
    assert (raised.value.code, raised.value.field) == ("FAILED_PRECONDITION", "llm.fused_attention")


@settings(max_examples=30)
@given(requests())
def test_a_request_is_immutable_and_survives_json(request):
    assert RooflineRequest.model_validate_json(request.model_dump_json()) == request
    with pytest.raises(ValueError, match="frozen"):
        request.device = "other"


@pytest.mark.parametrize(
    "fields", [{}, {"device": "a"}, {"workload": WORK}, {"device": "a", "workload": WORK, "model": {"name": "lenet"}}]
)
def test_one_of_each_must_be_given(fields):
    with pytest.raises(SpecError, match="give exactly one of"):
        validate(RooflineRequest, fields)


def test_work_that_nobody_waits_for_ends_before_it_begins():
    request = RooflineRequest(device="xeon-8480", workload=WORK)
    for job, code in ((Job(cancelled=lambda: True), "CANCELLED"), (Job(deadline=0.0), "DEADLINE_EXCEEDED")):
        with pytest.raises(HwsimError) as raised:
            Roofline().estimate(request, job)
        assert (raised.value.code, raised.value.exit_code) == (code, 1)


def test_progress_rises_from_0_to_1():
    told: list[float] = []
    Roofline().estimate(RooflineRequest(device="xeon-8480", workload=WORK), Job(progress=told.append))
    assert told == sorted(told)
    assert told
    assert 0 <= told[0] <= told[-1] <= 1
