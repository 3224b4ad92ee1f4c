"""Whole one-shot runs on real Ray: FedDiff and its rivals, with privacy, filters, failures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import safetensors.torch
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from small import SMALL

from fedcosim.clients import client_app
from fedcosim.clients.data import FederatedData
from fedcosim.clients.privacy import Ledger, Release
from fedcosim.core.errors import SpecError
from fedcosim.server import run as runner
from fedcosim.server.record import Checkpoints
from fedcosim.server.report import record_schema
from fedcosim.server.run import run
from fedcosim.server.spec import Experiment, override, parse

pytestmark = pytest.mark.usefixtures("local_ray")

ONE_SHOT = {
    **SMALL,
    "name": "one-shot",
    "federation": {"clients": 3, "rounds": 1},
    "data": {"source": "digits", "partition": "dirichlet", "alpha": 0.5, "min_per_client": 250},
    "model": {"name": "lenet"},
    "train": {"epochs": 2, "batch_size": 32, "optimizer": "adam", "lr": 2e-3},
    "engine": {"workers": 2},
}
GENERATOR = (
    "strategy.samples=60",
    'strategy.generator.tiers=["XS"]',
    "strategy.generator.steps=8",
    "strategy.generator.sampling_steps=4",
)


def spec(strategy: str, *overrides: str) -> Experiment:
    return parse(override({**ONE_SHOT, "strategy": {"name": strategy}}, overrides))


def feddiff(*overrides: str) -> Experiment:
    return spec("feddiff", *GENERATOR, *overrides)


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def model(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, local_ray) -> Path:
    return run(feddiff(), tmp_path_factory.mktemp("runs"))


def test_every_client_uploads_once_and_downloads_nothing_to_train(finished):
    record = result(finished)
    jsonschema.validate(record, record_schema())
    (line,) = record["rounds"]
    assert (line["sampled"], line["failed"], line["bytes_down"]) == (3, [], 0)
    assert [client["rounds"] for client in record["clients"]] == [1, 1, 1]
    weights = safetensors.torch.load_file(finished / "uploads.safetensors")
    assert line["bytes_up"] >= sum(4 * tensor.numel() for tensor in weights.values())


def test_the_synthetic_set_is_what_was_asked_for(finished):
    """Proportional allocation: the right total, and no class that a client does not hold."""
    pool = safetensors.torch.load_file(finished / "synthetic.safetensors")
    held = np.array(result(finished)["partition"]["train_label_counts"]) > 0
    assert pool["images"].dtype == torch.uint8
    assert pool["images"].shape == (60, 1, 8, 8)
    assert all(held[k, c] for k, c in zip(pool["clients"].tolist(), pool["labels"].tolist(), strict=True))
    assert result(finished)["final"]["synthetic_images"] == 60


def test_the_report_shows_samples(finished):
    assert "samples.png" in result(finished)["artifacts"]
    assert "data:image/png;base64," in (finished / "report.html").read_text()


def test_recall_says_which_classes_are_recognised(finished):
    recall = result(finished)["final"]["class_recall"]
    assert len(recall) == 10
    assert all(value is None or 0 <= value <= 1 for value in recall)


def test_one_worker_gives_the_same_bytes(finished, runs):
    one = run(feddiff("engine.workers=1"), runs)
    assert model(one) == model(finished)
    assert (one / "uploads.safetensors").read_bytes() == (finished / "uploads.safetensors").read_bytes()


def test_a_filter_that_drops_nothing_is_no_filter(finished, runs):
    unfiltered = run(feddiff("strategy.selection.method=fmf", "strategy.selection.drop=0.0"), runs)
    assert model(unfiltered) == model(finished)


@pytest.mark.parametrize("method", ["fmf", "agreement"])
def test_every_filter_keeps_the_allocated_numbers(method, finished, runs):
    filtered = run(feddiff(f"strategy.selection.method={method}"), runs)
    before, after = (safetensors.torch.load_file(f / "synthetic.safetensors") for f in (finished, filtered))
    assert torch.equal(before["labels"], after["labels"])
    assert torch.equal(before["clients"], after["clients"])
    assert model(filtered) != model(finished)


def test_clients_of_one_run_may_send_unets_of_different_sizes(runs):
    mixed = run(feddiff('strategy.generator.tiers=["XS", "S"]'), runs)
    weights = safetensors.torch.load_file(mixed / "uploads.safetensors")
    sizes = [sum(t.numel() for key, t in weights.items() if key.startswith(f"{client}/")) for client in range(3)]
    assert sizes[0] == sizes[2] < sizes[1]


def test_more_rounds_than_one_are_refused():
    with pytest.raises(SpecError, match=r"federation.rounds = 3: strategy 'feddiff' is one-shot; choose 1"):
        feddiff("federation.rounds=3")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["strategy.samples=9"], "strategy.samples = 9: the data have 10 classes"),
        (["strategy.generator.unshuffle=3"], "strategy.generator.unshuffle = 3"),
        (["privacy.epsilon=10", "privacy.delta=0.01"], "privacy.delta = 0.01: client 0 has"),
        (
            ["privacy.epsilon=10", "strategy.generator.batch_size=5000"],
            "batch_size = 5000 (of train or strategy.generator): more than half",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(overrides, sentence, runs):
    with pytest.raises(SpecError, match=re.escape(sentence)):
        run(feddiff(*overrides), runs)
    assert not runs.exists()


def broken_app() -> ClientApp:
    """Client 1 loses an array of its upload on the way, client 2 dies of an error."""
    app = ClientApp()

    @app.train("generator")
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        if client == 2:
            raise ValueError("no more ink")
        reply = client_app.train_generator(message, context)
        if client == 1:
            del reply.content["arrays"]["generator/conv_in.bias"]
        return reply

    app.evaluate()(client_app.evaluate)
    return app


def test_a_broken_upload_is_left_out_and_named(runs, monkeypatch):
    monkeypatch.setattr(runner, "client_app", broken_app())
    folder = run(feddiff("federation.min_reply_fraction=0.3"), runs)
    failed = {entry["client"]: entry["error"] for entry in result(folder)["rounds"][0]["failed"]}
    assert failed.keys() == {1, 2}
    assert "'generator/conv_in.bias' is missing" in failed[1]
    assert "no more ink" in failed[2]
    assert set(safetensors.torch.load_file(folder / "synthetic.safetensors")["clients"].tolist()) == {0}


def test_under_privacy_nothing_leaves_that_is_not_in_the_ledger(runs):
    """The reported epsilon is that of all releases together, no loss is told, counts are noisy."""
    private = (
        "privacy.epsilon=8",
        "strategy.generator.batch_size=32",
        "strategy.least_count=1",
        "strategy.selection.method=fmf",
    )
    folder = run(feddiff(*private), runs)
    record = result(folder)
    assert 0.99 * 8 <= record["final"]["epsilon"] <= 8
    checkpoint = Checkpoints(folder).latest()
    assert checkpoint is not None
    assert len(checkpoint.states) == 3


def test_private_averaging_spends_a_share_of_its_budget_every_round(runs):
    """A client that takes part twice in a run of three rounds has spent more than after once, and less than it may."""
    rounds = ("federation.rounds=3", "federation.per_round=2", "evaluate.every=3", "privacy.epsilon=8", "train.epochs=1")
    folder = run(spec("fedavg", *rounds), runs)
    spent = [line["epsilon"] for line in result(folder)["rounds"]]
    assert 0 < spent[0] <= spent[1] <= spent[2] <= 8
    assert all(line["train_loss"] is None for line in result(folder)["rounds"])


def test_the_server_reads_no_samples(finished, monkeypatch, one_client):
    """From the uploads and the setting alone comes the classifier that the run came to."""
    from fedcosim.clients.client_app import Workbench
    from fedcosim.server.server_app import roster, setting

    experiment = feddiff()
    bench = Workbench(experiment)
    asked = one_client(experiment)
    replies = [asked.ask(client, "train.generator") for client in range(3)]
    strategy = experiment.strategy.build(setting(bench, roster(bench, {c: c for c in range(3)})))
    monkeypatch.setattr(FederatedData, "_samples", None)
    arrays, _ = strategy.aggregate_train(1, replies)
    assert safetensors.torch.load(model(finished)).keys() == arrays.keys()
    for key, tensor in safetensors.torch.load(model(finished)).items():
        np.testing.assert_allclose(arrays[key].numpy(), tensor.numpy(), rtol=1e-4, atol=1e-5)


def test_an_ensemble_predicts_by_the_mean_probability(runs):
    """Against each member alone, evaluated by hand on all test data."""
    from fedcosim.clients.client_app import Workbench
    from fedcosim.clients.tasks import classification

    experiment = spec("ensemble")
    folder = run(experiment, runs)
    bench = Workbench(experiment)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    parts = [bench.data.test(client) for client in range(3)]
    x_NCHW, y_N = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    p = []
    for member in range(3):
        bench.model.load_state_dict({k.split("/")[1]: v for k, v in weights.items() if k.startswith(f"{member}/")})
        p.append(classification.predict(bench.model, x_NCHW, experiment.train).exp())
    single = [float((p_NK.argmax(1) == y_N).float().mean()) for p_NK in p]
    together = float((torch.stack(p).mean(0).argmax(1) == y_N).float().mean())
    final = result(folder)["final"]
    assert final["accuracy_weighted"] == pytest.approx(together)
    assert final["best_member_accuracy"] == pytest.approx(max(single))
    assert final["mean_member_accuracy"] == pytest.approx(np.mean(single))


def test_a_warm_start_goes_on_with_averaging(finished, runs):
    warm = run(spec("feddiff-warm", *GENERATOR, "federation.rounds=3", "evaluate.every=1"), runs)
    lines = result(warm)["rounds"]
    assert lines[0]["accuracy_mean"] == result(finished)["rounds"][0]["accuracy_mean"]
    assert lines[0]["bytes_down"] == 0 < lines[1]["bytes_down"] == lines[2]["bytes_down"]


def test_averaged_generators_are_the_mean_of_the_uploads(runs):
    folder = run(spec("feddiff-averaged", *GENERATOR), runs)
    assert result(folder)["final"]["synthetic_images"] == 60
    with pytest.raises(SpecError, match="only U-Nets of one size can be averaged"):
        spec("feddiff-averaged", 'strategy.generator.tiers=["XS", "S"]')


def test_a_ledger_of_all_releases_gives_the_recorded_epsilon(one_client):
    experiment = feddiff("privacy.epsilon=8", "strategy.generator.batch_size=32")
    reply = one_client(experiment).ask(0, "train.generator")
    told = reply.content["fedcosim.privacy"]
    ledger = Ledger(1e-5, [Release(**release) for release in json.loads(told["releases"])])
    assert ledger.epsilon() == pytest.approx(told["epsilon"])
    assert {release.kind for release in ledger.releases} == {"training", "histogram"}
    assert "train_loss" not in reply.content["metrics"]
