"""What simulated hardware costs the simulation: CPU time of one round of one run, with and without `[hardware]`. See README.md.

    python benchmarks/hardware_cost.py                 four pairs, a few minutes
    python benchmarks/hardware_cost.py --quick         one pair of a tenth of the clients

Both runs train the same 1000 clients (synthetic images, lenet, five steps each) in two rounds, of which the second counts: in
the first, processes import, models are built and every kind of step is recorded. Runs alternate; ratios are formed within a
pair. Processes and their CPU time are those of engine.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import engine

KINDS = ("raspberry-pi-5", "jetson-orin-nano", "apple-m4", "snapdragon-8-gen-2", "h100-sxm")
TARGET = 1.03


class Fleet(engine.Workload):
    """A workload of engine.py in which all clients take part; each is one of five devices where the name says so."""

    def spec(self, rounds: int) -> dict[str, Any]:
        """Return the experiment."""
        hardware = {"hardware": {"devices": dict.fromkeys(KINDS, 1.0)}} if self.name.endswith("-priced") else {}
        return super().spec(rounds) | hardware


def round_cpu_s(clients: int, priced: bool, scratch: Path) -> float:
    """Return the CPU seconds, of driver and workers, of the second round of a run."""
    workload = Fleet("fleet-priced" if priced else "fleet", "lenet", clients, clients)
    seen = engine.execute(workload, "fedcosim", 2, scratch)
    warm, measured = (next(mark for mark in seen["rounds"] if mark["round"] == number) for number in (1, 2))
    if warm["failed"] or measured["failed"]:
        raise SystemExit(f"{workload.name}: clients failed")
    return measured["cpu_s"] - warm["cpu_s"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="100 clients, one pair")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    clients, pairs = (100, 1) if options.quick else (options.clients, options.pairs)
    with tempfile.TemporaryDirectory() as folder:
        engine.execute(Fleet("fleet", "lenet", clients, clients), "prepare", 0, Path(folder))
        runs = []
        for _ in range(pairs):
            without_s, with_s = (round_cpu_s(clients, priced, Path(folder)) for priced in (False, True))
            runs.append({"without_s": without_s, "with_s": with_s, "ratio": with_s / without_s})
            print(f"{without_s:.2f} s without, {with_s:.2f} s with [hardware]: {with_s / without_s:.3f}", flush=True)
    ratios = [run["ratio"] for run in runs]
    middle = statistics.median(ratios)
    print(f"{clients} clients: {middle:.3f} ({min(ratios):.3f}-{max(ratios):.3f}); wanted: less than {TARGET}")
    if options.json:
        document = {"clients": clients, "load": os.getloadavg(), "runs": runs, "median": middle}
        options.json.write_text(json.dumps(document | {"machine": engine.machine(), "commit": engine.commit()}, indent=1))


if __name__ == "__main__":
    main()
