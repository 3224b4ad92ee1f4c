"""Strategies that keep one model for each client type: registration, cohorts, and who is sent what.

Clients say of which type they are when they are asked who they are; nothing is inferred from their numbers. A cohort has
`max(floor(r K), 1)` of a type's K clients (Sun et al., arXiv:2404.12467, published code), drawn from a stream of its own, so
that leaving one type out does not change who is drawn of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from ..clients.data.silos import SiloType
from ..clients.models.towers import TowersOptions, part_of
from ..core.errors import RoundError, SpecError
from ..core.records import WEIGHT_KEY, Layout, array_record, view
from ..core.seeds import numpy_stream
from .collaboration import Collaboration, Reply
from .options import Setting, StrategyOptions

Fraction = Annotated[float, Field(ge=0, le=1)]


class TypedOptions(StrategyOptions):
    """Base of strategies for clients of several types."""

    task: ClassVar = "multimodal"
    typed: ClassVar = True
    not_private_because: ClassVar = "pairs are matched within batches, where no record has a gradient of its own"
    participation: Fraction | dict[str, Fraction] = 0.25
    """Share of each type's clients in a round, at least one; a table gives types shares of their own, and 0 rests a type."""
    server_lr: Annotated[float, Field(gt=0)] = 1.0
    """Factor on every step of the server."""
    proximal_mu: Annotated[float, Field(ge=0)] = 0.0
    """FedProx (arXiv:1812.06127): clients add mu/2 |w - w_received|^2 to their loss."""

    def cohorts(self, clients: Mapping[str, int]) -> dict[str, int]:
        """Return how many clients of each type take part in a round.

        Raises
        ------
        SpecError
            If a type is named that there is not, or one that there is is not named.
        """
        if isinstance(shares := self.participation, float):
            shares = dict.fromkeys(clients, shares)
        if odd := sorted(shares.keys() ^ clients.keys()):
            raise SpecError(
                f"strategy.participation: {odd[0]!r} {'is no type of these data' if odd[0] in shares else 'is missing'}; "
                f"give a share to each of {', '.join(clients)}"
            )
        return {name: max(math.floor(shares[name] * count + 1e-9), 1) if shares[name] else 0 for name, count in clients.items()}

    def collaboration(self, types: Mapping[str, SiloType]) -> Collaboration:
        """Return who shares what with whom: here nobody anything."""
        return Collaboration(types, share="none", compensation="none", server_lr=self.server_lr)


class Typed(Strategy):
    """One model a type, on any Flower grid.

    Parameters
    ----------
    setting : Setting
        Its `types` are those that clients may say they are of.
    options : TypedOptions

    Raises
    ------
    SpecError
        If types share layers that are not of one shape.
    """

    def __init__(self, setting: Setting, options: TypedOptions) -> None:
        self.setting, self.options = setting, options
        self._collaboration = options.collaboration(setting.types)
        self._layouts = layouts(setting)
        self._type_of: dict[int, str] = {}  # by node, as registered
        self._client_of: dict[int, int] = {}
        self._start: dict[str, dict[str, Any]] = {}
        check_shapes(self._collaboration, self._layouts)

    def expects(self, client: int) -> Layout | None:
        """Return what a client's update must look like."""
        node = next(node for node, number in self._client_of.items() if number == client)
        return self._layouts[self._type_of[node]]

    def register(self, grid: Grid) -> dict[str, list[int]]:
        """Ask nodes that have not said it yet who they are; return the visible nodes of each type, in client order.

        Raises
        ------
        RoundError
            If one is of a type that the experiment does not know, or holds other modalities than that type.
        """
        nodes = list(grid.get_node_ids())
        unknown = [Message(RecordDict(), node, "query") for node in nodes if node not in self._type_of]
        for reply in grid.send_and_receive(unknown) if unknown else ():
            node = reply.metadata.src_node_id
            if reply.has_error():
                raise RoundError(f"node {node} cannot say of which type it is: {reply.error.reason}")
            self._enter(node, reply.content.config_records["client"])
        by_type: dict[str, list[int]] = {name: [] for name in self.setting.types}
        for node in sorted(nodes, key=lambda node: self._client_of[node]):
            by_type[self._type_of[node]].append(node)
        return by_type

    def _enter(self, node: int, said: ConfigRecord) -> None:
        client, name = int(said["id"]), said.get("type")  # type: ignore[arg-type]
        modalities = list(said.get("modalities", []))  # type: ignore[arg-type]
        known = self.setting.types
        if name not in known:
            raise RoundError(f"client {client}: registers as of type {name!r}; choose one of {', '.join(known)}")
        if modalities != sorted(known[name].modalities):  # type: ignore[index]
            raise RoundError(
                f"client {client}: registers with modalities {modalities}; type {name!r} holds {sorted(known[name].modalities)}"  # type: ignore[index]
            )
        self._client_of[node], self._type_of[node] = client, str(name)

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Draw a cohort of each type, and send it the model of that type."""
        self._start = by_type(arrays)
        there = self.register(grid)
        messages = []
        for name, size in self.options.cohorts({name: len(nodes) for name, nodes in there.items()}).items():
            content = self.content(name, server_round)
            random = numpy_stream(self.setting.seed, "cohort", name, server_round)
            drawn = sorted(random.choice(len(there[name]), size, replace=False)) if there[name] and size else []
            messages += [Message(content, there[name][i], "train.multimodal") for i in drawn]
        return messages

    def content(self, name: str, server_round: int) -> RecordDict:
        """Return what clients of a type are sent to train."""
        config = ConfigRecord({"server-round": server_round, "proximal-mu": self.options.proximal_mu})
        return RecordDict({"arrays": array_record(self._start[name]), "config": config})

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge the updates; `train_loss` is that of the clients with several modalities, others' are named by type.

        Of several replies of one client the first counts.
        """
        received: dict[int, Message] = {}
        for message in replies:
            received.setdefault(message.metadata.src_node_id, message)
        updates = [self._reply(node, message) for node, message in received.items()]
        merged = self._collaboration.merged(self._start, updates)
        arrays = {f"{name}/{key}": array for name, state in merged.items() for key, array in state.items()}
        return array_record(arrays), self._metrics(received)

    def _reply(self, node: int, message: Message) -> Reply:
        (arrays,) = message.content.array_records.values()
        (metrics,) = message.content.metric_records.values()
        views = {key: view(array) for key, array in arrays.items()}
        return Reply(self._client_of[node], self._type_of[node], float(metrics[WEIGHT_KEY]), views)  # type: ignore[arg-type]

    def _metrics(self, received: Mapping[int, Message]) -> MetricRecord:
        sums: dict[str, tuple[float, float]] = {}
        for node in sorted(received, key=lambda node: self._client_of[node]):
            (metrics,) = received[node].content.metric_records.values()
            weight = float(metrics[WEIGHT_KEY])  # type: ignore[arg-type]
            for key, value in metrics.items():
                if key != WEIGHT_KEY:
                    name = self._type_of[node]
                    matched = key == "train_loss" and self.setting.types[name].target is None
                    called = key if matched else f"{key}_{name}"
                    total, weights = sums.get(called, (0.0, 0.0))
                    sums[called] = total + weight * float(value), weights + weight  # type: ignore[arg-type]
        return MetricRecord({key: total / weights for key, (total, weights) in sums.items()})

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Ask all clients, but those of types that rest, to judge the model of their type."""
        state, there = by_type(arrays), self.register(grid)
        working = self.options.cohorts({name: len(nodes) for name, nodes in there.items()})
        contents = {name: RecordDict({"arrays": array_record(state[name])}) for name in there}
        return [
            Message(contents[name], node, "evaluate.multimodal")
            for name, nodes in there.items()
            if working[name]
            for node in nodes
        ]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Leave evaluations to the round loop."""
        return None

    def summary(self) -> None:
        """Say nothing; the record has it all."""


def by_type(arrays: ArrayRecord) -> dict[str, dict[str, Any]]:
    """Return the server's arrays by type and by the name that the type's model has for them."""
    state: dict[str, dict[str, Any]] = {}
    for key, array in arrays.items():
        name, _, parameter = key.partition("/")
        state.setdefault(name, {})[parameter] = view(array)
    return state


def layouts(setting: Setting) -> dict[str, Layout]:
    """Return what the arrays of each type's model look like."""
    assert isinstance(setting.model, TowersOptions)
    with torch.device("meta"):  # names and shapes need no numbers
        models = {name: setting.model.build_for(kind, setting.seed) for name, kind in setting.types.items()}
    return {name: {k: ("float32", tuple(t.shape)) for k, t in model.state_dict().items()} for name, model in models.items()}


def check_shapes(collaboration: Collaboration, known: Mapping[str, Layout]) -> None:
    """Refuse to share layers that differ in shape, such as embeddings of two vocabularies.

    Raises
    ------
    SpecError
        Naming a layer, the types and the shapes.
    """
    for name, arrays in known.items():
        for key, kind in arrays.items():
            for other in collaboration.partners(part_of(key)):
                if known[other][key] != kind:
                    raise SpecError(
                        f"strategy.share = {collaboration.share!r}: {key} is {list(kind[1])} in type {name!r} and "
                        f"{list(known[other][key][1])} in type {other!r}; share less, or give both the same view"
                    )
