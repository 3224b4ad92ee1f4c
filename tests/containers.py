"""Containers for tests: the image, a compose project of its own, and a way to look inside. Skips where there is no engine."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from small import small

from fedcosim.server.client import Client
from fedcosim.server.spec import Experiment

ROOT = Path(__file__).parents[1]
BASE = os.environ.get("FEDCOSIM_BASE_IMAGE", "python:3.11-slim-bookworm")
TAG = "fedcosim-test"
POSTGRES_TAG = "fedcosim-test-postgres"
BUILD_S, UP_S = 3000, 900


def run(*command: object, check: bool = True, timeout_s: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command; what it printed is the reason if it fails."""
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout_s, **options)
    assert not check or done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done


def need_engine() -> None:
    """Skip the test unless a container engine answers and the base image is there."""
    if shutil.which("docker") is None or run("docker", "info", check=False).returncode:
        pytest.skip("no container engine answers (docker info)")
    if run("docker", "image", "inspect", BASE, check=False).returncode:
        pytest.skip(f"the base image {BASE} is not here; $FEDCOSIM_BASE_IMAGE names another one")


def build(tag: str, *arguments: object) -> str:
    """Build an image from the repository; what has not changed is not built again."""
    index = [f"--build-arg={name}" for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in os.environ]
    run("docker", "build", "-q", f"--build-arg=BASE_IMAGE={BASE}", *index, "-t", tag, *arguments, cwd=ROOT, timeout_s=BUILD_S)
    return tag


def image() -> str:
    """Return the tag of fedcosim's image."""
    return build(TAG, "-f", "deploy/Dockerfile", ".")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def inspect(container: str) -> dict[str, Any]:
    """What the engine knows of a container or an image."""
    return json.loads(run("docker", "inspect", container).stdout)[0]


def processes(container: str, name: str) -> list[str]:
    """Commands of a container's processes that begin so."""
    lines = run("docker", "top", container, "-eo", "pid,args").stdout.splitlines()[1:]
    return [line for line in (line.split(maxsplit=1)[1] for line in lines) if line.startswith(name)]


class Composed:
    """The repository's docker-compose.yml under a project name of its own.

    Parameters
    ----------
    folder : Path
        Where its settings go.
    files : sequence of str
        Compose files, of the repository; the usual one when absent.
    """

    def __init__(self, folder: Path, files: tuple[str, ...] = ("docker-compose.yml",), **settings: object) -> None:
        self.name, self.port = f"fedcosim-test-{secrets.token_hex(4)}", free_port()
        known = dict(
            line.split("=", 1) for line in (ROOT / "deploy/env.example").read_text().splitlines() if line[:1].isalpha()
        )
        here: Mapping[str, object] = {"FEDCOSIM_IMAGE": TAG, "POSTGRES_IMAGE": POSTGRES_TAG, "FEDCOSIM_PORT": self.port}
        self.settings = folder / "env"
        self.settings.write_text("".join(f"{key}={value}\n" for key, value in {**known, **here, **settings}.items()))
        command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        self._command = [*command, "-p", self.name, "--env-file", str(self.settings), "--project-directory", str(ROOT)]
        self._command += [word for file in files for word in ("-f", str(ROOT / file))]
        self.url = f"http://127.0.0.1:{self.port}"

    def __call__(self, *arguments: object, **options: Any) -> str:
        """Run a compose command; return what it prints."""
        return run(*self._command, *arguments, timeout_s=UP_S, **options).stdout

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers."""
        return self("ps", "-q", service).split()

    def admin(self) -> str:
        """Make a token that may do everything, as docs/deploy.md says."""
        make = ("fedcosim", "token", "me", "--role", "admin", "--tokens", "/secrets/tokens.toml")
        return self("run", "--rm", "--no-deps", "api", *make).strip()

    def inside(self, service: str, *command: object) -> str:
        """Run a command in a service's first container."""
        return run("docker", "exec", self.containers(service)[0], *command).stdout

    def down(self) -> None:
        """End everything, volumes too."""
        self("--profile", "flower", "--profile", "monitoring", "--profile", "tracking", "down", "-v", "-t", "5", check=False)


class Service:
    """The API of a composed cluster, and a client that may do everything."""

    def __init__(self, composed: Composed, token: str) -> None:
        self.composed, self.client = composed, Client(composed.url, token)
        self._headers = {"Authorization": f"Bearer {token}"}

    def artifact(self, experiment: str, name: str) -> bytes:
        """Fetch a file of a run."""
        url = f"{self.composed.url}/v1/experiments/{experiment}/artifacts/{name}"
        return httpx.get(url, headers=self._headers).raise_for_status().content

    def ready(self) -> bool:
        return httpx.get(f"{self.composed.url}/readyz").status_code == 200

    def health(self, service: str) -> str:
        return inspect(self.composed.containers(service)[0])["State"]["Health"]["Status"]

    def running(self, experiment: str) -> bool:
        return self.client.get(experiment)["status"] in ("queued", "starting", "running")


def fedperfix(*overrides: str) -> Experiment:
    """FedPerfix on twelve clients, whose work is priced by all three simulators."""
    devices = "hardware.devices={raspberry-pi-5=0.5, jetson-orin-nano=0.5}"
    hardware = (devices, "hardware.memory=neomem", "hardware.accelerator=reram")
    return small("fedperfix", "federation.clients=12", "federation.per_round=8", *hardware, *overrides)
