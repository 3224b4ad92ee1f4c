"""`fedcosim reliability`: what compression does to the worst group of a finished run's model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..core.options import validate


class GridName(StrEnum):
    """Which trials are run."""

    quick = "quick"
    full = "full"


def reliability(
    run: Annotated[Path, typer.Argument(help="A run's directory or id.")],
    codec: Annotated[str, typer.Option(help="A codec that encodes weights.")] = "rptq",
    bits: Annotated[str | None, typer.Option(help="Of rptq: W4A16, W4A8, W4A4, W4A3KV, ...; W4A4 when absent.")] = None,
    grid: Annotated[GridName, typer.Option(help="How many trials.")] = GridName.quick,
    samples: Annotated[int, typer.Option(min=1, help="Samples of a calibration set.")] = 64,
    average_drop: Annotated[float, typer.Option(help="Most that the accuracy may fall.")] = 0.02,
    worst_group_drop: Annotated[float, typer.Option(help="Most that a group's accuracy may fall.")] = 0.05,
    flip_rate: Annotated[float, typer.Option(help="Most predictions that may change.")] = 0.1,
    min_group: Annotated[int, typer.Option(help="Test items that a group needs to be judged.")] = 50,
    groups: Annotated[Path | None, typer.Option(help="JSON file with further groupings of the test items.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")] = False,
) -> None:
    """Quantise a run's model in many ways, and tell what the worst class, client and group lose."""
    from ..compression.reliability import Thresholds
    from .cli import print_json, stderr, stdout
    from .record import find_run
    from .reliability import write_reliability
    from .report.comparison import print_tables
    from .report.reliability import tables

    limits = {"average_drop": average_drop, "worst_group_drop": worst_group_drop}
    thresholds = validate(Thresholds, {**limits, "flip_rate": flip_rate, "min_group": min_group}, "reliability")
    folder = find_run(run)
    tell = lambda line: stderr.print(line, markup=False, highlight=False)  # noqa: E731
    report = write_reliability(folder, codec, bits, grid.value, thresholds, samples, groups, tell)
    if as_json:
        print_json(report)
        return
    print_tables(tables(report), stdout)
    stdout.print(f"Report: {folder / 'reliability.html'}", soft_wrap=True)
