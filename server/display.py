"""How a running experiment looks: a live table on a terminal, one plain line a round in a pipe. Everything goes to stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .spec import Experiment

SHOWN_ROUNDS = 8


def display(spec: Experiment, console: Console) -> LiveDisplay | PlainDisplay:
    """Return the display that suits the console."""
    return LiveDisplay(spec, console) if console.is_terminal else PlainDisplay(spec, console)


def human_bytes(count: float) -> str:
    """Return a byte count in decimal units: 1.23 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


class PlainDisplay:
    """One line a round."""

    def __init__(self, spec: Experiment, console: Console) -> None:
        self._rounds, self._console = spec.federation.rounds, console
        self._started, self._done = time.monotonic(), 0

    def progress(self, number: int, phase: str, done: int, total: int) -> None:
        """Say nothing within a round."""

    def round(self, line: Mapping[str, Any]) -> None:
        """Print the round's line."""
        self._done += 1
        eta = (time.monotonic() - self._started) / self._done * (self._rounds - line["round"])
        text = "  ".join([f"round {line['round']}/{self._rounds}", *_cells(line), f"eta {eta:.0f} s"])
        self._console.print(text, highlight=False, soft_wrap=True)

    def close(self, status: str) -> None:
        """Say how it ended."""
        self._console.print(status)


class LiveDisplay:
    """Bars for rounds and clients, and the last rounds as a table, redrawn in place."""

    def __init__(self, spec: Experiment, console: Console) -> None:
        self._lines: list[Mapping[str, Any]] = []
        self._title = f"{spec.name}: {spec.strategy.name} on {spec.data.source}, {spec.federation.clients} clients"  # type: ignore[attr-defined]
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
        )
        self._bars = Progress(*columns, TimeRemainingColumn(), console=console)
        self._rounds = self._bars.add_task("rounds", total=spec.federation.rounds)
        self._clients = self._bars.add_task("clients", total=spec.federation.per_round)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)

    def progress(self, number: int, phase: str, done: int, total: int) -> None:
        """Move the clients' bar."""
        self._live.start()
        self._bars.update(self._clients, description=phase, completed=done, total=total)

    def round(self, line: Mapping[str, Any]) -> None:
        """Move the rounds' bar and add a row."""
        self._live.start()
        self._lines.append(line)
        self._bars.update(self._rounds, completed=line["round"])

    def close(self, status: str) -> None:
        """Leave the last picture on the terminal."""
        self._bars.update(self._clients, visible=False)
        self._live.stop()

    def _render(self) -> RenderableType:
        table = Table(title=self._title, title_justify="left")
        for name in ("round", "accuracy", "loss", "up", "down", "time", "failed"):
            table.add_column(name, justify="right")
        for line in self._lines[-SHOWN_ROUNDS:]:
            cells = [cell.split(" ", 1)[1] for cell in _cells(line)]
            table.add_row(str(line["round"]), *cells)
        return Group(table, self._bars)


def _cells(line: Mapping[str, Any]) -> list[str]:
    accuracy = "-" if line["accuracy_mean"] is None else f"{100 * line['accuracy_mean']:.1f} %"
    loss = "-" if line["train_loss"] is None else f"{line['train_loss']:.4f}"
    recalls = line.get("figures", {}).get("retrieval_sum_1_5_10")
    return [
        f"accuracy {accuracy}" if recalls is None else f"accuracy {accuracy}, recalls {100 * recalls:.1f}",
        f"loss {loss}",
        f"up {human_bytes(line['bytes_up'])}",
        f"down {human_bytes(line['bytes_down'])}",
        f"time {line['wall_s']:.2f} s",
        f"failed {len(line['failed'])}",
    ]
