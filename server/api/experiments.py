"""Routes of experiments: launch, look, stop, resume, copy, sweep, compare."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import BaseModel, Field

from ...core.errors import SpecError
from ..record import new_id
from ..report import comparison
from ..run import continuation
from ..spec import Experiment as Spec
from ..spec import override, parse
from ..store import ENDED, STATUSES, Experiment, Store
from .auth import RANK, Admin, Caller, Runner, Viewer
from .problems import ProblemError
from .remote_specs import read_spec, remote
from .views import Detail, Listing, Summary, detail, summary

router = APIRouter(tags=["experiments"])
SPEC_EXAMPLE = {
    "name": "first",
    "federation": {"clients": 10, "rounds": 5},
    "data": {"source": "digits", "partition": "dirichlet", "alpha": 0.5},
    "model": {"name": "lenet"},
    "strategy": {"name": "fedavg"},
}
SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}, "example": SPEC_EXAMPLE},
            "application/toml": {"schema": {"type": "string"}},
        },
    }
}
MOST_OF_A_SWEEP = 200


class Overrides(BaseModel):
    """What is to be different."""

    set: list[Annotated[str, Field(max_length=1000)]] = Field(default=[], max_length=100, examples=[["federation.rounds=20"]])
    """`a.b=c`, as `fedcosim run --set`."""


NO_CHANGES = Overrides()


class Sweep(BaseModel):
    """One experiment many times."""

    spec: dict[str, Any] = Field(examples=[SPEC_EXAMPLE])
    """What they have in common."""
    over: dict[str, list[Any]] = Field(min_length=1, examples=[{"seed": [1, 2, 3], "strategy.name": ["fedavg", "fedprox"]}])
    """Values by dotted field; every combination becomes an experiment."""


class SweepMade(BaseModel):
    """A sweep that was queued."""

    sweep: str
    experiments: list[Summary]


def store(request: Request) -> Store:
    """Return the store."""
    return request.app.state.service.store


Stored = Annotated[Store, Depends(store)]


def found(experiment_id: str, stored: Stored) -> Experiment:
    """Return the experiment that the path names."""
    experiment = stored.get(experiment_id)
    if experiment is None:
        raise ProblemError(404, f"experiment {experiment_id!r}: there is none")
    return experiment


Found = Annotated[Experiment, Depends(found)]


def run_folder(request: Request, experiment: Found) -> Path:
    """Return the directory of an experiment's run."""
    return request.app.state.service.jobs.runs / experiment.id


Run = Annotated[Path, Depends(run_folder)]


async def raw_body(request: Request) -> bytes:
    """Return the body as it came."""
    return await request.body()


@router.post("/experiments", status_code=202, openapi_extra=SPEC_BODY)
def submit(
    body: Annotated[bytes, Depends(raw_body)],
    response: Response,
    who: Runner,
    stored: Stored,
    content_type: Annotated[str, Header(include_in_schema=False)] = "application/json",
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Detail:
    """Queue an experiment, given as JSON or TOML. The same Idempotency-Key and body give the same experiment."""
    keyed = {"key": idempotency_key, "body": hashlib.sha256(body).hexdigest()}
    return _queue(stored, who, "submit", read_spec(body, content_type), response, **keyed)


@router.get("/experiments")
def listing(
    _: Viewer,
    stored: Stored,
    status: Annotated[list[Literal[STATUSES]] | None, Query()] = None,  # type: ignore[valid-type]
    name: Annotated[str | None, Query(max_length=80)] = None,
    sweep: Annotated[str | None, Query(max_length=80)] = None,
    cursor: Annotated[str | None, Query(pattern="^[0-9]{1,18}$", description="From the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Listing:
    """List experiments, newest first."""
    page = stored.page(limit, int(cursor) if cursor else None, status or (), name, sweep)
    return Listing(experiments=[summary(row) for row in page.rows], cursor=str(page.next) if page.next else None)


@router.get("/experiments/{experiment_id}")
def get(_: Viewer, experiment: Found) -> Detail:
    """Show an experiment."""
    return detail(experiment)


@router.post("/experiments/{experiment_id}/stop", status_code=202)
def stop(who: Runner, experiment: Found, stored: Stored) -> Detail:
    """End an experiment; it can be resumed later."""
    _owns(who, experiment)
    if not stored.ask_to_stop(experiment.id):
        raise ProblemError(409, f"experiment {experiment.id!r}: it is {experiment.status}, so there is nothing to stop")
    stored.note(who.name, who.role, "stop", experiment.id)
    return detail(_again(stored, experiment))


@router.post("/experiments/{experiment_id}/resume", status_code=202)
def resume(who: Runner, experiment: Found, stored: Stored, changes: Annotated[Overrides, Body()] = NO_CHANGES) -> Detail:
    """Go on with an experiment that has ended, for more rounds if need be."""
    _owns(who, experiment)
    if experiment.status not in ENDED:
        raise ProblemError(409, f"experiment {experiment.id!r}: it is {experiment.status}; a resume needs one that has ended")
    before = parse(experiment.spec)
    spec = continuation(experiment.id, before, changes.set)
    remote(spec.to_dict())
    if spec.engine.address != before.engine.address:
        raise SpecError(f"engine.address = {spec.engine.address!r}: experiments of a service run on its own cluster")
    if experiment.rounds >= spec.federation.rounds:
        raise ProblemError(
            422, f"federation.rounds = {spec.federation.rounds}: all are done; set more, {experiment.rounds + 10} say"
        )
    overrides = [*experiment.overrides, *changes.set]  # those of a resume that was stopped in the queue were never applied
    fields = {"overrides": overrides, "spec": spec.to_dict(), "reason": None, "ended": None, "stop_asked": False}
    if not stored.move(experiment.id, ENDED, "queued", **fields):
        raise ProblemError(409, f"experiment {experiment.id!r}: somebody else has just resumed it")
    stored.note(who.name, who.role, "resume", experiment.id)
    return detail(_again(stored, experiment))


@router.post("/experiments/{experiment_id}/clone", status_code=202)
def clone(
    who: Runner, response: Response, experiment: Found, stored: Stored, changes: Annotated[Overrides, Body()] = NO_CHANGES
) -> Detail:
    """Queue the same experiment again, with changes."""
    return _queue(stored, who, "clone", remote(override(experiment.spec, changes.set)), response, parent=experiment.id)


@router.get("/experiments/{experiment_id}/rounds")
def rounds(
    _: Viewer,
    experiment: Found,
    stored: Stored,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> list[dict[str, Any]]:
    """List complete rounds, as in result.json, from the one behind `after`."""
    lines = {event.data["round"]: event.data for event in stored.events(experiment.id, kind="round", limit=100_000)}
    kept = [lines[number] for number in sorted(lines) if number > after][:limit]
    return [{key: value for key, value in line.items() if key not in ("event", "time")} for line in kept]


@router.get("/experiments/{experiment_id}/clients")
def clients(_: Viewer, run: Run) -> list[dict[str, Any]]:
    """List clients with their accuracies, as in result.json."""
    return _record(run).get("clients", [])


@router.get("/experiments/{experiment_id}/artifacts")
def artifacts(_: Viewer, run: Run) -> list[dict[str, Any]]:
    """List files that can be fetched."""
    return [{"name": name, "bytes": (run / name).stat().st_size} for name in _files(run)]


@router.get("/experiments/{experiment_id}/artifacts/{name:path}", response_class=FileResponse)
def artifact(_: Viewer, run: Run, name: str) -> FileResponse:
    """Fetch a file."""
    if name not in _files(run):
        raise ProblemError(404, f"artifact {name!r}: there is none")
    return FileResponse(run / name)


@router.get("/experiments/{experiment_id}/logs", response_class=PlainTextResponse)
def logs(_: Viewer, request: Request, experiment: Found) -> str:
    """Return what the experiment's job has printed."""
    return request.app.state.service.jobs.logs(experiment)


@router.post("/sweeps", status_code=202)
def sweep(who: Runner, asked: Sweep, stored: Stored) -> SweepMade:
    """Queue an experiment for every combination of values; all are valid, or none is queued."""
    size = math.prod(map(len, asked.over.values()))
    if not 1 <= size <= MOST_OF_A_SWEEP:
        raise SpecError(f"over: gives {size} experiments; a sweep has 1 to {MOST_OF_A_SWEEP}")
    specs = []
    for combination in itertools.product(*asked.over.values()):
        changes = [f"{field}={json.dumps(value)}" for field, value in zip(asked.over, combination, strict=True)]
        specs.append(remote(override(asked.spec, changes)))
    name = new_id(specs[0].name)
    made = [stored.submit(_row(who, spec, f"{name}-{n:03}", sweep=name))[0] for n, spec in enumerate(specs, 1)]
    stored.note(who.name, who.role, "sweep", name)
    return SweepMade(sweep=name, experiments=[summary(row) for row in made])


@router.get("/compare")
def compare(
    _: Viewer,
    request: Request,
    stored: Stored,
    experiment: Annotated[list[str], Query(alias="id", min_length=1, max_length=50)],
) -> dict[str, Any]:
    """Set experiments side by side, as `fedcosim compare` does."""
    rows = [found(one, stored) for one in experiment]
    folders = [request.app.state.service.jobs.runs / row.id for row in rows]
    if missing := [folder.name for folder in folders if not (folder / "result.json").exists()]:
        raise ProblemError(409, f"experiment {missing[0]!r}: it has not started yet")
    return comparison(folders).as_dict()


@router.get("/audit")
def audit(_: Admin, stored: Stored, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
    """List who did what, newest first."""
    return [{key: getattr(row, key) for key in ("time", "who", "role", "action", "what")} for row in stored.audit(limit)]


def _queue(stored: Store, who: Caller, action: str, spec: Spec, response: Response, **fields: Any) -> Detail:
    """Queue one experiment, and say where it is."""
    experiment, new = stored.submit(_row(who, spec, new_id(spec.name), **fields))
    if new:
        stored.note(who.name, who.role, action, experiment.id)
    response.headers["Location"] = f"/v1/experiments/{experiment.id}"
    return detail(experiment)


def _row(who: Caller, spec: Spec, experiment_id: str, **fields: Any) -> Experiment:
    return Experiment(id=experiment_id, name=spec.name, owner=who.name, spec=spec.to_dict(), **fields)


def _owns(who: Caller, experiment: Experiment) -> None:
    if experiment.owner != who.name and RANK[who.role] < RANK["admin"]:
        raise ProblemError(403, f"experiment {experiment.id!r}: it is {experiment.owner!r}'s; only admins may touch it too")


def _again(stored: Store, experiment: Experiment) -> Experiment:
    return stored.get(experiment.id) or experiment


def _record(run: Path) -> Mapping[str, Any]:
    path = run / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _files(run: Path) -> list[str]:
    """Return the names of the files that may be fetched: what the record lists, and what every run has."""
    named = [*_record(run).get("artifacts", []), "result.json", "spec.toml", "events.jsonl", "log.txt"]
    return [
        name for name in dict.fromkeys(named) if (run / name).is_file() and (run / name).resolve().is_relative_to(run.resolve())
    ]
