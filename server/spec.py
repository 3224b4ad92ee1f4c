"""Experiment: the one description of a run, validated before anything starts.

The same fields arrive as TOML from the command line, as JSON over REST, and flattened with dots as Flower run config.
Sections that name a component (`[model]`, `[strategy]`) are validated by that component's own options class.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from .. import compression
from ..clients.data import MULTIMODAL, DataOptions, MultimodalOptions
from ..clients.fleet import HardwareOptions
from ..clients.models import MODELS, ModelOptions
from ..clients.models.towers import TowersOptions
from ..clients.objects import objection, without_password
from ..clients.privacy import PrivacyOptions
from ..clients.tasks.classification import TrainOptions
from ..clients.tasks.multimodal import MultimodalTrainOptions
from ..compression import DownloadOptions, UploadOptions
from ..core.errors import SpecError
from ..core.options import Options, sentences, validate
from ..hwsim.devices import devices
from ..strategies import STRATEGIES, StrategyOptions
from ..strategies.typed import TypedOptions

Fraction = Annotated[float, Field(ge=0, le=1)]
EngineName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]  # dots divide the names of fields in a run config


class FederationOptions(Options):
    """Who takes part: `[federation]`."""

    clients: Annotated[int, Field(ge=1)] = 10
    """Clients in the federation; each gets one partition of the data."""
    per_round: Annotated[int, Field(ge=1)] = 10
    """Clients sampled in every round: exactly this many, the same ones for the same seed (10, or all if fewer, when absent)."""
    rounds: Annotated[int, Field(ge=1)] = 10
    """Rounds of training."""
    min_reply_fraction: Fraction = 0.5
    """A round with fewer valid replies than this share of its cohort fails the run."""
    timeout_s: Annotated[float, Field(gt=0)] = 3600
    """Seconds to wait for the replies of one round; clients that have not replied by then have failed."""

    @model_validator(mode="before")
    @classmethod
    def _few_clients_all_take_part(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "per_round" not in fields and isinstance(clients := fields.get("clients"), int):
            return {**fields, "per_round": max(1, min(10, clients))}
        return fields


class EvaluateOptions(Options):
    """When and on what all clients are evaluated, always after aggregation: `[evaluate]`."""

    every: Annotated[int, Field(ge=1)] = 5
    """Evaluate after every this many rounds, and after the last."""
    split: Literal["test", "validation"] = "test"
    """Which split of each client's own data."""


class EngineOptions(Options):
    """Where the clients run: `[engine]`. None of these changes the result, except `chunk` in the last float digits."""

    address: str = "local"
    """`local` starts Ray here; `auto` joins the cluster this computer is part of; `ray://host:port` another one."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Worker processes, one thread each; when absent, the CPUs Ray has, and those of nodes that join later."""
    resources: dict[EngineName, Annotated[float, Field(gt=0)]] | None = None
    """Other Ray resources that a worker takes, such as `{ sensor = 1 }`: it runs where a node has them to give."""
    labels: dict[EngineName, str] | None = None
    """Ray labels that a worker's node must have, such as `{ data = "fashion-mnist" }` for those with the data at hand."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often work is handed out again after its worker process died."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """Most clients averaged into one reply (an eighth of the cohort, at most 16, when absent)."""
    state: str | None = None
    """Where clients' states go: below an fsspec URL such as `s3://bucket/prefix`; into the run's folder when absent."""


class StopOptions(Options):
    """When to stop before the last round: `[stop]`. Checked after evaluations."""

    accuracy: Fraction | None = None
    """Stop once the mean accuracy reaches this."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many evaluations in a row without a new best mean accuracy."""


class TrackingOptions(Options):
    """Where else rounds are reported, beside the run's own record: `[tracking]`."""

    mlflow: str | None = None
    """An MLflow tracking URI; $MLFLOW_TRACKING_URI when absent."""
    wandb: Annotated[str, Field(min_length=1)] | None = None
    """A project of Weights & Biases."""
    tensorboard: bool = False
    """Write TensorBoard event files into the run directory."""


class Experiment(Options):
    """One experiment. See docs/reference/spec.md."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")] = "experiment"
    """Letters, digits, dots, dashes, underscores; starts the run's id."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Everything random derives from it: the same spec and seed give the same bytes."""
    federation: FederationOptions = FederationOptions()
    data: SerializeAsAny[DataOptions | MultimodalOptions]
    model: SerializeAsAny[ModelOptions]
    strategy: SerializeAsAny[StrategyOptions]
    train: SerializeAsAny[TrainOptions] = TrainOptions()
    evaluate: EvaluateOptions = EvaluateOptions()
    upload: UploadOptions | None = None
    download: DownloadOptions | None = None
    privacy: PrivacyOptions | None = None
    hardware: HardwareOptions | None = None
    engine: EngineOptions = EngineOptions()
    stop: StopOptions | None = None
    tracking: TrackingOptions | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as nested plain values, unset optional fields left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """Return the spec as TOML."""
        return tomli_w.dumps(self.to_dict())

    def to_run_config(self) -> dict[str, bool | float | int | str]:
        """Return the spec flattened with dots: what Flower calls a run config. Lists become JSON text."""
        return {key: value if isinstance(value, (bool, float, int, str)) else json.dumps(value) for key, value in self._flat()}

    def _flat(self) -> Iterable[tuple[str, Any]]:
        return flatten(self.to_dict())

    @property
    def task(self) -> str:
        """What clients learn: `classification` of images, or `multimodal`, matching and classifying several modalities."""
        return "multimodal" if isinstance(self.data, MultimodalOptions) else "classification"

    def model_options(self) -> ModelOptions:
        """Return the model's options as the strategy wants them (FedPerfix puts its plugin into the attention)."""
        return self.strategy.adapt(self.model)

    @property
    def averages(self) -> bool:
        """Whether replies may be averaged on their way to the strategy: it wants nothing else, and all of them count."""
        return self.strategy.averages and not (self.hardware is not None and self.hardware.drops)

    def differences(self, other: Experiment) -> list[str]:
        """Return the dotted names of the fields in which two experiments differ."""
        mine, others = dict(self._flat()), dict(other._flat())
        return sorted(key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key))


def _parse_data(section: Mapping[str, Any]) -> DataOptions | MultimodalOptions:
    name = section.get("source")
    if name in MULTIMODAL.names():
        return MULTIMODAL.parse(section)
    return validate(DataOptions, section, "data")


_PARSERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "data": _parse_data,
    "model": MODELS.parse,
    "strategy": STRATEGIES.parse,
    "upload": compression.parse,
    "download": compression.parse_download,
}
"""Sections whose fields depend on a component that they name."""


def parse(fields: Mapping[str, Any]) -> Experiment:
    """Validate a nested mapping of plain values.

    Raises
    ------
    SpecError
        With one sentence for every problem found, not only the first.
    """
    problems: list[str] = []
    sections = dict(fields)
    data = sections.get("data")
    if isinstance(data, Mapping) and data.get("source") in MULTIMODAL.names():
        sections.setdefault("train", {})
        parsers = _PARSERS | {"train": lambda section: validate(MultimodalTrainOptions, section, "train")}
    else:
        parsers = _PARSERS
    for name, parser in parsers.items():
        section = sections.get(name)
        if isinstance(section, Mapping):
            try:
                sections[name] = parser(section)
            except SpecError as error:
                problems += error.problems
                sections.pop(name)
    try:
        experiment = Experiment.model_validate(sections)
    except ValidationError as error:
        reported = {name for name in parsers if name in fields and name not in sections}
        problems += [s for s in sentences(error, Experiment) if s.split(":")[0] not in reported]
        raise SpecError(problems) from None
    problems += _cross_checks(experiment)
    if problems:
        raise SpecError(problems)
    return experiment


def _cross_checks(experiment: Experiment) -> list[str]:
    """Return what is wrong between sections that are each valid alone."""
    problems = []
    federation, engine = experiment.federation, experiment.engine
    if federation.per_round > federation.clients:
        problems.append(
            f"federation.per_round = {federation.per_round}: only {federation.clients} clients exist "
            f"(federation.clients); choose 1 to {federation.clients}"
        )
    if engine.address not in ("local", "auto") and not engine.address.startswith("ray://"):
        problems.append(f"engine.address = {engine.address!r}: must be 'local', 'auto' or 'ray://host:port'")
    if engine.state is not None and (reason := objection(engine.state)):
        problems.append(f"engine.state = {without_password(engine.state)!r}: {reason}")
    problems += (
        _task_checks(experiment) + _strategy_checks(experiment) + _codec_checks(experiment) + _hardware_checks(experiment)
    )
    try:
        experiment.model_options()
    except SpecError as error:
        problems += error.problems
    return problems + experiment.strategy.check(federation.per_round)


def _task_checks(experiment: Experiment) -> list[str]:
    """Return what does not fit the kind of task."""
    data, strategy, federation = experiment.data, experiment.strategy, experiment.federation
    if strategy.task != experiment.task:
        fit = [name for name in STRATEGIES.names() if STRATEGIES.options(name).task == experiment.task]
        name = type(strategy).model_fields["name"].default
        return [f"strategy.name = {name!r}: is for another kind of data than {data.source!r}; choose one of {', '.join(fit)}"]
    if not isinstance(data, MultimodalOptions) or not isinstance(strategy, TypedOptions):
        return []
    problems, clients = [], data.clients
    if not isinstance(experiment.model, TowersOptions):
        problems.append("model.name: several modalities need a tower each; choose 'towers'")
    if federation.clients != (there := sum(clients.values())):
        counted = ", ".join(f"{count} {name}" for name, count in clients.items())
        problems.append(f"federation.clients = {federation.clients}: [data] makes {counted}; choose {there}")
    try:
        drawn = strategy.cohorts(clients)
    except SpecError as error:
        return problems + error.problems
    if not (wanted := sum(drawn.values())):
        problems.append("strategy.participation: nobody takes part; give some type a share above 0")
    elif federation.per_round != wanted:
        counted = ", ".join(f"{count} {name}" for name, count in drawn.items())
        problems.append(
            f"federation.per_round = {federation.per_round}: strategy.participation draws {counted}; choose {wanted}"
        )
    if experiment.stop is not None:
        problems.append("stop: rules are about accuracy, which clients that match modalities have none of; leave [stop] out")
    if experiment.hardware is not None and experiment.hardware.asked(federation.per_round) != federation.per_round:
        problems.append("hardware: cohorts are drawn by type, none can be drawn larger; leave over-selection out")
    return problems


def _strategy_checks(experiment: Experiment) -> list[str]:
    """Return what the strategy cannot be combined with."""
    problems, strategy, rounds = [], experiment.strategy, experiment.federation.rounds
    name = type(strategy).model_fields["name"].default
    if strategy.one_shot and rounds != 1:
        problems.append(f"federation.rounds = {rounds}: strategy {name!r} is one-shot; choose 1")
    if experiment.privacy is not None and (reason := strategy.not_private_because):
        problems.append(f"privacy: strategy {name!r} cannot keep such a promise: {reason}; leave [privacy] out")
    return problems


def _codec_checks(experiment: Experiment) -> list[str]:
    """Return what cannot be compressed in this way."""
    problems, strategy = [], experiment.strategy
    name = type(strategy).model_fields["name"].default
    own = f"strategy {name!r} uploads models of the clients' own"
    if (upload := experiment.upload) is not None:
        calibrated = [options.codec for options in upload.codec if options.build().needs_calibration]
        if strategy.own_uploads and upload.target == "delta":
            problems.append(f"upload.target = 'delta': {own}, which no model of the server's is near; choose 'weights'")
        if strategy.own_uploads and calibrated:
            problems.append(f"upload.codec = {calibrated[0]!r}: it calibrates itself on a classifier's inputs, and {own}")
        if experiment.privacy is not None and calibrated:
            problems.append(
                f"upload.codec = {calibrated[0]!r}: it calibrates itself on private data after [privacy] has spent its budget, "
                f"which no ledger would show; choose a codec that does not, or leave [privacy] out"
            )
        if strategy.typed and calibrated:
            problems.append(f"upload.codec = {calibrated[0]!r}: it calibrates itself on a classifier's inputs; choose another")
    if experiment.download is not None and strategy.typed:
        problems.append(f"download: strategy {name!r} sends several models, which differ in shape; leave [download] out")
    if experiment.download is not None and (strategy.one_shot or strategy.own_uploads):
        problems.append(f"download: strategy {name!r} broadcasts no model that clients go on with; leave [download] out")
    return problems


def _hardware_checks(experiment: Experiment) -> list[str]:
    """Return what the simulated devices cannot do."""
    hardware, precision = experiment.hardware, experiment.train.precision
    if hardware is None:
        return []
    without = [name for name in hardware.devices if getattr(devices()[name].peak, precision) is None]
    return [
        f"hardware.devices.{name}: nothing is known of its rate in train.precision = {precision!r}; choose another device"
        for name in without
    ]


def load(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read a TOML spec and apply `a.b=c` overrides.

    Raises
    ------
    SpecError
        If the file cannot be read, is not TOML, or does not describe a valid experiment.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); give the path of a TOML experiment") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not valid TOML: {error}") from None
    return parse(override(fields, overrides))


def override(fields: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b=c` overrides to a nested mapping; `c` is a TOML value, or text when it is not one; empty removes."""
    result = json.loads(json.dumps(fields))
    for item in overrides:
        dotted, equals, text = item.partition("=")
        path = dotted.strip().split(".")
        if not equals or not all(path):
            raise SpecError(f"--set {item!r}: must look like section.field=value")
        section = result
        for part in path[:-1]:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise SpecError(f"--set {item!r}: {part!r} is a value, not a section")
        if text.strip():
            section[path[-1]] = toml_value(text.strip())
        else:
            section.pop(path[-1], None)
    return result


def toml_value(text: str) -> Any:
    """Read a TOML value; what is none is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def from_run_config(config: Mapping[str, bool | float | int | str]) -> Experiment:
    """Validate a Flower run config: dotted fields, or one field `spec` with a whole experiment as TOML text.

    Raises
    ------
    SpecError
        If the fields, or the text, do not describe a valid experiment.
    """
    if text := config.get("spec"):
        try:
            return parse(tomllib.loads(str(text)))
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"spec: not valid TOML: {error}") from None
    nested: dict[str, Any] = {}
    for dotted, value in config.items():
        if dotted == "spec":
            continue
        *path, field = dotted.split(".")
        section = nested
        for part in path:
            section = section.setdefault(part, {})
        section[field] = _from_json_list(value)
    return parse(nested)


def _from_json_list(value: Any) -> Any:
    """Undo what `to_run_config` does to lists; any other text is itself."""
    if isinstance(value, str) and value.startswith("["):
        with suppress(json.JSONDecodeError):
            return json.loads(value)
    return value


def flatten(fields: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield (dotted name, value) for every leaf of a nested mapping."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
