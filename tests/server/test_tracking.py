"""Trackers are told what the record says, in their own run, which a resume goes on with."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from serving import wait
from small import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from fedcosim.server.run import resumable, resume, run


def test_mlflow_and_tensorboard_hold_the_rounds_of_a_resumed_run(runs, tmp_path, local_ray, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts of a local store
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    spec = small("fedavg", "federation.rounds=2", f"tracking.mlflow='{uri}'", "tracking.tensorboard=true", "evaluate.every=1")
    folder = run(spec, runs)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # which counts where a spec names none
    resume(folder, resumable(folder, ["federation.rounds=3", "tracking.mlflow="]))
    assert capsys.readouterr().out == ""  # where --json prints its document
    lines = json.loads((folder / "result.json").read_text())["rounds"]

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("small")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["strategy.name"] == "fedavg"
    history = client.get_metric_history(tracked.info.run_id, "accuracy_mean")
    assert [(m.step, m.value) for m in history] == [(line["round"], line["accuracy_mean"]) for line in lines]

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("round/bytes_up")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("round/bytes_up")] == [line["bytes_up"] for line in lines]


def wandb_records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Read the store of an offline run of Weights & Biases: LevelDB's log format behind seven bytes."""
    blob, at, begun = path.read_bytes(), 7, b""
    while at + 7 <= len(blob):
        size, kind = struct.unpack("<HB", blob[at + 4 : at + 7])
        begun += blob[at + 7 : at + 7 + size]
        if kind in (1, 4):  # all of a record, or its last part
            yield wandb_internal_pb2.Record.FromString(begun)
            begun = b""
        at += 7 + size
        at += left if (left := -at % 32768) < 7 else 0


def test_wandb_holds_the_rounds_under_one_id(runs, local_ray, monkeypatch):
    """Written to its real offline store, and read from there; a resume keeps the id, and each part says how it ended."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = run(small("fedavg", "federation.rounds=2", "tracking.wandb='ours'", "evaluate.every=1"), runs)
    resume(folder, resumable(folder, ["federation.rounds=3"]))
    lines = json.loads((folder / "result.json").read_text())["rounds"]

    def stored() -> list[wandb_internal_pb2.Record]:
        return [record for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")) for record in wandb_records(path)]

    def ended() -> list[int]:
        return [record.exit.exit_code for record in stored() if record.WhichOneof("record_type") == "exit"]

    wait(lambda: len(ended()) == 2, 30)  # wandb's own process writes a moment after it said that it was done
    seen = {}
    for record in stored():
        if record.WhichOneof("record_type") == "run":
            assert (record.run.run_id, record.run.project) == (folder.name, "ours")
        if record.WhichOneof("record_type") == "history":
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            seen[row["_step"]] = row["accuracy_mean"]
    assert seen == {line["round"]: line["accuracy_mean"] for line in lines}
    assert ended() == [0, 0]
