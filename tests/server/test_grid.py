"""RayGrid against real Ray workers: order, averaging, failures, state."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st
from small import setting, small

from fedcosim.clients.client_app import app as client_app
from fedcosim.core.errors import RoundError, SpecError
from fedcosim.core.records import WeightedMean, array_record
from fedcosim.server.grid import RayGrid
from fedcosim.server.rounds import Roster, Rounds

pytestmark = pytest.mark.usefixtures("local_ray")


def arithmetic_app(folder: str | None = None) -> ClientApp:
    """Client c replies with w + c and weight c + 1, counts its visits in its state, and misbehaves when the config says so."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client, config = int(context.node_config["partition-id"]), message.content["config"]
        visits = int(context.state["visits"]["n"]) + 1 if "visits" in context.state else 1
        context.state["visits"] = MetricRecord({"n": visits})
        misbehave = config.get(f"client-{client}", "")
        if misbehave == "raise":
            raise ValueError(f"client {client} has no more ink")
        if misbehave == "die":
            os._exit(1)
        if misbehave == "die once" and not (marker := Path(str(folder), f"died-{client}")).exists():
            marker.touch()
            os._exit(1)
        if misbehave == "hang":
            time.sleep(600)
        w = message.content["arrays"]["w"].numpy() + client
        arrays = array_record({"w": w * np.nan if misbehave == "nan" else w})
        metrics = MetricRecord({"num-examples": client + 1, "train_loss": float(client), "visits": visits})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        visits = context.state["visits"]["n"] if "visits" in context.state else 0
        context.state["visits"] = MetricRecord({"n": 1000})  # must not survive
        return Message(
            RecordDict({"metrics": MetricRecord({"num-examples": 1, "accuracy": visits, "loss": client})}), reply_to=message
        )

    return app


def content(**config) -> RecordDict:
    return RecordDict(
        {"arrays": array_record({"w": np.zeros(3, np.float32)}), "config": ConfigRecord({"server-round": 1, **config})}
    )


def ask(grid: RayGrid, clients, timeout=None, **config) -> list[Message]:
    shared = content(**config)
    return list(grid.send_and_receive([Message(shared, c, "train") for c in clients], timeout=timeout))


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory, local_ray):
    grid = RayGrid(arithmetic_app(str(tmp_path_factory.mktemp("markers"))), {}, 12, tmp_path_factory.mktemp("state"), workers=2)
    yield grid
    grid.close()


@pytest.fixture
def grid(arithmetic):
    arithmetic.restore({}, 0)
    arithmetic.average, arithmetic.chunk = False, 3
    return arithmetic


def test_every_client_replies_once_to_its_own_message(grid):
    replies = ask(grid, range(12))
    assert sorted(r.metadata.src_node_id for r in replies) == list(range(12))
    for reply in replies:
        assert (reply.content["arrays"]["w"].numpy() == reply.metadata.src_node_id).all()


def test_averaged_chunks_make_the_same_mean(grid):
    one_by_one = [r.content for r in ask(grid, range(12))]
    grid.average = True
    chunks = [r.content for r in ask(grid, range(12))]
    assert len(chunks) == 4
    mean = WeightedMean()
    for chunk in chunks:
        mean.add(chunk)
    weights = np.array([c["metrics"]["num-examples"] for c in one_by_one], np.float64)
    stacked = np.stack([c["arrays"]["w"].numpy().astype(np.float64) for c in one_by_one])
    result = mean.content()
    np.testing.assert_allclose(result["arrays"]["w"].numpy(), (weights @ stacked) / weights.sum(), rtol=1e-6)
    assert result["metrics"]["num-examples"] == weights.sum()


def test_a_client_that_raises_is_an_error_reply_with_its_traceback(grid):
    grid.average = True
    replies = ask(grid, range(12), **{"client-5": "raise"})
    (error,) = [r for r in replies if r.has_error()]
    assert error.metadata.src_node_id == 5
    assert "client 5 has no more ink" in error.error.reason
    assert "Traceback" in error.error.reason
    weight = sum(r.content["metrics"]["num-examples"] for r in replies if r.has_content())
    assert weight == sum(c + 1 for c in range(12) if c != 5)


def test_a_nan_update_is_refused_and_its_client_keeps_its_old_state(grid):
    ask(grid, range(4))
    grid.commit()
    replies = ask(grid, range(4), **{"client-2": "nan"})
    grid.commit()
    (error,) = [r for r in replies if r.has_error()]
    assert "'w' holds NaN" in error.error.reason
    assert {c: ref.generation for c, ref in grid.states.items()} == {0: 2, 1: 2, 2: 1, 3: 2}


def test_a_worker_that_dies_costs_a_retry(grid):
    grid.average = True
    replies = ask(grid, range(12), **{"client-7": "die once"})
    assert not any(r.has_error() for r in replies)
    assert sum(r.content["metrics"]["num-examples"] for r in replies) == 78


def test_a_client_that_always_kills_its_worker_fails_alone(grid):
    """Its chunk mates are not to blame: after the retries a chunk is tried client by client."""
    grid.average = True
    replies = ask(grid, range(12), **{"client-7": "die"})
    failed = [r for r in replies if r.has_error()]
    assert [r.metadata.src_node_id for r in failed] == [7]
    assert "died" in failed[0].error.reason
    assert sum(r.content["metrics"]["num-examples"] for r in replies if r.has_content()) == 78 - 8


def test_a_client_that_hangs_fails_in_time_and_the_grid_lives_on(grid):
    replies = ask(grid, [0, 1, 2], timeout=15, **{"client-1": "hang"})
    reasons = [r.error.reason for r in replies if r.has_error()]
    assert reasons
    assert all("no reply in time" in reason for reason in reasons)
    assert len(ask(grid, [0, 1, 2])) == 3


def test_state_counts_from_commit_on_and_evaluation_cannot_change_it(grid):
    def visits() -> list[float]:
        shared = content()
        replies = grid.send_and_receive([Message(shared, c, "evaluate") for c in range(3)])
        return [r.content["metrics"]["accuracy"] for r in sorted(replies, key=lambda r: r.metadata.src_node_id)]

    ask(grid, [0, 1])
    assert visits() == [0, 0, 0]
    grid.commit()
    assert visits() == [1, 1, 0]
    ask(grid, [1, 2])
    grid.commit()
    assert visits() == [1, 2, 1]
    assert visits() == [1, 2, 1]


def test_a_missing_state_file_is_an_error_that_names_the_client(grid):
    """Starting the client anew in silence would corrupt the experiment."""
    ask(grid, [0, 1])
    grid.commit()
    for path in grid._store.root.glob("*/1/*.safetensors"):
        path.unlink()
    replies = ask(grid, [0, 1])
    (error,) = [r for r in replies if r.has_error()]
    assert "client 1: state of round 1 cannot be read" in error.error.reason


def test_a_damaged_state_file_is_an_error(grid):
    ask(grid, [0])
    grid.commit()
    (path,) = grid._store.root.glob("*/0/000001.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (reply,) = ask(grid, [0])
    assert "checksum differs" in reply.error.reason


def test_two_generations_are_kept(grid):
    for _ in range(4):
        ask(grid, [0])
        grid.commit()
        grid.prune()
    assert sorted(p.stem for p in grid._store.root.glob("*/0/*.safetensors")) == ["000003", "000004"]


def test_pushed_messages_are_answered_by_their_ids(grid):
    shared = content()
    ids = list(grid.push_messages([Message(shared, c, "train") for c in (3, 4)]))
    replies: list[Message] = []
    deadline = time.monotonic() + 60
    while len(replies) < 2 and time.monotonic() < deadline:
        replies += grid.pull_messages(ids)
    assert {r.metadata.reply_to_message_id: r.metadata.src_node_id for r in replies} == {ids[0]: 3, ids[1]: 4}
    assert list(grid.pull_messages(ids)) == []


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_chunks_depend_on_the_cohort_alone_and_balance_it(sizes, rng: random.Random):
    grid = object.__new__(RayGrid)
    grid.sizes, grid.chunk = sizes, None
    cohort = [Message(RecordDict(), c, "train") for c in range(len(sizes))]
    chunks = [[m.metadata.dst_node_id for m in chunk] for chunk in grid.chunks(cohort)]
    rng.shuffle(cohort)
    assert [[m.metadata.dst_node_id for m in chunk] for chunk in grid.chunks(cohort)] == chunks
    assert sorted(c for chunk in chunks for c in chunk) == list(range(len(sizes)))
    loads = [sum(sizes[c] for c in chunk) for chunk in chunks]
    assert loads == sorted(loads, reverse=True)
    assert max(loads) <= max(sum(sizes) / len(loads), 0) + max(sizes)


def test_more_workers_than_cpus_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"engine.workers = 64: Ray has 4 CPUs"):
        RayGrid(arithmetic_app(), {}, 1, tmp_path, workers=64)


def rounds_on(grid: RayGrid, clients: int, **settings) -> Rounds:
    strategy = FedAvg(fraction_train=1.0, min_train_nodes=clients, min_available_nodes=clients)
    return Rounds(
        strategy, grid, Roster({i: i for i in range(clients)}, range(clients), range(clients)), seed=1, last=1, **settings
    )


def test_i5_the_aggregate_is_the_weighted_mean(grid):
    """Against float64 by hand, through stock FedAvg, with and without averaging on the way."""
    clients = np.arange(12, dtype=np.float64)
    expected = ((clients + 1) * clients).sum() / (clients + 1).sum()
    for average in (False, True):
        grid.average = average
        (outcome,) = rounds_on(grid, 12, average=average).run(array_record({"w": np.zeros(3, np.float32)}))
        np.testing.assert_allclose(outcome.arrays["w"].numpy(), expected, rtol=1e-6)
        assert outcome.metrics["train_loss"] == pytest.approx(expected, rel=1e-6)
        assert sorted(outcome.tally.replied) == list(range(12))


def failing_strategy(**config) -> FedAvg:
    class Failing(FedAvg):
        def configure_train(self, server_round, arrays, record, grid):
            return super().configure_train(server_round, arrays, ConfigRecord({**record, **config}), grid)

    return Failing(fraction_train=1.0, min_train_nodes=12)


def test_a_round_goes_on_above_min_reply_fraction_and_fails_below(grid):
    grid.average = True
    bad = {f"client-{c}": "raise" for c in range(5)}
    rounds = rounds_on(grid, 12, average=True, min_reply_fraction=0.5)
    rounds.strategy = failing_strategy(**bad)
    (outcome,) = rounds.run(array_record({"w": np.zeros(3, np.float32)}))
    assert sorted(c for c, _ in outcome.tally.failed) == list(range(5))
    assert all("no more ink" in reason for _, reason in outcome.tally.failed)
    rounds.min_reply_fraction = 0.6
    with pytest.raises(RoundError, match=r"7 of 12 clients replied .* 8 are needed \(federation.min_reply_fraction = 0.6\)"):
        list(rounds.run(array_record({"w": np.zeros(3, np.float32)})))


STOCK = [
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedadam",
    "fedadagrad",
    "fedyogi",
    "fedmedian",
    "fedtrimmedavg",
    "krum",
    "multikrum",
    "bulyan",
    "qfedavg",
]


@pytest.fixture(scope="module")
def training(tmp_path_factory, local_ray):
    spec = small("fedavg")
    grid = RayGrid(client_app, spec.to_run_config(), 6, tmp_path_factory.mktemp("state"), workers=2)
    yield grid
    grid.close()


def test_server_work_is_spread_in_order_and_survives_a_worker(grid, tmp_path):
    """The first worker that meets seven dies of it; the results are those of a loop."""

    def square(number: int, folder: str) -> int:
        if number == 7 and not (marker := Path(folder) / "died").exists():
            marker.touch()
            os._exit(1)
        return number * number

    assert list(grid.map(square, [(n, str(tmp_path)) for n in range(20)])) == [n * n for n in range(20)]
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("name", STOCK)
def test_every_stock_strategy_trains_and_resumes(name, training, one_client):
    """Two rounds in one go equal one round, its memory through the checkpoint format, and another round."""
    from fedcosim.core.records import from_bytes, to_bytes
    from fedcosim.server import strategy_state

    spec = small(name, "federation.per_round=6")
    training.average = spec.strategy.averages
    initial = one_client(spec).arrays
    roster = Roster({i: i for i in range(6)}, range(6), range(6))

    def rounds(strategy, last: int) -> Rounds:
        return Rounds(strategy, training, roster, seed=1, last=last, average=spec.strategy.averages, evaluate_every=9)

    in_one_go = list(rounds(spec.strategy.build(setting(spec, 6, 6)), 2).run(initial))
    strategy = spec.strategy.build(setting(spec, 6, 6))
    (first,) = rounds(strategy, 1).run(initial)
    memory = from_bytes(to_bytes(strategy_state.dump(strategy)))
    again = spec.strategy.build(setting(spec, 6, 6))
    strategy_state.restore(again, memory)
    (second,) = rounds(again, 2).run(first.arrays, first=2)
    assert {k: a.data for k, a in second.arrays.items()} == {k: a.data for k, a in in_one_go[1].arrays.items()}
    assert any(first.arrays[k].data != initial[k].data for k in initial)
    assert isinstance(second.arrays, ArrayRecord)
