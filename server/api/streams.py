"""Server-sent events: an experiment's events, and what its job prints, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from ..store import ENDED
from .auth import Viewer
from .experiments import Found, Stored

router = APIRouter(tags=["streams"])
EVERY_S = 0.5
LastEvent = Annotated[str | None, Header(alias="Last-Event-ID", pattern="^[0-9]{1,18}$")]


@router.get("/experiments/{experiment_id}/events", response_class=EventSourceResponse)
async def events(
    _: Viewer, request: Request, experiment: Found, stored: Stored, last_event_id: LastEvent = None
) -> AsyncIterator[ServerSentEvent]:
    """Stream events (started, round, finished, ...), the old ones first; ends when the experiment has ended.

    An event's id is its number; whoever comes back with it as Last-Event-ID misses nothing.
    """
    last = int(last_event_id or 0)
    while not await request.is_disconnected():
        row = await run_in_threadpool(stored.get, experiment.id)
        for event in await run_in_threadpool(stored.events, experiment.id, last):
            last = event.seq
            yield ServerSentEvent(event=event.kind, id=str(event.seq), data=event.data)
        if row is None or row.status in ENDED:
            yield ServerSentEvent(event="end", data={"status": row.status if row else "deleted"})
            return
        await asyncio.sleep(EVERY_S)


@router.get("/experiments/{experiment_id}/logs/stream", response_class=EventSourceResponse)
async def log_lines(
    _: Viewer, request: Request, experiment: Found, stored: Stored, last_event_id: LastEvent = None
) -> AsyncIterator[ServerSentEvent]:
    """Stream the lines that the experiment's job prints; an event's id is the number of its line."""
    last = int(last_event_id or 0)
    jobs = request.app.state.service.jobs
    while not await request.is_disconnected():
        row = await run_in_threadpool(stored.get, experiment.id) or experiment
        lines = (await run_in_threadpool(jobs.logs, row)).splitlines()
        for number, line in enumerate(lines[last:], start=last + 1):
            yield ServerSentEvent(event="line", id=str(number), data=line)
        last = max(last, len(lines))
        if row.status in ENDED:
            yield ServerSentEvent(event="end", data={"status": row.status})
            return
        await asyncio.sleep(EVERY_S)
