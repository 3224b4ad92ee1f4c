"""NeoMem as a host sees it: requests, reports, and the traces that callers have uploaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np

from ..simulator import HwsimError, Job
from ..wire import decode
from . import machine
from .daemon import DaemonOptions, Profile
from .generators import Generator, SyntheticOptions
from .llc import LlcOptions, trace_of_addresses
from .policies import POLICIES
from .report import NeoMemReport
from .request import NeoMemRequest
from .simulator import estimate
from .traces import ACCESS_BYTES, MAX_ACCESSES, TraceStore
from .training import TrainingOptions
from .upload import MAX_CHUNK_BYTES, TraceHeader, TraceUpload, checksum

TRACES_BYTES = 2**30
"""What uploaded traces may take together; the one that was not used for longest goes first."""


class NeoMem:
    """Answers `NeoMemRequest`s: what a workload costs when part of memory is behind CXL.

    Parameters
    ----------
    traces : TraceStore, optional
        Traces that requests can name.
    """

    service = "NeoMem"
    Request = NeoMemRequest
    Report = NeoMemReport
    takes_traces = True

    def __init__(self, traces: TraceStore | None = None) -> None:
        self.traces = TraceStore(TRACES_BYTES) if traces is None else traces

    @classmethod
    def make(cls, traces: TraceStore | None = None, **_: object) -> NeoMem:
        """Make one from what its host has."""
        return cls(traces)

    def estimate(self, request: NeoMemRequest, job: Job = Job()) -> NeoMemReport:  # noqa: B008 - immutable
        """Simulate the request; raises what `simulator.estimate` does."""
        return estimate(request, job, self.traces)

    def receive(self, parts: Iterator[Any], job: Job = Job()) -> tuple[str, int]:  # noqa: B008 - immutable
        """Take an uploaded trace in; return the name that requests give it, and how many accesses it has.

        Parameters
        ----------
        parts : iterator of TraceChunk
            A header, chunks, a trailer.

        Raises
        ------
        HwsimError
            INVALID_ARGUMENT if they come in another order, CANCELLED or DEADLINE_EXCEEDED by the job, or what `TraceUpload`
            raises.
        """
        first = next(parts, None)
        if first is None or first.WhichOneof("part") != "header":
            raise HwsimError("header: missing; it comes first", field="header")
        upload = TraceUpload(decode(first.header, TraceHeader), min(MAX_ACCESSES, self.traces.limit_bytes // ACCESS_BYTES))
        for part in parts:
            job.step()
            kind = part.WhichOneof("part")
            if kind == "data":
                upload.chunk(part.data.seq, part.data.data, part.data.crc32c)
            elif kind == "trailer":
                trace = upload.finish(part.trailer.sha256, part.trailer.count, job)
                return self.traces.add(trace), len(trace)
            else:
                raise HwsimError("header: came twice", field="header")
        raise HwsimError("trailer: missing; it comes last", field="trailer")

    def capabilities(self) -> dict[str, list[str]]:
        """Return what requests can choose from: policies, platforms, generators, optimizers and NeoMem's profiles."""
        return {
            "policy": list(POLICIES),
            "against": list(POLICIES),
            "platform.preset": list(machine.presets()),
            "synthetic.generator": list(get_args(Generator)),
            "training.optimizer": list(get_args(TrainingOptions.model_fields["optimizer"].annotation)),
            "profile": list(get_args(Profile)),
        }

    def limits(self) -> dict[str, int]:
        """Return how long traces may be, and how large what is uploaded."""
        return {
            "accesses": MAX_ACCESSES,
            "simulated_pages": machine.MAX_PAGES,
            "chunk_bytes": MAX_CHUNK_BYTES,
            "uploaded_bytes": self.traces.limit_bytes,
        }

    def warm_up(self) -> None:
        """Compile all kernels, by a run under every policy and an upload, both small."""
        trace = SyntheticOptions(generator="zipf", accesses=2000)
        busy = DaemonOptions(histogram_period_s=0.02, threshold_period_s=0.02)  # so that NeoMem does all it ever does
        estimate(NeoMemRequest(synthetic=trace, scale=4096, against=list(POLICIES), neomem=busy), Job(), TraceStore())
        trace_of_addresses(np.arange(1000), None, LlcOptions())
        checksum(b"")
