"""CreamFL-like: types learn from each other through features of public pairs, which FedCola does not need.

Source: Yu et al., "Multimodal Federated Learning via Contrastive Representation Ensemble", arXiv:2302.08888 (ICLR 2023), as
FedCola's published code arranges it for client types: models are averaged within types; the server embeds the public pairs with
the paired model and sends the features along; clients of one modality contrast with them (`clients/tasks/contrast.py`) and send
features of their own; the server weights these, pair by pair, by how well each finds the true match, and the paired model
learns the weighted sum.

Ours, and why it is called *like*: every type has the same towers, so features need no projection; the server's learning rate
and passes suit a small model. **The public pairs are an assumption that the other strategies here do not make**: `data.public`
says how many, the record counts them, and `bytes_up` and `bytes_down` have the features in them.

Shapes: P = public pairs, D = width, C = clients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..clients.multimodal import FEATURES, PUBLIC
from ..clients.tasks.multimodal import drawn, embed_all
from ..core.errors import SpecError
from ..core.records import Layout, array_record, tensors
from ..core.seeds import seed_globals, torch_stream
from .options import Setting
from .typed import Typed, TypedOptions, by_type

DISTIL_AT_ONCE = 64


class CreamFlLikeOptions(TypedOptions):
    """Averaging within types, and contrast and distillation on public pairs; needs `data.public`."""

    own_uploads: ClassVar = True  # features beside the update
    name: Literal["creamfl-like"] = "creamfl-like"
    contrast: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the clients' contrast with the server's features (the paper's code: 0.5)."""
    contrast_temperature: Annotated[float, Field(gt=0)] = 0.5
    """Temperature of that contrast."""
    distil: Annotated[float, Field(ge=0)] = 0.3
    """Weight of the server's mean squared error against the clients' features (the paper's code: 0.3)."""
    distil_lr: Annotated[float, Field(gt=0)] = 2e-4
    """Learning rate of Adam on the server (the paper's code: 2e-4)."""
    distil_epochs: Annotated[int, Field(ge=1)] = 1
    """Passes of the server over the public pairs a round."""

    def build(self, setting: Setting) -> CreamFlLike:
        """Make the Flower strategy."""
        return CreamFlLike(setting, self)


class CreamFlLike(Typed):
    """The server's side.

    Raises
    ------
    SpecError
        If there are no public pairs, or several types with several modalities.
    """

    options: CreamFlLikeOptions

    def __init__(self, setting: Setting, options: CreamFlLikeOptions) -> None:
        super().__init__(setting, options)
        paired = [name for name, kind in setting.types.items() if kind.target is None]
        if setting.public is None or len(paired) != 1:
            raise SpecError("data.public = 0: strategy 'creamfl-like' needs public pairs for one type that matches; give some")
        self._paired, self._public = paired[0], setting.public
        self._model = setting.model.build_for(setting.types[self._paired], setting.seed)  # type: ignore[attr-defined]
        self._features: dict[str, Tensor] = {}

    def expects(self, client: int) -> Layout | None:
        """Return what a client's update must look like: clients of one modality send features, too."""
        expected = super().expects(client)
        assert expected is not None
        labelled = expected.keys() != self._layouts[self._paired].keys()
        width = self._model.norm.normalized_shape[0]
        return expected | ({FEATURES: ("float32", (len(self._public), width))} if labelled else {})

    def content(self, name: str, server_round: int) -> RecordDict:
        """Return what clients of a type are sent: its model and, to those of one modality, features of the public pairs."""
        content = super().content(name, server_round)
        if self.setting.types[name].target is not None:
            if not self._features:
                self._load(self._start[self._paired])
                self._features = {key: view[:, 0].clone() for key, view in embed_all(self._model, self._public).items()}
            content[PUBLIC] = array_record(self._features)
            config = content.config_records["config"]
            config["contrast"], config["contrast-temperature"] = self.options.contrast, self.options.contrast_temperature
        return content

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average within types, then let the paired model learn what clients of one modality see in the public pairs."""
        received = sorted(replies, key=lambda reply: self._client_of[reply.metadata.src_node_id])
        arrays, metrics = super().aggregate_train(server_round, received)
        seen: dict[str, list[Tensor]] = {}
        for reply in received:
            sent = tensors(next(iter(reply.content.array_records.values())))
            if FEATURES in sent:
                (modality,) = self.setting.types[self._type_of[reply.metadata.src_node_id]].views
                seen.setdefault(modality, []).append(sent[FEATURES])
        assert arrays is not None
        assert metrics is not None
        if seen:
            wanted = {modality: ensemble(torch.stack(z), self._others(modality)) for modality, z in sorted(seen.items())}
            metrics["distillation_loss"] = self._distil(by_type(arrays)[self._paired], wanted, server_round)
            prefix = f"{self._paired}/"
            learned = {prefix + key: tensor.clone() for key, tensor in self._model.state_dict().items()}
            arrays = ArrayRecord({**arrays, **array_record(learned)})
        metrics["public_pairs"] = len(self._public)
        self._features = {}
        return arrays, metrics

    def _others(self, modality: str) -> Tensor:
        return torch.stack([features for name, features in self._features.items() if name != modality]).mean(0)

    def _load(self, state: Mapping[str, object]) -> None:
        self._model.load_state_dict({key: torch.tensor(array) for key, array in state.items()})

    def _distil(self, state: Mapping[str, object], wanted: Mapping[str, Tensor], server_round: int) -> float:
        """Train the paired model in place on the public pairs; return the mean squared error, each at its weights."""
        options, seed = self.options, self.setting.seed
        self._load(state)
        self._model.train()
        seed_globals(seed, "distil", server_round)
        random, total = torch_stream(seed, "distil", server_round), 0.0
        optimizer = torch.optim.Adam(self._model.parameters(), lr=options.distil_lr)
        pairs = len(self._public)
        for _ in range(options.distil_epochs):
            for rows in torch.randperm(pairs, generator=random).tensor_split(math.ceil(pairs / DISTIL_AT_ONCE)):
                optimizer.zero_grad()
                batch, loss = drawn(self._public, rows, 0, random), torch.zeros(())
                for modality, wanted_PD in wanted.items():
                    z_BD = F.normalize(self._model.encode(modality, batch.views[modality]), dim=1)
                    loss = loss + F.mse_loss(z_BD, wanted_PD[rows])
                (options.distil * loss).backward()
                optimizer.step()
                total += loss.item() * len(rows)
        return total / (pairs * options.distil_epochs)


def ensemble(features_CPD: Tensor, others_PD: Tensor) -> Tensor:
    """Return the weighted sum of clients' features of each pair (section 3.3, eqs. 3-4).

    A client's weight for a pair is the softmax, over clients, of the log-probability that its feature picks the true match
    among the other modality's global features.

    Returns
    -------
    Tensor, shape (P, D)
    """
    scores_CPP = features_CPD @ others_PD.T
    own_CP = scores_CPP.log_softmax(2).diagonal(dim1=1, dim2=2)
    return (own_CP.softmax(0)[:, :, None] * features_CPD).sum(0)
