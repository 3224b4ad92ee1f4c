"""The Flower ClientApp: train, evaluate, query on one client, in whatever hosts it: a Ray worker, a SuperNode.

A process hosts many clients, one after another, on one model: weights are copied in place. The arrays of a reply are views
of that model, true until the process handles its next message; hosts serialise, average or copy them before that. What goes
into a client's state is a copy.
"""

from __future__ import annotations

import math

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from ..core.records import WEIGHT_KEY, array_record, private_copy
from ..core.seeds import seed_globals, torch_stream
from . import multimodal, uploads
from .compress import compress
from .cost import price
from .spending import classifier_training
from .tasks import classification
from .workbench import Workbench, arrays_of, client_of, config_of, workbench

__all__ = ["Workbench", "app"]

app = ClientApp(mods=[price, compress])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the client's own data; reply with the shared parameters, keep the local ones in the context's state."""
    bench, client = workbench(context), client_of(context)
    spec, config = bench.spec, config_of(message)
    bench.load(arrays_of(message), context.state)
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
    bench, client = workbench(context), client_of(context)
    x_NCHW, y_N = bench.data.train(client)
    bench.load(array_record(bench.initial), RecordDict())
    content = uploads.make(bench.spec, client, x_NCHW, y_N, bench.data.classes, bench.model, context.state)
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge the received shared parameters, with the client's own local ones, on the client's own held-out data."""
    return _judged(message, context, {"": arrays_of(message)})


@app.evaluate("ensemble")
def evaluate_ensemble(message: Message, context: Context) -> Message:
    """Judge the mean of the probabilities that several models give; arrays are named `<member>/<parameter>`."""
    members: dict[str, ArrayRecord] = {}
    for key, array in arrays_of(message).items():
        member, _, parameter = key.partition("/")
        members.setdefault(member, ArrayRecord())[parameter] = array
    return _judged(message, context, members)


def _judged(message: Message, context: Context, members: dict[str, ArrayRecord]) -> Message:
    bench, client = workbench(context), client_of(context)
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


@app.train("multimodal")
def train_multimodal(message: Message, context: Context) -> Message:
    """Train the model of the client's type on its own data; reply with it."""
    return multimodal.train(workbench(context), message, context)


@app.evaluate("multimodal")
def evaluate_multimodal(message: Message, context: Context) -> Message:
    """Judge the model of the client's type on the client's own held-out data."""
    return multimodal.evaluate(workbench(context), message, context)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which client this node is, and of which type; servers learn from it whom they can ask for what."""
    bench, client = workbench(context), client_of(context)
    return Message(RecordDict({"client": ConfigRecord({"id": client, **bench.registration(client)})}), reply_to=message)
