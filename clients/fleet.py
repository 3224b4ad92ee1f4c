"""Which device each client is, and over what link it talks: `[hardware]`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ..core.errors import SpecError
from ..core.options import Options, choose
from ..core.seeds import derive
from ..hwsim.devices import devices
from ..hwsim.roofline.energy import EnergyModel
from .accelerator import CrossbarHardware
from .tiering import NeoMemOptions

Rate = Annotated[float, Field(gt=0, lt=1e15)]


class HardwareOptions(Options):
    """The simulated hardware: what clients run on, and how its time and energy decide rounds: `[hardware]`."""

    devices: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Share of the clients that is each device; shares are relative to their sum, and which client is what follows the seed."""
    uplink_bits_per_s: Rate = 10e6
    """From a client to the server, where no trace says otherwise."""
    downlink_bits_per_s: Rate = 50e6
    """From the server to a client."""
    round_trip_s: Annotated[float, Field(ge=0, lt=3600)] = 0.05
    """Added once to every download and every upload."""
    trace: str | None = None
    """File that says when clients are there and how fast they are connected: see docs/how-to/hardware.md."""
    rounds: Literal["wait-all", "deadline", "over-select"] = "wait-all"
    """Whose updates count: everybody's, those that are in by `deadline_s`, or the `per_round` first of a larger cohort."""
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    """deadline: simulated seconds after the start of the round."""
    over_select: Annotated[float, Field(gt=0, le=10)] | None = None
    """over-select: how many more clients are asked, as a share of `federation.per_round` (0.3 is common)."""
    on_memory: Literal["fail", "skip"] = "fail"
    """A client whose device lacks the memory has failed, or is left out and not missed."""
    energy_model: EnergyModel = "7nm"
    """Constants of the energy's lower end."""
    accelerator: Literal["reram"] | None = None
    """What does products with weights instead of the device's processor: crossbars; see `[hardware.reram]`."""
    reram: CrossbarHardware | None = None
    """reram: what the crossbars are like; the usual ones when absent."""
    memory: Literal["neomem"] | None = None
    """neomem: part of each device's memory is slow, and its training takes longer for it; absent: all of it is fast."""
    neomem: NeoMemOptions | None = None
    """How memory is divided, and who moves pages: only with `memory = "neomem"`, where all of it has defaults."""
    endpoint: str | None = None
    """`host:port` of `fedcosim hwsim serve`, or `roofline=host:port,neomem=host:port` for one a service;
    $FEDCOSIM_HWSIM_TOKEN is sent to it. $FEDCOSIM_HWSIM_ENDPOINT when absent; without that, in the client's process."""
    root_ca: str | None = None
    """PEM file; makes the connection to `endpoint` TLS."""
    patience_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """How long an endpoint that is away or busy is asked again."""
    on_error: Literal["fail", "skip"] = "fail"
    """A client whose cost nobody can tell has failed, or takes part at an unknown cost."""

    @model_validator(mode="before")
    @classmethod
    def _memory_has_defaults(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("memory") == "neomem" and fields.get("neomem") is None:
            return {**fields, "neomem": {}}
        return fields

    @model_validator(mode="after")
    def _known_and_complete(self) -> HardwareOptions:
        known = devices()
        for name in self.devices:
            if name not in known:
                raise ValueError(f"hardware.devices.{name}: {choose(name, known)}")
            if "." in name:  # dots divide the names of fields in a run config
                raise ValueError(f"hardware.devices.{name}: a name with a dot cannot be used here; rename it in your file")
        for field, value in (("deadline_s", "deadline"), ("over_select", "over-select")):
            if (getattr(self, field) is None) == (self.rounds == value):
                what = "missing; it must be given for" if self.rounds == value else "has no effect without"
                raise ValueError(f"hardware.{field}: {what} hardware.rounds = {value!r}")
        if self.reram and not self.accelerator:
            raise ValueError("hardware.reram: has no effect without hardware.accelerator = 'reram'")
        if self.neomem is not None and self.memory is None:
            raise ValueError("hardware.neomem: has no effect without hardware.memory = 'neomem'")
        if self.root_ca and not self.endpoint:
            raise ValueError("hardware.root_ca: has no effect without hardware.endpoint")
        return self

    def asked(self, per_round: int) -> int:
        """Return how many clients a round asks that wants so many updates."""
        return per_round + math.ceil(round(per_round * (self.over_select or 0.0), 9))  # 0.07 of 100 is 7, not 8

    @property
    def drops(self) -> bool:
        """Whether updates that came in may not count: which ones, is known when all are in."""
        return self.rounds != "wait-all" or self.trace is not None


@dataclass(frozen=True)
class Link:
    """A client's connection."""

    uplink_bits_per_s: float
    downlink_bits_per_s: float
    round_trip_s: float

    def upload_s(self, size_bytes: int) -> float:
        """Return how long an upload takes."""
        return 8 * size_bytes / self.uplink_bits_per_s + self.round_trip_s

    def download_s(self, size_bytes: int) -> float:
        """Return how long a download takes."""
        return 8 * size_bytes / self.downlink_bits_per_s + self.round_trip_s


@dataclass(frozen=True)
class Presence:
    """When a client is there: in every one of `spans`, over and over.

    Attributes
    ----------
    spans : sequence of (float, float)
        From when to when, in seconds from the start of a period; ascending, and apart or touching. A span that ends with the
        period goes on in one that starts with the next.
    period_s : float
        After which all begins again.
    """

    spans: Sequence[tuple[float, float]]
    period_s: float

    def until(self, now_s: float) -> float:
        """Return when the client leaves; `now_s` itself if it is not there, infinity if it stays."""
        offset = math.fmod(now_s, self.period_s)
        end = offset
        for start, stop in self._ahead:
            if start <= end < stop:
                end = stop
        if end - offset >= self.period_s:
            return math.inf
        return now_s if end == offset else now_s - offset + end

    def next(self, now_s: float) -> float:
        """Return when the client is there next, at `now_s` or later; infinity if never."""
        if self.until(now_s) > now_s:
            return now_s
        offset = math.fmod(now_s, self.period_s)
        return next((now_s - offset + start for start, stop in self._ahead if offset < start < stop), math.inf)

    @cached_property
    def _ahead(self) -> list[tuple[float, float]]:
        """The spans of a period and of the next one."""
        later = [(start + self.period_s, stop + self.period_s) for start, stop in self.spans]
        return [*self.spans, *later]


ALWAYS = Presence(((0.0, math.inf),), math.inf)


@dataclass(frozen=True)
class Fleet:
    """All clients' devices, links and presence, by client id."""

    device: Sequence[str]
    link: list[Link]
    presence: list[Presence]


def fleet(options: HardwareOptions, clients: int, seed: int) -> Fleet:
    """Equip clients.

    Raises
    ------
    SpecError
        If the trace cannot be read.
    """
    link = Link(options.uplink_bits_per_s, options.downlink_bits_per_s, options.round_trip_s)
    links, presence = [link] * clients, [ALWAYS] * clients
    if options.trace is not None:
        entries = read_trace(Path(options.trace))
        links = [entries[client % len(entries)].link(link) for client in range(clients)]
        presence = [entries[client % len(entries)].presence for client in range(clients)]
    return Fleet(device_of(options, clients, seed), links, presence)


def device_of(options: HardwareOptions, clients: int, seed: int) -> tuple[str, ...]:
    """Return every client's device: as many of each as its share says (largest remainders), shuffled by the seed.

    The order of `devices` does not matter: workers get their options in another one.
    """
    return _assigned(tuple(sorted(options.devices.items())), clients, seed)


@lru_cache(maxsize=4)
def _assigned(shares: tuple[tuple[str, float], ...], clients: int, seed: int) -> tuple[str, ...]:
    exact = np.array([share for _, share in shares]) / sum(share for _, share in shares) * clients
    counts = np.floor(exact).astype(int)
    for place in np.argsort(counts - exact, kind="stable")[: clients - counts.sum()]:
        counts[place] += 1
    names = [name for (name, _), count in zip(shares, counts, strict=True) for _ in range(count)]
    order = np.random.default_rng(derive(seed, "fleet")).permutation(clients)
    return tuple(names[place] for place in order)


@dataclass(frozen=True)
class TraceEntry:
    """What a trace says of one client."""

    presence: Presence
    uplink_bits_per_s: float | None
    downlink_bits_per_s: float | None

    def link(self, usual: Link) -> Link:
        """Return the client's link; the usual one where the trace is silent."""
        up, down = self.uplink_bits_per_s, self.downlink_bits_per_s
        return Link(up or usual.uplink_bits_per_s, down or usual.downlink_bits_per_s, usual.round_trip_s)


def read_trace(path: Path) -> list[TraceEntry]:
    """Read a trace: a JSON object by client, each with the fields of FedScale's traces (arXiv:2105.11367).

    A client is there from every `active` to the `inactive` in the same place, in whole seconds of a period of `finish_time`;
    without `active`, always. `communication` is in kbit/s, both ways; `uplink` and `downlink`, in kbit/s too, go before it.

    Raises
    ------
    SpecError
        If it cannot be read, or an entry is not of that form.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"hardware.trace = {str(path)!r}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise SpecError(f"hardware.trace = {str(path)!r}: not JSON: {error}") from None
    if not isinstance(entries, Mapping) or not entries:
        raise SpecError(f"hardware.trace = {str(path)!r}: must be a JSON object with an entry for every client")
    return [_entry(f"hardware.trace = {str(path)!r}, client {name}", entry) for name, entry in entries.items()]


_KNOWN = {"active", "inactive", "finish_time", "duration", "communication", "uplink", "downlink", "computation", "model"}


def _entry(where: str, entry: Any) -> TraceEntry:
    if not isinstance(entry, Mapping):
        raise SpecError(f"{where}: must be an object")
    if unknown := sorted(entry.keys() - _KNOWN):
        raise SpecError(f"{where}, {unknown[0]}: unknown field; {choose(unknown[0], sorted(_KNOWN))}")
    rates = {}
    for field in ("communication", "uplink", "downlink"):
        value = entry.get(field)
        if value is not None and not (type(value) in (int, float) and 0 < value < 1e12):
            raise SpecError(f"{where}, {field} = {value!r}: must be a number of kbit/s above 0")
        rates[field] = 1000.0 * value if value else None
    both = rates["communication"]
    return TraceEntry(_presence(where, entry), rates["uplink"] or both, rates["downlink"] or both)


def _presence(where: str, entry: Mapping[str, Any]) -> Presence:
    if "active" not in entry:
        return ALWAYS
    period = entry.get("finish_time")
    if type(period) is not int or not 0 < period < 2**31:  # whole seconds stay exact however long a run is
        raise SpecError(f"{where}, finish_time = {period!r}: must be a number of whole seconds above 0")
    active, inactive = (_times(where, field, entry.get(field, []), period) for field in ("active", "inactive"))
    if len(inactive) == len(active) - 1:
        inactive = [*inactive, period]  # the last one stays to the end
    turns = [time for span in zip(active, inactive, strict=False) for time in span]
    if len(active) != len(inactive) or sorted(turns) != turns:
        raise SpecError(f"{where}, inactive: must have an end for every start in active, before the next start")
    return Presence(tuple(zip(active, inactive, strict=True)), period)


def _times(where: str, field: str, times: Any, period: int) -> list[int]:
    if not isinstance(times, list) or not all(type(time) is int and 0 <= time <= period for time in times):
        raise SpecError(f"{where}, {field}: must be a list of whole seconds from 0 to finish_time = {period}")
    return times
