"""The composed cluster end to end: submit over the API, lose a worker and the API on the way, and keep everything."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from containers import fedperfix, inspect, processes, run
from serving import wait

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]
ROUNDS = 200
SIMULATORS = ("roofline", "neomem", "reram")
BUILD_TOOLS = ("gcc", "cc", "make", "ld", "pip", "pip3", "uv", "cargo", "git")
OF_A_CLIENT = "ray::Worker"


def answered(service, simulator: str) -> float:
    """How many requests a simulator's container has answered."""
    code = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
    metrics = service.composed.inside(f"hwsim-{simulator}", "python", "-c", code)
    return sum(map(float, re.findall(r'^fedcosim_hwsim_requests_total\{code="OK".*\} (\S+)$', metrics, re.MULTILINE)))


@pytest.fixture(scope="module")
def experiment(service) -> dict:
    """One run through which a worker's container is killed, and after which the API's is started again."""
    client, composed = service.client, service.composed
    made = client.submit(fedperfix(f"federation.rounds={ROUNDS}", "evaluate.every=50", "engine.workers=4").to_toml())["id"]
    wait(lambda: client.get(made)["rounds"] >= 3, 300)
    workers = composed.containers("ray-worker")
    clients_on = [len(processes(worker, OF_A_CLIENT)) for worker in workers]
    run("docker", "kill", workers[0])
    at = client.get(made)["rounds"]
    wait(lambda: not service.running(made), 600)
    ended, rounds, report = client.get(made), client.rounds(made), service.artifact(made, "report.html")
    print(f"\nthe loss of a node cost {max(line['wall_s'] for line in rounds[3:]):.0f} s")
    composed("restart", "-t", "5", "api")
    wait(service.ready, 120)
    return {"id": made, "clients_on": clients_on, "killed_at": at, "ended": ended, "rounds": rounds, "report": report}


def test_clients_run_on_both_workers(experiment):
    assert experiment["clients_on"] == [2, 2]


def test_a_run_survives_the_loss_of_a_node(experiment):
    """Two of four workers are gone for good in the middle: the others do their work, no client has failed."""
    assert experiment["killed_at"] < ROUNDS
    assert experiment["ended"]["status"] == "finished", experiment["ended"]["reason"]
    assert [line["round"] for line in experiment["rounds"]] == list(range(1, ROUNDS + 1))
    assert all(line["failed"] == [] for line in experiment["rounds"])


def test_all_three_simulators_were_asked(experiment, service):
    assert all(answered(service, simulator) > 0 for simulator in SIMULATORS)
    final = experiment["ended"]["final"]
    assert final["sim_s"] > 0
    assert final["energy_j"] > 0


def test_a_restarted_api_finds_everything(experiment, service):
    client, made = service.client, experiment["id"]
    assert client.get(made) == experiment["ended"]
    assert client.rounds(made) == experiment["rounds"]
    assert service.artifact(made, "report.html") == experiment["report"]
    assert [row["id"] for row in client.experiments()] == [made]


def test_only_the_apis_port_is_published_and_it_asks_for_a_token(service):
    published = {}
    for container in service.composed("ps", "-q").split():
        known = inspect(container)
        ports = [port for ports in (known["NetworkSettings"]["Ports"] or {}).values() for port in ports or ()]
        if ports:
            published[known["Config"]["Labels"]["com.docker.compose.service"]] = [port["HostPort"] for port in ports]
    assert published == {"api": [str(service.composed.port)]}
    assert httpx.get(f"{service.composed.url}/v1/experiments").status_code == 401


def test_nothing_runs_as_root_or_can_change_its_image(service):
    for container in service.composed("ps", "-q").split():
        known = inspect(container)
        assert known["HostConfig"]["ReadonlyRootfs"], known["Name"]
        assert known["HostConfig"]["CapDrop"] == ["ALL"], known["Name"]
        assert known["HostConfig"]["Memory"] > 0, known["Name"]
        assert known["Config"]["User"].split(":")[0] not in ("", "0", "root"), known["Name"]


def test_there_is_nothing_to_build_or_install_with(images):
    code = (
        f"import importlib.util as u, shutil; print([n for n in {BUILD_TOOLS} if shutil.which(n)], u.find_spec('setuptools'))"
    )
    assert run("docker", "run", "--rm", "--network=none", images, "python", "-c", code).stdout == "[] None\n"


def test_a_login_shell_finds_what_is_in_the_image(images):
    """Ray's Kubernetes operator starts everything through one."""
    found = run("docker", "run", "--rm", "--network=none", images, "bash", "-lc", "command -v ray fedcosim").stdout
    assert found.split() == ["/opt/fedcosim/bin/ray", "/opt/fedcosim/bin/fedcosim"]


def test_no_secret_is_on_a_command_line_or_in_the_image(service):
    secrets = [line.split("=", 1)[1] for line in service.composed.settings.read_text().splitlines() if "change-me" in line]
    assert len(secrets) == 2
    for container in service.composed("ps", "-q").split():
        known = inspect(container)
        assert not any(secret in json.dumps([known["Config"]["Cmd"], known["Args"]]) for secret in secrets)
        assert not any(secret in json.dumps(inspect(known["Image"])) for secret in secrets)
