"""`fedcosim serve` in a process of its own, for tests that talk to it, and kill it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
from small import small

from fedcosim.server.client import Client

FEDCOSIM = [sys.executable, "-m", "fedcosim.server.cli"]
LONG = small("fedavg", "federation.rounds=500", "evaluate.every=500", "engine.workers=1")
TRUTH_S = 30


class Server:
    """One service in a folder; can be killed and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [*FEDCOSIM, "serve", "--folder", self.folder, "--port", self.port, "--cpus", 2, *self.options]
        log = open(self.folder.with_suffix(".log"), "ab")  # noqa: SIM115 - the process outlives this function
        self.process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=log, text=True)
        line = self.process.stderr.readline()
        assert line.startswith("serving http://"), line + self.process.stderr.read()
        self.url = line.split()[1].rstrip(",")
        self.port = int(self.url.rsplit(":", 1)[1])
        self.client = Client(self.url)
        wait(lambda: httpx.get(f"{self.url}/readyz").status_code == 200, 60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def status(self, experiment: str) -> str:
        return self.client.get(experiment)["status"]

    def driver(self, experiment: str) -> psutil.Process:
        """The process of an experiment's driver: Python, not the shell around it."""
        commands = {process: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
        (found,) = [
            process
            for process, words in commands.items()
            if "fedcosim.server.cli" in words and any(Path(word).name == experiment for word in words)
        ]
        return found

    def reaches(self, experiment: str, rounds: int) -> None:
        wait(lambda: self.client.get(experiment)["rounds"] >= rounds, 120)


def wait(condition: Callable[[], object], seconds: float) -> None:
    """Look until it holds, or fail."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
