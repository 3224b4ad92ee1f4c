"""From the queue to Ray Jobs and back: starts what is next, notices what has died, ends what is to stop.

One thread a service. A job's driver reports to the store by itself (`store/mirror.py`); here is only what it cannot do: begin,
and say that it is gone.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import requests
from ray.job_submission import JobStatus, JobSubmissionClient

from ..clients.state import write_atomically
from ..core.errors import FedcosimError, SpecError
from .pool import ONE_THREAD
from .spec import parse
from .store import ACTIVE, Experiment, Store, mirror
from .store.mirror import ATTEMPT, URL

log = logging.getLogger(__name__)

EVERY_S = 1.0
GRACE_S = 60.0
"""How long a job that still runs may leave its lease unrenewed (a database that was away) before it counts as hung."""
STOP_S = 30.0
"""How long a driver may take to stop by itself before Ray stops it."""
HEAD_STARTS_S = 120.0
ALIVE = (JobStatus.PENDING, JobStatus.RUNNING)
UNREACHABLE = (ConnectionError, requests.RequestException)


class Jobs:
    """Runs a store's experiments as Ray Jobs.

    Parameters
    ----------
    store : Store
    folder : Path
        Where specs and run directories go; every node that drivers run on must reach it.
    address : str
        Of Ray's dashboard, `http://host:8265`.
    most : int
        Experiments that are active at once.
    """

    def __init__(self, store: Store, folder: Path, address: str, most: int = 1) -> None:
        self.store, self.folder, self.address, self.most = store, folder, address, most
        self.runs = folder / "runs"
        self._asked: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._client: JobSubmissionClient | None = None

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """Stop working; jobs go on."""
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what the job service says if it does not answer."""
        self._ray().get_version()

    def logs(self, experiment: Experiment) -> str:
        """Return what the last job of an experiment has printed; empty if there is none."""
        try:
            return self._ray().get_job_logs(submission(experiment))
        except (RuntimeError, *UNREACHABLE):
            return ""

    def _ray(self) -> JobSubmissionClient:
        if self._client is None:
            self._client = JobSubmissionClient(self.address)
        return self._client

    def _work(self) -> None:
        while not self._over.wait(EVERY_S):
            try:
                self._stop_late()
                self._reap()
                self.check()
                while (experiment := self.store.claim(self.most)) is not None:
                    self._submit(experiment)
            except (FedcosimError, RuntimeError, *UNREACHABLE) as error:
                log.warning("jobs: %s", error)

    def _submit(self, experiment: Experiment) -> None:
        """Start an experiment's driver. One that Ray does not take (it may be starting) is offered again, for a while."""
        spec = self.folder / "specs" / f"{experiment.id}.toml"
        begun = (self.runs / experiment.id / "result.json").exists()
        if not begun:
            spec.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(spec, parse(experiment.spec).to_toml().encode())
        words = ["resume", self.runs / experiment.id] if begun else ["run", spec, "--out", self.runs, "--id", experiment.id]
        words += [word for override in experiment.overrides if begun for word in ("--set", override)]
        command = shlex.join(map(str, (sys.executable, "-m", "fedcosim.server.cli", *words)))
        variables = {URL: self.store.url, ATTEMPT: str(experiment.attempt), **ONE_THREAD}
        try:
            self._ray().submit_job(
                entrypoint=command, submission_id=submission(experiment), runtime_env={"env_vars": variables}
            )
        except (RuntimeError, *UNREACHABLE) as error:
            if time.time() > (experiment.lease or 0.0):
                self.store.move(experiment.id, ("starting",), "failed", reason=f"Ray did not take the job: {error}")

    def _reap(self) -> None:
        """Tell the truth about active experiments whose drivers are gone, or do not report."""
        for experiment in self.store.active():
            late_s = time.time() - (experiment.lease or 0.0)
            try:
                status = self._status(experiment)
            except UNREACHABLE as error:
                if late_s > 0:
                    self._bury(experiment, f"Ray does not answer ({error}), nor does its driver report")
                continue
            if status is None and experiment.status == "starting":  # not taken yet, or the service died before it offered it
                self._submit(experiment)
            elif status in ALIVE:
                if late_s > GRACE_S:
                    self._ray().stop_job(submission(experiment))
                    self._bury(experiment, "its driver hung")
            else:
                last = self.logs(experiment).strip().splitlines()[-1:]
                self._bury(experiment, ": ".join((f"its driver ended ({status or 'unknown to Ray'})", *last)))

    def _bury(self, experiment: Experiment, reason: str) -> None:
        """Copy what a driver could not, and mark the experiment as failed unless that says how it ended."""
        run = self.runs / experiment.id
        mirror.copy(self.store, run, _final(run))
        self.store.move(experiment.id, ACTIVE, "failed", reason=f"{reason}; resume it to go on after its last round")

    def _stop_late(self) -> None:
        """Let Ray stop drivers that did not stop by themselves."""
        active = [row for row in self.store.active() if row.stop_asked]
        self._asked = {row.id: self._asked.get(row.id, time.monotonic()) for row in active}
        for row in active:
            if time.monotonic() - self._asked[row.id] > STOP_S and self._status(row) in ALIVE:
                self._ray().stop_job(submission(row))

    def _status(self, experiment: Experiment) -> JobStatus | None:
        """Return what Ray says of a job; None if it knows nothing of it."""
        try:
            return self._ray().get_job_status(submission(experiment))
        except RuntimeError as error:
            if "does not exist" in str(error):
                return None
            raise


def submission(experiment: Experiment) -> str:
    """Return the name of the Ray Job of an experiment's last attempt."""
    return f"{experiment.id}.{experiment.attempt}"


def _final(run: Path) -> dict[str, Any]:
    path = run / "result.json"
    return json.loads(path.read_text(encoding="utf-8"))["final"] if path.exists() else {}


class Head:
    """A Ray head on this computer that outlives the service, so that a service that died finds its jobs again.

    Parameters
    ----------
    folder : Path
        Where its address is kept.

    Attributes
    ----------
    address : str
        Of its dashboard.
    """

    def __init__(self, folder: Path, cpus: int | None = None) -> None:
        self._note = folder / "ray.json"
        folder.mkdir(parents=True, exist_ok=True)
        known = json.loads(self._note.read_text()) if self._note.exists() else None
        if known is None or not _answers(known["address"]):
            known = self._start(cpus)
        self.pid, self.address = int(known["pid"]), str(known["address"])

    def _start(self, cpus: int | None) -> dict[str, Any]:
        port, dashboard, agent = _free_ports(3)  # others may have a Ray on the usual ones
        log_file = self._note.with_suffix(".log").open("ab")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", str(port)]
        command += ["--dashboard-host=127.0.0.1", "--dashboard-port", str(dashboard)]
        command += ["--dashboard-agent-listen-port", str(agent), "--disable-usage-stats"]
        command += [f"--num-cpus={cpus}"] if cpus else []
        process = subprocess.Popen(command, stdout=log_file, stderr=log_file, stdin=subprocess.DEVNULL, start_new_session=True)
        known: dict[str, Any] = {"pid": process.pid, "address": f"http://127.0.0.1:{dashboard}"}
        deadline = time.monotonic() + HEAD_STARTS_S
        while not _answers(known["address"]):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SpecError(f"Ray could not be started here; see {log_file.name}")
            time.sleep(0.3)
        write_atomically(self._note, json.dumps(known).encode())
        return known

    def close(self) -> None:
        """Stop Ray, and with it every job."""
        self._note.unlink(missing_ok=True)
        try:
            os.killpg(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            return


def _answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/api/version", timeout=2).ok
    except requests.RequestException:
        return False


def _free_ports(count: int) -> list[int]:
    import socket

    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
