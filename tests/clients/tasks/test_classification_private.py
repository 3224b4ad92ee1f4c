"""DP-SGD on classifiers: what it has in common with plain training, and what it keeps to itself."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from fedcosim.clients.models import MODELS, initialise
from fedcosim.clients.tasks.classification import TrainOptions, predict, private_steps, score, train, train_private

MODELS_TO_CHECK = {
    "lenet": {"name": "lenet"},
    "cnn": {"name": "cnn", "dropout_features": 0, "dropout_hidden": 0},
    "vit": {"name": "vit", "dim": 16, "depth": 2, "heads": 2, "patch": 4},
}


def stream(seed):
    return torch.Generator().manual_seed(seed)


def model_of(name):
    model = initialise(MODELS.parse(MODELS_TO_CHECK[name]), (1, 8, 8), 10, seed=1)
    return model.to(memory_format=torch.channels_last) if model.channels_last else model


@pytest.fixture(name="data", scope="module")
def digits():
    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1, torch.tensor(digits.target)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", MODELS_TO_CHECK)
def test_without_noise_and_clipping_it_is_plain_training(name, data):
    """A batch of all records, sampled with probability 1, is what both train on."""
    x_NCHW, y_N = (part[:30] for part in data)
    options = TrainOptions(epochs=4, batch_size=30, lr=0.1, momentum=0.5)
    plain, private = model_of(name), model_of(name)
    train(plain, x_NCHW, y_N, options, stream(1))
    assert train_private(private, x_NCHW, y_N, options, 0.0, 1e6, stream(2), stream(3)) == 4
    torch.testing.assert_close(weights(private), weights(plain), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "precision"), [("lenet", "fp32"), ("lenet", "bf16"), ("vit", "fp32")])
def test_it_learns_under_noise(name, precision, data):
    """Sigma 0.6 at a sampling rate of 0.04 for 168 steps spends an epsilon of 14."""
    model, options = model_of(name), TrainOptions(epochs=7, batch_size=64, optimizer="adam", lr=5e-3, precision=precision)
    x_NCHW, y_N = data
    steps = train_private(model, x_NCHW[:1500], y_N[:1500], options, 0.6, 1.0, stream(1), stream(2))
    assert steps == private_steps(1500, options) == 7 * 24
    assert score(predict(model, x_NCHW[1500:], options), y_N[1500:])["accuracy"] > 0.5


@pytest.mark.parametrize("name", MODELS_TO_CHECK)
def test_bf16_takes_nearly_the_same_step(name, data):
    """Per-record gradients come from Opacus, which has to follow autocast."""
    x_NCHW, y_N = (part[:16] for part in data)

    def step(precision):
        model, options = model_of(name), TrainOptions(batch_size=16, lr=1.0, precision=precision)
        train_private(model, x_NCHW, y_N, options, 0.0, 1.0, stream(1), stream(2))
        return weights(model) - weights(model_of(name))

    assert torch.cosine_similarity(step("fp32"), step("bf16"), dim=0) > 0.99


@pytest.mark.parametrize("name", MODELS_TO_CHECK)
def test_the_result_depends_on_both_generators_and_on_nothing_else(name, data):
    x_NCHW, y_N = (part[:20] for part in data)

    def trained(order, noise):
        model = model_of(name)
        train_private(model, x_NCHW, y_N, TrainOptions(epochs=2, batch_size=5), 1.0, 1.0, stream(order), stream(noise))
        return weights(model)

    first = trained(1, 1)
    torch.manual_seed(9)
    assert torch.equal(trained(1, 1), first)
    assert not torch.equal(trained(1, 2), first)
    assert not torch.equal(trained(2, 1), first)


def test_batches_without_records_are_steps_too(data):
    """Two records, each in half of the steps: every fourth step has none."""
    x_NCHW, y_N = (part[:2] for part in data)
    model, options = model_of("vit"), TrainOptions(epochs=12, batch_size=1)
    assert train_private(model, x_NCHW, y_N, options, 0.1, 1.0, stream(1), stream(2)) == 24
    assert weights(model).isfinite().all()
