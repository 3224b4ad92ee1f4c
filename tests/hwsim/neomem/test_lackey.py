"""Valgrind's traces, on a program whose accesses are known."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fedcosim.hwsim.neomem import NeoMemRequest, TraceStore, estimate, lackey
from fedcosim.hwsim.neomem.llc import LlcOptions, trace_of_addresses
from fedcosim.hwsim.simulator import HwsimError, Job

HERE = Path(__file__).parent
PAGES, UPDATES = 64, 2000


def expected_counts(pages: int, updates: int) -> np.ndarray:
    """Count what updates.c does to each page of its window."""
    x, mask = 88172645463325252, 2**64 - 1
    counts = np.zeros(pages, np.int64)
    for _ in range(updates):
        x ^= x << 13 & mask
        x ^= x >> 7
        x ^= x << 17 & mask
        counts[x % pages] += 1
    return counts


def window_counts(lines: list[str]) -> np.ndarray:
    """Return how often a recording updates each page of the window."""
    base = next(int(line.split()[1], 16) for line in lines if line.startswith("window"))
    addresses_N, writes_N = lackey.read(lines)
    inside_N = (addresses_N >= base) & (addresses_N < base + PAGES * 4096) & (writes_N == 1)
    return np.bincount((addresses_N[inside_N] - base) // 4096, minlength=PAGES)


def recorded() -> list[str]:
    with gzip.open(HERE / "updates.lackey.gz", "rt") as file:
        return file.readlines()


def test_recorded_program_updates_the_pages_it_must():
    """The recording was made once, so that no Valgrind is needed here."""
    assert window_counts(recorded()).tolist() == expected_counts(PAGES, UPDATES).tolist()


@pytest.mark.skipif(not (shutil.which("valgrind") and shutil.which("gcc")), reason="needs valgrind and gcc")
def test_program_under_valgrind_updates_the_pages_it_must(tmp_path):
    """The same, live."""
    program = tmp_path / "updates"
    subprocess.run(["gcc", "-O1", "-o", program, HERE / "updates.c"], check=True)
    command = ["valgrind", "--tool=lackey", "--trace-mem=yes", "--log-file=/dev/stdout", program, str(PAGES), "3000"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout  # the program exits with a count
    assert window_counts(output.splitlines()).tolist() == expected_counts(PAGES, 3000).tolist()


def test_recording_can_be_simulated():
    """End to end: through a small cache, into the store, to a report."""
    addresses_N, writes_N = lackey.read(recorded())
    store = TraceStore()
    trace = trace_of_addresses(addresses_N, writes_N, LlcOptions(bytes=4096, ways=4))
    assert 0 < trace.writes_N.sum() < len(trace)
    report = estimate(NeoMemRequest(trace_id=store.add(trace)), Job(), store)
    assert report.accesses == len(trace)
    assert report.footprint_pages >= PAGES


def test_lines_that_are_no_accesses_are_passed_over_and_broken_ones_are_not():
    """Valgrind's messages and instruction fetches come in between; a truncated access is damage."""
    lines = ["==1== Lackey", "I  04222c,3", " L 1000,8", " S 2000,4", " M 3000,1", "hello"]
    addresses_N, writes_N = lackey.read(lines)
    assert addresses_N.tolist() == [0x1000, 0x2000, 0x3000]
    assert writes_N.tolist() == [0, 1, 1]
    with pytest.raises(HwsimError, match="line 1 is 'L 10zz,8'"):
        lackey.read([" L 10zz,8"])
