"""The Flower ServerApp: from a spec to a strategy, a round loop and a record, on whatever grid it is given."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.numpy
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from ..clients.fleet import fleet
from ..clients.state import write_atomically
from ..clients.workbench import Workbench, bench_for
from ..core.errors import FedcosimError, RoundError
from ..core.records import array_record
from ..strategies.oneshot import OneShot
from ..strategies.options import Setting
from ..strategies.typed import Typed
from . import strategy_state
from .clock import Clock, restored
from .grid import RayGrid
from .record import Checkpoint, Checkpoints, Record
from .rounds import Roster, Rounds
from .spec import Experiment, StopOptions, from_run_config

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment in the run config; the record goes to `runs/` below the current folder."""
    bench = bench_for(from_run_config(context.run_config)).checked()
    with Record.create(Path("runs"), bench.spec) as record, lifecycle(record):
        execute(bench, grid, record, ask_roster(bench, grid))


class Listener(Protocol):
    """Somebody who wants to know how a run is going: a display, a tracker."""

    def progress(self, number: int, phase: str, done: int, total: int) -> None:
        """Take note that replies of round `number` have come in; `phase` is train or evaluate."""

    def round(self, line: Mapping[str, Any]) -> None:
        """Take note that a round is complete and durable; `line` is its entry in result.json."""

    def close(self, status: str) -> None:
        """Take note that the run is over."""


def execute(bench: Workbench, grid: Grid, record: Record, roster: Roster, listeners: Sequence[Listener] = ()) -> None:
    """Run an experiment, or go on with it from its newest checkpoint, until its last round or a stop rule.

    Raises
    ------
    RoundError
        If a round failed; the record and the last checkpoint stand.
    """
    spec = bench.spec
    strategy = spec.strategy.build(setting(bench, roster))
    if isinstance(strategy, OneShot) and isinstance(grid, RayGrid):
        strategy.compute = grid.map
    checkpoints = Checkpoints(record.folder)
    arrays, first = array_record({key: bench.initial[key] for key in bench.shared_keys}), 1
    record.add_partition(bench.data)
    if (latest := checkpoints.latest()) is not None:
        arrays, first = latest.arrays, latest.round + 1
        record.restore(latest.progress)
        strategy_state.restore(strategy, latest.strategy)
        if isinstance(grid, RayGrid):
            grid.restore(latest.states, latest.round)
    record.save()

    def progress(number: int, phase: str, done: int, total: int) -> None:
        for listener in listeners:
            listener.progress(number, phase, done, total)

    rounds = Rounds(
        strategy=strategy,
        grid=grid,
        roster=roster,
        seed=spec.seed,
        last=spec.federation.rounds,
        average=spec.averages,
        evaluate_every=spec.evaluate.every,
        min_reply_fraction=spec.federation.min_reply_fraction,
        timeout_s=spec.federation.timeout_s,
        progress=progress,
        expects=strategy.expects if isinstance(strategy, OneShot | Typed) else lambda _: None,
        accepted=_committer(spec, grid),
        clock=_clock(bench, record),
        wire=bench.wire,
    )
    stop = StopRule(spec.stop)
    if any(stop.reached(line) for line in record.result["rounds"]):
        first = spec.federation.rounds + 1
    for outcome in rounds.run(arrays, first):
        arrays = outcome.arrays
        if isinstance(strategy, OneShot):
            record.attach(strategy.artifacts())
        line = record.add_round(outcome)
        states = dict(grid.states) if isinstance(grid, RayGrid) else {}
        checkpoints.save(Checkpoint(outcome.round, arrays, strategy_state.dump(strategy), states, record.progress()))
        if isinstance(grid, RayGrid):
            grid.prune()
        record.save(at_most_every_s=1.0)
        record.announce_round()
        for listener in listeners:
            listener.round(line)
        if stop.reached(line):
            break
    final = {key: array.numpy() for key, array in arrays.items()}
    write_atomically(record.folder / "model.safetensors", safetensors.numpy.save(final))
    record.attach(bench.pictures(final))
    record.finish("stopped" if stop.reason else "finished", stop.reason)


def _clock(bench: Workbench, record: Record) -> Clock | None:
    """Return the virtual clock, at the end of the rounds that the record has."""
    spec = bench.spec
    if spec.hardware is None:
        return None
    equipment = fleet(spec.hardware, spec.federation.clients, spec.seed)
    record.add_fleet(equipment)
    return restored(Clock(spec.hardware, equipment, spec.federation.per_round), record.result["rounds"])


def _committer(spec: Experiment, grid: Grid) -> Callable[[Iterable[int]], object]:
    """Return what makes a round's client states count.

    The state of a client whose update came too late is forgotten, except under privacy: what it has sent, it has sent.
    """
    if not isinstance(grid, RayGrid):
        return lambda _: None
    return grid.commit if spec.privacy is None else lambda _: grid.commit()


def setting(bench: Workbench, roster: Roster) -> Setting:
    """Say what the strategy's server side may know of the experiment."""
    spec = bench.spec
    known = {**bench.known(), "privacy": spec.privacy}
    wanted = spec.federation.per_round
    asked = spec.hardware.asked(wanted) if spec.hardware else wanted
    cohort = {"clients": len(roster.trainable), "per_round": min(len(roster.trainable), asked)}
    return Setting(seed=spec.seed, model=spec.model_options(), train=spec.train, **known, **cohort)  # type: ignore[arg-type]


@contextmanager
def lifecycle(record: Record, listeners: Sequence[Listener] = ()) -> Iterator[None]:
    """Give the record a truthful last word, whatever ends the run, and tell the listeners."""
    try:
        yield
    except KeyboardInterrupt:
        record.finish("cancelled", "interrupted; go on with `fedcosim resume`")
        raise
    except FedcosimError as error:
        record.finish("failed", str(error))
        raise
    except BaseException as error:
        record.finish("failed", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        raise
    finally:
        for listener in listeners:
            listener.close(record.result["status"])


@dataclass
class StopRule:
    """Whether to stop before the last round."""

    options: StopOptions | None
    best: float = -1.0
    since_best: int = 0
    reason: str | None = None

    def reached(self, line: Mapping[str, Any]) -> bool:
        """Take note of a round; say whether it was the last one wanted."""
        accuracy = line["accuracy_mean"]
        if self.options is None or accuracy is None:
            return False
        self.since_best = 0 if accuracy > self.best else self.since_best + 1
        self.best = max(self.best, accuracy)
        if self.options.accuracy is not None and accuracy >= self.options.accuracy:
            self.reason = f"stop.accuracy = {self.options.accuracy} reached in round {line['round']}"
        elif self.options.patience is not None and self.since_best >= self.options.patience:
            self.reason = f"stop.patience = {self.options.patience}: no better accuracy in {self.since_best} evaluations"
        return self.reason is not None


def roster(bench: Workbench, node_of: Mapping[int, int]) -> Roster:
    """Say which nodes can train and which can be evaluated, in client order.

    Parameters
    ----------
    node_of : mapping of int to int
        Node id by client id.
    """
    return Roster(
        client_of={node: client for client, node in node_of.items()},
        trainable=[node_of[c] for c in sorted(node_of) if bench.data.num_train[c] > 0],
        testable=[node_of[c] for c in sorted(node_of) if bench.held_out_counts()[c] > 0],
    )


def ask_roster(bench: Workbench, grid: Grid, patience_s: float = 120.0) -> Roster:
    """Wait until all clients have connected to a grid and ask every node which client it is.

    Raises
    ------
    RoundError
        If clients are missing after `patience_s`, or two nodes say they are the same client.
    """
    clients = bench.spec.federation.clients
    deadline = time.monotonic() + patience_s
    while len(nodes := sorted(grid.get_node_ids())) < clients:
        if time.monotonic() > deadline:
            raise RoundError(f"federation.clients = {clients}: only {len(nodes)} nodes have connected")
        time.sleep(0.5)
    replies = grid.send_and_receive([Message(RecordDict(), node, "query") for node in nodes], timeout=patience_s)
    node_of: dict[int, int] = {}
    for reply in replies:
        if reply.has_error():
            raise RoundError(f"node {reply.metadata.src_node_id} cannot say which client it is: {reply.error.reason}")
        client = int(reply.content["client"]["id"])  # type: ignore[arg-type,call-overload,index]
        if node_of.setdefault(client, reply.metadata.src_node_id) != reply.metadata.src_node_id:
            raise RoundError(f"client {client}: nodes {node_of[client]} and {reply.metadata.src_node_id} both say they are it")
    if odd := set(range(clients)) ^ node_of.keys():
        problem = f"no node is client {min(odd)}" if min(odd) < clients else f"{len(node_of)} nodes have connected"
        raise RoundError(f"federation.clients = {clients}: {problem}; there must be one node a client")
    return roster(bench, node_of)
