"""Whole runs whose clients' states are behind a URL: on real servers, resumed, and refused before any work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import object_servers
import pytest
from outcomes import final_bytes
from small import small

from fedcosim.core.errors import RunError, SpecError
from fedcosim.server.record import Checkpoints
from fedcosim.server.run import resumable, resume, run

FEDCOSIM = [sys.executable, "-m", "fedcosim.server.cli"]


@pytest.fixture(scope="module")
def here(tmp_path_factory, local_ray) -> Path:
    """FedPerfix, three rounds, states in the run's folder."""
    return run(small("fedperfix", "engine.workers=1"), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module", params=["webdav", "s3"])
def server(request, tmp_path_factory) -> Iterator[object_servers.Server]:
    with getattr(object_servers, request.param)(tmp_path_factory.mktemp(request.param)) as started:
        yield started


def fedcosim(server: object_servers.Server, *arguments: object) -> subprocess.CompletedProcess:
    """The command line, with a Ray of its own that has the server's environment."""
    command = [*FEDCOSIM, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **server.env}, capture_output=True, text=True, check=False)


def test_a_run_with_states_on_a_server_is_resumed_and_ends_with_the_same_bytes(server, here, tmp_path):
    spec = tmp_path / "spec.toml"
    spec.write_text(small("fedperfix", "engine.workers=2", "federation.rounds=2").to_toml())
    first = fedcosim(server, "run", spec, "--out", tmp_path, "--id", "x", "--set", f"engine.state={server.url}")
    assert first.returncode == 0, first.stderr
    again = fedcosim(server, "resume", tmp_path / "x", "--set", "federation.rounds=3", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["status"] == "finished"
    assert final_bytes(tmp_path / "x") == final_bytes(here)
    assert not (tmp_path / "x" / "state").exists()

    states, objects = Checkpoints(tmp_path / "x").latest().states, server.contents()
    for client, ref in states.items():
        blob = objects[f"x/{client % 256:02x}/{client}/{ref.generation:06d}.safetensors"]
        assert sha256(blob).hexdigest() == ref.sha256
    assert all(name.split("/")[0] == "x" for name in objects)  # no probe is left
    assert max(sum(f"/{client}/" in name for name in objects) for client in states) == 2  # pruned: all took part twice or more


def test_a_bucket_or_folder_that_is_not_there_is_found_before_anything_is_written(server, tmp_path):
    spec, url = tmp_path / "spec.toml", f"{server.url.split('//')[0]}//nowhere/x"
    spec.write_text(small("fedperfix", f"engine.state={url}").to_toml())
    if url.startswith("webdav"):
        server = object_servers.Server(url, {"FSSPEC_WEBDAV_BASE_URL": "http://127.0.0.1:9"}, dict)
    refused = fedcosim(server, "run", spec, "--out", tmp_path / "runs")
    assert refused.returncode == 2
    assert f"engine.state = '{url}': objects cannot be written, read, listed and deleted there" in " ".join(
        refused.stderr.split()
    )
    assert not (tmp_path / "runs").exists()


def test_a_protocol_whose_package_is_not_installed_is_refused_with_its_name(runs):
    with pytest.raises(SpecError, match=r"engine.state = 'lakefs://r/b': .*[Ii]nstall lakefs"):
        run(small("fedavg", "engine.state=lakefs://r/b"), runs)
    assert not runs.exists()


def test_a_place_that_each_process_has_for_itself_is_refused_before_the_first_round(runs, local_ray):
    with pytest.raises(SpecError, match=r"engine.state: memory://states/x cannot be used by all workers: "):
        run(small("fedperfix", "engine.workers=1", "engine.state=memory://states"), runs, "x")
    assert not (runs / "x" / "checkpoints").exists()


def test_two_runs_cannot_have_the_same_states(runs, tmp_path, local_ray):
    """An id that was given twice, in two folders: the second would change what the first refers to."""
    (tmp_path / "states").mkdir()
    spec = small("fedperfix", "engine.workers=1", f"engine.state=file://{tmp_path}/states/", "federation.rounds=1")
    folder = run(spec, runs, "x")
    with pytest.raises(RunError, match=r"run 'x': engine.state = .* has states of such a run; choose another id"):
        run(spec, tmp_path / "others", "x")
    resume(folder, resumable(folder, ["federation.rounds=2"]))


def test_a_resume_looks_where_the_states_are(here):
    with pytest.raises(RunError, match=r"engine.state cannot change in a resume"):
        resumable(here, ["engine.state=s3://bucket"])
