"""Tables of the store. Times are seconds since 1970; a change here needs a migration in `migrations/versions`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012 - SQLAlchemy's own interface


class Experiment(Table):
    """One experiment; its id is that of its run's directory.

    Attributes
    ----------
    turn : int
        Place in the queue, and order of listings: grows with every submission.
    status : str
        One of `STATUSES`.
    attempt : int
        How often it was started; names its Ray job.
    overrides : list of str
        `a.b=c` of all resumes, in order.
    stop_asked : bool
        Somebody wants it to end.
    lease : float, optional
        Until when its driver need not be missed.
    key, body : str, optional
        Idempotency-Key of the submission, and a digest of what came with it.
    """

    __tablename__ = "experiments"
    __table_args__ = (UniqueConstraint("owner", "key"), Index("by_status", "status", "turn"))

    id: Mapped[str] = mapped_column(String(120), primary_key=True)
    turn: Mapped[int] = mapped_column(Integer, unique=True)
    name: Mapped[str] = mapped_column(String(80), index=True)
    owner: Mapped[str] = mapped_column(String(80))
    status: Mapped[str] = mapped_column(String(12))
    reason: Mapped[str | None] = mapped_column(Text, default=None)
    spec: Mapped[dict[str, Any]]
    final: Mapped[dict[str, Any]] = mapped_column(default=dict)
    rounds: Mapped[int] = mapped_column(Integer, default=0)
    sweep: Mapped[str | None] = mapped_column(String(80), default=None, index=True)
    parent: Mapped[str | None] = mapped_column(String(120), default=None)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    overrides: Mapped[list[str]] = mapped_column(default=list)
    stop_asked: Mapped[bool] = mapped_column(Boolean, default=False)
    created: Mapped[float] = mapped_column(Float)
    started: Mapped[float | None] = mapped_column(Float, default=None)
    ended: Mapped[float | None] = mapped_column(Float, default=None)
    lease: Mapped[float | None] = mapped_column(Float, default=None)
    key: Mapped[str | None] = mapped_column(String(200), default=None)
    body: Mapped[str | None] = mapped_column(String(64), default=None)


class Event(Table):
    """One line of a run's events.jsonl; `seq` is its number, from 1."""

    __tablename__ = "events"

    experiment: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    data: Mapped[dict[str, Any]]


class Audit(Table):
    """Who did what, and to what."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    time: Mapped[float] = mapped_column(Float)
    who: Mapped[str] = mapped_column(String(80))
    role: Mapped[str] = mapped_column(String(12))
    action: Mapped[str] = mapped_column(String(20))
    what: Mapped[str] = mapped_column(String(120))
