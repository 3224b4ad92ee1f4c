"""`fedcosim hwsim`: one JSON document on stdout, sentences on stderr, and a server that ends when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from fedcosim.hwsim.client import LocalClient
from fedcosim.hwsim.neomem import NeoMemRequest
from fedcosim.hwsim.roofline.simulator import ModelRequest, RooflineRequest
from fedcosim.server import cli
from fedcosim.server.architectures import example

ROOFLINE = ("hwsim", "estimate", "roofline")
LENET = (*ROOFLINE, "--model", "lenet", "--device", "raspberry-pi-5")
NEOMEM = ("hwsim", "estimate", "neomem")
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


BASELINES = ["first_touch", "autonuma", "tpp", "pte_scan", "pebs"]


def test_estimate_of_memory_tiering_compares_policies(fedcosim, tmp_path):
    """Figures are those of the request in Python; on the authors' workload NeoMem is ahead of everybody but all-fast memory."""
    chart = tmp_path / "neomem.svg"
    arguments = ("--trace", "gups", "--policy", "neomem", "--against", ",".join(BASELINES), "--accesses", 2_000_000)
    code, out, err = fedcosim(*NEOMEM, *arguments, "--chart", chart, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    asked = NeoMemRequest(synthetic={"generator": "gups", "accesses": 2_000_000}, against=BASELINES)
    assert report == LocalClient().estimate("neomem", asked).as_dict()
    keys = {"accesses", "sim_s", "latency_ns_mean", "fast_hit_ratio", "promoted_pages", "speedup", "cost_breakdown"}
    assert keys <= report.keys()
    assert report["accesses"] == 2_000_000
    assert report["speedup"].keys() == {*BASELINES, "all_fast"}
    assert all(report["speedup"][name] > 1 for name in BASELINES)
    assert report["sim_s"] == pytest.approx(sum(report["cost_breakdown"].values()))
    assert chart.read_text().startswith("<?xml")


def test_estimate_of_a_trace_from_a_file(fedcosim, tmp_path):
    pages = np.arange(3000) % 700
    np.savez(tmp_path / "trace.npz", pages=pages, writes=pages % 2)
    pages.astype("<i4").tofile(tmp_path / "trace.i32")
    reports = [json.loads(fedcosim(*NEOMEM, "--trace", tmp_path / f"trace.{kind}", "--json")[1]) for kind in ("npz", "i32")]
    assert [report["accesses"] for report in reports] == [3000, 3000]
    assert [report["footprint_pages"] for report in reports] == [700, 700]
    assert [report["fast_hit_ratio_writes"] is None for report in reports] == [False, True]
    code, out, _ = fedcosim(*NEOMEM, "--trace", tmp_path / "trace.i32", "--repeats", 3)
    assert code == 0
    assert "9000" in out


def test_estimate_of_a_recorded_training_step(fedcosim):
    """As long as a device computes, slow memory costs it little; a step that only moves memory feels all of it."""
    train = (*NEOMEM, "--trace", "train:lenet", "--json")
    fast, slow = (json.loads(fedcosim(*train, *device)[1]) for device in ((), ("--device", "raspberry-pi-5")))
    assert fast["slowdown_vs_all_fast"] > 2
    assert 1 <= slow["slowdown_vs_all_fast"] < 1.1
    once, thrice = (json.loads(fedcosim(*train, "--repeats", n)[1])["accesses"] for n in (1, 3))
    assert thrice == pytest.approx(3 * once, rel=0.05), "allocators may touch some pages more or less"


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
        ((*LENET, "--chart", "chart.docx"), "must end in .svg, .png or .pdf"),
        ((*NEOMEM, "--trace", "gupz"), "synthetic.generator = 'gupz'"),
        ((*NEOMEM, "--trace", "missing.npz"), "'missing.npz': no such file"),
        ((*NEOMEM, "--trace", "train:lnet"), "did you mean 'lenet'?"),
        ((*NEOMEM, "--trace", "gups", "--against", "tpp,nimble"), "against.1 = 'nimble'"),
        ((*NEOMEM, "--trace", "gups", "--accesses", "0"), "synthetic.accesses = 0"),
        ((*NEOMEM, "--trace", "gups", "--chart", "chart"), "must end in .svg, .png or .pdf"),
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


RERAM = ("hwsim", "estimate", "reram", "--model", "lenet")


def test_reram_tells_what_converters_save_and_cost(fedcosim, tmp_path):
    """Lossless converters take 8 operations for each of LeNet's 71 040 bit lines on 8 x 8 images, counted by hand."""
    chart = tmp_path / "reram.svg"
    few = ("--trained-on", 20_000, "--budget", 0.03)
    code, out, err = fedcosim(*RERAM, "--data", "digits", "--adc", "trq", *few, "--chart", chart, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    vectors = {"conv1": 64, "conv2": 16, "fc1": 1, "fc2": 1, "head": 1}
    outputs, tiles = {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84, "head": 10}, {"conv2": 2}
    lines = sum(vectors[name] * outputs[name] * tiles.get(name, 1) * 8 * 8 for name in vectors)
    assert report["conversions"] == lines == 71_040
    assert report["reduction"] == pytest.approx(8 * lines / report["ad_operations"])
    assert report["reduction"] > 1.5
    assert report["reduction_vs_calibrated_uniform"] == pytest.approx(report["mean_ops_uniform"] / report["mean_ops"])
    assert report["accuracy_float"] > 0.9
    assert report["accuracy_crossbar"] > report["accuracy_float"] - 0.05
    assert report["energy_j"]["adc"] == pytest.approx(report["ad_operations"] * 1.667e-12 / 8, rel=1e-3)
    assert sum(report["energy_j"].values()) == pytest.approx(report["energy_low_j"])
    assert report["latency_s"] == pytest.approx(sum(vectors.values()) * 8e-7)
    assert chart.read_text().startswith("<?xml")


@pytest.mark.parametrize("model", ["lenet", "vit", "resnet50", "vit-b16"])
def test_reram_knows_shapes_of_any_architecture(fedcosim, model):
    """The roofline's count of operations, two a multiply-accumulate, is another way to the same number."""
    name = ("--data", "fashion-mnist", "--json")
    code, out, _ = fedcosim("hwsim", "estimate", "reram", "--model", model, "--mode", "stats", *name)
    report = json.loads(out)
    sizes = ModelRequest(name=model, channels=1, height=28, width=28)
    flops = LocalClient(models=example).estimate("roofline", RooflineRequest(device="raspberry-pi-5", model=sizes)).flops
    assert code == 0
    assert report["macs"] == flops / 2
    assert report["mapped_mac_fraction"] == 1 if model in ("lenet", "resnet50") else 0.9 < report["mapped_mac_fraction"] < 1
    assert "accuracy_crossbar" in report


def test_reram_takes_weights_of_a_run(fedcosim, tmp_path):
    """A file in any folder, here; a service reads its own folder only."""
    import safetensors.torch

    from fedcosim.clients.models import MODELS, initialise

    file = tmp_path / "model.safetensors"
    weights = initialise(MODELS.parse({"name": "lenet"}), (1, 8, 8), 10, seed=1).state_dict()
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    code, out, _ = fedcosim(*RERAM, "--checkpoint", file, "--adc", "ideal", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["accuracy_float"] < 0.3
    assert report["accuracy_crossbar"] == report["accuracy_int"]
    code, out, err = fedcosim(*RERAM, "--checkpoint", file, "--endpoint", "localhost:1")
    assert (code, out) == (2, "")
    assert "give a name without folders" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((*RERAM, "--data", "digit"), "data = 'digit': did you mean 'digits'?"),
        ((*RERAM, "--mode", "stats", "--data", "digit"), "data = 'digit': did you mean 'digits'?"),
        (("hwsim", "estimate", "reram", "--model", "lent"), "model = 'lent': did you mean 'lenet'?"),
        ((*RERAM, "--adc", "flash"), "adc.kind = 'flash'"),
        ((*RERAM, "--bits", "21"), "adc.bits = 21"),
        ((*RERAM, "--cells", "3"), "crossbar.cell_bits = 3: cells hold 1, 2, 4 or 8 bits"),
        ((*RERAM, "--rows", "0"), "crossbar.rows = 0"),
        ((*RERAM, "--rows", "1024"), "energy.model = 'isaac': no figure for 11 bits"),
        ((*RERAM, "--encoding", "both"), "crossbar.encoding = 'both'"),
        ((*RERAM, "--mode", "guess"), "mode = 'guess'"),
        ((*RERAM, "--budget", "2"), "calibration.accuracy_budget = 2"),
        ((*RERAM, "--checkpoint", "nowhere.safetensors"), "preparation.checkpoint = 'nowhere.safetensors'"),
        ((*RERAM, "--model", "vit"), "model = 'vit': cannot take digits"),
    ],
)
def test_reram_refuses_with_a_sentence(arguments, sentence, fedcosim):
    """Before anything is trained."""
    code, out, err = fedcosim(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
