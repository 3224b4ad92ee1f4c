"""A client of a multimodal federation: what it is asked to train and judge, and the workbench it does that on.

Arrays on the server are named `<type>/<parameter>`; a client receives and returns those of its own type, without the prefix.
What it borrows from other modalities comes in a record of its own, `aux`, and never goes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from ..core.errors import PayloadError, SpecError
from ..core.records import WEIGHT_KEY, array_record, tensors
from ..core.seeds import seed_globals, torch_stream
from .data import MultimodalData, MultimodalOptions, gather
from .data.multimodal import Samples
from .data.silos import SiloType
from .models.gates import attach, merge
from .models.towers import Towers, TowersOptions
from .tasks import contrast
from .tasks import multimodal as task
from .tasks.contrast import Contrast
from .tasks.multimodal import Extras, MultimodalTrainOptions
from .workbench import Workbench, arrays_of, client_of, config_of

AUX = "aux"
"""The record of a message with weights of other modalities that a client borrows."""
PUBLIC = "public"
"""The record of a message with the server's features of public pairs."""
FEATURES = "public.features"
"""The array of an update with the client's own."""


class MultimodalBench(Workbench):
    """Modalities to match: silos of several types, and one model a type that is trained in place."""

    @cached_property
    def data(self) -> MultimodalData:  # type: ignore[override]
        """The silos."""
        assert isinstance(self.spec.data, MultimodalOptions)
        return gather(self.spec.data, self.spec.seed)

    @cached_property
    def models(self) -> dict[str, Towers]:
        """The model of each type, at its initial weights until the first `load`."""
        options = self.spec.model_options()
        assert isinstance(options, TowersOptions)
        return {name: options.build_for(kind, self.spec.seed) for name, kind in self.data.types.items()}

    @cached_property
    def initial(self) -> dict[str, Tensor]:
        """The weights that every type starts from, named as on the server."""
        weights = {name: model.state_dict() for name, model in self.models.items()}
        return {f"{name}/{key}": tensor.clone() for name, state in weights.items() for key, tensor in state.items()}

    @property
    def buffers(self) -> frozenset[str]:
        """Names of the arrays that are no parameters: none."""
        return frozenset()

    def checked(self) -> MultimodalBench:
        """Make sure that data and model fit together, and that somebody can be judged.

        Raises
        ------
        SpecError, DataError
            If not.
        """
        _ = self.initial  # loads the data, builds the models
        if not self.held_out_counts().any():
            raise SpecError(f"evaluate.split = {self.spec.evaluate.split!r}: no client has such data; choose 'test'")
        return self

    def kind_of(self, client: int) -> SiloType:
        """Return the type that a client is of."""
        return self.data.types[self.data.type_of[client]]

    def known(self) -> dict[str, Any]:
        """Return what the strategy's server side may know of the data."""
        return {"types": dict(self.data.types), "public": self.data.public}

    def registration(self, client: int) -> dict[str, Any]:
        """Return the client's type and the modalities that it holds."""
        kind = self.kind_of(client)
        return {"type": kind.name, "modalities": sorted(kind.modalities)}

    def load_type(self, kind: SiloType, arrays: ArrayRecord) -> Towers:
        """Put received parameters into the model of a type, and return it.

        Raises
        ------
        PayloadError
            If keys or shapes are not exactly those the model expects.
        """
        model = self.models[kind.name]
        own, received = model.state_dict(), tensors(arrays)
        if odd := sorted(key for key in own.keys() | received.keys() if _shape(own, key) != _shape(received, key)):
            raise PayloadError(f"received arrays do not fit the model of type {kind.name!r}: {', '.join(odd[:5])}")
        for key, tensor in own.items():
            tensor.copy_(received[key])
        return model

    def pictures(self, arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """Return retrieval examples and the shared space of the first client that matches modalities."""
        from .space import pictures

        client = next((c for c in range(self.data.num_clients) if self.kind_of(c).target is None), None)
        if client is None:
            return {}
        kind = self.kind_of(client)
        mine = {key.removeprefix(f"{kind.name}/"): array for key, array in arrays.items() if key.startswith(f"{kind.name}/")}
        return pictures(self.load_type(kind, array_record(mine)), self.data.test(client))


def _shape(arrays: Mapping[str, Tensor], key: str) -> torch.Size | None:
    return arrays[key].shape if key in arrays else None


def train(bench: Workbench, message: Message, context: Context) -> Message:
    """Train the model of the client's type on its own data, gated where weights of other modalities came along."""
    assert isinstance(bench, MultimodalBench)
    client, config = client_of(context), config_of(message)
    number, kind, options = int(config["server-round"]), bench.kind_of(client), bench.spec.train  # type: ignore[arg-type]
    assert isinstance(options, MultimodalTrainOptions)
    model = bench.load_type(kind, arrays_of(message))
    path = ("train", number, client)
    seed_globals(bench.spec.seed, *path)
    received = _contrast(message, bench)
    before_PD = contrast.own_features(model, received[0]) if received else torch.empty(0)
    gates = []
    if AUX in message.content:
        (tower,) = model.towers.values()
        aux = task.borrowed(tensors(message.content.array_records[AUX]))
        gates = attach(tower, aux, bool(config["train-borrowed"]))  # type: ignore[arg-type]
    try:
        rate = float(config["gate-lr"]) if "gate-lr" in config else None  # type: ignore[arg-type]
        extras = Extras(gates, rate, float(config.get("proximal-mu", 0.0)))  # type: ignore[arg-type]
        random = torch_stream(bench.spec.seed, *path)
        loss = task.fit(model, bench.data.train(client), options.in_round(number), random, extras)
    finally:
        for tower in model.towers.values() if gates else ():
            merge(tower)
    metrics = MetricRecord({WEIGHT_KEY: bench.data.examples[client], "train_loss": loss})
    arrays = model.state_dict()
    if received:
        contrast.fit(model, received[0], before_PD, received[1], options.in_round(number), random)
        arrays[FEATURES] = contrast.own_features(model, received[0])
    if gates:
        metrics["gate"] = float(torch.cat([gate.g_K.detach().abs() for gate in gates]).mean())
    return Message(RecordDict({"arrays": array_record(arrays), "metrics": metrics}), reply_to=message)


def _contrast(message: Message, bench: MultimodalBench) -> tuple[Samples, Contrast] | None:
    """Return the public pairs and how to contrast with the server's features of them, where it sent such."""
    if PUBLIC not in message.content:
        return None
    config, public = config_of(message), bench.data.public
    if public is None:
        raise PayloadError("features of public pairs were received, but there are no such pairs (data.public)")
    how = float(config["contrast"]), float(config["contrast-temperature"])  # type: ignore[arg-type]
    return public, Contrast(tensors(message.content.array_records[PUBLIC]), *how)


def evaluate(bench: Workbench, message: Message, context: Context) -> Message:
    """Judge the model of the client's type on the client's own held-out data; figures of labels are named by the type too."""
    assert isinstance(bench, MultimodalBench)
    client = client_of(context)
    kind, samples = bench.kind_of(client), bench.data.test(client)
    judged = task.judge(bench.load_type(kind, arrays_of(message)), samples)
    if kind.target is not None:
        own = {f"{figure}_{kind.name}": value for figure, value in judged.items() if figure != "loss"}
        judged = {figure: judged[figure] for figure in judged.keys() & {"loss", "accuracy"}} | own
    return Message(RecordDict({"metrics": MetricRecord({WEIGHT_KEY: len(samples), **judged})}), reply_to=message)
