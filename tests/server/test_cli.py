"""The command line's contract: one JSON document on stdout, sentences on stderr, exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small import small

from fedcosim.server import cli
from fedcosim.server.run import run


def call(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["fedcosim", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture
def fedcosim(monkeypatch, capsys):
    return lambda *arguments: call(monkeypatch, capsys, *map(str, arguments))


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "small.toml"
    path.write_text(small("fedavg", "federation.rounds=1").to_toml())
    return path


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, local_ray) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [run(small(name, "federation.rounds=1"), folder) for name in ("fedavg", "fedper")]


def test_run_prints_the_record_and_nothing_else(fedcosim, spec_file, tmp_path, local_ray):
    code, out, err = fedcosim("run", spec_file, "--out", tmp_path, "--json", "--set", "seed=9")
    record = json.loads(out)
    assert code == 0
    assert (record["status"], record["spec"]["seed"]) == ("finished", 9)
    assert "round 1/1" in err
    assert (tmp_path / record["id"] / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("federation.per_round=64", "federation.per_round = 64: only 6 clients exist"),
        ("data.source=cifar10", "cifar10"),
        ("model.patch=5", "model.patch = 5"),
        ("data.train_per_client=2000", "data.test_per_client: missing"),
        ("train.precision=fp8", "train.precision = 'fp8'"),
    ],
)
def test_bad_input_exits_with_2_before_anything_is_written(change, sentence, fedcosim, spec_file, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDCOSIM_DATA", str(tmp_path / "no-data"))
    code, out, err = fedcosim("run", spec_file, "--out", tmp_path / "runs", "--json", "--set", change)
    assert code == 2
    assert sentence in err
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_a_taken_id_is_refused(fedcosim, spec_file, two_runs, local_ray):
    code, _, err = fedcosim("run", spec_file, "--out", two_runs[0].parent, "--id", two_runs[0].name)
    assert code == 2
    assert "exists already" in err


def test_compare_sets_runs_side_by_side(fedcosim, two_runs, tmp_path):
    page = tmp_path / "c.html"
    code, out, _ = fedcosim("compare", *two_runs, "--html", page, "--json")
    assert code == 0
    compared = json.loads(out)
    assert [row["strategy"] for row in compared["rows"]] == ["fedavg", "fedper"]
    assert compared["html"] == str(page)
    assert page.stat().st_size > 10_000
    code, out, _ = fedcosim("compare", *two_runs, "--html", page)
    assert code == 0
    assert "fedper" in out


def test_report_writes_the_report_again(fedcosim, two_runs):
    page = two_runs[0] / "report.html"
    before = page.read_bytes()
    page.unlink()
    code, out, _ = fedcosim("report", two_runs[0])
    assert (code, Path(out.strip())) == (0, page)
    assert page.read_bytes() == before


@pytest.mark.parametrize("command", ["report", "resume", "compare"])
def test_an_unknown_run_is_named(command, fedcosim, tmp_path):
    code, _, err = fedcosim(command, tmp_path / "nowhere")
    assert code == 2
    assert "nowhere: no run there" in err


@pytest.mark.parametrize(
    ("kind", "name"), [("strategies", "fedperfix"), ("models", "vit"), ("data", "fashion-mnist"), ("codecs", "asvd")]
)
def test_list_tells_what_a_spec_can_name(kind, name, fedcosim):
    code, out, _ = fedcosim("list", kind, "--json")
    assert code == 0
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert entries[name]["summary"]
    code, out, _ = fedcosim("list", kind)
    assert name in out


def test_list_of_something_else_is_refused(fedcosim):
    code, _, err = fedcosim("list", "strategy")
    assert code == 2
    assert "choose one of strategies, models, data" in err


def test_a_terminal_gets_a_live_table(spec_file, tmp_path, local_ray):
    """Drawn on a console that says it is a terminal: bars, accuracy and bytes are there, and the cursor comes back."""
    import io

    from rich.console import Console

    from fedcosim.server.display import LiveDisplay, display
    from fedcosim.server.spec import load

    screen = io.StringIO()
    spec = load(spec_file)
    shown = display(spec, Console(file=screen, force_terminal=True, width=120))
    assert isinstance(shown, LiveDisplay)
    run(spec, tmp_path, listeners=[shown])
    text = screen.getvalue()
    assert "rounds" in text
    assert "accuracy" in text
    assert "kB" in text
    assert text.rstrip().endswith("\x1b[?25h")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    generator = torch.Generator().manual_seed(1)
    low_rank = torch.randn(64, 2, generator=generator) @ torch.randn(2, 96, generator=generator)
    safetensors.torch.save_file({"flat.weight": low_rank, "bias": torch.randn(64, generator=generator)}, path)
    return path


def test_compress_reports_every_tensor_and_writes_what_arrives(checkpoint, fedcosim, tmp_path):
    out = tmp_path / "received.safetensors"
    chain = ("--codec", "svd:ratio=0.5,whole=['bias']", "--codec", "fp16")
    code, printed, err = fedcosim("compress", "--model", checkpoint, *chain, "--out", out, "--json")
    assert (code, err) == (0, "")
    report = json.loads(printed)
    assert report["dense_bytes"] == 4 * (64 * 96 + 64)
    assert [tensor["name"] for tensor in report["tensors"]] == ["bias", "flat.weight"]
    sent, received = (safetensors.torch.load_file(path) for path in (checkpoint, out))
    error = float((sent["flat.weight"] - received["flat.weight"]).norm() / sent["flat.weight"].norm())
    assert report["tensors"][1]["error"] == pytest.approx(error, rel=1e-3)
    assert error < 1e-3
    code, printed, _ = fedcosim("compress", "--model", checkpoint, *chain)
    assert code == 0
    assert "flat.weight" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--codec", "zip"), "--codec.codec = 'zip': choose one of fp16"),
        (("--codec", "topk:keep=2"), "--codec.keep = 2: "),
        (("--codec", "topk:keep"), "--codec 'topk:keep': 'keep' must look like FIELD=VALUE"),
        (("--codec", "asvd"), "codec asvd calibrates itself"),
        (("--codec", "asvd", "--text", "nowhere.txt"), "--text nowhere.txt: cannot be read"),
    ],
)
def test_compress_names_what_is_wrong(arguments, sentence, checkpoint, fedcosim):
    code, _, err = fedcosim("compress", "--model", checkpoint, *arguments)
    assert code == 2
    assert sentence in " ".join(err.split())
