"""RayGrid: Flower's Grid over Ray actors.

A round's model is put into Ray's object store once. The cohort is cut into chunks that depend on the cohort alone, never on
the workers; workers take chunks largest first and reply once a chunk. Replies are yielded in chunk order as they arrive, so
that sums over them are the same however many workers there are. A worker that dies costs its chunk a retry.
"""

from __future__ import annotations

import heapq
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import ray
from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from ray.exceptions import RayActorError, RayError

from ..clients.compress import Wire
from ..clients.objects import Objects, trouble
from ..clients.state import StateRef, StateStore, is_url
from ..clients.worker import ChunkReply, Job
from ..core.errors import SpecError
from ..core.records import lazy
from .pool import Pool

QUEUED_PER_WORKER = 2  # one call in work, one waiting: a worker never idles for the driver
LEAST_CHUNKS, LARGEST_CHUNK = 8, 16  # a small cohort still keeps eight workers busy; a lost chunk costs 16 clients at most
INLINE_BYTES = 2**20  # replies up to this size travel with Ray's answer instead of through its object store


@dataclass
class Chunk:
    """Some messages of a round with one content, handed to a worker together."""

    turn: int
    messages: list[Message]
    content: ray.ObjectRef
    attempts: int = 0


class RayGrid(Grid):
    """A Flower Grid whose nodes are virtual clients in Ray actors; node id = client id.

    Parameters
    ----------
    client_app : ClientApp
        Any Flower ClientApp; runs in the workers.
    run_config : mapping
        What every client finds in `context.run_config`.
    num_clients : int
        Nodes 0 to num_clients - 1 exist.
    state_root : Path or str
        Folder for client state that all workers can reach, or its URL.
    sizes : sequence of int, optional
        Cost of a client, its training samples say; chunks are balanced by it. All equal when absent.
    average : bool
        Let workers average the train replies of a chunk. For strategies that use nothing but the weighted mean.
    workers, resources, labels, retries, chunk
        See `EngineOptions`.
    wire : Wire, optional
        How models travel; uncompressed when absent.
    run_id : int
        Any number; Flower puts it into every message.
    """

    def __init__(
        self,
        client_app: ClientApp,
        run_config: Mapping[str, bool | float | int | str],
        num_clients: int,
        state_root: Path | str,
        *,
        sizes: Sequence[int] | None = None,
        average: bool = False,
        workers: int | None = None,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        retries: int = 2,
        chunk: int | None = None,
        wire: Wire | None = None,
        run_id: int = 1,
    ) -> None:
        self.num_clients, self.average, self.retries, self.chunk = num_clients, average, retries, chunk
        self.sizes = list(sizes) if sizes is not None else [1] * num_clients
        self.states: dict[int, StateRef] = {}
        self.generation = 0
        self._store = StateStore(state_root)
        self._fresh: dict[int, StateRef] = {}
        self._superseded: dict[int, StateRef | None] = {}
        self._pushed: dict[str, Message | None] = {}
        self._flights: list[_Flight] = []
        self.set_run(Run.create_empty(run_id))
        shared = str(state_root.resolve()) if isinstance(state_root, Path) else state_root
        arguments = (client_app, dict(run_config), num_clients, shared, wire)
        self.pool = Pool(arguments, workers, resources, labels)
        if is_url(shared):
            self._try_out(shared)

    def _try_out(self, url: str) -> None:
        """Let every worker find out before the first round whether it can keep states below a URL, and sees those of others."""
        objects, mine = Objects(url), f"probe-{token_hex(8)}"
        try:
            objects.make()
            objects.write(mine, b"of the driver")
            problems = {problem for problem in self.map(trouble, [(url, mine)] * len(self.pool)) if problem}
            objects.delete(mine)
        except OSError as error:
            problems = {str(error.strerror)}
        if problems:
            self.close()
            raise SpecError([f"engine.state: {url} cannot be used by all workers: {problem}" for problem in sorted(problems)])

    def set_run(self, run: Run) -> None:
        """Set the run, and make this process the one that Flower's messages come from."""
        self._run = run
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run.run_id, 1, SUPERLINK_NODE_ID

    @property
    def run(self) -> Run:
        """Information about the run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message; Flower's `Message` does the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all client ids, in order."""
        return range(self.num_clients)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Run messages on their clients and yield replies while others are still in work.

        Yields
        ------
        Message
            Replies in chunk order: one a client or, where the grid averages, one a chunk. A client that raised, whose worker
            kept dying, or that had not replied after `timeout` seconds is a Flower error reply.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self.pool.grow()
        flight = _Flight(self, list(messages), self.average)
        while not flight.done:
            yield from flight.advance(deadline)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start messages without waiting; replies are never averaged."""
        messages = list(messages)
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"{self._run.run_id}.{len(self._pushed)}"
            self._pushed[message.metadata.message_id] = None
        self._flights.append(_Flight(self, messages, average=False))
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return those replies to pushed messages that have arrived; each is returned once."""
        for flight in self._flights:
            for reply in flight.advance(time.monotonic(), expire=False):
                self._pushed[reply.metadata.reply_to_message_id] = reply
        self._flights = [flight for flight in self._flights if not flight.done]
        arrived = [i for i in message_ids if self._pushed.get(i) is not None]
        return [self._pushed.pop(i) for i in arrived]  # type: ignore[misc]

    def hand(self, worker: int, content: ray.ObjectRef, chunks: list[list[Job]], average: bool) -> ray.ObjectRef:
        """Give chunks to one worker; return where its `ChunkReply`s will be."""
        return self.pool[worker].handle.remote(content, chunks, self.generation + 1, average)

    def map(self, function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Spread server-side work over the workers: call `function` for every tuple of arguments.

        Parameters
        ----------
        function : callable
            Importable by name; what it returns must not depend on the process it runs in.

        Yields
        ------
        object
            Results, in the order of `items`. A worker that dies costs a retry; what the function raises is raised here.
        """
        waiting = deque((number, item, 0) for number, item in enumerate(items))
        in_work: dict[ray.ObjectRef, tuple[int, tuple[Any, ...], int, int]] = {}
        arrived: dict[int, Any] = {}
        turn = 0
        while waiting or in_work:
            busy = {worker for *_, worker in in_work.values()}
            for worker in self.pool.present():
                if waiting and worker not in busy:
                    number, item, deaths = waiting.popleft()
                    in_work[self.pool[worker].compute.remote(function, item)] = (number, item, deaths, worker)
            for ref in self.pool.wait(list(in_work)):
                number, item, deaths, worker = in_work.pop(ref)
                try:
                    arrived[number] = ray.get(ref)
                except RayActorError:
                    if deaths == self.retries:
                        raise
                    waiting.appendleft((number, item, deaths + 1))
                    self.pool.miss(worker)
            while turn in arrived:
                yield arrived.pop(turn)
                turn += 1

    def keep(self, states: Mapping[int, StateRef]) -> None:
        """Note client states of good replies; they count from the next `commit` on."""
        self._fresh |= states

    def commit(self, dropped: Iterable[int] = ()) -> dict[int, StateRef]:
        """Make the client states of this round's good replies the ones that count; return all that count.

        Parameters
        ----------
        dropped : iterable of int
            Clients whose replies are not to count after all.
        """
        for client in dropped:
            self._fresh.pop(client, None)
        self._superseded = {client: self.states.get(client) for client in self._fresh}
        self.states |= self._fresh
        self._fresh = {}
        self.generation += 1
        return dict(self.states)

    def prune(self) -> None:
        """Delete states of the last committed clients that neither this nor the previous commit refers to."""
        for client, before in self._superseded.items():
            self._store.prune(client, [ref for ref in (before, self.states[client]) if ref is not None])

    def restore(self, states: Mapping[int, StateRef], generation: int) -> None:
        """Continue from committed states, as a checkpoint holds them."""
        self.states, self.generation, self._fresh = dict(states), generation, {}

    def close(self) -> None:
        """Stop the workers."""
        self.pool.close()

    def chunks(self, messages: list[Message]) -> list[list[Message]]:
        """Cut a cohort into chunks of balanced cost, largest first; a function of the cohort, whatever its order.

        Longest-processing-time-first into a fixed number of bins (Graham 1969): clients in descending cost, each into the bin
        with the least so far.
        """
        cost = {m.metadata.dst_node_id: self.sizes[m.metadata.dst_node_id] for m in messages}
        largest = self.chunk or min(LARGEST_CHUNK, -(-len(messages) // LEAST_CHUNKS))
        bins: list[list[Message]] = [[] for _ in range(-(-len(messages) // largest))]
        lightest = [(0, 0, i) for i in range(len(bins))]  # a heap of (load, clients, bin)
        for message in sorted(messages, key=lambda m: (-cost[m.metadata.dst_node_id], m.metadata.dst_node_id)):
            load, size, i = lightest[0]
            bins[i].append(message)
            heapq.heapreplace(lightest, (load + cost[message.metadata.dst_node_id], size + 1, i))
        return [bins[i] for _, _, i in sorted(lightest, key=lambda b: (-b[0], b[2]))]


class _Flight:
    """Messages on their way: chunks waiting, in work, and arrived ahead of their turn."""

    def __init__(self, grid: RayGrid, messages: list[Message], average: bool) -> None:
        self._grid, self._average = grid, average
        by_content: dict[int, list[Message]] = {}
        for message in messages:  # strategies give the whole cohort one content object: it is put once
            by_content.setdefault(id(message.content), []).append(message)
        contents = [(ray.put(lazy(group[0].content)), group) for group in by_content.values()]
        parts = [(messages, content) for content, group in contents for messages in grid.chunks(group)]
        self._waiting = deque(Chunk(turn, messages, content) for turn, (messages, content) in enumerate(parts))
        self._in_work: dict[ray.ObjectRef, tuple[list[Chunk], int]] = {}
        self._queues: dict[int, list[ray.ObjectRef]] = defaultdict(list)  # by worker
        self._outstanding = [1] * len(parts)  # parts of a turn still to arrive: more than one once a chunk was split
        self._arrived: dict[int, list[tuple[int, list[Message]]]] = {}
        self._next = 0

    @property
    def done(self) -> bool:
        """Whether every message has been answered."""
        return self._next == len(self._outstanding)

    def advance(self, deadline: float | None, expire: bool = True) -> Iterator[Message]:
        """Hand out what can be handed out, wait for something to arrive, yield what is next in chunk order."""
        self._hand_out()
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = self._grid.pool.wait(list(self._in_work), wait)
        for ref in ready:
            self._receive(ref)
        if not ready and expire and deadline is not None and time.monotonic() >= deadline:
            self._expire()
        while not self.done and self._outstanding[self._next] == 0:
            for _, messages in sorted(self._arrived.pop(self._next), key=lambda part: part[0]):
                yield from messages
            self._next += 1

    def _hand_out(self) -> None:
        while self._waiting and (present := self._grid.pool.present()):
            worker = min(present, key=lambda i: len(self._queues[i]))
            if len(self._queues[worker]) >= QUEUED_PER_WORKER or not (chunks := self._next_chunks()):
                return
            jobs = [
                [Job(m.metadata, m.metadata.dst_node_id, self._grid.states.get(m.metadata.dst_node_id)) for m in chunk.messages]
                for chunk in chunks
            ]
            average = self._average and chunks[0].messages[0].metadata.message_type.startswith("train")
            ref = self._grid.hand(worker, chunks[0].content, jobs, average)
            self._queues[worker].append(ref)
            self._in_work[ref] = (chunks, worker)

    def _next_chunks(self) -> list[Chunk]:
        """Take what one call carries: of one content, many chunks at first, single ones at the end, retried ones alone.

        Guided self-scheduling (Polychronopoulos and Kuck 1987): a call costs as much as a short chunk, and the last ones
        decide how evenly workers finish.
        """
        workers = len(self._grid.pool)
        fair_share = len(self._waiting) / (1.5 * workers)
        end = self._next + 4 * QUEUED_PER_WORKER * workers  # bounds what can arrive ahead of its turn
        taken: list[Chunk] = []
        while self._waiting and self._waiting[0].turn < end and len(taken) < fair_share:
            chunk = self._waiting[0]
            if taken and (chunk.content != taken[0].content or chunk.attempts or taken[0].attempts):
                break
            taken.append(self._waiting.popleft())
        return taken

    def _receive(self, ref: ray.ObjectRef) -> None:
        if ref not in self._in_work:  # lost together with the worker that an earlier one was lost with
            return
        chunks, worker = self._in_work[ref]
        try:
            replies: list[ChunkReply] = ray.get(ref)
        except RayError as error:
            if died := isinstance(error, RayActorError):
                self._grid.pool.miss(worker)
            self._lose(worker, list(self._queues[worker]) if died else [ref], f"{type(error).__name__}: {error}")
            return
        del self._in_work[ref]
        self._queues[worker].remove(ref)
        for chunk, reply in zip(chunks, replies, strict=True):
            self._grid.keep(reply.states)
            self._arrive(chunk, reply.messages)

    def _lose(self, worker: int, lost: list[ray.ObjectRef], reason: str) -> None:
        """Hand out again what a worker did not answer; only the first call is to blame, not those that waited behind it."""
        for place, ref in reversed(list(enumerate(lost))):
            chunks, _ = self._in_work.pop(ref)
            self._queues[worker].remove(ref)
            for chunk in reversed(chunks):
                chunk.attempts += place == 0
                self._try_again(chunk, f"its worker process died: {reason}")

    def _try_again(self, chunk: Chunk, reason: str) -> None:
        """Hand a chunk out again; after too many deaths, its clients one by one, to find out whose fault it is."""
        if chunk.attempts <= self._grid.retries:
            self._waiting.appendleft(chunk)
        elif len(chunk.messages) > 1:
            self._outstanding[chunk.turn] += len(chunk.messages) - 1
            self._waiting.extendleft(Chunk(chunk.turn, [message], chunk.content) for message in chunk.messages)
        else:
            self._fail(chunk, reason)

    def _expire(self) -> None:
        """Answer for all that is late, and restart the workers that are still at it."""
        self._grid.pool.restart({worker for _, worker in self._in_work.values()})
        for chunk in [*self._waiting, *(chunk for chunks, _ in self._in_work.values() for chunk in chunks)]:
            self._fail(chunk, "no reply in time (federation.timeout_s)")
        self._waiting.clear()
        self._in_work.clear()

    def _fail(self, chunk: Chunk, reason: str) -> None:
        error = Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason)
        self._arrive(chunk, [Message(error, reply_to=message) for message in chunk.messages])

    def _arrive(self, chunk: Chunk, messages: list[Message]) -> None:
        self._arrived.setdefault(chunk.turn, []).append((chunk.messages[0].metadata.dst_node_id, messages))
        self._outstanding[chunk.turn] -= 1


def start_ray(address: str, workers: int | None = None, **options: Any) -> None:
    """Start Ray on this machine, or join a cluster.

    Parameters
    ----------
    address : str
        `local`, `auto` or `ray://host:port`, as in `[engine]`.
    workers : int, optional
        CPUs to give a local Ray; all there are when absent.

    Raises
    ------
    SpecError
        If there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_max_direct_call_object_size", str(INLINE_BYTES))
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    try:
        if address == "local":
            ray.init(address="local", num_cpus=workers or os.cpu_count(), include_dashboard=False, **quiet, **options)
        else:
            ray.init(address=address, **quiet, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SpecError(f"engine.address = {address!r}: no Ray cluster can be joined there ({error})") from None
