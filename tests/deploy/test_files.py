"""What the files for deployment say, without an engine: complete, locked down, and valid by the schemas of who reads them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted(set((DEPLOY / "kubernetes").glob("*.yaml")) - {DEPLOY / "kubernetes/kustomization.yaml"})
COMPOSED = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
VERSION = "1.31"


def objects() -> list[dict]:
    return [found for file in KUBERNETES for found in yaml.safe_load_all(file.read_text())]


def pods() -> dict[str, dict]:
    """Templates of pods, by what they are of; those in Ray's own kinds too."""
    found = {}
    for one in objects():
        name = f"{one['kind']} {one['metadata'].get('name')}"
        if one["kind"] == "RayCluster":
            groups = [one["spec"]["headGroupSpec"], *one["spec"]["workerGroupSpecs"]]
            found |= {f"{name} {group.get('groupName', 'head')}": group["template"] for group in groups}
        elif "template" in one["spec"] if "spec" in one else False:
            found[name] = one["spec"]["template"]
    return found


@pytest.mark.parametrize("name", COMPOSED["services"])
def test_every_composed_service_is_checked_limited_and_private(name):
    service = COMPOSED["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert {"healthcheck", "mem_limit"} <= service.keys()
    assert ("ports" in service) == (name == "api")
    assert ("public" in service["networks"]) == (name == "api")


def test_every_setting_is_in_the_example():
    """What docker-compose.yml demands is set there; nothing is demanded that it does not explain."""
    text = (ROOT / "docker-compose.yml").read_text()
    example = (DEPLOY / "env.example").read_text()
    demanded = {part.split(":?")[0] for part in text.split("${")[1:] if ":?" in part.split("}")[0]}
    assert demanded == {line.split("=")[0] for line in example.splitlines() if line[:1].isalpha()}


def test_no_registry_or_index_is_named():
    """Images and packages come from wherever the engine and pip are set up for: addresses are of this computer only."""
    for file in [*DEPLOY.rglob("*"), ROOT / "docker-compose.yml", ROOT / ".dockerignore"]:
        if file.is_file():
            hosts = re.findall(r"[a-z]+://([\w.-]+)", file.read_text())
            assert {host for host in hosts if "." in host} <= {"127.0.0.1", "0.0.0.0"}, file


def test_what_kubernetes_reads_is_valid_by_its_schemas():
    """Strictly: an unknown field is a mistake. Kinds of Ray's operator have no schema here; their pods do."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for one in objects():
        if not one["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(one, VERSION, strict=True)
    for name, template in pods().items():
        body = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        kubernetes_validate.validate(body, VERSION, strict=True), name


def test_kustomization_lists_what_there_is():
    listed = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "ray-job.yaml"]) == [file.name for file in KUBERNETES]


def test_pods_are_locked_down_and_limited():
    for name, template in pods().items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            wanted = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == wanted, name
            assert "memory" in container["resources"]["limits"], name


def test_the_cluster_file_is_valid_by_rays_schema():
    schema = json.loads(files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((DEPLOY / "ray/cluster.yaml").read_text()), schema)


def test_the_slurm_script_starts_ray_on_every_node_and_the_run_on_one(tmp_path):
    """Slurm's commands are stood in for by ones that say what they were asked."""
    for name, says in {
        "srun": 'case "$*" in *hostname*) echo 10.0.0.1;; *) echo "$@";; esac',
        "scontrol": "echo a; echo b",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "[a-b]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": "/shared", **slurm}
    command = ["bash", str(DEPLOY / "ray/slurm.sh"), "spec.toml", "--set", "seed=2"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.split() == [
        *("--kill-on-bad-exit=1", "ray", "symmetric-run", "--address", "10.0.0.1:22345", "--min-nodes", "2", "--num-cpus", "8"),
        *("--", "fedcosim", "run", "spec.toml", "--set", "seed=2", "--out", "/shared/runs", "--set", "engine.address=auto"),
    ]
