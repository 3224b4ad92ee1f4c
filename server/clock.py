"""The virtual clock: how long a round would have taken on the clients' devices and links, and whose updates came in time.

A client downloads, computes, uploads; a round is over when the last update that counts is in. The server's own work takes no
simulated time. Evaluation is the experimenter's and takes none either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..clients.cost import UNKNOWN, Cost
from ..clients.fleet import Fleet, HardwareOptions
from ..core.errors import RoundError


@dataclass(frozen=True)
class Part:
    """One client's part in a round, in simulated seconds and joules; NaN where the cost is not known."""

    client: int
    download_s: float
    compute_s: float
    upload_s: float
    energy_low_j: float
    energy_high_j: float
    memory_slowdown: float = 1.0

    @property
    def total_s(self) -> float:
        """From the start of the round until its update is in."""
        return self.download_s + self.compute_s + self.upload_s


@dataclass(frozen=True)
class Timing:
    """What the clock makes of a round.

    Attributes
    ----------
    sim_s : float or None
        From the end of the last round to the end of this one, waiting for clients included; None if no cost is known and
        nobody was waited for.
    waited_s : float
        How long nobody, or too few, were there.
    energy_low_j, energy_high_j : float or None
        Of all that worked, whether or not their updates count.
    straggler : Part or None
        The last one whose update counts.
    dropped : dict of int to str
        Whose updates do not count, and why.
    """

    sim_s: float | None
    waited_s: float
    energy_low_j: float | None
    energy_high_j: float | None
    straggler: Part | None
    dropped: Mapping[int, str] = field(default_factory=dict)


@dataclass
class Clock:
    """Simulated time, which rounds move on.

    Parameters
    ----------
    options : HardwareOptions
        Decides whose updates count.
    fleet : Fleet
        Devices, links and presence of all clients.
    per_round : int
        Updates that a round wants.
    now_s : float
        The time now, in seconds since the start of the run.
    """

    options: HardwareOptions
    fleet: Fleet
    per_round: int
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self._began_s = self.now_s  # when the round in work began; `now_s` is later once clients were waited for

    @property
    def asked(self) -> int:
        """How many clients a round asks."""
        return self.options.asked(self.per_round)

    def present(self, clients: Sequence[int]) -> list[int]:
        """Return who of some clients is there, after waiting until they are as many as a round asks.

        Raises
        ------
        RoundError
            If so many are never there together.
        """
        wanted = min(self.asked, len(clients))
        while len(there := [c for c in clients if self.fleet.presence[c].until(self.now_s) > self.now_s]) < wanted:
            later = [self.fleet.presence[c].next(self.now_s) for c in set(clients).difference(there)]
            upcoming = sorted(time for time in later if self.now_s < time < math.inf)
            if not upcoming or self.now_s - self._began_s > self._horizon_s(clients):
                raise RoundError(
                    f"hardware.trace: never are {wanted} clients there at once ({len(there)} at {self.now_s:.0f} s); "
                    "ask fewer with federation.per_round"
                )
            self.now_s = upcoming[0]
        return there

    def _horizon_s(self, clients: Sequence[int]) -> float:
        """After two of the longest periods nothing new will come."""
        periods = [self.fleet.presence[c].period_s for c in clients]
        return 2 * max((p for p in periods if math.isfinite(p)), default=0.0)

    def part(self, client: int, cost: Cost | None, down_bytes: int, up_bytes: int) -> Part:
        """Return one client's part in a round."""
        link, cost = self.fleet.link[client], cost or UNKNOWN
        download_s, upload_s = link.download_s(down_bytes), link.upload_s(up_bytes)
        energy_j = (cost.energy_low_j, cost.energy_high_j)
        return Part(client, download_s, cost.compute_s, upload_s, *energy_j, cost.memory_slowdown)

    def close(self, parts: Sequence[Part]) -> Timing:
        """End a round; move on.

        Clients whose cost is not known are taken to be in time and decide nothing.
        """
        known = sorted((p for p in parts if not math.isnan(p.total_s)), key=lambda p: (p.total_s, p.client))
        dropped = self._dropped(known, len(parts) - len(known))
        counting = [p for p in known if p.client not in dropped]
        straggler = counting[-1] if counting else None
        sim_s = straggler.total_s if straggler else None
        if self.options.deadline_s is not None and dropped:
            sim_s = self.options.deadline_s
        waited_s = self.now_s - self._began_s
        if waited_s:
            sim_s = waited_s + (sim_s or 0.0)
        self.now_s = self._began_s = self._began_s + (sim_s or 0.0)  # as `restored` sums, to the last digit
        return Timing(
            sim_s=sim_s,
            waited_s=waited_s,
            energy_low_j=sum(p.energy_low_j for p in known) if known else None,
            energy_high_j=sum(p.energy_high_j for p in known) if known else None,
            straggler=straggler,
            dropped=dropped,
        )

    def _dropped(self, known: Sequence[Part], unknown: int) -> dict[int, str]:
        options, dropped = self.options, {}
        for part in known:
            there_s = self.fleet.presence[part.client].until(self.now_s) - self.now_s
            if part.total_s > there_s:
                dropped[part.client] = (
                    f"went away {there_s:.4g} s into the round; its update would have taken {part.total_s:.4g} s"
                )
            elif options.deadline_s is not None and part.total_s > options.deadline_s:
                dropped[part.client] = f"its update took {part.total_s:.4g} s; hardware.deadline_s = {options.deadline_s:.4g}"
        if options.rounds == "over-select":
            in_time = [part for part in known if part.client not in dropped]
            for part in in_time[max(0, self.per_round - unknown) :]:
                dropped[part.client] = f"not among the {self.per_round} first: its update took {part.total_s:.4g} s"
        return dropped


def restored(clock: Clock, lines: Sequence[Mapping[str, Any]]) -> Clock:
    """Return a clock moved to the end of some rounds of a record."""
    now_s = 0.0
    for line in lines:
        now_s += line["sim_s"] or 0.0
    return replace(clock, now_s=now_s)
