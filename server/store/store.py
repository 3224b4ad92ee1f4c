"""What the service and the drivers of its experiments do with the store. Every change is one transaction.

Status goes queued > starting > running > finished, stopped, failed or cancelled, and from those back to queued by a resume.
Changes say which status they start from, so that of two that race only one happens.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
from sqlalchemy import Engine, create_engine, event, func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from ...core.errors import FedcosimError, SpecError
from .tables import Audit, Event, Experiment

ACTIVE = ("starting", "running")
ENDED = ("finished", "stopped", "failed", "cancelled")
STATUSES = ("queued", *ACTIVE, *ENDED)
LEASE_S = 15.0
STARTING_S = 120.0
"""How long a job may take until its driver reports for the first time."""


class StoreError(FedcosimError):
    """The database cannot be reached, or is not one of ours."""


class TakenKeyError(FedcosimError):
    """An Idempotency-Key came again, with something else."""


@dataclass(frozen=True)
class Page:
    """Some experiments, newest first, and where the next page starts."""

    rows: list[Experiment]
    next: int | None


class Store:
    """A database, brought to the newest schema.

    Parameters
    ----------
    url : str
        SQLAlchemy's: `sqlite:///file` or `postgresql+psycopg://user@host/name`.
    migrate : bool
        Bring the schema up to date; drivers of experiments do not.

    Raises
    ------
    SpecError
        If the URL is of another kind of database, or a driver for it is missing.
    StoreError
        If it cannot be reached.
    """

    def __init__(self, url: str, migrate: bool = True) -> None:
        self.url, self.engine = url, _engine(url)
        if migrate:
            with _reachable():
                alembic.command.upgrade(self.migrations(), "head")

    def migrations(self) -> alembic.config.Config:
        """Return what alembic needs to know."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        config.attributes["url"] = self.url
        return config

    def check(self) -> None:
        """Raise a StoreError if the database does not answer."""
        with self._session() as session:
            session.execute(text("select 1"))

    # ------------------------------------------------------------------------------------------------ experiments

    def submit(self, experiment: Experiment) -> tuple[Experiment, bool]:
        """Queue an experiment; return it, or the one that was submitted with the same key before, and whether it is new.

        Raises
        ------
        TakenKeyError
            If the key came with another body.
        StoreError
            If there is an experiment with this id.
        """
        with self._session() as session:
            if experiment.key is not None:
                same = (Experiment.owner == experiment.owner, Experiment.key == experiment.key)
                known = session.scalar(select(Experiment).where(*same))
                if known is not None:
                    if known.body != experiment.body:
                        raise TakenKeyError(f"Idempotency-Key {experiment.key!r}: it came before, with another experiment")
                    return known, False
            experiment.turn = (session.scalar(select(func.max(Experiment.turn))) or 0) + 1
            experiment.status, experiment.created = "queued", time.time()
            session.add(experiment)
            try:
                session.commit()
            except IntegrityError:
                session.rollback()
                if session.get(Experiment, experiment.id) is not None:
                    raise StoreError(f"experiment {experiment.id!r}: there is one already") from None
                # somebody was faster with the same turn, or the same key
                return self.submit(_copy(experiment))
            return experiment, True

    def get(self, experiment_id: str) -> Experiment | None:
        """Return one experiment."""
        with self._session() as session:
            return session.get(Experiment, experiment_id)

    def page(
        self,
        limit: int = 50,
        before: int | None = None,
        status: Sequence[str] = (),
        name: str | None = None,
        sweep: str | None = None,
    ) -> Page:
        """Return experiments, newest first.

        Parameters
        ----------
        before : int, optional
            The turn from which to go on: `Page.next` of the page before.
        """
        wanted = select(Experiment).order_by(Experiment.turn.desc()).limit(limit + 1)
        for given, condition in (
            (before is not None, Experiment.turn < (before or 0)),
            (bool(status), Experiment.status.in_(status)),
            (name is not None, Experiment.name == name),
            (sweep is not None, Experiment.sweep == sweep),
        ):
            wanted = wanted.where(condition) if given else wanted
        with self._session() as session:
            rows = list(session.scalars(wanted))
        return Page(rows[:limit], rows[limit - 1].turn if len(rows) > limit else None)

    def counts(self) -> dict[str, int]:
        """Return how many experiments have each status."""
        with self._session() as session:
            found = session.execute(select(Experiment.status, func.count()).group_by(Experiment.status))
            return dict.fromkeys(STATUSES, 0) | dict(found.tuples().all())

    def claim(self, most: int) -> Experiment | None:
        """Take the next queued experiment, if fewer than `most` are active; it counts as starting from now on."""
        with self._session() as session:
            active = session.scalar(select(func.count()).where(Experiment.status.in_(ACTIVE))) or 0
            first = select(Experiment.id).where(Experiment.status == "queued").order_by(Experiment.turn).limit(1)
            experiment_id = session.scalar(first)
            if active >= most or experiment_id is None:
                return None
        fields = {"attempt": Experiment.attempt + 1, "lease": time.time() + STARTING_S, "stop_asked": False}
        if not self.move(experiment_id, ("queued",), "starting", **fields):
            return None
        return self.get(experiment_id)

    def move(self, experiment_id: str, come_from: Iterable[str], status: str, **fields: Any) -> bool:
        """Change an experiment's status, if it has one of those it may come from; say whether it did."""
        if status in ENDED:
            fields = {"ended": time.time(), "lease": None, **fields}
        where = (Experiment.id == experiment_id, Experiment.status.in_(tuple(come_from)))
        with self._session() as session:
            changed = session.execute(update(Experiment).where(*where).values(status=status, **fields))
            session.commit()
            return changed.rowcount == 1  # type: ignore[attr-defined]

    def ask_to_stop(self, experiment_id: str) -> bool:
        """Cancel what is queued; tell the driver of what is active. Say whether there was anything to stop."""
        if self.move(experiment_id, ("queued",), "cancelled", reason="stopped before it started"):
            return True
        with self._session() as session:
            where = (Experiment.id == experiment_id, Experiment.status.in_(ACTIVE))
            changed = session.execute(update(Experiment).where(*where).values(stop_asked=True))
            session.commit()
            return changed.rowcount == 1  # type: ignore[attr-defined]

    def beat(self, experiment_id: str, attempt: int) -> bool:
        """Renew a driver's lease; say whether it is to stop: somebody asked, or another attempt has taken over."""
        with self._session() as session:
            experiment = session.get(Experiment, experiment_id)
            if experiment is None or experiment.attempt != attempt or experiment.status not in ACTIVE:
                return True
            experiment.lease = max(time.time() + LEASE_S, experiment.lease or 0.0)
            session.commit()
            return experiment.stop_asked

    def active(self) -> list[Experiment]:
        """Return the experiments that are starting or running."""
        with self._session() as session:
            return list(session.scalars(select(Experiment).where(Experiment.status.in_(ACTIVE))))

    # ------------------------------------------------------------------------------------------------ events

    def append(self, experiment_id: str, events: Sequence[tuple[int, Mapping[str, Any]]], final: Mapping[str, Any]) -> None:
        """Add events that are not there yet, and what follows from them: status, reason, rounds, final figures."""
        with self._session() as session:
            experiment = session.get(Experiment, experiment_id)
            if experiment is None:
                raise StoreError(f"experiment {experiment_id!r}: not in the store")
            last = session.scalar(select(func.max(Event.seq)).where(Event.experiment == experiment_id)) or 0
            for seq, data in events:
                if seq <= last:
                    continue
                kind = str(data.get("event"))
                session.add(Event(experiment=experiment_id, seq=seq, kind=kind, data=dict(data)))
                if kind in ("started", "resumed"):
                    experiment.status, experiment.reason, experiment.ended = "running", None, None
                    experiment.started = experiment.started or time.time()
                elif kind == "round":
                    experiment.rounds = int(data["round"])
                elif kind in ENDED:
                    experiment.status, experiment.reason = kind, data.get("reason")
                    experiment.ended, experiment.lease = time.time(), None
            experiment.final = dict(final)
            session.commit()

    def last_event(self, experiment_id: str) -> int:
        """Return the number of the newest event; 0 if there is none."""
        with self._session() as session:
            return session.scalar(select(func.max(Event.seq)).where(Event.experiment == experiment_id)) or 0

    def events(self, experiment_id: str, after: int = 0, limit: int = 1000, kind: str | None = None) -> list[Event]:
        """Return events in order, from the one behind `after`."""
        wanted = select(Event).where(Event.experiment == experiment_id, Event.seq > after).order_by(Event.seq).limit(limit)
        with self._session() as session:
            return list(session.scalars(wanted.where(Event.kind == kind) if kind else wanted))

    # ------------------------------------------------------------------------------------------------ audit

    def note(self, who: str, role: str, action: str, what: str) -> None:
        """Write into the audit log."""
        with self._session() as session:
            session.add(Audit(time=time.time(), who=who, role=role, action=action, what=what))
            session.commit()

    def audit(self, limit: int = 100) -> list[Audit]:
        """Return the newest entries of the audit log."""
        with self._session() as session:
            return list(session.scalars(select(Audit).order_by(Audit.id.desc()).limit(limit)))

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with _reachable(), Session(self.engine, expire_on_commit=False) as session:
            yield session


def _engine(url: str) -> Engine:
    if not url.startswith(("sqlite:///", "postgresql+psycopg://")):
        kinds = "sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
        raise SpecError(f"--database {url.split('://')[0]!r}: must be {kinds}")
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except (SQLAlchemyError, ImportError) as error:
        raise SpecError(f"--database: {error}; PostgreSQL needs pip install 'fedcosim[postgresql]'") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    """Let readers and one writer work side by side, and keep what was acknowledged through a power cut."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise StoreError(f"the database did not do what it was asked: {str(error.orig).strip()}") from error


def _copy(experiment: Experiment) -> Experiment:
    fields = ("id", "name", "owner", "spec", "sweep", "parent", "key", "body")
    return Experiment(**{field: getattr(experiment, field) for field in fields})


__all__ = ["Page", "Store"]
