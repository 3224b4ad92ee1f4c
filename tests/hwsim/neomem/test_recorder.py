"""Recording real training steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedcosim.hwsim.neomem import NeoMemRequest, TraceStore, estimate
from fedcosim.hwsim.neomem.recorder import Recorder, record_step
from fedcosim.hwsim.simulator import HwsimError, Job

PAGE = 4096


def test_operations_touch_the_pages_of_their_tensors():
    """Two inputs of 16 pages read, then the output written; in order of first touch."""
    a, b = torch.ones(16 * 1024), torch.ones(16 * 1024)
    with Recorder() as recorder:
        torch.add(a, b)
    trace = recorder.trace()
    pages_of_a = (a.data_ptr() + a.nbytes - 1) // PAGE - a.data_ptr() // PAGE + 1
    assert trace.pages_N[:pages_of_a].tolist() == list(range(pages_of_a))
    assert 48 <= len(trace) <= 51
    assert 16 <= trace.writes_N.sum() <= 17
    assert trace.access_bytes == PAGE


def test_views_touch_nothing_and_changes_in_place_are_writes():
    """A view is a new name for the same bytes."""
    a = torch.ones(16 * 1024)
    with Recorder() as recorder:
        a.view(128, 128).t()[3:]
        with pytest.raises(HwsimError, match="empty"):
            recorder.trace()
        a.mul_(2)
    trace = recorder.trace()
    half = len(trace) // 2
    assert np.array_equal(trace.pages_N[:half], trace.pages_N[half:])
    assert trace.writes_N.tolist() == [0] * half + [1] * half


def test_step_of_a_model_touches_weights_gradients_and_moments():
    """A linear layer of 256 pages with Adam: four buffers of its size at least, and the whole goes through the simulator."""
    torch.manual_seed(0)
    model = torch.nn.Linear(1024, 256, bias=False)
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(8, 1024)
    before = model.weight.detach().clone()
    trace = record_step(model, optimizer, lambda: model(x).square().mean())
    assert not torch.equal(model.weight, before)
    assert trace.pages >= 4 * 256
    assert len(trace) >= (2 + 1 + 1 + 3 + 3) * 256
    store = TraceStore()
    report = estimate(NeoMemRequest(trace_id=store.add(trace), repeats=3), Job(), store)
    assert report.accesses == 3 * len(trace)
