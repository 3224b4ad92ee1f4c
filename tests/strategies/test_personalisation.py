"""What must hold of every strategy that keeps parameters on the client, and of FedAvg as their limit."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from small import setting, small

from fedcosim.core.records import array_bytes, array_record, check_update, layout
from fedcosim.server.grid import RayGrid
from fedcosim.server.rounds import Roster, Rounds

PERSONAL = ["fedper", "fedperfix"]


def copies(record):
    """The client app's replies are views of its model; keep what they say now."""
    return {key: array.numpy().copy() for key, array in record.items()}


@pytest.mark.parametrize("strategy", ["fedavg", *PERSONAL, "local"])
def test_i1_an_upload_is_exactly_the_shared_parameters(strategy, one_client):
    clients = one_client(small(strategy))
    reply = clients.ask(0)
    assert list(reply.content["arrays"]) == clients.bench.shared_keys
    assert set(reply.content) == {"arrays", "metrics"}
    check_update(reply.content, layout(clients.arrays))


@pytest.mark.parametrize("strategy", [*PERSONAL, "local"])
def test_i2_nothing_local_is_in_any_message(strategy, one_client):
    """Not by name and not by content: no trained local tensor's bytes appear in what the client sends, evaluation included."""
    clients = one_client(small(strategy))
    sent = b"".join(
        array.data
        for kind in ("train", "evaluate")
        for r in clients.ask(0, kind).content.array_records.values()
        for array in r.values()
    )
    for key, array in clients.contexts[0].state["local"].items():
        values = np.ascontiguousarray(array.numpy())
        assert np.abs(values).sum() > 0, key
        assert values.tobytes() not in sent, key


def test_local_uploads_and_downloads_nothing(one_client):
    clients = one_client(small("local"))
    assert len(clients.arrays) == 0
    reply = clients.ask(0)
    assert array_bytes(reply.content) == 0
    assert set(clients.contexts[0].state["local"]) == set(clients.bench.weights)


def fingerprint_app() -> ClientApp:
    app = ClientApp()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        digest = hashlib.sha256(b"".join(array.data for array in message.content["arrays"].values())).digest()
        metrics = MetricRecord({"num-examples": 1, "accuracy": 0.5, "loss": int.from_bytes(digest[:6], "little")})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def test_i3_all_clients_are_judged_with_the_same_bytes(local_ray, tmp_path):
    grid = RayGrid(fingerprint_app(), {}, 20, tmp_path, workers=2)
    arrays = array_record({"w": np.random.default_rng(0).normal(size=(40, 30))})
    rounds = Rounds(
        small().strategy.build(setting(small(), 20, 5)),
        grid,
        Roster({i: i for i in range(20)}, range(20), range(20)),
        seed=1,
        last=1,
    )
    evaluation = rounds.evaluate(1, arrays)
    grid.close()
    assert evaluation.clients == list(range(20))
    assert len(set(evaluation.loss)) == 1


def test_i4_evaluation_leaves_a_clients_state_alone(one_client):
    clients = one_client(small("fedperfix"))
    clients.ask(0)
    before = copies(clients.contexts[0].state["local"])
    clients.ask(0, "evaluate")
    after = clients.contexts[0].state["local"]
    assert all(np.array_equal(before[key], after[key].numpy()) for key in before)


@pytest.mark.parametrize("strategy", ["fedavg", *PERSONAL])
def test_i6_bytes_are_the_numbers_and_their_npy_headers(strategy, one_client):
    """Flower stores an array with a 128-byte header; nothing else may be hidden in an upload."""
    clients = one_client(small(strategy))
    content = clients.ask(0).content
    numbers = sum(array.numpy().nbytes for array in content["arrays"].values())
    assert array_bytes(content) == numbers + sum(128 + len(key) for key in content["arrays"])


def test_i6_the_plugin_costs_no_upload(one_client):
    per, perfix = one_client(small("fedper")), one_client(small("fedperfix"))
    assert array_bytes(per.ask(0).content) == array_bytes(perfix.ask(0).content)


def test_i7_a_plugin_of_scale_zero_is_fedper(one_client):
    """s = 0: the plugin gets no gradient, and no random number may depend on its being there."""
    per, perfix = one_client(small("fedper")), one_client(small("fedperfix", "strategy.scale=0"))
    for number in (1, 2):
        a, b = per.ask(0, number=number), perfix.ask(0, number=number)
        for key, array in a.content["arrays"].items():
            assert np.array_equal(array.numpy(), b.content["arrays"][key].numpy()), key
        assert a.content["metrics"] == b.content["metrics"]
        head = per.contexts[0].state["local"]
        assert all(np.array_equal(head[key].numpy(), perfix.contexts[0].state["local"][key].numpy()) for key in head)


def test_i7_the_plugin_does_something(one_client):
    """The counterpart: with the default scale the shared update differs, so the test above can fail."""
    per, perfix = one_client(small("fedper")), one_client(small("fedperfix"))
    a, b = per.ask(0).content["arrays"], perfix.ask(0).content["arrays"]
    assert any(not np.array_equal(a[key].numpy(), b[key].numpy()) for key in a)


def test_a_sampled_client_starts_from_its_own_local_parameters(one_client):
    clients = one_client(small("fedperfix"))
    clients.ask(0)
    first = copies(clients.contexts[0].state["local"])
    clients.ask(1)
    clients.ask(0, number=2)
    other, second = clients.contexts[1].state["local"], clients.contexts[0].state["local"]
    distance = {c: sum(np.abs(first[k] - s[k].numpy()).sum() for k in first) for c, s in ((0, second), (1, other))}
    assert 0 < distance[0] < distance[1]


def test_fedprox_pulls_towards_the_global_model(one_client):
    """A large mu must leave the update closer to where it started; mu arrives in the message, as Flower's FedProx sends it."""
    clients = one_client(small("fedprox"))

    def moved(mu: float) -> float:
        arrays = clients.ask(0, **{"proximal-mu": mu}).content["arrays"]
        return sum(float(np.square(a.numpy() - clients.arrays[k].numpy()).sum()) for k, a in arrays.items())

    assert moved(5.0) < 0.5 * moved(0.0)


def test_training_one_client_matches_a_plain_pytorch_loop(one_client):
    """The reference a reader would write: same data, same order, nothing of fedcosim's training code."""
    clients = one_client(small("fedavg", "train.epochs=2", "train.momentum=0.5"))
    bench = clients.bench
    from fedcosim.clients.models import initialise
    from fedcosim.core.seeds import torch_stream

    model = initialise(bench.spec.model, bench.data.shape_CHW, bench.data.classes, bench.spec.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    x, y = bench.data.train(2)
    order = torch_stream(bench.spec.seed, "train", 1, 2)
    for _ in range(2):
        permutation = torch.randperm(len(y), generator=order)
        for start in range(0, len(y), 16):
            batch = permutation[start : start + 16]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    reply = clients.ask(2).content["arrays"]
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(torch.from_numpy(reply[key].numpy()), tensor, rtol=0, atol=1e-6)
