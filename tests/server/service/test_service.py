"""`fedcosim serve` for real: its own process, a real Ray cluster, both databases, and everything killed that can be killed."""

from __future__ import annotations

import json
import os
import subprocess

import httpx
import psutil
import pytest
from postgres import Postgres
from serving import FEDCOSIM, LONG, TRUTH_S, Server, wait
from small import small


def cli(server: Server, *arguments: object) -> subprocess.CompletedProcess:
    command = list(map(str, [*FEDCOSIM, *arguments]))
    environment = {**os.environ, "FEDCOSIM_SERVER": server.url}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=180)
    assert done.returncode == 0, done.stderr
    return done


def test_a_shell_can_submit_follow_list_and_fetch(server, tmp_path):
    spec = tmp_path / "spec.toml"
    spec.write_text(small("fedavg", "engine.workers=1").to_toml())
    done = cli(server, "submit", spec, "--follow")
    (experiment,) = done.stdout.split()
    assert [line.split("  ")[0] for line in done.stderr.splitlines()] == [
        "started",
        "round 1",
        "round 2",
        "round 3",
        "finished",
    ]
    assert f"{experiment}" in cli(server, "ls").stdout
    assert "finished" in cli(server, "show", experiment).stdout
    assert "round 3/3" in cli(server, "logs", experiment).stdout
    record = httpx.get(f"{server.url}/v1/experiments/{experiment}/artifacts/result.json").json()
    assert record["final"] == server.client.get(experiment)["final"]
    assert [line["round"] for line in server.client.rounds(experiment, after=1)] == [2, 3]
    assert len(httpx.get(f"{server.url}/v1/experiments/{experiment}/clients").json()) == 6
    assert "<html" in httpx.get(f"{server.url}/v1/experiments/{experiment}/artifacts/report.html").text
    again = httpx.get(f"{server.url}/v1/compare", params={"id": experiment}).json()
    assert again["rows"][0]["id"] == experiment


def test_a_stream_goes_on_behind_the_last_event_that_was_seen(server):
    experiment = server.client.submit(small("fedavg", "engine.workers=1").to_dict())["id"]
    whole = [(kind, data.get("round")) for kind, data in server.client.follow(experiment)]
    assert whole == [("started", None), ("round", 1), ("round", 2), ("round", 3), ("finished", None)]
    stream = httpx.get(f"{server.url}/v1/experiments/{experiment}/events", headers={"Last-Event-ID": "3"}).text
    assert [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event:")] == [
        "round",
        "finished",
        "end",
    ]
    lines = [line for _, line in server.client.follow(experiment, "logs/stream")]
    assert lines == server.client.logs(experiment).splitlines()
    assert lines


def test_what_is_stopped_can_go_on_and_what_is_killed_says_so(server):
    """Stopped by a person, its driver killed, a worker of it killed, stopped again: each truthfully, no round lost."""
    experiment = server.client.submit(LONG.to_dict())["id"]
    server.reaches(experiment, 3)
    server.client.stop(experiment)
    wait(lambda: server.status(experiment) == "cancelled", TRUTH_S)
    before = server.client.get(experiment)["rounds"]
    server.client.resume(experiment)
    server.reaches(experiment, before + 1)
    server.driver(experiment).kill()
    wait(lambda: server.status(experiment) == "failed", TRUTH_S)
    assert "its driver ended" in server.client.get(experiment)["reason"]
    before = server.client.get(experiment)["rounds"]
    server.client.resume(experiment, ["federation.rounds=400"])
    server.reaches(experiment, before + 1)
    (worker, *_) = [p for p in psutil.process_iter(["name"]) if p.info["name"].startswith("ray::Worker")]
    worker.kill()
    server.reaches(experiment, server.client.get(experiment)["rounds"] + 5)
    assert server.status(experiment) == "running"
    server.client.stop(experiment)
    wait(lambda: server.status(experiment) == "cancelled", TRUTH_S)
    numbers = [line["round"] for line in server.client.rounds(experiment)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_spec_that_fails_says_why(server):
    """Valid, but there are no such data on the server: the driver's last words are the reason."""
    experiment = server.client.submit(small("fedavg", "data.source=mnist").to_dict())["id"]
    wait(lambda: server.status(experiment) == "failed", 60)
    assert "mnist" in server.client.get(experiment)["reason"]


def test_experiments_outlive_the_service(server):
    """kill -9: the next service finds Ray, the run, and what happened meanwhile; nothing acknowledged is lost."""
    experiment = server.client.submit(LONG.to_dict())["id"]
    queued = server.client.submit(small("fedavg", "engine.workers=1").to_dict())["id"]
    server.reaches(experiment, 2)
    before = server.client.get(experiment)["rounds"]
    server.kill()
    server.start()
    wait(lambda: server.status(experiment) == "running", TRUTH_S)
    server.reaches(experiment, before + 5)
    server.client.stop(experiment)
    wait(lambda: server.status(queued) == "finished", 90)
    assert server.status(experiment) == "cancelled"


def test_a_service_that_is_asked_to_end_takes_its_ray_with_it(tmp_path):
    """What a supervisor sends is SIGTERM; nothing must stay behind."""
    server = Server(tmp_path / "data")
    head = psutil.Process(json.loads((server.folder / "ray.json").read_text())["pid"])
    server.process.terminate()
    assert server.process.wait(30) == 0
    assert head.wait(120) is None  # Ray ends its processes one by one, which takes its time on a busy machine
    assert not (server.folder / "ray.json").exists()


@pytest.mark.slow
def test_a_database_that_dies_loses_nothing_and_is_waited_for(tmp_path):
    """PostgreSQL killed in the middle of a run: 503 meanwhile, the run goes on, and all its rounds arrive later."""
    postgres = Postgres()
    server = Server(tmp_path / "data", "--database", postgres.url)
    try:
        experiment = server.client.submit(LONG.to_dict())["id"]
        server.reaches(experiment, 2)
        postgres.kill()
        wait(lambda: httpx.get(f"{server.url}/v1/experiments").status_code == 503, 10)
        events = server.folder / "runs" / experiment / "events.jsonl"
        seen = events.read_text().count("\n")
        wait(lambda: events.read_text().count("\n") > seen + 5, 30)
        postgres.start()
        wait(lambda: server.client.get(experiment)["rounds"] > seen, TRUTH_S)
        server.client.stop(experiment)
        wait(lambda: server.status(experiment) == "cancelled", TRUTH_S)
        numbers = [line["round"] for line in server.client.rounds(experiment)]
        assert numbers == list(range(1, events.read_text().count('"event": "round"') + 1))
    finally:
        server.stop()
        postgres.stop()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("serve", "--host", "0.0.0.0"), "--host 0.0.0.0: others could launch experiments"),
        (("serve", "--database", "mysql://x"), "must be sqlite:///FILE"),
        (("serve", "--tokens", "nowhere.toml"), "--tokens nowhere.toml: cannot be read"),
        (("token", "eve", "--role", "root"), "--role 'root': choose one of viewer, runner, admin"),
        (("ls", "--server", "http://127.0.0.1:9"), "cannot be reached"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments, sentence, tmp_path):
    done = subprocess.run([*FEDCOSIM, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert done.returncode in (1, 2)
    assert sentence in " ".join(done.stderr.split())
