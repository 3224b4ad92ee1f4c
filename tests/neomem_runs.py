"""Small runs that tests share."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcosim.hwsim.neomem import NeoMemRequest, Trace, TraceStore
from fedcosim.hwsim.neomem.machine import Machine, build
from fedcosim.hwsim.neomem.simulator import Simulation
from fedcosim.hwsim.neomem.traces import trace_of_pages
from fedcosim.hwsim.neomem.workload import workload
from fedcosim.hwsim.simulator import Job

SCALE = 4096
"""Shrinks GUPS to 1132 pages, and lets 40 000 accesses take seconds."""


def synthetic(generator: str = "gups", accesses: int = 40_000, **fields: Any) -> NeoMemRequest:
    """Ask for a small synthetic workload."""
    own = fields.pop("own", {})
    return NeoMemRequest(synthetic={"generator": generator, "accesses": accesses, **own}, **{"scale": SCALE} | fields)


def of_trace(pages_N: np.ndarray, writes_N: np.ndarray | None = None, **fields: Any) -> tuple[NeoMemRequest, TraceStore]:
    """Ask for a trace of page numbers."""
    store = TraceStore()
    return NeoMemRequest(trace_id=store.add(trace_of_pages(pages_N, writes_N)), **fields), store


def prepare(request: NeoMemRequest, store: TraceStore | None = None) -> tuple[Trace, Machine]:
    """Make a request's trace and machine."""
    work = workload(request, store or TraceStore())
    return work.trace(Job()), build(request.platform, work.pages, work.scale, work.access, request.tick_ms)


def simulation(request: NeoMemRequest, policy: str | None = None, store: TraceStore | None = None, **more: Any) -> Simulation:
    """Set up one run of a request."""
    trace, machine = prepare(request, store)
    return Simulation(request, policy or request.policy, trace, machine, **more)
