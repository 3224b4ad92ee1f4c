"""Servers that keep objects, each in a process of its own on this computer, for tests of states behind a URL."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest


@dataclass
class Server:
    """A place for states."""

    url: str
    """What `engine.state` is to be."""
    env: dict[str, str]
    """The environment in which it can be used."""
    contents: Callable[[], dict[str, bytes]]
    """Every object below the URL, seen without fsspec."""


@contextmanager
def s3(folder: Path) -> Iterator[Server]:
    """S3's protocol: moto's server, with one bucket."""
    for module in ("s3fs", "moto", "flask_cors"):
        pytest.importorskip(module, reason="needs pip install 'fedcosim[s3]' 'moto[server]'")
    with _listening("moto.server", "--host", "127.0.0.1", "--port") as address:
        assert httpx.put(f"{address}/bucket").status_code == 200
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}

        def contents() -> dict[str, bytes]:
            with httpx.Client(base_url=f"{address}/bucket/", headers={"Authorization": "AWS test:test"}) as client:
                names = re.findall("<Key>some/prefix/(.*?)</Key>", client.get("").text)
                return {name: client.get(f"some/prefix/{name}").content for name in names}

        yield Server("s3://bucket/some/prefix", {"AWS_ENDPOINT_URL": address, **keys}, contents)


@contextmanager
def webdav(folder: Path) -> Iterator[Server]:
    """WebDAV: a server that asks for a password, of a folder in which there is one for states."""
    states, config = folder / "served" / "states", folder / "webdav.json"
    states.mkdir(parents=True)
    config.write_text('{"simple_dc": {"user_mapping": {"*": {"alice": {"password": "secret"}}}}}')
    options = ("--host", "127.0.0.1", "--root", states.parent, "--config", config, "--quiet", "--port")
    with _listening("wsgidav.server.server_cli", *options) as address:
        with_password = address.replace("//", "//alice:secret@")

        def contents() -> dict[str, bytes]:
            return {str(path.relative_to(states)): path.read_bytes() for path in states.rglob("*") if path.is_file()}

        yield Server("webdav://states", {"FSSPEC_WEBDAV_BASE_URL": with_password}, contents)


@contextmanager
def _listening(module: str, *options: object) -> Iterator[str]:
    """Start a server, its last option the port, and yield its address once it answers, whatever it does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    command = [sys.executable, "-m", module, *map(str, options), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        while True:
            try:
                httpx.get(address)
                break
            except httpx.TransportError:
                assert process.poll() is None, f"{module} has ended"
                assert time.monotonic() < deadline, f"{module} does not answer"
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)
