"""What is known about a run, on disk: `runs/<id>/` with result.json, events.jsonl, spec.toml, log.txt and checkpoints.

A round is reported (event, result.json) only after its checkpoint is durable: nothing that was said to have happened is lost.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from ..clients.data import FederatedData, MultimodalData
from ..clients.fleet import Fleet
from ..clients.state import StateRef, write_atomically
from ..core.errors import RunError, SpecError, StateError
from ..core.records import from_bytes, to_bytes
from .clock import Part, Timing
from .report import write_report
from .rounds import ACCURACIES, Evaluation, Outcome, Tally
from .spec import Experiment, load

SCHEMA = 1
KEPT_CHECKPOINTS = 2


def new_id(name: str) -> str:
    """Make a run id: the experiment's name, the time, and four random hex digits."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def now() -> str:
    """Return the time as an ISO 8601 string in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Record:
    """The record of one run; one process writes it at a time.

    Parameters
    ----------
    folder : Path
        The run's directory.
    spec : Experiment
        What is run.

    Raises
    ------
    RunError
        If another process is writing this record.
    """

    def __init__(self, folder: Path, spec: Experiment) -> None:
        self.folder, self.spec = folder, spec
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        self._events = (folder / "events.jsonl").open("a+b", buffering=0)
        if self._events.tell() and (self._events.seek(-1, os.SEEK_END), self._events.read(1))[1] != b"\n":
            self._events.write(b"\n")  # what a killed process left half written becomes a line of its own
        self._saved = -math.inf
        self._cohort: list[int] = []  # of the newest round
        self.result: dict[str, Any] = {
            "schema": SCHEMA,
            "id": folder.name,
            "name": spec.name,
            "status": "running",
            "reason": None,
            "spec": spec.to_dict(),
            "versions": _versions(),
            "started": now(),
            "ended": None,
            "rounds": [],
            "final": {},
            "clients": [],
            "partition": None,
            "artifacts": [],
        }

    @classmethod
    def create(cls, runs: Path, spec: Experiment, run_id: str | None = None) -> Record:
        """Start the record of a new run.

        Raises
        ------
        RunError
            If a run of that id exists, or the folder cannot be written.
        """
        folder = runs / (run_id or new_id(spec.name))
        if (folder / "result.json").exists():
            raise RunError(f"run {folder.name!r} exists already in {runs}; choose another id, or resume it")
        try:
            record = cls(folder, spec)
            (folder / "spec.toml").write_text(spec.to_toml(), encoding="utf-8")
        except OSError as error:
            raise RunError(f"{folder}: the run's directory cannot be written ({error.strerror})") from None
        record.save()
        record.event("started", id=folder.name)
        return record

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl."""
        self._events.write(json.dumps({"time": now(), "event": kind, **fields}).encode() + b"\n")

    def save(self, at_most_every_s: float = 0.0) -> None:
        """Write result.json atomically, unless it was written less than `at_most_every_s` seconds ago."""
        if time.monotonic() - self._saved >= at_most_every_s:
            write_atomically(self.folder / "result.json", json.dumps(self.result, allow_nan=False).encode())
            self._saved = time.monotonic()

    def add_partition(self, data: FederatedData | MultimodalData) -> None:
        """Note who holds what, and how far one gets without learning anything from the images."""
        split = self.spec.evaluate.split
        baseline = data.majority_accuracy(split)
        held_out = getattr(data, f"num_{split}")
        self.result["final"]["majority_class"] = None if np.isnan(baseline).all() else float(np.nanmean(baseline))
        self.result["partition"] = data.partition()
        self.result["clients"] = [
            {
                "client": client,
                "accuracy": None,
                "loss": None,
                "num_train": int(data.num_train[client]),
                "num_test": int(held_out[client]),
                "rounds": 0,
                "device": None,
            }
            for client in range(data.num_clients)
        ]

    def add_fleet(self, fleet: Fleet) -> None:
        """Note which client is which device."""
        for client, device in zip(self.result["clients"], fleet.device, strict=True):
            client["device"] = device

    def add_round(self, outcome: Outcome) -> dict[str, Any]:
        """Note a round; return its line. Not yet written: `checkpoint` and `save` do that."""
        tally, evaluation = outcome.tally, outcome.evaluation
        metrics = dict(outcome.metrics or {})
        line = {
            "round": outcome.round,
            "train_loss": metrics.pop("train_loss", None),
            **(dict.fromkeys(ACCURACIES) if evaluation is None else evaluation.summary()),
            "bytes_up": tally.bytes_up,
            "bytes_up_dense": tally.bytes_up_dense,
            "bytes_down": tally.bytes_down,
            "wall_s": round(outcome.wall_s, 4),
            **_simulated(outcome.timing, tally.parts, self.result["clients"]),
            "epsilon": self._epsilon(tally.epsilon),
            "sampled": len(tally.sampled),
            "failed": [{"client": c, "error": e} for c, e in sorted(tally.failed + (evaluation.failed if evaluation else []))],
        }
        if self.spec.hardware is not None and self.spec.hardware.memory is not None:
            line["memory_slowdown"] = _slowdowns(tally.parts, self.result["clients"])
        if tally.left_out:
            line["left_out"] = [{"client": client, "reason": reason} for client, reason in sorted(tally.left_out)]
        line |= _compressed(tally)
        if evaluation is not None and (figures := evaluation.further()):
            line["figures"] = figures
        if metrics:
            line["training"] = metrics
        self.result["rounds"].append(line)
        self._cohort = sorted(tally.sampled)
        for client in tally.replied:
            self.result["clients"][client]["rounds"] += 1
        if evaluation is not None:
            self._add_evaluation(evaluation, line)
        rounds = self.result["rounds"]
        sums = {key: sum(r[key] for r in rounds) for key in ("bytes_up", "bytes_up_dense", "bytes_down")}
        simulated = {key: _known_sum(r[key] for r in rounds) for key in ("sim_s", "energy_j")}
        wall_s = round(sum(r["wall_s"] for r in rounds), 4)
        self.result["final"] |= {"rounds": outcome.round, **sums, "wall_s": wall_s, **simulated, "epsilon": line["epsilon"]}
        self.result["final"] |= metrics
        return line

    def announce_round(self) -> None:
        """Append the newest round, which is durable by now, to events.jsonl."""
        self.event("round", **self.result["rounds"][-1], cohort=self._cohort)

    def _announced(self) -> bool:
        """Say whether the newest round is in events.jsonl: a process may be killed between its checkpoint and its event."""
        mark = f'"event": "round", "round": {self.result["rounds"][-1]["round"]},'
        return mark in (self.folder / "events.jsonl").read_text(encoding="utf-8")

    def _epsilon(self, spent: float) -> float | None:
        """Return the most that any client has spent up to now; None where nothing is promised."""
        if self.spec.privacy is None:
            return None
        return max([spent, *(line["epsilon"] for line in self.result["rounds"])])

    def _add_evaluation(self, evaluation: Evaluation, line: Mapping[str, Any]) -> None:
        clients = self.result["clients"]
        for i, client in enumerate(evaluation.clients):
            known = {
                key: None if math.isnan(value) else value
                for key, value in (("accuracy", evaluation.accuracy[i]), ("loss", evaluation.loss[i]))
            }
            clients[client] |= known
        accuracy = {key: line[key] for key in ACCURACIES}
        unevaluated = len(clients) - len(evaluation.clients)
        self.result["final"] |= evaluation.details() | self._smoothed()
        self.result["final"] |= {**accuracy, "evaluated_round": line["round"], "unevaluated_clients": unevaluated}

    def _smoothed(self) -> dict[str, float]:
        """Return the task's own figures of the last evaluation, and of sums of recalls the mean of the last three."""
        lines = [line["figures"] for line in self.result["rounds"] if "figures" in line][-3:]
        latest = lines[-1] if lines else {}
        sums = [key for key in latest if key.startswith("retrieval_sum")]
        return latest | {f"{key}_last3": float(np.mean([line[key] for line in lines])) for key in sums}

    def progress(self) -> dict[str, Any]:
        """Return what `restore` needs: all of result.json that the spec and the data do not already say, by column."""
        clients = {key: [client[key] for client in self.result["clients"]] for key in ("accuracy", "loss", "rounds")}
        kept = {key: self.result[key] for key in ("rounds", "final", "started")}
        return {"clients": clients, "cohort": self._cohort, **kept}

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Go back to what a checkpoint knew, after `add_partition`."""
        self.result |= {key: progress[key] for key in ("rounds", "final", "started")}
        for key, column in progress["clients"].items():
            for client, value in zip(self.result["clients"], column, strict=True):
                client[key] = value
        self._cohort = progress.get("cohort", [])
        if not self._announced():
            self.announce_round()
        self.event("resumed", rounds=len(progress["rounds"]))

    def attach(self, files: Mapping[str, bytes]) -> None:
        """Write files beside result.json."""
        for name, blob in files.items():
            write_atomically(self.folder / name, blob)

    def finish(self, status: str, reason: str | None = None) -> None:
        """Note how the run ended."""
        self.result |= {"status": status, "reason": reason, "ended": now()}
        self.save()
        write_report(self.folder)
        patterns = ("report.html", "*.safetensors", "*.png", "checkpoints/*.safetensors")
        found = [path for pattern in patterns for path in self.folder.glob(pattern)]
        self.result["artifacts"] = sorted(str(path.relative_to(self.folder)) for path in found)
        self.save()
        self.event(status, reason=reason)

    def close(self) -> None:
        """Let another process write this record."""
        self._events.close()
        os.close(self._lock)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Checkpoint:
    """A run after a round: global arrays, the strategy's memory, which client states count, and the record's progress."""

    round: int
    arrays: ArrayRecord
    strategy: RecordDict
    states: Mapping[int, StateRef]
    progress: Mapping[str, Any]

    def to_content(self) -> RecordDict:
        """Return the checkpoint as records."""
        content = RecordDict({f"strategy.{name}": record for name, record in self.strategy.items()})
        content["arrays"] = self.arrays
        content["json"] = ConfigRecord({"states": json.dumps(self.states), "progress": json.dumps(self.progress)})
        return content

    @classmethod
    def of(cls, number: int, content: RecordDict) -> Checkpoint:
        """Undo `to_content`."""
        strategy = {name.removeprefix("strategy."): record for name, record in content.items() if name.startswith("strategy.")}
        text = content.config_records["json"]
        states = {int(client): StateRef(*ref) for client, ref in json.loads(str(text["states"])).items()}
        progress = json.loads(str(text["progress"]))
        return cls(number, content.array_records["arrays"], RecordDict(strategy), states, progress)


class Checkpoints:
    """A run's checkpoints: the last two, each one file with everything a resume needs, listed with checksums in a manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"
        self._manifest = self.folder / "manifest.json"

    def save(self, checkpoint: Checkpoint) -> None:
        """Make a round durable."""
        self.folder.mkdir(exist_ok=True)
        blob = to_bytes(checkpoint.to_content())
        path = self.folder / f"round-{checkpoint.round:05d}.safetensors"
        write_atomically(path, blob)
        entry = {"round": checkpoint.round, "file": path.name, "sha256": sha256(blob).hexdigest()}
        entries = [*(e for e in self._entries() if e["round"] < checkpoint.round), entry][-KEPT_CHECKPOINTS:]
        write_atomically(self._manifest, json.dumps(entries, indent=1).encode())
        for old in set(self.folder.glob("round-*.safetensors")) - {self.folder / e["file"] for e in entries}:
            old.unlink()

    def latest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint; None if the run has none.

        Raises
        ------
        StateError
            If there are checkpoints but all are damaged.
        """
        entries = self._entries()
        for entry in reversed(entries):
            path = self.folder / entry["file"]
            blob = path.read_bytes() if path.exists() else b""
            if sha256(blob).hexdigest() == entry["sha256"]:
                return Checkpoint.of(entry["round"], from_bytes(blob))
        if entries:
            raise StateError(f"{self.folder}: no checkpoint is intact (checksums differ); the run cannot be resumed")
        return None

    def _entries(self) -> list[dict[str, Any]]:
        return json.loads(self._manifest.read_text()) if self._manifest.exists() else []


def find_run(run: Path, runs: Path = Path("runs")) -> Path:
    """Return the directory of a run given as a path or as an id under `runs`.

    Raises
    ------
    RunError
        If there is no such run.
    """
    for folder in (run, runs / run):
        if (folder / "spec.toml").is_file():
            return folder
    raise RunError(f"{run}: no run there (neither a run's directory nor an id in {runs}/)")


def stored_spec(folder: Path) -> Experiment:
    """Return the experiment a run was started with."""
    try:
        return load(folder / "spec.toml")
    except SpecError as error:
        raise SpecError([f"{folder / 'spec.toml'}: {problem}" for problem in error.problems]) from None


def _compressed(tally: Tally) -> dict[str, Any]:
    """Return what compression cost and lost in a round, where there is some; seconds are sums over clients."""
    found: dict[str, Any] = {}
    if tally.uploads:
        sums = {key: round(sum(getattr(one, key) for one in tally.uploads), 4) for key in ("encode_s", "decode_s")}
        found["upload"] = {"error": float(np.mean([one.error for one in tally.uploads])), **sums}
    if tally.download is not None:
        sent = tally.download
        found["download"] = {"bytes_dense": sent.dense_bytes, "error": sent.error, "encode_s": round(sent.encode_s, 4)}
    return found


def _simulated(timing: Timing | None, parts: Iterable[Part], clients: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a round took on the simulated devices."""
    if timing is None:
        return {"sim_s": None, "energy_j": None}
    last = timing.straggler
    straggler = last and {
        "client": last.client,
        "device": clients[last.client]["device"],
        **{key: getattr(last, key) for key in ("total_s", "download_s", "compute_s", "upload_s")},
    }
    return {
        "sim_s": timing.sim_s,
        "energy_j": timing.energy_high_j,
        "energy_low_j": timing.energy_low_j,
        "straggler": straggler,
        **_components([part for part in parts if not math.isnan(part.total_s)], clients),
        "dropped": [{"client": client, "reason": reason} for client, reason in sorted(timing.dropped.items())],
    }


def _components(parts: Sequence[Part], clients: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a round's time and energy went into: seconds of a client in the mean, joules by device, at most."""
    joules: dict[str, float] = {}
    for part in sorted(parts, key=lambda part: part.client):
        device = clients[part.client]["device"]
        joules[device] = joules.get(device, 0.0) + part.energy_high_j
    keys = ("download_s", "compute_s", "upload_s")
    means = {key: sum(getattr(part, key) for part in parts) / len(parts) for key in keys} if parts else None
    return {"client_mean": means, "energy_by_device_j": dict(sorted(joules.items()))}


def _slowdowns(parts: Iterable[Part], clients: list[dict[str, Any]]) -> dict[str, float]:
    """Return by device how many times longer its clients computed, in the mean, than with fast memory alone."""
    by_device: dict[str, list[float]] = {}
    for part in sorted(parts, key=lambda part: part.client):
        if not math.isnan(part.memory_slowdown):
            by_device.setdefault(clients[part.client]["device"], []).append(part.memory_slowdown)
    return {device: sum(factors) / len(factors) for device, factors in sorted(by_device.items())}


def _known_sum(values: Iterable[float | None]) -> float | None:
    """Return the sum of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _versions() -> dict[str, str]:
    packages = ("fedcosim", "flwr", "ray", "torch", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _lock(folder: Path) -> int:
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise RunError(f"{folder}: another process is writing this run") from None
    return handle
