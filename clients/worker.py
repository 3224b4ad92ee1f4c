"""The Ray actor that hosts the ClientApp for many virtual clients, a chunk of a cohort at a time."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from ..core.records import Layout, WeightedMean, array_bytes, check_update, layout, of_kind, private_copy
from .compress import UPLOADED, Wire
from .state import StateRef, StateStore, is_url

COHORT = "fedcosim.cohort"  # the record of a reply that says which clients it speaks for
PRIVACY = "fedcosim.privacy"  # the record of a reply that says what its client has spent
COST = "fedcosim.cost"  # the record of a reply that says what its client's work would have cost on its device


def epsilon_spent(content: RecordDict) -> float:
    """Return the privacy that a client says it has spent so far, this update included; 0 where nothing is promised."""
    return float(content[PRIVACY]["epsilon"]) if PRIVACY in content else 0.0  # type: ignore[arg-type,call-overload,index]


@dataclass(frozen=True)
class Job:
    """One message to one client, without its content, which all jobs of a chunk share."""

    metadata: Metadata
    client: int
    state: StateRef | None


@dataclass
class ChunkReply:
    """What came of a chunk: one reply a job, or one mean of all valid ones, and error replies; new client states."""

    messages: list[Message] = field(default_factory=list)
    states: dict[int, StateRef] = field(default_factory=dict)


class Worker:
    """Hosts a ClientApp. One thread, one model, one client after another.

    Parameters
    ----------
    client_app : ClientApp
        Any Flower ClientApp.
    run_config : mapping
        What every client finds in its context.
    num_clients : int
        How many clients there are in the federation.
    state_root : str
        Folder of the run's client state, or its URL.
    wire : Wire, optional
        How models travel; uncompressed when absent.
    """

    def __init__(
        self,
        client_app: ClientApp,
        run_config: Mapping[str, bool | float | int | str],
        num_clients: int,
        state_root: str,
        wire: Wire | None = None,
    ) -> None:
        self._app, self._run_config, self._num_clients = client_app, dict(run_config), num_clients
        self._wire = wire or Wire({})
        self._states = StateStore(state_root)
        self._hwsim_cache = "" if is_url(state_root) else str(Path(state_root).with_name("hwsim"))

    def compute(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Do a piece of the server's work."""
        return function(*arguments)

    def handle(self, content: RecordDict, chunks: list[list[Job]], generation: int, average: bool) -> list[ChunkReply]:
        """Run the app for every job of some chunks.

        Parameters
        ----------
        content : RecordDict
            What the server sent to all of these clients.
        chunks : list of list of Job
            Each gets a reply of its own.
        generation : int
            The generation that new client states get.
        average : bool
            Reply with the weighted mean of the clients' updates instead of every one.

        Returns
        -------
        list of ChunkReply
            A client whose app raised, or whose update is unusable, is in it as a Flower error reply; its state is as before.
        """
        content = self._wire.opened(content)
        expected = {key: spec for record in of_kind(content, ArrayRecord).values() for key, spec in layout(record).items()}
        return [self._handle(content, jobs, expected, generation, average) for jobs in chunks]

    def _handle(self, content: RecordDict, jobs: list[Job], expected: Layout, generation: int, average: bool) -> ChunkReply:
        reply, mean = ChunkReply(), WeightedMean()
        merged: list[tuple[Message, ConfigRecord]] = []
        for job in jobs:
            message = Message(private_copy(content), metadata=job.metadata)  # type: ignore[call-overload]
            try:
                answer, note = self._run(message, job, expected, generation, reply.states)
            except Exception:
                error = Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=traceback.format_exc())
                answer = Message(error, reply_to=message)
            if answer.has_error():
                reply.messages.append(answer)
            elif average:
                mean.add(answer.content)
                merged.append((message, note))
            else:
                answer.content = private_copy(answer.content, arrays=True)
                answer.content[COHORT] = note
                reply.messages.append(answer)
        if merged:
            reply.messages.insert(0, _merged(mean, merged))
        return reply

    def _run(
        self, message: Message, job: Job, expected: Layout, generation: int, states: dict[int, StateRef]
    ) -> tuple[Message, ConfigRecord]:
        """Run one job; return the answer and a note on it. A new state is saved only once the answer is known to be good."""
        started = time.perf_counter()
        config = {"partition-id": job.client, "num-partitions": self._num_clients, "hwsim-cache": self._hwsim_cache}
        state = self._states.load(job.client, job.state)
        context = Context(message.metadata.run_id, job.client, config, state, self._run_config)  # type: ignore[arg-type]
        answer = self._app(message, context)
        note: dict[str, Any] = {}
        if answer.has_content():
            size, kind = array_bytes(answer.content), message.metadata.message_type
            if kind == "train":
                answer.content = self._wire.decoded(answer.content, message.content, expected)
            if kind.startswith("train"):
                check_update(answer.content, expected if kind == "train" else None)
                if context.state:
                    states[job.client] = self._states.save(job.client, generation, context.state)
            note = note_on(answer.content, job.client, size)
        return answer, ConfigRecord(note | {"seconds": [time.perf_counter() - started]})


def note_on(content: RecordDict, client: int, size_bytes: int) -> dict[str, Any]:
    """Write down, in columns of one entry, whom a reply speaks for, how large it came, and what it says of itself."""
    told = [record for name in (COST, UPLOADED) if (record := content.config_records.get(name)) is not None]
    columns = {name: [value] for record in told for name, value in record.items()}
    return {"clients": [client], "bytes": [size_bytes], "epsilon": [epsilon_spent(content)], **columns}


def _merged(mean: WeightedMean, merged: list[tuple[Message, ConfigRecord]]) -> Message:
    """Make the one reply that stands for several clients."""
    content, notes = mean.content(), [note for _, note in merged]
    joined: dict[str, Any] = {key: [value for note in notes for value in note[key]] for key in notes[0]}  # type: ignore[union-attr]
    content[COHORT] = ConfigRecord(joined)
    return Message(content, reply_to=merged[0][0])
