"""`fedcosim hwsim`: one JSON document on stdout, sentences on stderr, and a server that ends when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fedcosim.hwsim.client import LocalClient
from fedcosim.hwsim.roofline.simulator import ModelRequest, RooflineRequest
from fedcosim.server import cli
from fedcosim.server.architectures import example

ROOFLINE = ("hwsim", "estimate", "roofline")
LENET = (*ROOFLINE, "--model", "lenet", "--device", "raspberry-pi-5")
WAIT_S = 120


@pytest.fixture
def fedcosim(monkeypatch, capsys):
    """Run the command line in this process; return (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedcosim", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


def test_estimate_prints_one_json_document(fedcosim):
    """A training step of ViT-B/16 on 32 images: three times the forward pass but for the images' gradient."""
    arguments = ("--model", "vit-b16", "--device", "raspberry-pi-5", "--batch", 32, "--train", "--json")
    code, out, err = fedcosim(*ROOFLINE, *arguments)
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["flops"] == 32 * 105_151_758_336
    assert report["time_s"] >= report["flops"] / 153.6e9
    assert report["bound"] == "compute"
    assert len(report["operators"]) == 20


def test_estimate_prints_tables_for_people(fedcosim):
    code, out, _ = fedcosim(*LENET, "--train", "--per-sample")
    assert code == 0
    assert "lenet on raspberry-pi-5" in out
    assert "clip and sum" in out


def test_estimate_of_a_language_model_is_llm_viewers(fedcosim):
    arguments = ("--llm", "llama-2-7b", "--viewer", "--stage", "decode", "--context", 2048)
    code, out, _ = fedcosim(*ROOFLINE, "--device", "llmviewer:nvidia_A6000", *arguments, "--json")
    assert code == 0
    assert json.loads(out)["time_s"] == pytest.approx(0.0186369153, rel=1e-6)


def test_estimate_takes_other_images_and_draws_a_chart(fedcosim, tmp_path):
    chart = tmp_path / "roofline.svg"
    code, out, _ = fedcosim(*LENET, "--image", "3x32x32", "--chart", chart, "--json")
    asked = ModelRequest(name="lenet", channels=3, height=32, width=32)
    expected = LocalClient(models=example).estimate("roofline", RooflineRequest(device="raspberry-pi-5", model=asked))
    assert code == 0
    assert json.loads(out) == expected.as_dict()
    assert chart.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((*ROOFLINE, "--model", "lenet", "--device", "rasberry-pi-5"), "did you mean 'raspberry-pi-5'?"),
        ((*ROOFLINE, "--model", "vit-b-16", "--device", "raspberry-pi-5"), "did you mean 'vit-b16'?"),
        ((*ROOFLINE, "--llm", "lama-2-7b", "--device", "raspberry-pi-5"), "did you mean 'llama-2-7b'?"),
        ((*ROOFLINE, "--device", "raspberry-pi-5"), "give exactly one of workload, model, llm, not none"),
        ((*LENET, "--batch", "0"), "model.batch = 0"),
        ((*LENET, "--optimizer", "lion", "--train"), "model.optimizer = 'lion'"),
        ((*LENET, "--image", "32x32"), "must be channels x height x width"),
        ((*ROOFLINE, "--llm", "gpt2", "--device", "xeon-8480", "--weight-bits", "5"), "llm.weight_bits = 5"),
        ((*ROOFLINE, "--model", "lenet", "--device", "llmviewer:intel_13900k"), "choose one of fp16"),
        (("hwsim", "serve", "rofline"), "did you mean 'roofline'?"),
        (("hwsim", "serve", "--tls-key", "key.pem"), "give both or neither"),
        (("hwsim", "serve", "--port", "0", "--tls-key", "no.pem", "--tls-certificate", "no.pem"), "no.pem: cannot be read"),
    ],
)
def test_bad_input_exits_with_2_and_a_hint(arguments, sentence, fedcosim):
    code, out, err = fedcosim(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_list_tells_the_devices(fedcosim):
    code, out, _ = fedcosim("list", "devices", "--json")
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert code == 0
    assert entries["raspberry-pi-5"]["options"]["peak"]["default"]["fp32"] == 153.6e9
    assert entries["raspberry-pi-5"]["summary"]


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen, str]]:
    """A server in a process of its own, and its endpoint."""
    command = [sys.executable, "-m", "fedcosim.server.cli", "hwsim", "serve", "roofline", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}) as process:
        line = process.stderr.readline()
        try:
            assert line.startswith("serving roofline on 127.0.0.1:"), line
            yield process, line.split()[-1]
        finally:
            process.kill()


def test_a_server_answers_and_ends_on_sigterm(server, fedcosim):
    process, endpoint = server
    here, there = (fedcosim(*LENET, "--json", *remote) for remote in ((), ("--endpoint", endpoint)))
    assert here[0] == there[0] == 0
    assert json.loads(here[1]) == json.loads(there[1])
    code, _, err = fedcosim(*ROOFLINE, "--model", "lnet", "--device", "xeon-8480", "--endpoint", endpoint)
    assert code == 2
    assert "did you mean 'lenet'?" in err
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert said.strip() == "finishing what is in work"
