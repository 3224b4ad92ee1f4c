"""The round loop, for any Flower Strategy on any Flower Grid.

`Strategy.start` counts from round 1 to the end in one go. Here every round is a step that can be the first, be checkpointed,
be judged and be the last; the strategy itself is driven through its public `configure_*` and `aggregate_*` only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ..clients.compress import Uploaded, Wire
from ..clients.cost import LEFT_OUT, Cost
from ..clients.worker import COHORT, note_on
from ..core.errors import PayloadError, RoundError
from ..core.records import WEIGHT_KEY, Layout, WeightedMean, array_bytes, as_laid_out, check_update, layout
from ..core.seeds import seed_globals
from .clock import Clock, Part, Timing

T = TypeVar("T", Cost, Uploaded)


@dataclass(frozen=True)
class Roster:
    """Which node of a grid is which client, and who can take part in what.

    Attributes
    ----------
    client_of : dict of int to int
        Client id by node id.
    trainable, testable : sequence of int
        Node ids, in client order, with training and with evaluation data.
    """

    client_of: dict[int, int]
    trainable: Sequence[int]
    testable: Sequence[int]


class RosterView(Grid):
    """A grid on which only some nodes are seen, in a fixed order; sampling from it depends on the seed alone."""

    def __init__(self, grid: Grid, node_ids: Sequence[int]) -> None:
        self._grid, self._node_ids = grid, node_ids

    def get_node_ids(self) -> Iterable[int]:
        """Return the visible nodes."""
        return self._node_ids

    @property
    def run(self):
        """The grid's run."""
        return self._grid.run

    def set_run(self, run) -> None:
        """Set the grid's run."""
        self._grid.set_run(run)

    def create_message(self, *args, **kwargs) -> Message:
        """Make a message of the grid."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push to the grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull from the grid."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send on the grid."""
        return self._grid.send_and_receive(messages, timeout=timeout)


@dataclass
class Tally:
    """What was counted while a round's replies went by."""

    sampled: list[int] = field(default_factory=list)
    replied: list[int] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)
    bytes_up: int = 0
    bytes_up_dense: int = 0
    """What `bytes_up` would be, had nothing been compressed."""
    bytes_down: int = 0
    uploads: list[Uploaded] = field(default_factory=list)
    """What encoding them cost and lost, where uploads are compressed."""
    download: Uploaded | None = None
    """Likewise of the broadcast."""
    client_seconds: float = 0.0
    epsilon: float = 0.0
    """The most that any client of this round has spent of its privacy so far; 0 where nothing is promised."""
    left_out: list[tuple[int, str]] = field(default_factory=list)
    """Clients whose devices cannot do the work, where that is no failure."""
    parts: list[Part] = field(default_factory=list)
    """What the replies' work would have cost, where that is simulated."""


_EXPECTED = (WEIGHT_KEY, "accuracy", "loss", "class_correct", "class_total", "member_correct")
"""What evaluations of every kind may say; anything else is a figure of the task's own."""
ACCURACIES = tuple(f"accuracy_{figure}" for figure in ("mean", "std", "p10", "p90", "worst", "weighted"))


@dataclass
class Evaluation:
    """Every client's result on its own held-out data after a round; arrays are in the order of `clients`.

    A client whose task has no classes has no accuracy and no loss: NaN. `figures` are those that the task adds.
    """

    clients: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    num_examples: list[int] = field(default_factory=list)
    class_correct: list[list[int]] = field(default_factory=list)
    class_total: list[list[int]] = field(default_factory=list)
    member_correct: list[list[int]] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)

    def details(self) -> dict[str, Any]:
        """Return what clients that say more allow to say: recall of every class, and what members of an ensemble reach."""
        details: dict[str, Any] = {}
        if all(self.class_total):
            correct, total = np.sum(self.class_correct, axis=0), np.sum(self.class_total, axis=0)
            details["class_recall"] = [float(c / n) if n else None for c, n in zip(correct, total, strict=True)]
        if all(self.member_correct):
            accuracy = np.sum(self.member_correct, axis=0) / np.sum(self.num_examples)
            details["best_member_accuracy"] = float(accuracy.max())
            details["mean_member_accuracy"] = float(accuracy.mean())
        return details

    def summary(self) -> dict[str, float] | dict[str, None]:
        """Return mean, std (population), percentiles and worst over clients, and the mean over samples (fractions)."""
        known = ~np.isnan(self.accuracy)
        if not known.any():
            return dict.fromkeys(ACCURACIES)
        accuracy, num_examples = np.array(self.accuracy)[known], np.array(self.num_examples)[known]
        p10, p90 = np.percentile(accuracy, (10, 90))
        weighted = np.average(accuracy, weights=num_examples)
        figures = (accuracy.mean(), accuracy.std(), p10, p90, accuracy.min(), weighted)
        return dict(zip(ACCURACIES, map(float, figures), strict=True))

    def further(self) -> dict[str, float]:
        """Return the task's own figures, each the mean over the clients that have it."""
        names = dict.fromkeys(name for figures in self.figures for name in figures)
        return {name: float(np.mean([figures[name] for figures in self.figures if name in figures])) for name in names}


@dataclass
class Outcome:
    """One finished round: the new global arrays, the strategy's metrics, what was counted, and the evaluation, if any."""

    round: int
    arrays: ArrayRecord
    metrics: MetricRecord | None
    tally: Tally
    wall_s: float
    timing: Timing | None = None
    evaluation: Evaluation | None = None


Progress = Callable[[int, str, int, int], None]  # round, "train" or "evaluate", clients done, clients in all


@dataclass
class Rounds:
    """The loop's settings.

    Attributes
    ----------
    average : bool
        The strategy uses nothing but the weighted mean of its replies: fold them into one as they arrive.
    evaluate_every : int
        Evaluate after every this many rounds and after the last.
    min_reply_fraction : float
        A round with fewer valid replies than this share of its cohort raises.
    timeout_s : float
        Time for the replies of one round.
    progress : callable
        Told whenever replies have come in.
    expects : callable
        The layout of a client's update where that is not the layout of the arrays it was sent; None: it is.
    accepted : callable
        Told when a round's training counts, and whose updates did not: new client states of all others count from then on,
        the round's own evaluation included.
    clock : Clock, optional
        Simulated time: says who is there, and whose updates count.
    wire : Wire
        How models travel.
    """

    strategy: Strategy
    grid: Grid
    roster: Roster
    seed: int
    last: int
    average: bool = False
    evaluate_every: int = 1
    min_reply_fraction: float = 0.5
    timeout_s: float = 3600.0
    progress: Progress = lambda *_: None
    expects: Callable[[int], Layout | None] = lambda _: None
    accepted: Callable[[Iterable[int]], object] = lambda _: None
    clock: Clock | None = None
    wire: Wire = field(default_factory=lambda: Wire({}))

    def run(self, arrays: ArrayRecord, first: int = 1) -> Iterator[Outcome]:
        """Train and evaluate, from round `first` to `last`; the caller may stop after any round.

        Raises
        ------
        RoundError
            If too few clients of a round replied with something usable.
        """
        for number in range(first, self.last + 1):
            started = time.perf_counter()
            outcome = self._train(number, arrays)
            arrays = outcome.arrays
            self.accepted(outcome.timing.dropped if outcome.timing else ())
            if number % self.evaluate_every == 0 or number == self.last:
                outcome.evaluation = self.evaluate(number, arrays)
            outcome.wall_s = time.perf_counter() - started
            yield outcome

    def _train(self, number: int, arrays: ArrayRecord) -> Outcome:
        seed_globals(self.seed, "round", number)  # Flower's strategies sample with Python's global generator
        view = RosterView(self.grid, self._present())
        messages = list(self.strategy.configure_train(number, arrays, ConfigRecord(), view))
        tally = Tally(sampled=sorted(self._client(m.metadata.dst_node_id) for m in messages))
        tally.download = self._compressed(messages, "train", number)
        down = self._sizes(messages)
        tally.bytes_down = sum(down.values())
        expected = layout(arrays)
        replies = self._counted(number, messages, expected, down, tally)
        received = list(_folded(replies) if self.average else replies)
        timing = self._timed(tally)
        if timing is not None and timing.dropped:
            received = [r for r in received if self._client(r.metadata.src_node_id) not in timing.dropped]
        self._check_enough(number, tally, timing)
        averaged, metrics = self.strategy.aggregate_train(number, received)
        if averaged is not None:
            arrays = as_laid_out(averaged, expected)
        return Outcome(number, arrays, metrics, tally, 0.0, timing)

    def _sizes(self, messages: list[Message]) -> dict[int, int]:
        """Return the bytes of what each client is sent."""
        contents = {id(m.content): m.content for m in messages}  # one content object serves the whole cohort: count it once
        sizes = {key: array_bytes(content) for key, content in contents.items()}
        return {self._client(m.metadata.dst_node_id): sizes[id(m.content)] for m in messages}

    def _compressed(self, messages: list[Message], phase: str, number: int) -> Uploaded | None:
        """Encode what is about to be sent, each content once; say what that cost and lost, if it was done."""
        if self.wire.down is None:
            return None
        dense = sum(self._sizes(messages).values())
        contents = {id(m.content): m.content for m in messages}
        encoded = {key: self.wire.broadcast(content, self.seed, phase, number) for key, content in contents.items()}
        for message in messages:
            message.content = encoded[id(message.content)][0]
        reports = [one.report for _, one in encoded.values() if one is not None]
        error = float(np.mean([report.error for report in reports])) if reports else 0.0
        return Uploaded(dense, error, encode_s=sum(report.encode_s for report in reports))

    def _present(self) -> Sequence[int]:
        """Return the nodes that can be asked to train, after waiting for them if need be."""
        if self.clock is None:
            return self.roster.trainable
        node_of = {self._client(node): node for node in self.roster.trainable}
        return [node_of[client] for client in self.clock.present(list(node_of))]

    def _timed(self, tally: Tally) -> Timing | None:
        """End the round on the virtual clock; replies that came too late are none."""
        if self.clock is None:
            return None
        timing = self.clock.close(tally.parts)
        tally.replied = [client for client in tally.replied if client not in timing.dropped]
        return timing

    def _check_enough(self, number: int, tally: Tally, timing: Timing | None) -> None:
        wanted = min(len(tally.sampled) - len(tally.left_out), self.clock.per_round if self.clock else len(tally.sampled))
        needed = max(1, int(np.ceil(self.min_reply_fraction * wanted)))
        if len(tally.replied) >= needed:
            return
        lost = [*tally.failed, *(timing.dropped.items() if timing else ()), *tally.left_out]
        first = f" First failure, client {lost[0][0]}:\n{lost[0][1]}" if lost else ""
        raise RoundError(
            f"round {number}: {len(tally.replied)} of {len(tally.sampled)} clients replied with something usable, "
            f"{needed} are needed (federation.min_reply_fraction = {self.min_reply_fraction}).{first}"
        )

    def _counted(
        self, number: int, messages: list[Message], sent: Layout, down: Mapping[int, int], tally: Tally
    ) -> Iterator[Message]:
        """Pass replies on while counting them; what is not usable is noted and goes no further."""
        received = {m.metadata.dst_node_id: m.content for m in messages}
        opened: dict[int, RecordDict] = {}
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout_s):
            client = self._client(reply.metadata.src_node_id)
            if reply.has_error() and reply.error.code == LEFT_OUT:
                tally.left_out.append((client, reply.error.reason or "no reason given"))
                continue
            try:
                note, expected = _take_note(reply), self.expects(client)
                if note is None or expected is not None:  # otherwise a worker of ours has compared the reply with `sent`
                    content = received[reply.metadata.src_node_id]
                    if id(content) not in opened:
                        opened[id(content)] = self.wire.opened(content)
                    size = array_bytes(reply.content)
                    reply.content = self.wire.decoded(reply.content, opened[id(content)], expected or sent)
                    check_update(reply.content, expected or sent)
                    note = dict(note or {}) | note_on(reply.content, client, size)
            except PayloadError as error:
                tally.failed.append((client, str(error)))
            else:
                tally.replied += note["clients"]
                tally.bytes_up += sum(note["bytes"])
                tally.bytes_up_dense += sum(note.get("dense_bytes", note["bytes"]))
                tally.uploads += _rows(Uploaded, note)
                tally.client_seconds += sum(note.get("seconds", ()))
                tally.epsilon = max(tally.epsilon, *note["epsilon"])
                if self.clock is not None:
                    tally.parts += _parts(self.clock, note, down)
                yield reply
            self.progress(number, "train", len(tally.replied) + len(tally.failed), len(messages))

    def evaluate(self, number: int, arrays: ArrayRecord) -> Evaluation:
        """Evaluate the global arrays on every client that has data for it."""
        seed_globals(self.seed, "evaluate", number)
        view = RosterView(self.grid, self.roster.testable)
        messages = list(self.strategy.configure_evaluate(number, arrays, ConfigRecord(), view))
        self._compressed(messages, "evaluate", number)
        results: list[tuple[int, MetricRecord]] = []
        replies: list[Message] = []
        evaluation = Evaluation()
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout_s):
            client = self._client(reply.metadata.src_node_id)
            if reply.has_error():
                evaluation.failed.append((client, reply.error.reason or "no reason given"))
            else:
                _take_note(reply)
                replies.append(reply)
                results.append((client, next(iter(reply.content.metric_records.values()))))
            self.progress(number, "evaluate", len(replies) + len(evaluation.failed), len(messages))
        self.strategy.aggregate_evaluate(number, replies)
        if not results:
            reason = evaluation.failed[0][1] if evaluation.failed else "the strategy asked no client"
            raise RoundError(f"round {number}: no client could be evaluated. {reason}")
        for client, metrics in sorted(results, key=lambda result: result[0]):
            evaluation.clients.append(client)
            evaluation.accuracy.append(float(metrics.get("accuracy", np.nan)))  # type: ignore[arg-type]
            evaluation.loss.append(float(metrics.get("loss", np.nan)))  # type: ignore[arg-type]
            own = {key: float(value) for key, value in metrics.items() if key not in _EXPECTED}  # type: ignore[arg-type]
            evaluation.figures.append(own)
            evaluation.num_examples.append(int(metrics[WEIGHT_KEY]))  # type: ignore[arg-type]
            evaluation.class_correct.append(list(metrics.get("class_correct", [])))  # type: ignore[arg-type]
            evaluation.class_total.append(list(metrics.get("class_total", [])))  # type: ignore[arg-type]
            evaluation.member_correct.append(list(metrics.get("member_correct", [])))  # type: ignore[arg-type]
        return evaluation

    def _client(self, node_id: int) -> int:
        return self.roster.client_of[node_id]


def _take_note(reply: Message) -> dict[str, Any] | None:
    """Take out of a reply the note with which RayGrid's workers say whom it speaks for; other grids write none.

    Raises
    ------
    PayloadError
        If the reply is an error, with its reason.
    """
    if reply.has_error():
        raise PayloadError(reply.error.reason or "no reason given")
    note = reply.content.config_records.get(COHORT)
    if note is not None:
        del reply.content[COHORT]
    return note  # type: ignore[return-value]


def _rows(kind: type[T], note: Mapping[str, Any]) -> list[T]:
    """Return what a note says of every client that it speaks for, if it says anything of that kind."""
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    return [kind(*row) for row in zip(*(note[name] for name in names), strict=True)] if names[0] in note else []


def _parts(clock: Clock, note: Mapping[str, Any], down: Mapping[int, int]) -> Iterator[Part]:
    """Yield the part in the round of every client that a note speaks for."""
    costs: Sequence[Cost | None] = _rows(Cost, note) or [None] * len(note["clients"])
    for client, size, cost in zip(note["clients"], note["bytes"], costs, strict=True):
        yield clock.part(client, cost, down[client], size)


def _folded(replies: Iterator[Message]) -> Iterator[Message]:
    """Fold replies into one as they arrive: the same weighted mean, in the memory of two models."""
    mean, last = WeightedMean(), None
    for reply in replies:
        mean.add(reply.content)
        last = reply
    if last is not None:
        last.content = mean.content()
        yield last
