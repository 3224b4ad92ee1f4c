"""Requests and reports on the wire: nothing is lost, nothing is made up, and what is wrong is named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roofline_requests import COMPLETE_DEVICES, WORKLOADS, requests

from fedcosim.hwsim.devices import Device, Peak
from fedcosim.hwsim.roofline.estimate import estimate
from fedcosim.hwsim.roofline.simulator import ModelRequest, RooflineRequest
from fedcosim.hwsim.roofline.workload import Footprint, Operator, Workload
from fedcosim.hwsim.simulator import HwsimError
from fedcosim.hwsim.v1 import roofline_pb2 as pb
from fedcosim.hwsim.wire import decode, encode, fingerprint


def travelled(model, message):
    """What arrives: encoded, serialised, parsed and decoded."""
    sent = encode(model, message).SerializeToString()
    return decode(type(message).FromString(sent), type(model))


def refusal(message: pb.RooflineRequest) -> HwsimError:
    with pytest.raises(HwsimError) as raised:
        decode(message, RooflineRequest)
    return raised.value


@given(requests())
def test_requests_arrive_as_they_were_sent(request):
    assert travelled(request, pb.RooflineRequest()) == request


@settings(max_examples=50)
@given(COMPLETE_DEVICES, WORKLOADS)
def test_reports_arrive_as_they_were_sent(device, workload):
    report = estimate("x", device, workload, precision_fallback=True)
    assert travelled(report, pb.RooflineReport()) == report


def test_a_report_of_work_that_moves_no_bytes_arrives():
    """Its intensity and the memory's capacity are None, which is how they travel: absent."""
    device = Device(peak=Peak(fp32=1e9), memory_bytes_per_s=1e9)
    report = estimate("x", device, Workload(operators=(Operator(name="idle"), Operator(name="think", flops=7))))
    assert (report.intensity, report.operators[1].intensity, report.memory.capacity_bytes) == (None, None, None)
    assert travelled(report, pb.RooflineReport()) == report


def test_absent_fields_take_the_defaults_of_their_class():
    """And fields that are present with the value 0 do not."""
    message = pb.RooflineRequest(device="xeon-8480", model=pb.ModelRequest(name="lenet"), most_operators=0)
    request = decode(message, RooflineRequest)
    assert request == RooflineRequest(device="xeon-8480", model=ModelRequest(name="lenet"), most_operators=0)
    assert (request.energy_model, request.model.batch, request.model.optimizer) == ("7nm", 1, "sgd")
    workload = decode(pb.Workload(operators=[pb.Operator(name="a")]), Workload)
    assert workload == Workload(operators=(Operator(name="a", phase="inference", count=1),), footprint=Footprint())


@pytest.mark.parametrize(
    ("place", "field", "number"),
    [
        (lambda request: request, "energy_model", 0),
        (lambda request: request, "energy_model", 99),
        (lambda request: request.custom, "custom.memory_kind", 0),
        (lambda request: request.workload, "workload.precision", 77),
        (lambda request: request.workload.operators[1], "workload.operators.1.phase", 0),
        (lambda request: request.model, "model.optimizer", -1),
        (lambda request: request.llm, "llm.stage", 0),
    ],
)
def test_a_choice_that_is_none_is_refused_by_its_dotted_name(place, field, number):
    message = pb.RooflineRequest()
    message.workload.operators.add(name="a")
    message.workload.operators.add(name="b")
    setattr(place(message), field.rpartition(".")[2], number)
    error = refusal(message)
    assert (error.code, error.field) == ("INVALID_ARGUMENT", field)
    assert str(error).startswith(f"{field} = {number}: not a choice; choose one of ")


def test_allowed_words_are_listed():
    message = pb.RooflineRequest(energy_model=9)
    assert str(refusal(message)).endswith("choose one of 7nm, 45nm")


def test_a_value_out_of_range_is_refused_by_its_dotted_name():
    message = pb.RooflineRequest(device="a")
    message.workload.operators.add(name="a")
    message.workload.operators.add(name="b", flops=-1)
    error = refusal(message)
    assert (error.code, error.field) == ("INVALID_ARGUMENT", "workload.operators.1.flops")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "device"),
        ({"device": "a", "custom": pb.Device(peak=pb.Peak(), memory_bytes_per_s=1)}, "device"),
        ({"device": "a"}, "workload"),
        ({"device": "a", "model": pb.ModelRequest(name="b"), "llm": pb.LlmRequest(model="gpt2", context=1)}, "workload"),
    ],
)
def test_one_of_each_must_be_given(fields, field):
    error = refusal(pb.RooflineRequest(**fields))
    assert (error.code, error.field) == ("INVALID_ARGUMENT", field)
    assert "give exactly one of" in str(error)


def test_a_language_models_errors_are_named_from_the_request_down():
    """`model` alone is another field of the request."""
    error = refusal(pb.RooflineRequest(device="a", llm=pb.LlmRequest(model="lama", context=1)))
    assert (error.code, error.field) == ("NOT_FOUND", "llm.model")
    assert str(error).startswith("llm.model = 'lama': ")


@given(requests(), requests())
def test_fingerprints_tell_requests_apart(one, other):
    assert (fingerprint(one) == fingerprint(other)) == (one == other)


@settings(max_examples=50)
@given(requests(), st.data())
def test_a_single_change_changes_the_fingerprint(request, data):
    fields = request.model_dump(exclude_none=True)
    place, key = data.draw(st.sampled_from(sorted(numbers(fields), key=str)))
    inner = fields
    for part in place:
        inner = inner[part]
    inner[key] = inner[key] + 1 if inner[key] < 2 else inner[key] - 1
    try:
        changed = RooflineRequest.model_validate(fields)
    except (ValueError, HwsimError):
        return
    assert fingerprint(changed) != fingerprint(request)


def numbers(tree, path=()):
    """Yield the place and key of every integer in nested fields."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, (dict, list, tuple)):
            yield from numbers(value, (*path, key))
        elif isinstance(value, int) and not isinstance(value, bool) and isinstance(tree, dict):
            yield path, key


@given(requests())
def test_a_fingerprint_survives_the_wire(request):
    """The caller and the service agree on it, which no process-wide hash would give."""
    assert fingerprint(travelled(request, pb.RooflineRequest())) == fingerprint(request)
