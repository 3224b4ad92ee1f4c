"""Trackers are told what the record says, in their own run, which a resume goes on with."""

from __future__ import annotations

import json

from mlflow import MlflowClient
from small import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
