"""What the API shows of an experiment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from ..store import Experiment


class Summary(BaseModel):
    """An experiment in a list."""

    id: str
    """Of the experiment and of its run's directory."""
    name: str
    owner: str
    """Who submitted it."""
    status: str = Field(examples=["running"])
    """queued, starting, running, finished, stopped (by a rule), failed, or cancelled (by a person)."""
    reason: str | None
    """Why it ended so."""
    rounds: int
    """Complete rounds."""
    rounds_wanted: int
    accuracy: float | None
    """Mean over clients, of the newest evaluation; a fraction."""
    bytes_up: int | None
    """Uploaded so far."""
    sweep: str | None
    parent: str | None
    """The experiment that it is a copy of."""
    created: str
    """ISO 8601, UTC; like the next two."""
    started: str | None
    ended: str | None


class Detail(Summary):
    """An experiment."""

    spec: dict[str, Any]
    """As it runs, all defaults filled in."""
    final: dict[str, Any]
    """Figures so far."""
    attempt: int
    """How often it was started."""


class Listing(BaseModel):
    """A page of experiments, newest first."""

    experiments: list[Summary]
    cursor: str | None
    """For the next page; null on the last one."""


def summary(row: Experiment) -> Summary:
    """Show an experiment in a list."""
    return Summary(**_summary(row))


def detail(row: Experiment) -> Detail:
    """Show an experiment."""
    return Detail(**_summary(row), spec=row.spec, final=row.final, attempt=row.attempt)


def _summary(row: Experiment) -> dict[str, Any]:
    same = ("id", "name", "owner", "status", "reason", "rounds", "sweep", "parent")
    times = {name: _iso(getattr(row, name)) for name in ("created", "started", "ended")}
    wanted = row.spec["federation"]["rounds"]
    figures = {"accuracy": row.final.get("accuracy_mean"), "bytes_up": row.final.get("bytes_up"), "rounds_wanted": wanted}
    return {**{name: getattr(row, name) for name in same}, **times, **figures}


def _iso(time_s: float | None) -> str | None:
    return None if time_s is None else datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
