"""Flower mod: after a client's work, ask hwsim what it would have cost on the client's device, and put that into the reply."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from ..core.errors import SpecError
from ..hwsim.client import ENDPOINT, TOKEN, CachedClient, Client, connect
from ..hwsim.roofline.simulator import RooflineRequest
from ..hwsim.simulator import HwsimError
from .accelerator import CrossbarHardware, Crossbars, Spent, without_crossbars
from .fleet import HardwareOptions, device_of
from .tiering import memory_request
from .work import Work, observed
from .worker import COST

if TYPE_CHECKING:
    from ..hwsim.roofline.estimate import RooflineReport
    from ..server.spec import Experiment

LEFT_OUT = 9001  # the code of an error reply of a client that is not missed
SHOWN = 40  # operators, slowest first, that the run's report can draw
_NOBODY_ANSWERS = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL")


@dataclass(frozen=True)
class Cost:
    """What one client's work takes on its device; NaN where nobody could tell."""

    compute_s: float = 0.0
    energy_low_j: float = 0.0
    energy_high_j: float = 0.0
    memory_bytes: float = 0.0
    memory_slowdown: float = 1.0
    """Computing time, which has it in it, over that with fast memory alone."""

    def to_record(self) -> ConfigRecord:
        """Return the cost as a record of a reply."""
        return ConfigRecord({name: float(value) for name, value in vars(self).items()})

    @classmethod
    def of(cls, content: RecordDict) -> Cost | None:
        """Return the cost that a reply tells, if any."""
        return cls(**content.config_records[COST]) if COST in content else None  # type: ignore[arg-type]


UNKNOWN = Cost(*[float("nan")] * len(fields(Cost)))


def price(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let the client work, and say what it would have cost."""
    from .workbench import workbench

    spec = workbench(context).spec
    if spec.hardware is None or not message.metadata.message_type.startswith("train"):
        return call_next(message, context)
    client = int(context.node_config["partition-id"])
    with observed() as done:
        reply = call_next(message, context)
    if reply.has_error():
        return reply
    try:
        reply.content[COST] = _pricing(spec.hardware, _device(spec, client), _folder(context)).cost(done).to_record()
    except _TooLargeError as error:
        left_out = spec.hardware.on_memory == "skip"
        code = LEFT_OUT if left_out else ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return Message(Error(code, f"client {client}: {error}"), reply_to=message)
    except HwsimError as error:
        if spec.hardware.on_error == "fail" or error.code not in _NOBODY_ANSWERS:
            raise
        reply.content[COST] = UNKNOWN.to_record()
    return reply


class _TooLargeError(Exception):
    """The device has not enough memory for the work."""


class _Pricing:
    """Prices work on one kind of device."""

    def __init__(self, options: HardwareOptions, device: str, client: Client) -> None:
        self._options, self._device, self._client = options, device, client
        self._known: dict[object, RooflineReport] = {}
        self._crossbars = Crossbars(options.reram or CrossbarHardware(), client) if options.accelerator else None
        self._slowdowns: dict[object, float] = {}

    def cost(self, done: list[Work]) -> Cost:
        """Sum up what some work costs; memory is that of the largest.

        Where part of memory is slow, all work takes longer, and may draw the largest power for as long. It can also take less
        time, for a second tier is a second bus; then both ends are lower.

        Raises
        ------
        HwsimError
            If the simulator has no answer.
        """
        reports = [(self._report(work), work.steps) for work in done]
        for report, _ in reports:
            if not report.memory.fits:
                needs, has, lacks = (
                    f"{size / 1e9:.3g} GB"
                    for size in (report.memory.total_bytes, report.memory.capacity_bytes or 0, report.memory.deficit_bytes)
                )
                raise _TooLargeError(
                    f"training needs {needs} of memory, its device {self._device} has {has}: {lacks} are missing"
                )
        crossbars = self._crossbars.spent(done) if self._crossbars else Spent()
        parts = [(report, steps, self._slowdown(work, report)) for work, (report, steps) in zip(done, reports, strict=True)]
        fast_s = sum(report.time_s * steps for report, steps, _ in parts)
        compute_s = sum(report.time_s * steps * slowdown for report, steps, slowdown in parts)
        return Cost(
            compute_s=crossbars.compute_s + compute_s,
            energy_low_j=crossbars.energy_low_j
            + sum(report.energy_low_j * steps * min(1.0, slowdown) for report, steps, slowdown in parts),
            energy_high_j=crossbars.energy_high_j
            + sum(report.energy_high_j * steps * slowdown for report, steps, slowdown in parts),
            memory_bytes=max((report.memory.total_bytes for report, _, _ in parts), default=0),
            memory_slowdown=compute_s / fast_s if fast_s else 1.0,
        )

    def _report(self, work: Work) -> RooflineReport:
        if work.key not in self._known:
            step = without_crossbars(work) if self._crossbars else work.step
            request = RooflineRequest(
                device=self._device, workload=step, energy_model=self._options.energy_model, most_operators=SHOWN
            )
            self._known[work.key] = self._client.estimate("roofline", request)
        return self._known[work.key]

    def _slowdown(self, work: Work, report: RooflineReport) -> float:
        if self._options.neomem is None:
            return 1.0
        if work.key not in self._slowdowns:
            request = memory_request(self._options.neomem, work.step.footprint, report)
            self._slowdowns[work.key] = self._client.estimate("neomem", request).slowdown_vs_all_fast
        return self._slowdowns[work.key]


@lru_cache(maxsize=256)
def _pricing_by_json(options_json: str, device: str, folder: str) -> _Pricing:
    options = HardwareOptions.model_validate_json(options_json)
    return _Pricing(options, device, _client(options.endpoint, options.root_ca, options.patience_s, folder))


def _pricing(options: HardwareOptions, device: str, folder: str) -> _Pricing:
    return _pricing_by_json(options.model_dump_json(), device, folder)


@lru_cache(maxsize=4)
def _client(endpoint: str | None, root_ca: str | None, patience_s: float, folder: str) -> Client:
    authority = Path(root_ca) if root_ca else None
    client = connect(endpoint or os.environ.get(ENDPOINT), os.environ.get(TOKEN), authority, patience_s)
    return CachedClient(client, Path(folder) if folder else None)


def _device(spec: Experiment, client: int) -> str:
    if spec.hardware is None:
        raise SpecError("hardware: missing")
    return device_of(spec.hardware, spec.federation.clients, spec.seed)[client]


def _folder(context: Context) -> str:
    """Return where workers of this run share answers; empty on grids without such a place."""
    return str(context.node_config.get("hwsim-cache", ""))
