"""Circuits from a seed: drawn as expressions, synthesised, checked against what was drawn, and kept on disk.

The truth table comes from the expression, the netlist from Yosys and ABC; a circuit whose two disagree stops everything.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from ....core.errors import DataError
from ....core.seeds import numpy_stream
from . import functions, netlist, synthesis, verilog
from .circuits import Circuits, Sample, concatenate, of_columns, stack
from .families import BENCHMARKS, FAMILIES, Family, draw, operation
from .synthesis import SynthesisOptions

FORMAT = 1
CHUNK = 256
"""Circuits that one run of Yosys, and one of ABC, takes."""
DRAWS = 40
"""Draws for each wanted circuit before a family counts as exhausted (our choice)."""


class CircuitsOptions(SynthesisOptions):
    """Which circuits are made."""

    samples: dict[Family, Annotated[int, Field(ge=1)]] = Field(default={"random": 1000, "arithmetic": 200, "control": 200})
    """Circuits of each family. No two compute the same function up to the names and inversions of inputs and output."""
    min_inputs: Annotated[int, Field(ge=3, le=10)] = 4
    """Least number of inputs; a function depends on all its inputs."""
    max_inputs: Annotated[int, Field(ge=3, le=10)] = 8
    """Largest number of inputs; truth tables have 2 to this power bits."""
    max_tokens: Annotated[int, Field(ge=32, le=1024)] = 128
    """Circuits with longer Verilog are not taken."""
    max_nodes: Annotated[int, Field(ge=8, le=1024)] = 96
    """Circuits with more inputs, AND gates and outputs together are not taken."""

    @model_validator(mode="after")
    def _something_can_be_made(self) -> CircuitsOptions:
        if self.min_inputs > self.max_inputs:
            raise ValueError(f"circuits.min_inputs = {self.min_inputs}: choose at most max_inputs = {self.max_inputs}")
        if not self.samples:
            raise ValueError(f"circuits.samples = {{}}: nothing to make; name some of {', '.join(FAMILIES)}")
        return self


def make(options: CircuitsOptions, seed: int) -> Circuits:
    """Make circuits, or take them from the cache.

    The same options, seed, library and versions of the tools give the same circuits, in the order of `FAMILIES`. Each family
    draws from a random stream of its own, but leaves out functions that a benchmark family, or another one, already has.

    Raises
    ------
    DataError
        If a family does not have as many different functions that fit, a package is missing, or a tool fails.
    """
    path = _entry(options, seed)
    # where it is not there, or damaged, it is made again
    with (
        contextlib.suppress(OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        return of_columns(dict(stored))
    made = _made(options, seed)
    _store(made, path)
    return made


def _made(options: CircuitsOptions, seed: int) -> Circuits:
    # Benchmarks draw first: they have fewer functions than rules can write, and should not lose them to those.
    seen: set[int] = set()
    order = sorted(options.samples, key=lambda family: (family not in BENCHMARKS, -FAMILIES.index(family)))
    parts = {family: _family(family, options, seed, seen) for family in order}
    return concatenate([parts[family] for family in FAMILIES if family in parts])


@dataclass(frozen=True)
class _Draft:
    """A circuit as it was written."""

    family: int
    operation: int
    key: int
    truth_P: np.ndarray
    text: str


def _family(family: Family, options: CircuitsOptions, seed: int, seen: set[int]) -> Circuits:
    count = options.samples[family]
    samples: list[Sample] = []
    drafts = _drafts(family, options, seed, seen)
    while len(samples) < count:
        chunk = list(itertools.islice(drafts, min(CHUNK, count - len(samples))))
        if not chunk:
            raise DataError(
                f"circuits.samples.{family} = {count}: {DRAWS * count} draws gave only {len(samples)} different functions "
                "that fit; ask for fewer, or change min_inputs, max_inputs, max_tokens or max_nodes"
            )
        samples += [sample for sample in _synthesised(chunk, options) if sample.nodes <= options.max_nodes]
    return stack(samples, options.max_tokens, options.max_nodes)


def _drafts(family: Family, options: CircuitsOptions, seed: int, seen: set[int]) -> Iterator[_Draft]:
    """Yield circuits that fit and whose functions are not `seen`; adds them."""
    random = numpy_stream(seed, "circuits", family)
    drawn = draw(family, random, options.min_inputs, options.max_inputs)
    for expr in itertools.islice(drawn, DRAWS * options.samples[family]):
        inputs = sum(node.width for node in verilog.nodes(expr) if node.op == "in")
        truth_P = verilog.evaluate(expr, options.max_inputs).astype(np.uint8)
        if inputs < options.min_inputs or len(functions.support(truth_P)) < inputs:
            continue
        key, text = functions.key(truth_P), verilog.write(expr, random)
        if key not in seen and len(verilog.encode(text)) <= options.max_tokens:
            seen.add(key)
            yield _Draft(FAMILIES.index(family), operation(expr), key, truth_P, text)


def _synthesised(drafts: Sequence[_Draft], options: CircuitsOptions) -> Iterator[Sample]:
    aigs = synthesis.read_modules([draft.text for draft in drafts], options)
    made = synthesis.optimise({str(i): aig for i, aig in enumerate(aigs)}, options)
    for draft, result in zip(drafts, made.values(), strict=True):
        patterns_IP = netlist.exhaustive(result.netlist.inputs)
        response_P = netlist.response(result.netlist, netlist.simulate(result.netlist, patterns_IP))
        if not np.array_equal(response_P, draft.truth_P[: len(response_P)]):
            raise DataError(f"circuits: the synthesised netlist computes something else than its source:\n{draft.text}")
        tokens_T = verilog.encode(draft.text)
        yield Sample(draft.family, draft.operation, draft.key, draft.truth_P, tokens_T, result, patterns_IP, exact=True)


def _entry(options: CircuitsOptions, seed: int) -> Path:
    """Return where circuits of this content are kept; the library counts by its content, limits do not count."""
    content = {
        "format": FORMAT,
        "options": options.model_dump(mode="json", exclude={"liberty", "timeout_s", "memory_mb"}),
        "cells": sha256(synthesis.cells(options.liberty)).hexdigest() if options.liberty else None,
        "seed": seed,
        "tools": {tool: _version(tool) for tool in ("aigverse", "pyosys", "circuitgraph", "numpy")},
    }
    root = Path(os.environ.get("FEDCOSIM_CACHE") or "~/.cache/fedcosim").expanduser()
    return root / "circuits" / f"{sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}.npz"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _store(made: Circuits, path: Path) -> None:
    """Write circuits beside their place, then move them there in one step.

    Raises
    ------
    DataError
        If the cache cannot be written.
    """
    columns: dict[str, Any] = made.columns()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
            np.savez_compressed(Path(folder, "new.npz"), **columns)
            Path(folder, "new.npz").replace(path)
    except OSError as error:
        raise DataError(f"{path}: the cache cannot be written ({error}); set FEDCOSIM_CACHE to another folder") from None
