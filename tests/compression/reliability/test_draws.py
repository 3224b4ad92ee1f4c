"""Calibration sets are what their names say."""

from __future__ import annotations

import pytest
import torch

from fedcosim.compression.reliability import Draw, Pool, draw, trials
from fedcosim.compression.reliability.trials import QUICK, quantisations
from fedcosim.compression.rptq import Recipe
from fedcosim.core.errors import CalibrationError, SpecError
from fedcosim.core.options import validate


@pytest.fixture
def pool():
    """400 images; the first pixel is the class, the second the client, the third the sample's number."""
    y_N, clients_N = torch.arange(400) % 10, torch.arange(400) // 100
    x_NCHW = torch.randn(400, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    x_NCHW[:, 0, 0, 0], x_NCHW[:, 0, 0, 1], x_NCHW[:, 0, 0, 2] = y_N.float(), clients_N.float(), torch.arange(400.0)
    return Pool(x_NCHW, y_N, clients_N, lambda: torch.arange(400.0))


def seen(pool, pixel=0, **fields):
    return draw(pool, Draw(**fields), 1)[:, 0, 0, pixel].tolist()


def test_distributions(pool):
    assert set(seen(pool, distribution="single_class", classes=(3,), samples=20)) == {3}
    assert set(seen(pool, distribution="missing_classes", classes=(3, 4), samples=200)) == set(range(10)) - {3, 4}
    assert set(seen(pool, 1, distribution="client", client=2)) == {2}
    skewed = seen(pool, distribution="dirichlet", alpha=0.1, samples=40)
    assert max(map(skewed.count, range(10))) > 12
    assert min(seen(pool, distribution="inverted")) < -5
    assert set(seen(pool, distribution="gaussian", samples=300)).isdisjoint(range(10))
    assert sorted(set(seen(pool, 2, samples=400))) == list(range(400))


def test_sampling_order_and_repeats(pool):
    balanced = seen(pool, samples=100, sampling="balanced")
    assert max(map(balanced.count, range(10))) - min(map(balanced.count, range(10))) < 12
    assert seen(pool, 2, samples=5, sampling="hardest") == [399, 398, 397, 396, 395]
    assert seen(pool, 2, samples=5, sampling="easiest") == [0, 1, 2, 3, 4]
    norms = draw(pool, Draw(order="ascending"), 1).flatten(1).norm(dim=1)
    assert (norms.diff() >= 0).all()
    assert sorted(seen(pool, 2, order="ascending")) == sorted(seen(pool, 2)) == sorted(seen(pool, 2, order="descending"))
    assert seen(pool, 2) == seen(pool, 2)
    assert seen(pool, 2) != seen(pool, 2, repeat=1)


def test_noise_is_what_it_says(pool):
    clean = draw(pool, Draw(), 1)
    assert (draw(pool, Draw(noise="gaussian"), 1) - clean).std() == pytest.approx(float(0.2 * clean.std()), rel=0.1)
    assert torch.equal(draw(pool, Draw(noise="outlier"), 1)[0], 100 * clean[0])
    assert torch.equal(draw(pool, Draw(noise="contrast"), 1), clean / 2)
    salted = draw(pool, Draw(noise="salt", strength=0.3), 1)
    assert ((salted == clean.min()) | (salted == clean.max())).float().mean() == pytest.approx(0.3, abs=0.06)
    assert draw(pool, Draw(noise="blur"), 1).std() < clean.std()


def test_too_few_samples_are_an_error_unless_allowed(pool):
    with pytest.raises(CalibrationError, match="only 40 samples are single_class"):
        draw(pool, Draw(distribution="single_class", classes=(1,)), 1)
    assert len(draw(pool, Draw(distribution="single_class", classes=(1,), allow_fewer=True), 1)) == 40
    with pytest.raises(CalibrationError, match="only 0 samples"):
        draw(pool, Draw(distribution="client", client=77, allow_fewer=True), 1)
    for fields, message in (
        ({"distribution": "client"}, "client: missing"),
        ({"distribution": "single_class"}, "classes: missing"),
        ({"samples": 0}, "samples"),
    ):
        with pytest.raises(SpecError, match=message):
            validate(Draw, fields)


@pytest.mark.parametrize("bits", ["W4A4", "W8A8", "W4A3KV", "W4A16"])
def test_the_quick_grid_has_at_most_forty_models(bits):
    """Four blocks more for the sensitivity, and it stays below; every factor that the issue of a recipe has is there."""
    made = trials(Recipe(bits=bits), True, Draw(), "quick", range(10), range(30))
    assert quantisations(made) + 4 <= QUICK
    assert made[0].factor == "base"
    factors = {trial.factor for trial in made}
    assert {"draw", "distribution", "own data", "calibration noise", "test noise", "samples", "sampling"} <= factors
    assert {"augmentation", "rounding", "bits", "one client for all"} <= factors
    assert bits == "W4A16" or {"order, EMA ranges", "ranges", "granularity", "smoothing"} <= factors
    assert quantisations(trials(Recipe(bits=bits), True, Draw(), "full", range(10), range(30))) > 2 * len(made)
