"""Profiles for who wants to look: Prometheus finds everything and the dashboard asks it sensibly; MLflow is told of runs."""

from __future__ import annotations

import json
from collections.abc import Callable

import containers
import pytest
from containers import ROOT, fedperfix, run
from serving import wait
from small import small

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]
DASHBOARD = json.loads((ROOT / "deploy/monitoring/grafana/dashboards/fedcosim.json").read_text())
TARGETS = {"api": 1, "hwsim": 3, "ray": 3}


@pytest.fixture(scope="module")
def ask(service) -> Callable[..., dict]:
    """Ask Prometheus from within the network, as Grafana does."""
    service.composed.settings.open("a").write(
        f"PROMETHEUS_IMAGE={containers.build(containers.TAG + '-prometheus', 'deploy/monitoring')}\n"
    )
    service.composed("up", "-d", "prometheus")

    def get(path: str, **query: str) -> dict:
        code = "import sys, httpx; print(httpx.get(sys.argv[1], params=dict(a.split('=', 1) for a in sys.argv[2:])).text)"
        words = [f"{key}={value}" for key, value in query.items()]
        return json.loads(
            service.composed.inside("api", "python", "-c", code, f"http://prometheus:9090/api/v1/{path}", *words)
        )["data"]

    return get


def test_prometheus_finds_every_service_and_every_ray_node(ask, service):
    service.composed("up", "-d", "--scale", "ray-worker=2", "ray-worker")  # another test may have killed one

    def up() -> dict[str, int]:
        found = ask("targets", state="active")["activeTargets"]
        return {job: sum(t["labels"]["job"] == job and t["health"] == "up" for t in found) for job in TARGETS}

    wait(lambda: up() == TARGETS, 180)
    assert service.health("prometheus") == "healthy"


def test_every_panel_of_the_dashboard_has_figures(ask, service):
    """Queries with misspelt metrics are valid, and empty for ever."""
    made = service.client.submit(fedperfix("federation.rounds=3").to_toml())["id"]
    wait(lambda: not service.running(made), 300)
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            wait(lambda query=target["expr"]: ask("query", query=query)["result"], 60)


def test_where_the_environment_says_so_runs_are_told_to_mlflow(service):
    service.composed.settings.open("a").write(f"MLFLOW_IMAGE={containers.build(containers.TAG + '-mlflow', 'deploy/mlflow')}\n")
    service.composed("up", "-d", "mlflow")
    wait(lambda: service.health("mlflow") == "healthy", 180)
    head = service.composed.containers("ray-head")[0]
    run("docker", "exec", "-i", head, "sh", "-c", "cat > /data/spec.toml", input=small("fedavg", "name=told").to_toml())
    there = ("fedcosim", "run", "/data/spec.toml", "--out", "/data/runs", "--set", "engine.workers=1", "--json")
    record = json.loads(
        service.composed("run", "--rm", "--no-deps", "-e", "MLFLOW_TRACKING_URI=http://mlflow:5000", "ray-worker", *there)
    )
    code = (
        "from mlflow import MlflowClient; c = MlflowClient('http://mlflow:5000');"
        "e = c.get_experiment_by_name('told'); (r,) = c.search_runs([e.experiment_id]); a = c.list_artifacts(r.info.run_id);"
        "print(r.info.status, r.data.metrics['accuracy_mean'], [f.path for f in a])"
    )
    status, accuracy, artifacts = service.composed.inside("api", "python", "-c", code).split(maxsplit=2)
    assert (status, float(accuracy), artifacts.strip()) == ("FINISHED", record["final"]["accuracy_mean"], "['report.html']")
