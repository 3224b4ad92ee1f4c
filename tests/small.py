"""A small experiment that trains in seconds, to vary in tests."""

from __future__ import annotations

from fedcosim.server.spec import Experiment, override, parse
from fedcosim.strategies.options import Setting

SMALL = {
    "name": "small",
    "seed": 3,
    "federation": {"clients": 6, "per_round": 4, "rounds": 3},
    "data": {"source": "digits", "partition": "dirichlet", "alpha": 0.5},
    "model": {"name": "vit", "dim": 16, "depth": 2, "heads": 2, "patch": 4, "mlp_ratio": 2.0},
    "strategy": {"name": "fedavg"},
    "train": {"batch_size": 16, "lr": 0.1},
    "evaluate": {"every": 3},
}


def small(strategy: str = "fedavg", *overrides: str) -> Experiment:
    """A six-client experiment on digits that trains in seconds."""
    return parse(override(SMALL, [f"strategy.name={strategy}", *overrides]))


def setting(spec: Experiment, clients: int, per_round: int) -> Setting:
    """What the strategy of a small experiment is built from."""
    return Setting(spec.seed, clients, per_round, spec.model_options(), spec.train, (1, 8, 8), 10, spec.privacy)
