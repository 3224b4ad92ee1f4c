"""What a run left on disk, for tests to compare."""

from __future__ import annotations

import json
from pathlib import Path

from fedcosim.server.record import Checkpoints


def final_bytes(folder: Path) -> dict[str, bytes]:
    """Everything a run computed: global arrays and every committed client state."""
    checkpoint = Checkpoints(folder).latest()
    assert checkpoint is not None
    states = {f"state {client}": ref.sha256.encode() for client, ref in checkpoint.states.items()}
    return {key: array.data for key, array in checkpoint.arrays.items()} | states


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())
