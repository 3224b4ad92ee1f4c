"""One experiment from spec to record, on Ray: what the command line, a Ray job and the tests call."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import ray

from ..clients.client_app import app as client_app
from ..clients.objects import Objects, trouble
from ..clients.state import write_atomically
from ..clients.workbench import Workbench, bench_for
from ..core.errors import RunError, SpecError
from .grid import RayGrid, start_ray
from .record import Checkpoints, Record, new_id, stored_spec
from .server_app import Listener, execute, lifecycle, roster
from .spec import EngineOptions, Experiment, override, parse
from .store.mirror import mirrored
from .tracking import trackers

RESUMABLE = ("federation.rounds", "federation.timeout_s", "federation.min_reply_fraction", "engine.", "stop.", "tracking.")


def run(spec: Experiment, runs: Path, run_id: str | None = None, listeners: Sequence[Listener] = ()) -> Path:
    """Run an experiment.

    Parameters
    ----------
    spec : Experiment
        What to run.
    runs : Path
        Folder in which the run's directory is made.
    run_id : str, optional
        Name of that directory; made from the experiment's name and the time when absent.
    listeners : sequence of Listener
        Who is told about progress.

    Returns
    -------
    Path
        The run's directory.

    Raises
    ------
    SpecError, DataError
        Before anything is written, if the experiment cannot be run.
    RoundError
        If a round failed.
    """
    bench = bench_for(spec).checked()
    run_id = run_id or new_id(spec.name)
    _try_states(spec.engine)
    if spec.engine.state is not None and Objects(str(_states(spec, runs / run_id))).names(""):
        raise RunError(f"run {run_id!r}: engine.state = {spec.engine.state!r} has states of such a run; choose another id")
    with _ray(spec.engine), Record.create(runs, spec, run_id) as record:
        _conduct(bench, record, listeners)
    return record.folder


def resumable(folder: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment with which the run in a directory would go on; see `continuation`."""
    return continuation(folder.name, stored_spec(folder), overrides)


def continuation(name: str, stored: Experiment, overrides: Sequence[str]) -> Experiment:
    """Return the experiment with which a run would go on.

    Parameters
    ----------
    name : str
        Of the run.
    stored : Experiment
        What it has run so far.
    overrides : sequence of str
        `a.b=c` settings that do not change what was computed so far: more rounds, other workers, another stop rule.

    Raises
    ------
    RunError
        If an override would make it another experiment.
    """
    spec = parse(override(stored.to_dict(), overrides))
    if changed := [field for field in stored.differences(spec) if field == "engine.state" or not field.startswith(RESUMABLE)]:
        raise RunError(f"{name}: {', '.join(changed)} cannot change in a resume; start a new run")
    if spec.privacy and not spec.privacy.participations and stored.federation.rounds != spec.federation.rounds:
        raise RunError(
            f"{name}: federation.rounds cannot change in a resume, because the noise was chosen for "
            f"{stored.federation.rounds} rounds; start a new run, with privacy.participations if its length may change"
        )
    return spec


def resume(folder: Path, spec: Experiment, listeners: Sequence[Listener] = ()) -> Path:
    """Go on with a run from its newest checkpoint, with a spec from `resumable`.

    Raises
    ------
    RunError
        If all rounds are done, or another process is writing the run.
    """
    bench = bench_for(spec).checked()
    _try_states(spec.engine)
    with _ray(spec.engine), Record(folder, spec) as record:
        latest = Checkpoints(folder).latest()
        if latest is not None and latest.round >= spec.federation.rounds:
            more = f"--set federation.rounds={latest.round + 10}"
            raise RunError(f"{folder.name}: all {latest.round} rounds are done; add rounds with {more}")
        write_atomically(folder / "spec.toml", spec.to_toml().encode())
        _conduct(bench, record, listeners)
    return folder


def _conduct(bench: Workbench, record: Record, listeners: Sequence[Listener]) -> None:
    spec = bench.spec
    everyone = list(listeners)
    reported = mirrored(record.folder, lambda: dict(record.result["final"]))
    with sigterm_interrupts(), reported, lifecycle(record, everyone), _log_file(record.folder):
        everyone += trackers(spec, record)
        grid = RayGrid(
            client_app,
            spec.to_run_config(),
            spec.federation.clients,
            _states(spec, record.folder),
            sizes=bench.data.num_train.tolist(),
            average=spec.averages,
            workers=spec.engine.workers,
            resources=spec.engine.resources,
            labels=spec.engine.labels,
            retries=spec.engine.retries,
            chunk=spec.engine.chunk,
            wire=bench.wire,
        )
        try:
            execute(bench, grid, record, roster(bench, {client: client for client in grid.get_node_ids()}), everyone)
        finally:
            grid.close()


def _states(spec: Experiment, folder: Path) -> Path | str:
    """Return where the run in a folder keeps its clients' states: a path, or a URL."""
    return folder / "state" if spec.engine.state is None else f"{spec.engine.state.rstrip('/')}/{folder.resolve().name}"


def _try_states(engine: EngineOptions) -> None:
    if engine.state is not None and (reason := trouble(engine.state)):
        raise SpecError(f"engine.state = {engine.state!r}: {reason}")


@contextmanager
def _ray(engine: EngineOptions) -> Iterator[None]:
    """Use the Ray this process is connected to, or connect as `[engine]` says and disconnect afterwards."""
    mine = not ray.is_initialized()
    if mine:
        start_ray(engine.address, engine.workers)
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """Send what Flower and fedcosim log to the run's log.txt instead of the terminal."""
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("flwr", "fedcosim")]
    before = [logger.handlers for logger in loggers]
    for logger in loggers:
        logger.handlers = [handler]
    try:
        yield
    finally:
        for logger, handlers in zip(loggers, before, strict=True):
            logger.handlers = handlers
        handler.close()


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let a polite kill be answered as Ctrl-C is."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # only the main thread may set handlers; elsewhere the host decides about signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
