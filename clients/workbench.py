"""What a process keeps between messages of one experiment: its data, and models that are trained in place.

A kind of task is a workbench: images to classify (here), modalities to match (`multimodal.py`). It says what the server needs
to know to start, check, record and illustrate an experiment; the functions of the ClientApp find in it what they train and
judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from torch import Tensor, nn

from ..core.errors import PayloadError, SpecError
from ..core.records import array_record, layout, tensors
from ..server.spec import Experiment, from_run_config
from .compress import Wire
from .data import DataOptions, FederatedData, federate
from .models import initialise
from .models.locality import split
from .privacy import check_records


@dataclass(frozen=True)
class Workbench:
    """Images to classify: the data (memory-mapped) and one model that is trained in place."""

    spec: Experiment

    @cached_property
    def data(self) -> FederatedData:
        """The partitioned data set."""
        if not isinstance(self.spec.data, DataOptions):
            raise SpecError(
                f"data.source = {self.spec.data.source!r}: is of several modalities; images to classify are needed here"
            )
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

    @property
    def buffers(self) -> frozenset[str]:
        """Names of the arrays that are no parameters: counters, running statistics."""
        return frozenset(key for key, _ in self.model.named_buffers())

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

    def known(self) -> dict[str, Any]:
        """Return what the strategy's server side may know of the data."""
        return {"shape_CHW": self.data.shape_CHW, "classes": self.data.classes}

    def registration(self, client: int) -> dict[str, Any]:
        """Return what a client says of itself when it is asked who it is, beside its number."""
        return {}

    def pictures(self, arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """Return files that illustrate a final model, by name."""
        return {}

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


def bench_for(spec: Experiment) -> Workbench:
    """Return the workbench for an experiment's kind of task."""
    module, name = _BENCHES[spec.task].split(":")
    return getattr(import_module(f".{module}", __package__), name)(spec)


_BENCHES = {"classification": "workbench:Workbench", "multimodal": "multimodal:MultimodalBench"}


def workbench(context: Context) -> Workbench:
    """Return the process's workbench for the experiment that the context's run config describes."""
    return _workbench(tuple(sorted(context.run_config.items())))


@lru_cache(maxsize=1)
def _workbench(run_config: tuple[tuple[str, bool | float | int | str], ...]) -> Workbench:
    return bench_for(from_run_config(dict(run_config)))


def client_of(context: Context) -> int:
    """Return the number of the client whose context it is."""
    return int(context.node_config["partition-id"])


def arrays_of(message: Message) -> ArrayRecord:
    """Return the model in a message."""
    return next(iter(message.content.array_records.values()), ArrayRecord())


def config_of(message: Message) -> ConfigRecord:
    """Return the settings in a message."""
    return next(iter(message.content.config_records.values()), ConfigRecord())
