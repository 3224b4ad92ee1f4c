"""The reliability of a finished run's model under compression: its data and clients rebuilt, the grid run, a report written.

The report is the experimenter's, not the server's: it uses the clients' data. Calibration sets come from training data,
judgements from the split that the experiment evaluates.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ..clients.client_app import Workbench
from ..clients.data import FederatedData
from ..clients.state import write_atomically
from ..compression import parse
from ..compression.reliability import Assessment, Draw, Pool, Subject, Thresholds, assess, groups_by_id
from ..compression.rptq import Recipe
from ..core.errors import RunError, SpecError
from ..core.options import Options, validate
from ..core.records import tensors
from .record import Checkpoints, stored_spec
from .report.reliability import reliability_page

Grid = Literal["quick", "full"]


def write_reliability(
    folder: Path,
    codec: str = "rptq",
    bits: str | None = None,
    grid: Grid = "quick",
    thresholds: Thresholds | None = None,
    samples: int = 64,
    groups: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Judge a run's model, and write `reliability.json`, `reliability.html` and `reliability.npz` into its directory.

    Returns
    -------
    dict
        What is in `reliability.json`.

    Raises
    ------
    RunError
        If the run has left no model, or one that is not the same for all clients.
    SpecError
        If the codec, the bits, the thresholds or the groups make no sense.
    """
    recipe = chosen(codec, bits)
    subject, seed = rebuilt(folder)
    further = _groups(groups, subject.test) if groups else {}
    made: Assessment = assess(subject, recipe, Draw(samples=samples), thresholds or Thresholds(), grid, seed, further, tell)
    report = {"run": folder.name, **made.report}
    write_atomically(folder / "reliability.json", json.dumps(report, indent=1, allow_nan=False).encode())
    write_atomically(folder / "reliability.npz", _npz({**made.answers, **{f"group/{k}": v for k, v in further.items()}}))
    reliability_page(report).write(folder / "reliability.html")
    return report


def chosen(codec: str, bits: str | None) -> Options:
    """Return what is to be judged: a recipe of rptq, or another codec applied to weights.

    Raises
    ------
    SpecError
        If there is no such codec, it takes no bits, or it does not encode weights.
    """
    if codec == "rptq":
        return validate(Recipe, {"bits": bits or "W4A4"}, "rptq")
    if bits is not None:
        raise SpecError(f"--bits {bits}: codec {codec!r} has none of that kind; leave it out, or choose codec rptq")
    return parse({"codec": codec, "target": "weights"}, "reliability")


def rebuilt(folder: Path) -> tuple[Subject, int]:
    """Return a run's final model with its data, and the run's seed.

    Raises
    ------
    RunError
        If there is no model, or clients keep parts of theirs.
    """
    spec = stored_spec(folder)
    bench = Workbench(spec)
    if bench.local_keys:
        name = spec.strategy.model_dump()["name"]
        raise RunError(
            f"{folder.name}: its clients keep {len(bench.local_keys)} tensors of their own (strategy.name = {name!r}); "
            f"only a model that is the same for all can be judged"
        )
    weights = _weights(folder)
    try:
        bench.model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(
            f"{folder.name}: what it left is not the experiment's model: {str(error).splitlines()[-1].strip()}"
        ) from None
    held_out = getattr(bench.data, spec.evaluate.split)
    model = bench.model.eval()
    data = bench.data
    return Subject(model, _pool(data, data.train), _pool(data, held_out), data.classes, data.num_clients), spec.seed


def _weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    if path.exists():
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise RunError(f"{path}: damaged ({error}); run the experiment again") from None
    checkpoint = Checkpoints(folder).latest()
    if checkpoint is None:
        raise RunError(f"{folder.name}: has neither model.safetensors nor a checkpoint; let it finish a round first")
    return tensors(checkpoint.arrays)


def _pool(data: FederatedData, part: Callable[[int], tuple[Tensor, Tensor]]) -> Pool:
    parts = [part(client) for client in range(data.num_clients)]
    sizes = torch.tensor([len(y_N) for _, y_N in parts])
    clients_N = torch.repeat_interleave(torch.arange(data.num_clients), sizes)
    return Pool(torch.cat([x_NCHW for x_NCHW, _ in parts]), torch.cat([y_N for _, y_N in parts]), clients_N)


def _groups(path: Path, test: Pool) -> dict[str, np.ndarray]:
    """Read groupings of the test items, whose ids are ``"<client>/<number at that client>"``."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"--groups {path}: cannot be read as JSON: {error}") from None
    well_formed = isinstance(table, Mapping) and all(
        isinstance(named, Mapping) and all(isinstance(group, str) for group in named.values()) for named in table.values()
    )
    if not well_formed:
        raise SpecError(f'--groups {path}: must be {{"grouping": {{"<client>/<number>": "group", ...}}, ...}}')
    ids, seen = [], dict.fromkeys(test.clients_N.tolist(), 0)
    for client in test.clients_N.tolist():
        ids.append(f"{client}/{seen[client]}")
        seen[client] += 1
    return {name: groups_by_id(named, ids, name) for name, named in table.items()}


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
