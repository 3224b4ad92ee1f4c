"""Which quantisations a report tries: a base case, and one change of it at a time.

Ours: the levels. The quick grid has at most `QUICK` quantisations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...core.options import Options
from ..rptq.recipe import Recipe
from .draws import Draw, Noise

QUICK = 40
OWN_QUICK = 5
"""Clients that calibrate on their own data in the quick grid: those whose largest class has the greatest share."""
NOISES: tuple[tuple[Noise, float], ...] = (
    ("gaussian", 0.2),
    ("outlier", 0.2),
    ("gaussian", 0.05),
    ("gaussian", 0.1),
    ("gaussian", 0.4),
    ("salt", 0.1),
    ("blur", 0.2),
    ("contrast", 0.2),
)
"""Kind and strength of the noise on calibration samples; the first two in the quick grid."""


@dataclass(frozen=True)
class Trial:
    """One quantisation and how it is judged.

    Attributes
    ----------
    factor, level : str
        What differs from the base case.
    recipe : Recipe or UploadOptions
    draw : Draw
        Of the calibration set.
    test_noise : str
        What is done to the test samples, for both models.
    own : bool
        The drawing client's test samples only: it calibrates on its own data for itself.
    """

    factor: str
    level: str
    recipe: Options
    draw: Draw
    test_noise: Noise = "none"
    own: bool = False


def trials(
    recipe: Options, calibrated: bool, draw: Draw, grid: Literal["quick", "full"], classes: Sequence[int], skewed: Sequence[int]
) -> list[Trial]:
    """Return the trials of a grid, the base case first.

    Parameters
    ----------
    recipe : Recipe or UploadOptions
        The base case; a recipe is varied too.
    calibrated : bool
        It looks at calibration data, so that those matter.
    draw : Draw
        The base case.
    classes : sequence of int
        Those that there are training samples of.
    skewed : sequence of int
        Clients with training and test data, the one with the most uneven classes first.
    """
    made = [Trial("base", "matched", recipe, draw)]
    if calibrated:
        made += _draws(recipe, draw, grid == "quick", classes, skewed)
    tests: Sequence[Noise] = ("gaussian", "blur") if grid == "quick" else ("gaussian", "salt", "blur", "contrast")
    made += [Trial("test noise", noise, recipe, draw, test_noise=noise) for noise in tests]
    if isinstance(recipe, Recipe):
        made += _recipes(recipe, draw, grid == "quick")
    return made


def _draws(recipe: Options, draw: Draw, quick: bool, classes: Sequence[int], skewed: Sequence[int]) -> list[Trial]:
    """Vary the calibration data."""
    made: list[Trial] = []

    def add(factor: str, level: str, own: bool = False, **changes: Any) -> None:
        made.append(Trial(factor, level, recipe, draw.model_copy(update=changes), own=own))

    left_out = dict.fromkeys([classes[0], classes[len(classes) // 2], classes[-1]]) if len(classes) > 1 else ()
    for repeat in range(1, 3 if quick else 6):
        add("draw", f"draw {repeat}", repeat=repeat)
    for label in classes[:: max(1, len(classes) // 2)][:2] if quick else classes:
        add("distribution", f"class {label} only", distribution="single_class", classes=(label,), allow_fewer=True)
    for label in left_out if quick or not left_out else classes:
        add("distribution", f"without class {label}", distribution="missing_classes", classes=(label,), allow_fewer=True)
    for alpha in (0.1,) if quick else (0.1, 0.5, 1.0, 10.0):
        add("distribution", f"dirichlet {alpha:g}", distribution="dirichlet", alpha=alpha)
    add("distribution", "inverted images", distribution="inverted")
    add("distribution", "gaussian noise", distribution="gaussian")
    for client in skewed[:2] if quick else skewed:
        add("one client for all", f"client {client}", distribution="client", client=client, allow_fewer=True)
    for client in skewed[:OWN_QUICK] if quick else skewed:
        add("own data", f"client {client}", True, distribution="client", client=client, allow_fewer=True)
    for noise, strength in NOISES[:2] if quick else NOISES:
        add("calibration noise", f"{noise} {strength:g}", noise=noise, strength=strength)
    for samples in (1, 16) if quick else (1, 4, 16, 128, 256):
        add("samples", str(samples), samples=samples, allow_fewer=True)
    for sampling in ("balanced", "hardest") if quick else ("balanced", "hardest", "easiest"):
        add("sampling", sampling, sampling=sampling)
    for augmentation in ("shift",) if quick else ("shift", "mixup"):
        add("augmentation", augmentation, augmentation=augmentation)
    return made


def _recipes(recipe: Recipe, draw: Draw, quick: bool) -> list[Trial]:
    """Vary how a model is quantised."""
    made: list[Trial] = []

    def add(factor: str, level: str, how: Draw = draw, **changes: Any) -> None:
        changed = recipe.model_copy(update=changes)
        if (changed, how) != (recipe, draw):
            made.append(Trial(factor, level, changed, how))

    if recipe.setting.activations < 16:
        for order in ("ascending", "descending"):
            add("order, EMA ranges", order, draw.model_copy(update={"order": order}), ranges="ema")
        for metric in ("minmax", "ema", "percentile", "mse"):
            add("ranges", metric, ranges=metric)
        for granularity in ("tensor", "cluster", "channel", "token"):
            add("granularity", granularity, granularity=granularity)
        add("smoothing", "SmoothQuant, tensors", granularity="tensor", smooth=0.5)
    for rounding in ("gptq", "rtn"):
        add("rounding", rounding, rounding=rounding)
    for bits in ("W8A8", "W4A8", "W4A4") if quick else ("W8A8", "W4A16", "W4A8", "W4A4", "W4A4KV", "W4A3KV", "W3A3KV"):
        add("bits", bits, bits=bits)
    return made


def quantisations(made: Sequence[Trial]) -> int:
    """Return how many different quantised models the trials need."""
    return len({quantisation_key(trial) for trial in made})


def quantisation_key(trial: Trial) -> tuple[str, str]:
    """Return what two trials of the same quantised model have in common."""
    return trial.recipe.model_dump_json(), trial.draw.model_dump_json()
