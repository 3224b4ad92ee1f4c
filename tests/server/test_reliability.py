"""The reliability of a run's model, from its directory alone: data, clients and model are rebuilt."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from small import small

from fedcosim.clients.client_app import Workbench
from fedcosim.clients.tasks import classification
from fedcosim.compression.reliability import Thresholds
from fedcosim.core.errors import RunError, SpecError
from fedcosim.server import cli
from fedcosim.server.reliability import rebuilt, write_reliability

SPEC = small(
    "fedavg",
    "data={source='digits', partition='dirichlet', alpha=0.5}",
    "federation={clients=3, per_round=3, rounds=1}",
    "train={epochs=8, batch_size=32, optimizer='adam', lr=0.005}",
)
LIMITS = Thresholds(min_group=20, resamples=200)


@pytest.fixture(scope="module")
def run(data_cache, tmp_path_factory):
    """A run's directory with a model that was trained on the data of all its clients."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "spec.toml").write_text(SPEC.to_toml())
    bench = Workbench(SPEC)
    parts = [bench.data.train(client) for client in range(3)]
    x_NCHW, y_N = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    classification.train(bench.model, x_NCHW, y_N, SPEC.train, torch.Generator().manual_seed(0))
    safetensors.torch.save_file(bench.model.state_dict(), folder / "model.safetensors")
    return folder


def test_the_rebuilt_model_answers_as_the_runs_did(run):
    subject, seed = rebuilt(run)
    bench = Workbench(SPEC)
    bench.model.load_state_dict(safetensors.torch.load_file(run / "model.safetensors"))
    assert seed == SPEC.seed
    for client in range(3):
        x_NCHW, y_N = bench.data.test(client)
        mine = subject.test.clients_N == client
        assert torch.equal(subject.test.x_NCHW[mine], x_NCHW)
        assert torch.equal(subject.test.y_N[mine], y_N)
        expected = classification.predict(bench.model, x_NCHW, SPEC.train).argmax(1)
        with torch.no_grad():
            assert torch.equal(subject.module(x_NCHW).argmax(1), expected)


def test_a_run_is_judged_and_the_report_stays_with_it(run, tmp_path):
    """With a grouping of the experimenter's own, by item."""
    subject, _ = rebuilt(run)
    clients = subject.test.clients_N.numpy()
    ids = [f"{client}/{n - np.flatnonzero(clients == client)[0]}" for n, client in enumerate(clients)]
    sides = {one: "left" if n % 2 else "right" for n, one in enumerate(ids)}
    (tmp_path / "groups.json").write_text(json.dumps({"side": sides}))
    told = []
    report = write_reliability(
        run, bits="W8A8", thresholds=LIMITS, samples=32, groups=tmp_path / "groups.json", tell=told.append
    )
    assert json.loads((run / "reliability.json").read_text()) == json.loads(json.dumps(report))
    assert {"groups", "worst_group", "average_drop", "flip_rate", "verdict", "factors"} <= report.keys()
    assert {group["name"] for group in report["groups"] if group["grouping"] == "side"} == {"left", "right"}
    assert len(told) == report["quantisations"]
    with np.load(run / "reliability.npz", allow_pickle=False) as answers:
        assert (answers["truth"] == subject.test.y_N.numpy()).all()
        wrong = (answers["float/none"] == answers["truth"]).mean() - (answers["trial/0"] == answers["truth"]).mean()
        assert report["average_drop"] == pytest.approx(wrong)
        assert set(answers["group/side"]) == {"left", "right"}
    page = (run / "reliability.html").read_text()
    assert report["recommendation"].split(":")[0].replace("'", "&#39;") in page
    assert "Clients that calibrate on their own data" in page


def test_the_command_prints_json_or_tables(run, capsys, monkeypatch):
    options = ["--codec", "int4", "--min-group", "20"]
    for more in (["--json"], []):
        monkeypatch.setattr("sys.argv", ["fedcosim", "reliability", str(run), *options, *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        out = capsys.readouterr().out
        if more:
            assert json.loads(out)["codec"] == "int4"
        else:
            assert "Verdicts, in percentage points" in out


@pytest.mark.parametrize(
    ("codec", "bits", "message"),
    [
        ("rptq", "W9A4", "rptq.bits = 'W9A4'"),
        ("nothing", None, "choose one of"),
        ("int4", "W4A4", "--bits W4A4"),
    ],
)
def test_what_is_to_be_judged_is_checked_first(run, codec, bits, message):
    with pytest.raises(SpecError, match=message):
        write_reliability(run, codec, bits)


def test_groups_that_do_not_fit_are_refused(run, tmp_path):
    path = tmp_path / "groups.json"
    for text, message in (
        ("no", "cannot be read as JSON"),
        ("[1]", "must be"),
        ('{"side": {"0/0": "a"}}', "has no group"),
    ):
        path.write_text(text)
        with pytest.raises(SpecError, match=message):
            write_reliability(run, bits="W8A8", thresholds=LIMITS, groups=path)


def test_runs_without_one_model_for_all_are_refused(run, tmp_path, data_cache):
    (tmp_path / "spec.toml").write_text(SPEC.to_toml())
    with pytest.raises(RunError, match=r"neither model\.safetensors nor a checkpoint"):
        rebuilt(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(RunError, match="damaged"):
        rebuilt(tmp_path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="not the experiment's model"):
        rebuilt(tmp_path)
    personal = small("fedper", "federation={clients=3, per_round=3, rounds=1}")
    (tmp_path / "spec.toml").write_text(personal.to_toml())
    with pytest.raises(RunError, match="tensors of their own"):
        rebuilt(tmp_path)
