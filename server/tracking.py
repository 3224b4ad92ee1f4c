"""Trackers: listeners that report rounds to MLflow, Weights & Biases or TensorBoard, beside the run's own record.

A resumed run goes on in the tracker's same run, and its terminal status is the truth.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..core.errors import SpecError
from .record import Record
from .server_app import Listener
from .spec import Experiment, TrackingOptions, flatten

log = logging.getLogger(__name__)


def trackers(spec: Experiment, record: Record) -> list[Listener]:
    """Make the trackers that `[tracking]` asks for; MLflow's own variable counts where that names no server.

    Raises
    ------
    SpecError
        If a tracker's package is not installed, or Weights & Biases does not know who asks.
    """
    asked, made = spec.tracking or TrackingOptions(), list[Listener]()
    try:
        if uri := asked.mlflow or os.environ.get("MLFLOW_TRACKING_URI"):
            made.append(MlflowTracker(uri, spec, record))
        if asked.wandb:
            made.append(WandbTracker(asked.wandb, spec, record))
        if asked.tensorboard:
            made.append(TensorboardTracker(record))
    except ImportError as error:
        raise SpecError(f"tracking: package {error.name!r} is missing; pip install 'fedcosim[tracking]'") from None
    return made


def _numbers(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield a round's figures: what is a number and was measured, and how many clients failed."""
    yield "failed", len(line["failed"])
    yield from line.get("training", {}).items()
    yield from line.get("figures", {}).items()
    for key, value in line.items():
        if key != "round" and isinstance(value, (int, float)):
            yield key, value


class MlflowTracker:
    """Reports to an MLflow server or store: parameters once, metrics with the round as step, the report at the end."""

    _STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "cancelled": "KILLED"}  # noqa: RUF012

    def __init__(self, uri: str, spec: Experiment, record: Record) -> None:
        from mlflow import MlflowClient

        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with --json, stdout is one document
        self._client, self._record = MlflowClient(tracking_uri=uri), record
        experiment = self._client.get_experiment_by_name(spec.name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(spec.name)
        known = self._client.search_runs([experiment_id], f"tags.`fedcosim.id` = '{record.folder.name}'")
        if known:
            self._run_id = known[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        tags = {"fedcosim.id": record.folder.name}
        self._run_id = self._client.create_run(experiment_id, tags=tags, run_name=record.folder.name).info.run_id
        for key, value in flatten(spec.to_dict()):
            self._client.log_param(self._run_id, key, value)

    def progress(self, number: int, phase: str, done: int, total: int) -> None:
        """Say nothing within a round."""

    def round(self, line: Mapping[str, Any]) -> None:
        """Report a round's figures."""
        from mlflow.exceptions import MlflowException

        try:
            for key, value in _numbers(line):
                self._client.log_metric(self._run_id, key, value, step=line["round"])
        except MlflowException as error:  # the run's own record is the truth; a tracker's outage must not end the run
            log.warning("MLflow did not take round %d: %s", line["round"], error)

    def close(self, status: str) -> None:
        """Report the end."""
        from mlflow.exceptions import MlflowException

        report = self._record.folder / "report.html"
        try:
            if report.exists():
                self._client.log_artifact(self._run_id, str(report))
            self._client.set_terminated(self._run_id, self._STATUS.get(status, "FAILED"))
        except MlflowException as error:
            log.warning("MLflow did not take the end of the run: %s", error)


class WandbTracker:
    """Reports to a project of Weights & Biases; `WANDB_MODE=offline` keeps all in the run's directory, for `wandb sync`."""

    def __init__(self, project: str, spec: Experiment, record: Record) -> None:
        import wandb

        settings = wandb.Settings(console="off", silent=True, disable_git=True)
        folder = record.folder
        where: dict[str, Any] = {"project": project, "dir": folder, "settings": settings, "reinit": "create_new"}
        try:
            config = dict(flatten(spec.to_dict()))
            self._run = wandb.init(id=folder.name, name=folder.name, resume="allow", config=config, **where)
        except wandb.errors.Error as error:
            raise SpecError(f"tracking.wandb = {project!r}: {error}; log in, or set WANDB_MODE=offline") from None

    def progress(self, number: int, phase: str, done: int, total: int) -> None:
        """Say nothing within a round."""

    def round(self, line: Mapping[str, Any]) -> None:
        """Report a round's figures."""
        self._run.log(dict(_numbers(line)), step=line["round"])

    def close(self, status: str) -> None:
        """Report the end; what was interrupted counts as failed there, for there is no third."""
        self._run.finish(exit_code=0 if status in ("finished", "stopped") else 1)


class TensorboardTracker:
    """Writes event files into `tensorboard/` in the run's directory."""

    def __init__(self, record: Record) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(record.folder / "tensorboard"))

    def progress(self, number: int, phase: str, done: int, total: int) -> None:
        """Say nothing within a round."""

    def round(self, line: Mapping[str, Any]) -> None:
        """Report a round's figures."""
        for key, value in _numbers(line):
            self._writer.add_scalar(f"round/{key}", value, line["round"])
        self._writer.flush()

    def close(self, status: str) -> None:
        """Close the files."""
        self._writer.close()
