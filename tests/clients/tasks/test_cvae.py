"""The conditional autoencoder: its loss against torch.distributions, its samples against a judge, and what is uploaded.

Shapes: N = samples, C, H, W = channels, height, width, Z = latent width, F = pixels.
"""

import pytest
import torch
from scipy.stats import kstest, truncnorm
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.distributions import Bernoulli, Normal, kl_divergence

from fedcosim.clients.privacy import Private
from fedcosim.clients.tasks.cvae import CvaeOptions, initial
from fedcosim.core.records import array_record, layout

SHAPE, CLASSES = (1, 8, 8), 10
QUICK = CvaeOptions(channels=4, steps=30)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def digits(*classes):
    """Real digits of some classes, pixels in -1..1."""
    x_NF, y_N = load_digits(return_X_y=True)
    x_NCHW, y_N = torch.tensor(x_NF, dtype=torch.float32).view(-1, *SHAPE) / 8 - 1, torch.tensor(y_N)
    rows = torch.isin(y_N, torch.tensor(classes)) if classes else slice(None)
    return x_NCHW[rows], y_N[rows]


@pytest.fixture(scope="module")
def judge():
    """A linear classifier of real digits of all ten classes."""
    x_NCHW, y_N = digits()
    return LogisticRegression(max_iter=300).fit(x_NCHW.flatten(1), y_N)


@pytest.fixture(scope="module")
def fitted():
    """The decoder of a client that has threes and sevens only."""
    return CvaeOptions(steps=600, beta=0.1, lr=3e-3).fit(0, *digits(3, 7), CLASSES, seed=1)


def sample(options, fitted, labels_N, seed=0):
    return options.sampler(0, fitted.weights, SHAPE, CLASSES)(labels_N, stream(seed))


def test_a_judge_of_real_digits_sees_the_requested_labels(judge, fitted):
    """Chance is 10 %; a decoder that ignored labels, or the client's data, would be near it."""
    labels_N = torch.tensor([3, 7]).repeat_interleave(150)
    x_NCHW = sample(CvaeOptions(), fitted, labels_N)
    assert judge.score(x_NCHW.flatten(1), labels_N) > 0.85
    assert x_NCHW.amin() >= -1
    assert x_NCHW.amax() <= 1


def test_samples_of_one_class_differ_among_themselves_as_real_ones_do(fitted):
    """A decoder that ignored its latents would also please the judge."""
    x_NF = sample(CvaeOptions(), fitted, torch.full((200,), 3)).flatten(1)
    real_NF = digits(3)[0].flatten(1)
    assert x_NF.var(0).sum() > real_NF.var(0).sum() / 4


def test_the_loss_is_the_negative_bound_by_torch_distributions():
    options = CvaeOptions(latent=4, channels=4, beta=0.7)
    model = initial(options, SHAPE, CLASSES, seed=1)
    x_NCHW, y_N = (t[:5] for t in digits(2, 5))
    mean_NZ, log_variance_NZ = model.encoder(x_NCHW, y_N).chunk(2, 1)
    posterior, prior = Normal(mean_NZ, (log_variance_NZ / 2).exp()), Normal(torch.zeros(5, 4), torch.ones(5, 4))
    z_NZ = posterior.mean + posterior.stddev * torch.randn(5, 4, generator=stream(9))
    pixels = Bernoulli(logits=model.decoder(z_NZ, y_N), validate_args=False)  # pixels are between its values, 0 and 1
    expected_N = -pixels.log_prob((x_NCHW + 1) / 2).sum((1, 2, 3)) + 0.7 * kl_divergence(posterior, prior).sum(1)
    torch.testing.assert_close(model(x_NCHW, y_N, stream(9)), expected_N)


def test_latents_are_normal_within_the_truncation():
    """The oracle is SciPy's distribution; at 1.5 an untruncated normal would be refused at once."""
    z_NZ = CvaeOptions(latent=20, truncation=1.5).latents(500, stream())
    assert z_NZ.abs().max() <= 1.5
    assert kstest(z_NZ.flatten().numpy(), truncnorm(-1.5, 1.5).cdf).pvalue > 0.01


def test_truncation_reaches_the_images(fitted):
    """Latents all but zero decode to all but one image."""
    narrow_NF, wide_NF = (
        sample(CvaeOptions(truncation=truncation), fitted, torch.full((50,), 7)).flatten(1) for truncation in (1e-3, 3.0)
    )
    assert narrow_NF.std(0).mean() < 0.01 * wide_NF.std(0).mean()


@pytest.mark.parametrize("shape_CHW", [(1, 8, 8), (3, 7, 9)])
def test_the_layout_is_what_fit_gives(shape_CHW):
    options = CvaeOptions(channels=4, steps=2, batch_size=4)
    x_NCHW, y_N = torch.rand(6, *shape_CHW) * 2 - 1, torch.arange(6) % 3
    fitted = options.fit(0, x_NCHW, y_N, 3, seed=1)
    assert layout(array_record(fitted.weights)) == options.layout(0, shape_CHW, 3)
    assert options.sampler(0, fitted.weights, shape_CHW, 3)(y_N, stream()).shape == (6, *shape_CHW)


def test_only_the_decoder_is_uploaded():
    """An encoder would tell what the client's images look like to the model, and nobody needs it."""
    fitted = QUICK.fit(0, *digits(3, 7), CLASSES, seed=1)
    inputs, maps, quarter = QUICK.latent + CLASSES, QUICK.channels, 2 * QUICK.channels
    numbers = (inputs + 1) * quarter * 2 * 2 + (9 * quarter + 1) * maps + (9 * maps + 1) * 4
    assert sum(t.numel() for t in fitted.weights.values()) == numbers


def test_fit_and_samples_repeat_to_the_bit_and_differ_by_client():
    """Neither depends on the process-wide generator, nor changes it."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (QUICK.fit(client, *digits(3, 7), CLASSES, seed=1) for client in (0, 0, 1))
    labels_N = torch.tensor([3, 7, 3])
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert first.loss == again.loss
    assert not same(first, other)
    assert torch.equal(sample(QUICK, first, labels_N), sample(QUICK, again, labels_N))
    assert not torch.equal(sample(QUICK, first, labels_N), sample(QUICK, first, labels_N, seed=1))


def same(one, other):
    return all(torch.equal(one.weights[key], other.weights[key]) for key in one.weights)


def test_training_lowers_the_loss():
    short, long = (QUICK.model_copy(update={"steps": steps}).fit(0, *digits(3, 7), CLASSES, 1) for steps in (5, 100))
    assert long.loss < short.loss


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_private_fit_tells_no_loss_and_takes_steps_without_samples(batch_size):
    """At one expected sample a step, every third step has none; it adds its noise all the same."""
    x_NCHW, y_N = digits(3, 7)
    options = QUICK.model_copy(update={"batch_size": batch_size})

    def fit(noise_seed, sigma=1.0):
        return options.fit(0, x_NCHW, y_N, CLASSES, 1, Private(sigma, 1.0, stream(noise_seed)))

    first, again, other = fit(1), fit(1), fit(2)
    assert first.loss is None
    assert first.steps == options.steps
    assert layout(array_record(first.weights)) == options.layout(0, SHAPE, CLASSES)
    assert all(t.isfinite().all() for t in first.weights.values())
    assert same(first, again)
    assert not same(first, other)


def test_little_noise_still_learns_the_labels(judge):
    options = CvaeOptions(steps=200, batch_size=64)
    labels_N = torch.tensor([3, 7]).repeat_interleave(100)
    private = options.fit(0, *digits(3, 7), CLASSES, 1, Private(0.3, 1.0, stream()))
    assert judge.score(sample(options, private, labels_N).flatten(1), labels_N) > 0.6
