"""Spectra against the full two-sided transform, and what one record can do to what is released."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.datasets import load_digits

from fedcosim.clients import fourier

SHAPES = [(1, 8, 8), (3, 7, 7), (1, 28, 28), (3, 6, 9), (2, 9, 6), (1, 5, 1)]
BINS = ["full", "radial"]
pixels = st.floats(-1, 1, width=32)


def stream(seed):
    return torch.Generator().manual_seed(seed)


def uniform(shape, seed=0):
    return torch.rand(shape, generator=stream(seed)) * 2 - 1


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("shape_CHW", SHAPES)
def test_a_spectrum_has_the_norm_of_its_image(shape_CHW, bins):
    """Parseval: the reason why the sensitivity needs no clipping."""
    x_NCHW = uniform((5, *shape_CHW))
    a_NF = fourier.spectrum(x_NCHW, bins)
    torch.testing.assert_close(a_NF.norm(dim=1), x_NCHW.flatten(1).norm(dim=1))
    assert a_NF.shape == (5, fourier.features(shape_CHW, bins))


@pytest.mark.parametrize("shape_CHW", SHAPES)
def test_magnitudes_are_those_of_the_two_sided_transform(shape_CHW):
    """A coefficient and its mirror image are kept as one, of the norm of both."""
    x_NCHW = uniform((2, *shape_CHW))
    two_sided = np.abs(np.fft.fft2(x_NCHW.numpy(), norm="ortho"))
    kept = fourier.magnitude(x_NCHW).unflatten(1, (*shape_CHW[:2], -1)).numpy()
    for column in range(shape_CHW[2] // 2 + 1):
        has_mirror = column != -column % shape_CHW[2]
        np.testing.assert_allclose(kept[..., column], two_sided[..., column] * (math.sqrt(2) if has_mirror else 1), atol=1e-5)


@pytest.mark.parametrize(("frequency", "ring"), [((0, 0), 0), ((0, 3), 3), ((2, 0), 2), ((3, 3), 4), ((14, 14), 14)])
def test_a_wave_lies_in_the_ring_of_its_frequency(frequency, ring):
    """(3, 3) has sqrt(18) = 4.2 cycles; the corner (14, 14) is beyond what 28 pixels can show along a side."""
    row, column = np.mgrid[:28, :28]
    wave = np.cos(2 * np.pi * (frequency[0] * row + frequency[1] * column) / 28)
    a_F = fourier.radial(torch.tensor(wave, dtype=torch.float32)[None, None])[0]
    assert a_F.argmax() == ring
    assert a_F[ring] == pytest.approx(np.linalg.norm(wave), rel=1e-4)
    assert len(a_F) == 15


def test_a_white_image_reaches_the_sensitivity():
    """The bound is tight, so no noise is wasted."""
    for bins in BINS:
        assert fourier.spectrum(torch.ones(1, 3, 8, 8), bins).norm() == pytest.approx(fourier.sensitivity((3, 8, 8)))


@pytest.mark.parametrize("bins", BINS)
@settings(max_examples=60)
@given(images=arrays(np.float32, (4, 2, 5, 6), elements=pixels), labels=st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_one_record_moves_all_sums_together_by_at_most_the_sensitivity(bins, images, labels):
    """Of the stacked vector of all classes: that is why one Gaussian release covers them."""
    x_NCHW, y_N = torch.from_numpy(images), torch.tensor(labels)
    with_it = fourier.template_sum(x_NCHW, y_N, 3, bins)
    without = fourier.template_sum(x_NCHW[1:], y_N[1:], 3, bins)
    assert (with_it - without).norm() <= fourier.sensitivity((2, 5, 6)) * (1 + 1e-5)


@pytest.mark.parametrize("bins", BINS)
def test_sums_are_those_of_each_class_and_zero_for_an_absent_one(bins):
    x_NCHW, y_N = uniform((9, 2, 8, 6)), torch.tensor([0, 3, 0, 1, 3, 3, 0, 1, 0])
    sums_KF = fourier.template_sum(x_NCHW, y_N, 4, bins)
    for label in range(4):
        expected = sum(
            (fourier.spectrum(x[None], bins)[0] for x, y in zip(x_NCHW, y_N, strict=True) if y == label), torch.tensor(0.0)
        )
        torch.testing.assert_close(sums_KF[label], expected.expand_as(sums_KF[label]))


@pytest.mark.parametrize("bins", BINS)
def test_released_noise_has_the_deviation_that_the_ledger_is_told(bins):
    """sigma times the sensitivity, on every number, also of classes without images: their absence is no secret otherwise."""
    x_NCHW, y_N = uniform((4, 1, 28, 28)), torch.zeros(4, dtype=torch.int64)
    released = fourier.private_template(x_NCHW, y_N, 200, bins, 2.5, stream(1))
    noise = released - fourier.template_sum(x_NCHW, y_N, 200, bins)
    assert noise.std().item() == pytest.approx(2.5 * 28, rel=0.05)
    assert noise[7].std().item() == pytest.approx(2.5 * 28, rel=0.5)
    assert torch.equal(released, fourier.private_template(x_NCHW, y_N, 200, bins, 2.5, stream(1)))
    assert not torch.equal(released, fourier.private_template(x_NCHW, y_N, 200, bins, 2.5, stream(2)))


def test_pixels_out_of_range_cannot_exceed_the_sensitivity():
    far = fourier.private_template(torch.full((1, 1, 4, 4), 1e6), torch.tensor([0]), 1, "full", 0.0, stream(0))
    assert far.norm() == pytest.approx(fourier.sensitivity((1, 4, 4)))


def test_means_of_few_or_no_samples_are_not_blown_up():
    """A noisy count may be near 0, or 0."""
    sums_KF = torch.tensor([[10.0, 20.0], [3.0, 0.0], [1.0, 2.0]])
    expected = torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 2.0]])
    torch.testing.assert_close(fourier.means(sums_KF, torch.tensor([10.0, 0.2, 0.0])), expected)


@pytest.mark.parametrize("log", [False, True])
def test_distance_is_the_mean_absolute_difference(log):
    a_NF, template_F = torch.tensor([[0.0, 3.0], [1.0, 1.0]]), torch.tensor([1.0, -0.5])
    expected = [(math.log(2) + math.log(4)) / 2, math.log(2) / 2] if log else [2.0, 0.5]
    torch.testing.assert_close(fourier.distance(a_NF, template_F, log), torch.tensor(expected))


def test_an_image_is_nearest_to_the_template_of_its_own_class_more_often_than_by_chance():
    """Spectra tell digits apart to some degree: a sanity check of the whole chain, against a chance of 0.1."""
    digits = load_digits()
    x_NCHW, y_N = torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32), torch.tensor(digits.target)
    sums_KF = fourier.template_sum(x_NCHW[:1200], y_N[:1200], 10, "full")
    templates_KF = fourier.means(sums_KF, torch.bincount(y_N[:1200]).float())
    a_NF = fourier.magnitude(x_NCHW[1200:])
    nearest_N = torch.stack([fourier.distance(a_NF, t_F, log=False) for t_F in templates_KF]).argmin(0)
    assert (nearest_N == y_N[1200:]).float().mean() > 0.5
