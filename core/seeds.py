"""Random streams that depend on names, never on order: (seed, "train", round, client) always gives the same numbers."""

from __future__ import annotations

import random
from hashlib import blake2b

import numpy as np
import torch


def derive(seed: int, *path: str | int) -> int:
    """Return the 63-bit seed of the stream named by `path` under `seed`.

    Distinct paths give independent streams (BLAKE2b), so adding a consumer never shifts the numbers another one sees.
    """
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_stream(seed: int, *path: str | int) -> np.random.Generator:
    """Return a NumPy generator for the stream named by `path`."""
    return np.random.default_rng(derive(seed, *path))


def torch_stream(seed: int, *path: str | int) -> torch.Generator:
    """Return a CPU torch generator for the stream named by `path`."""
    return torch.Generator().manual_seed(derive(seed, *path))


def seed_globals(seed: int, *path: str | int) -> None:
    """Set the process-wide generators (random, NumPy, torch) to the stream named by `path`.

    For code that is not ours and draws from the global generators: Flower's strategies sample clients with `random`,
    torch modules initialise themselves from torch's default generator.
    """
    value = derive(seed, *path)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)
