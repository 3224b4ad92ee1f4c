"""What is kept, against hand-made candidates, and white noise among real images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcosim.clients import fourier
from fedcosim.clients.data import DataOptions
from fedcosim.clients.data.source import source
from fedcosim.clients.privacy import PrivacyOptions, noisy_counts, plan
from fedcosim.core.errors import PayloadError, SpecError
from fedcosim.core.options import validate
from fedcosim.strategies.selection import SelectionOptions, candidates, falls_back, keep

METHODS = ["none", "fmf", "random", "generated-mean", "agreement"]
HAVE_FASHION = Path("/usr/share/datasets/fashion-mnist").exists()


def stream(seed):
    return torch.Generator().manual_seed(seed)


def noise(count, shape_CHW, seed=0):
    return torch.rand((count, *shape_CHW), generator=stream(seed)) * 2 - 1


def kept(options, x_NCHW, wanted, **given):
    fields = {"template_F": None, "count": 1000.0, "probability_N": None, "generator": stream(5)} | given
    return keep(options, x_NCHW, wanted, **fields)


def everything(x_NCHW, bins="full"):
    """What any method may need."""
    return {"template_F": fourier.spectrum(x_NCHW, bins).mean(0), "probability_N": torch.rand(len(x_NCHW), generator=stream(9))}


# -------------------------------------------------------------------------------------------------------------- counts


@given(wanted=st.integers(1, 5000), drop=st.integers(0, 99))
def test_no_more_is_dropped_than_asked_for_and_nothing_sampled_in_vain(wanted, drop):
    """Exact integer arithmetic as the oracle: the least n with n * (1 - drop) >= wanted."""
    count = candidates(SelectionOptions(method="random", drop=drop / 100), wanted)
    assert count * (100 - drop) >= 100 * wanted > (count - 1) * (100 - drop)


@pytest.mark.parametrize("method", METHODS)
def test_as_many_are_kept_as_wanted_in_the_order_they_were_sampled(method):
    options = SelectionOptions(method=method, drop=0.3)
    x_NCHW = noise(candidates(options, 21), (1, 8, 8))
    indices = kept(options, x_NCHW, 21, **everything(x_NCHW))
    assert indices.dtype == torch.int64
    assert indices.tolist() == sorted(set(indices.tolist()))
    assert len(indices) == 21
    assert set(indices.tolist()) <= set(range(len(x_NCHW)))


@pytest.mark.parametrize("options", [{"method": "none"}, *({"method": method, "drop": 0.0} for method in METHODS)])
def test_without_a_filter_everything_is_kept_untouched(options):
    """The unfiltered path, bit for bit: no further image is sampled, none is moved, no random number is drawn."""
    options, generator = SelectionOptions(**options), stream(5)
    before = generator.get_state()
    assert candidates(options, 33) == 33
    x_NCHW = noise(33, (1, 8, 8))
    indices = kept(options, x_NCHW, 33, generator=generator)
    assert torch.equal(x_NCHW[indices], x_NCHW)
    assert torch.equal(generator.get_state(), before)


# ----------------------------------------------------------------------------------------------------------- who is kept


def test_agreement_keeps_the_most_probable():
    options = SelectionOptions(method="agreement", drop=0.5)
    probability_N = torch.tensor([0.2, 0.9, float("nan"), 0.5, 0.1, 0.8])
    assert kept(options, noise(6, (1, 8, 8)), 3, probability_N=probability_N).tolist() == [1, 3, 5]


@pytest.mark.parametrize("bins", ["full", "radial"])
@pytest.mark.parametrize("log", [False, True])
def test_fmf_keeps_the_images_the_template_was_made_of(bins, log):
    """Stripes of one width among stripes of another, both ways; a broken image counts as the farthest."""
    wide, narrow = (torch.ones(4, 1, 8, 8) * torch.tensor(row) for row in ([1.0] * 4 + [-1.0] * 4, [1.0, -1.0] * 4))
    x_NCHW = torch.cat([wide, narrow])[[0, 4, 1, 5, 2, 6, 3, 7]] * 0.9
    options = SelectionOptions(method="fmf", drop=0.5, bins=bins, log=log)
    for stripes, expected in ((wide, [0, 2, 4, 6]), (narrow, [1, 3, 5, 7])):
        assert kept(options, x_NCHW, 4, template_F=fourier.spectrum(stripes, bins).mean(0)).tolist() == expected
    x_NCHW[2] = float("nan")
    assert 2 not in kept(options, x_NCHW, 4, template_F=fourier.spectrum(wide, bins).mean(0)).tolist()


def test_generated_mean_drops_the_odd_ones_out():
    """Its template is free: it comes from the candidates alone."""
    x_NCHW = torch.full((20, 1, 8, 8), -0.8)
    x_NCHW[[3, 11, 17]] = noise(3, (1, 8, 8))
    options = SelectionOptions(method="generated-mean", drop=0.15)
    assert kept(options, x_NCHW, 17).tolist() == [i for i in range(20) if i not in (3, 11, 17)]


def test_random_depends_on_the_generator_alone():
    options, x_NCHW = SelectionOptions(method="random"), noise(40, (1, 8, 8))
    first = kept(options, x_NCHW, 20, generator=stream(1))
    assert torch.equal(first, kept(options, -x_NCHW, 20, generator=stream(1)))
    assert not torch.equal(first, kept(options, x_NCHW, 20, generator=stream(2)))


def test_a_class_with_few_samples_falls_back_to_a_random_choice():
    """Of 20 samples a private template is mostly noise; choosing by it would be choosing by nothing, but not honestly so."""
    options, x_NCHW = SelectionOptions(method="fmf", min_count=50), noise(40, (1, 8, 8))
    by_luck = kept(SelectionOptions(method="random"), x_NCHW, 20)
    assert torch.equal(kept(options, x_NCHW, 20, **everything(x_NCHW), count=49.9), by_luck)
    assert not torch.equal(kept(options, x_NCHW, 20, **everything(x_NCHW), count=50.0), by_luck)
    assert falls_back(options, 49.9)
    assert not falls_back(options, 50.0)
    assert not falls_back(SelectionOptions(method="random"), 1.0)
    assert not falls_back(SelectionOptions(method="fmf", drop=0.0), 1.0)


@pytest.mark.parametrize("method", ["fmf", "agreement"])
def test_a_missing_upload_is_told_in_a_sentence(method):
    with pytest.raises(PayloadError, match=rf"strategy\.selection\.method = '{method}': no (template|classifier) has been"):
        kept(SelectionOptions(method=method), noise(4, (1, 8, 8)), 2)


@pytest.mark.parametrize(
    ("field", "value"), [("drop", 1.0), ("drop", -0.1), ("min_count", -1), ("method", "best"), ("bins", "few")]
)
def test_a_bad_option_is_named(field, value):
    with pytest.raises(SpecError, match=rf"strategy\.selection\.{field} = "):
        validate(SelectionOptions, {field: value}, "strategy.selection")


# ----------------------------------------------------------------------------------------------------------------- junk


def real(name, samples):
    pool = source(name).load(DataOptions(source=name), 1, 1)
    rows = torch.randperm(len(pool.labels_N), generator=stream(2))[:samples]
    x_NCHW = torch.from_numpy(pool.images_NCHW[rows.numpy()]).float() / 127.5 - 1
    return x_NCHW, torch.from_numpy(pool.labels_N[rows.numpy()]).long()


@pytest.mark.parametrize("bins", ["full", "radial"])
@pytest.mark.parametrize(
    ("name", "records", "rate"),
    [
        pytest.param("digits", 1000, 64 / 400, id="digits"),
        pytest.param(
            "fashion-mnist", 4000, 128 / 4000, id="fashion", marks=pytest.mark.skipif(not HAVE_FASHION, reason="not installed")
        ),
    ],
)
def test_a_private_template_rejects_white_noise(name, records, rate, bins):
    """30 % of each class's candidates are noise, 30 % are dropped, the template is as noisy as epsilon = 10 makes it."""
    x_NCHW, y_N = real(name, 2 * records)
    shape_CHW = tuple(x_NCHW.shape[1:])
    noise_scales = plan(PrivacyOptions(epsilon=10), ((rate, 80),), True)
    sums_KF = fourier.private_template(x_NCHW[:records], y_N[:records], 10, bins, noise_scales.template, stream(3))
    counts_K = noisy_counts(torch.bincount(y_N[:records], minlength=10), noise_scales.histogram, stream(4))
    templates_KF = fourier.means(sums_KF, counts_K)
    options, rejected, junk = SelectionOptions(method="fmf", drop=0.3, bins=bins), 0, 0
    for label in range(10):
        good = x_NCHW[records:][y_N[records:] == label][:70]
        bad = noise(candidates(options, len(good)) - len(good), shape_CHW, seed=label)
        upload = {"template_F": templates_KF[label], "count": float(counts_K[label])}
        indices = kept(options, torch.cat([bad, good]), len(good), **upload)
        junk, rejected = junk + len(bad), rejected + len(bad) - int((indices < len(bad)).sum())
    assert rejected >= 0.95 * junk
