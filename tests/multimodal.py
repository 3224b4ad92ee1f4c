"""A small multimodal experiment: 64 drawn concepts, four paired silos, four of images, four of texts. A second a round."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from emoji_files import write_emoji

from fedcosim.server.spec import Experiment, override, parse


@cache
def emoji_folder() -> str:
    """Return a folder with drawn emoji; one a test session, beside its data cache."""
    return str(write_emoji(Path(tempfile.mkdtemp(dir=os.environ["FEDCOSIM_CACHE"]))))


SMALL = {
    "name": "multimodal",
    "seed": 3,
    "federation": {"clients": 12, "per_round": 6, "rounds": 3},
    "data": {
        "source": "emoji",
        "pairs": 24,
        "captions": 2,
        "test": 12,
        "words": 6,
        "images": {"source": "emoji", "silos": 4},
        "texts": {"source": "emoji", "silos": 4},
    },
    "model": {"name": "towers", "dim": 16, "depth": 2, "heads": 2, "patch": 8},
    "strategy": {"name": "fedcola", "participation": 0.5},
    "train": {"optimizer": "adam", "lr": 0.003, "batch_size": 16, "pair_batch_size": 16, "pair_epochs": 2},
    "evaluate": {"every": 1},
}


def fields(*overrides: str) -> dict:
    """Return the small experiment as plain fields."""
    return override({**SMALL, "data": {**SMALL["data"], "path": emoji_folder()}}, overrides)


def small_multimodal(*overrides: str) -> Experiment:
    """Return the small experiment."""
    return parse(fields(*overrides))
