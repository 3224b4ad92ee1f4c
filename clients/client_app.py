"""The Flower ClientApp: train, evaluate, query on one client, in whatever hosts it: a Ray worker, a SuperNode.

A process hosts many clients, one after another, on one model: weights are copied in place. The arrays of a reply are views
of that model, true until the process handles its next message; hosts serialise, average or copy them before that. What goes
into a client's state is a copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from ..core.errors import PayloadError, SpecError
from ..core.records import WEIGHT_KEY, array_record, layout, private_copy, tensors
from ..core.seeds import seed_globals, torch_stream
from ..server.spec import Experiment, from_run_config
from . import uploads
from .compress import Wire, compress
from .cost import price
from .data import FederatedData, federate
from .models import initialise
from .models.locality import split
from .privacy import check_records
from .spending import classifier_training
from .tasks import classification

app = ClientApp(mods=[price, compress])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the client's own data; reply with the shared parameters, keep the local ones in the context's state."""
    bench, client = workbench(context), _client(context)
    spec, config = bench.spec, _config(message)
    bench.load(_arrays(message), context.state)
    x_NCHW, y_N = bench.data.train(client)
    path = ("train", int(config["server-round"]), client)  # type: ignore[arg-type]
    seed_globals(spec.seed, *path)
    spending = classifier_training(spec, client, len(y_N), context.state)
    loss = classification.fit(
        bench.model,
        x_NCHW,
        y_N,
        spec.train,
        torch_stream(spec.seed, *path),
        spending.training(*spending.trainings[0], "classifier"),
        float(config.get("proximal-mu", 0.0)),  # type: ignore[arg-type]
    )
    if bench.local_keys:
        context.state["local"] = private_copy(RecordDict({"local": bench.export(bench.local_keys)}), arrays=True)["local"]
    metrics = MetricRecord({WEIGHT_KEY: spending.count()})
    if loss is not None:
        metrics["train_loss"] = loss
    content = RecordDict({"arrays": bench.export(bench.shared_keys), "metrics": metrics})
    return Message(spending.close(content), reply_to=message)


@app.train("generator")
def train_generator(message: Message, context: Context) -> Message:
    """Train a generative model of the client's own data; reply with it and what the server needs to use it."""
    bench, client = workbench(context), _client(context)
    x_NCHW, y_N = bench.data.train(client)
    bench.load(array_record(bench.initial), RecordDict())
    content = uploads.make(bench.spec, client, x_NCHW, y_N, bench.data.classes, bench.model, context.state)
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge the received shared parameters, with the client's own local ones, on the client's own held-out data."""
    return _judged(message, context, {"": _arrays(message)})


@app.evaluate("ensemble")
def evaluate_ensemble(message: Message, context: Context) -> Message:
    """Judge the mean of the probabilities that several models give; arrays are named `<member>/<parameter>`."""
    members: dict[str, ArrayRecord] = {}
    for key, array in _arrays(message).items():
        member, _, parameter = key.partition("/")
        members.setdefault(member, ArrayRecord())[parameter] = array
    return _judged(message, context, members)


def _judged(message: Message, context: Context, members: dict[str, ArrayRecord]) -> Message:
    bench, client = workbench(context), _client(context)
    x_NCHW, y_N = getattr(bench.data, bench.spec.evaluate.split)(client)
    log_p = []
    for arrays in members.values():
        bench.load(arrays, context.state)
        log_p.append(classification.predict(bench.model, x_NCHW, bench.spec.train))
    log_p_NK = log_p[0] if len(log_p) == 1 else torch.stack(log_p).logsumexp(0) - math.log(len(log_p))
    metrics = MetricRecord({WEIGHT_KEY: len(y_N), **classification.score(log_p_NK, y_N)})
    if len(log_p) > 1:
        metrics["member_correct"] = [int((p_NK.argmax(1) == y_N).sum()) for p_NK in log_p]
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which client this node is; servers on other grids than ours learn the mapping from it."""
    return Message(RecordDict({"client": ConfigRecord({"id": _client(context)})}), reply_to=message)


@dataclass(frozen=True)
class Workbench:
    """What a process keeps between messages: the data (memory-mapped) and one model that is trained in place."""

    spec: Experiment

    @cached_property
    def data(self) -> FederatedData:
        """The partitioned data set."""
        return federate(self.spec.data, self.spec.federation.clients, self.spec.seed)

    @cached_property
    def model(self) -> nn.Module:
        """The model, at its initial weights until the first `load`."""
        model = initialise(self.spec.model_options(), self.data.shape_CHW, self.data.classes, self.spec.seed)
        wants = torch.channels_last if getattr(model, "channels_last", False) else torch.preserve_format
        return model.to(memory_format=wants)  # type: ignore[call-overload]

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The model's own tensors by name: writing to them changes the model."""
        return self.model.state_dict()

    @cached_property
    def initial(self) -> dict[str, Tensor]:
        """The weights every client starts from."""
        return {key: tensor.clone() for key, tensor in self.weights.items()}

    @cached_property
    def _keys(self) -> tuple[list[str], list[str]]:
        return split(list(self.initial), self.spec.strategy.local)

    @property
    def shared_keys(self) -> list[str]:
        """Names of the parameters that travel."""
        return self._keys[0]

    @property
    def local_keys(self) -> list[str]:
        """Names of the parameters that stay."""
        return self._keys[1]

    @cached_property
    def wire(self) -> Wire:
        """How models travel."""
        shared = layout(array_record({key: self.initial[key] for key in self.shared_keys}))
        return Wire(shared, self.spec.upload, self.spec.download)

    def checked(self) -> Workbench:
        """Make sure data, model and locality patterns fit together.

        Raises
        ------
        SpecError, DataError
            If they do not.
        """
        self._keys  # noqa: B018 - loads the data, builds the model, matches the patterns
        spec, trainable = self.spec, int((self.data.num_train > 0).sum())
        if trainable < spec.federation.per_round:
            raise SpecError(
                f"federation.per_round = {spec.federation.per_round}: only {trainable} of {spec.federation.clients} clients "
                f"have training data under this partition; choose 1 to {trainable}"
            )
        if not self.held_out_counts().any():
            raise SpecError(
                f"evaluate.split = {spec.evaluate.split!r}: no client has such data; set data.{spec.evaluate.split}_*"
            )
        spec.strategy.fits(self.data.shape_CHW, self.data.classes, spec.federation.clients)
        if spec.privacy is not None:
            for batch_size in spec.strategy.batch_sizes(spec.train):
                for client in np.flatnonzero(self.data.num_train).tolist():
                    check_records(spec.privacy, int(self.data.num_train[client]), batch_size, client)
        return self

    def held_out_counts(self) -> np.ndarray:
        """Return how many samples of the split that is evaluated each client has."""
        return getattr(self.data, f"num_{self.spec.evaluate.split}")

    def load(self, shared: ArrayRecord, state: RecordDict) -> None:
        """Put received shared parameters and the client's own local ones (initial ones at first) into the model.

        Raises
        ------
        PayloadError
            If keys or shapes are not exactly those the model expects.
        """
        local = state.get("local")
        values = {key: self.initial[key] for key in self.local_keys} if local is None else tensors(local)  # type: ignore[arg-type]
        values = {**values, **tensors(shared)}
        if odd := sorted(values.keys() ^ self.weights.keys() | (shared.keys() & set(self.local_keys))):
            raise PayloadError(f"received arrays do not fit the model: {', '.join(odd[:5])}")
        for key, tensor in self.weights.items():
            if tensor.shape != values[key].shape:
                raise PayloadError(f"array {key!r} is {list(values[key].shape)}, the model's is {list(tensor.shape)}")
            tensor.copy_(values[key])

    def export(self, keys: list[str]) -> ArrayRecord:
        """View parameters of the model as a record."""
        return array_record({key: self.weights[key] for key in keys})


def workbench(context: Context) -> Workbench:
    """Return the process's workbench for the experiment that the context's run config describes."""
    return _workbench(tuple(sorted(context.run_config.items())))


@lru_cache(maxsize=1)
def _workbench(run_config: tuple[tuple[str, bool | float | int | str], ...]) -> Workbench:
    return Workbench(from_run_config(dict(run_config)))


def _client(context: Context) -> int:
    return int(context.node_config["partition-id"])


def _arrays(message: Message) -> ArrayRecord:
    return next(iter(message.content.array_records.values()), ArrayRecord())


def _config(message: Message) -> ConfigRecord:
    return next(iter(message.content.config_records.values()), ConfigRecord())
