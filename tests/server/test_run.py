"""Whole runs on real Ray: the record, determinism, resume after every kind of end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import safetensors.numpy
from outcomes import final_bytes, result
from small import SMALL, small

from fedcosim.clients.workbench import Workbench
from fedcosim.core.errors import RunError, SpecError, StateError
from fedcosim.server.record import Checkpoints, Record, stored_spec
from fedcosim.server.report import record_schema
from fedcosim.server.run import resumable, resume, run
from fedcosim.server.spec import override, parse

FEDCOSIM = [sys.executable, "-m", "fedcosim.server.cli"]


def comparable(folder: Path) -> dict:
    """The record without what may differ between two runs of one experiment: times and the engine."""
    record = result(folder)
    rounds = [{k: v for k, v in line.items() if k != "wall_s"} for line in record["rounds"]]
    final = {k: v for k, v in record["final"].items() if k != "wall_s"}
    return {"rounds": rounds, "final": final, "clients": record["clients"], "partition": record["partition"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, local_ray) -> Path:
    """FedPerfix, five rounds in one go on two workers."""
    return run(small("fedperfix", "federation.rounds=5", "engine.workers=2"), tmp_path_factory.mktemp("runs"))


def test_the_record_is_what_the_schema_says(finished):
    record = result(finished)
    jsonschema.validate(record, record_schema())
    assert record["status"] == "finished"
    assert [line["round"] for line in record["rounds"]] == [1, 2, 3, 4, 5]
    assert [line["accuracy_mean"] is not None for line in record["rounds"]] == [False, False, True, False, True]
    assert all(line["sampled"] == 4 and line["failed"] == [] for line in record["rounds"])
    assert sum(client["rounds"] for client in record["clients"]) == 20
    assert record["final"]["bytes_up"] == sum(line["bytes_up"] for line in record["rounds"]) > 0
    assert all((finished / artifact).exists() for artifact in record["artifacts"])
    assert {"report.html", "model.safetensors"} <= set(record["artifacts"])
    assert stored_spec(finished).to_dict() == record["spec"]


def test_the_final_figures_are_those_of_the_clients(finished):
    import numpy as np

    record = result(finished)
    accuracy = np.array([client["accuracy"] for client in record["clients"]])
    assert record["final"]["accuracy_mean"] == pytest.approx(accuracy.mean())
    assert record["final"]["accuracy_std"] == pytest.approx(accuracy.std())
    assert record["final"]["accuracy_p10"] == pytest.approx(np.percentile(accuracy, 10))
    assert record["final"]["accuracy_worst"] == accuracy.min()
    assert record["final"]["accuracy_mean"] > 0.3  # ten classes, five rounds: it has learned something


def test_events_tell_the_whole_story_in_order(finished):
    events = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["started", *["round"] * 5, "finished"]


def test_a_kill_between_checkpoint_and_event_loses_no_event(finished, tmp_path):
    """The checkpoint of round 5 is there, its line in events.jsonl is not: a resume writes it, once."""
    whole = (finished / "events.jsonl").read_text().splitlines()
    folder = shutil.copytree(finished, tmp_path / "killed")
    (folder / "events.jsonl").write_text("\n".join(whole[:-2]) + "\n")
    spec = stored_spec(folder)
    for _ in range(2):
        with Record(folder, spec) as record:
            record.add_partition(Workbench(spec).data)
            record.restore(Checkpoints(folder).latest().progress)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events[-3:]] == ["round", "resumed", "resumed"]
    assert {**events[-3], "time": None} == {**json.loads(whole[-2]), "time": None}


def test_the_model_file_holds_the_shared_parameters(finished):
    model = safetensors.numpy.load_file(finished / "model.safetensors")
    arrays = Checkpoints(finished).latest().arrays
    assert {key: value.tobytes() for key, value in model.items()} == {key: a.numpy().tobytes() for key, a in arrays.items()}
    assert not any("plugin" in key or key.startswith("head") for key in model)


def test_a_client_is_judged_with_what_it_has_just_learned(runs, local_ray):
    """Without federation a client's accuracy after its round is that of its newest state, not of the one before."""
    spec = small("local", "federation.rounds=1", "federation.per_round=6", "evaluate.every=1", "train.epochs=40")
    record = result(run(spec, runs))
    assert record["final"]["accuracy_mean"] > 0.5


def test_i10_the_number_of_workers_does_not_change_a_byte(finished, runs):
    alone = run(small("fedperfix", "federation.rounds=5", "engine.workers=1"), runs)
    assert final_bytes(alone) == final_bytes(finished)
    assert comparable(alone) == comparable(finished)


def test_another_seed_gives_another_model(finished, runs):
    other = run(small("fedperfix", "federation.rounds=1", "seed=4"), runs)
    assert final_bytes(other) != final_bytes(finished)


def test_i11_more_rounds_later_are_the_same_rounds(finished, runs):
    folder = run(small("fedperfix", "federation.rounds=2"), runs)
    resume(folder, resumable(folder, ["federation.rounds=5"]))
    assert final_bytes(folder) == final_bytes(finished)
    jsonschema.validate(result(folder), record_schema())


def test_a_resume_cannot_turn_a_run_into_another(finished):
    with pytest.raises(RunError, match=r"data.alpha, seed, train.lr cannot change in a resume"):
        resumable(finished, ["seed=9", "train.lr=0.2", "data.alpha=1"])


def test_a_finished_run_is_not_resumed_for_nothing(finished):
    with pytest.raises(RunError, match=r"all 5 rounds are done; add rounds with --set federation.rounds=15"):
        resume(finished, resumable(finished))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(runs, finished):
    """A torn file must not be trusted; the generation before it, and the client states it refers to, are still there."""
    folder = run(small("fedperfix", "federation.rounds=3"), runs)
    latest = folder / "checkpoints/round-00003.safetensors"
    latest.write_bytes(latest.read_bytes()[:-10])
    assert Checkpoints(folder).latest().round == 2
    resume(folder, resumable(folder, ["federation.rounds=5"]))
    assert final_bytes(folder) == final_bytes(finished)


def test_without_an_intact_checkpoint_there_is_no_resume(runs):
    folder = run(small("fedavg", "federation.rounds=2"), runs)
    for path in (folder / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"torn")
    with pytest.raises(StateError, match="no checkpoint is intact"):
        resume(folder, resumable(folder, ["federation.rounds=3"]))


def test_a_stop_rule_ends_a_run_and_says_why(runs):
    folder = run(small("fedavg", "stop.accuracy=0.05", "evaluate.every=1"), runs)
    record = result(folder)
    assert (record["status"], len(record["rounds"])) == ("stopped", 1)
    assert record["reason"] == "stop.accuracy = 0.05 reached in round 1"


def test_clients_without_test_data_are_counted_not_averaged(runs, local_ray):
    """Two samples a client: most have nothing to be judged on. They train, but are not part of any accuracy."""
    record = result(
        run(small("fedavg", "federation.clients=800", "federation.rounds=1", "data.partition=iid", "data.alpha="), runs)
    )
    unevaluated = [c for c in record["clients"] if c["num_test"] == 0]
    assert len(unevaluated) == 603
    assert record["final"]["unevaluated_clients"] == 603
    assert all((c["accuracy"] is None) == (c["num_test"] == 0) for c in record["clients"])


@pytest.fixture
def spec_file(tmp_path) -> Path:
    path = tmp_path / "spec.toml"
    fields = override(SMALL, ["strategy.name=fedperfix", "federation.rounds=5", "engine.workers=2"])
    path.write_text(parse(fields).to_toml())
    return path


def start(spec: Path, runs: Path, *more: str) -> subprocess.Popen:
    command = [*FEDCOSIM, "run", str(spec), "--out", str(runs), "--id", "x", "--json", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_rounds(folder: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    events = folder / "events.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if events.exists() and events.read_text().count('"event": "round"') >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run ended too early: {process.communicate()}")


def test_i11_a_killed_driver_resumes_to_the_same_bytes(finished, spec_file, runs):
    """kill -9 after round 2, then `fedcosim resume`: as if nothing had happened."""
    process = start(spec_file, runs)
    wait_for_rounds(runs / "x", 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = Checkpoints(runs / "x").latest().round
    assert done >= 2
    if done == 5:
        pytest.skip("the machine finished the run before the kill")
    resumed = subprocess.run([*FEDCOSIM, "resume", str(runs / "x"), "--json"], capture_output=True, text=True, check=True)
    assert json.loads(resumed.stdout)["status"] == "finished"
    assert final_bytes(runs / "x") == final_bytes(finished)
    assert comparable(runs / "x") == comparable(finished)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_truthful_record_and_exit_code_130(number, spec_file, runs):
    process = start(spec_file, runs, "--set", "federation.rounds=500")
    wait_for_rounds(runs / "x", 1, process)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    record = result(runs / "x")
    assert record["status"] == "cancelled"
    assert "fedcosim resume" in record["reason"]
    assert Checkpoints(runs / "x").latest().round == len(record["rounds"])
    jsonschema.validate(record, record_schema())
    assert out == ""


def test_two_processes_cannot_write_one_run(spec_file, runs):
    process = start(spec_file, runs, "--set", "federation.rounds=500")
    wait_for_rounds(runs / "x", 1, process)
    second = subprocess.run([*FEDCOSIM, "resume", str(runs / "x")], capture_output=True, text=True, check=False)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert second.returncode == 2
    assert "another process is writing this run" in second.stderr


def test_a_cohort_larger_than_the_clients_with_data_is_refused(runs):
    """Flower's sampling would wait for them for ever."""
    tiny = ["federation.clients=40", "federation.per_round=40", "data.alpha=0.15", "data.test_fraction=0.97"]
    with pytest.raises(SpecError, match=r"federation.per_round = 40: only \d+ of 40 clients have training data"):
        run(small("fedavg", *tiny), runs)
    assert not runs.exists()


def test_an_evaluation_on_a_split_nobody_has_is_refused(runs):
    with pytest.raises(SpecError, match=r"evaluate.split = 'validation': no client has such data"):
        run(small("fedavg", "evaluate.split=validation"), runs)
