"""FedCVAE-KD's server: one decoder learns from two clients' that share no class.

Shapes: N = samples, C, H, W = channels, height, width, F = pixels.
"""

from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from small import setting, small

from fedcosim.clients.tasks.cvae import CvaeOptions
from fedcosim.clients.uploads import Upload
from fedcosim.core.errors import SpecError
from fedcosim.strategies.fedcvae_kd import FedCvaeKdOptions, distil, lessons
from fedcosim.strategies.oneshot import in_turn

SHAPE, CLASSES, OWN = (1, 8, 8), 10, {0: [1, 4], 1: [3, 7]}
OPTIONS = FedCvaeKdOptions(samples=400, distil_samples=1000, generator=CvaeOptions(steps=300))
SETTING = setting(small(), clients=2, per_round=2)


def digits():
    x_NF, y_N = load_digits(return_X_y=True)
    return torch.tensor(x_NF, dtype=torch.float32).view(-1, *SHAPE) / 8 - 1, torch.tensor(y_N)


@pytest.fixture(scope="module")
def uploads():
    """What two clients with two classes each send."""
    x_NCHW, y_N = digits()
    received = []
    for client, classes in OWN.items():
        rows = torch.isin(y_N, torch.tensor(classes))
        fitted = OPTIONS.generator.fit(client, x_NCHW[rows], y_N[rows], CLASSES, SETTING.seed)
        counts_K = torch.bincount(y_N[rows], minlength=CLASSES).float()
        received.append(Upload(client, counts_K, 0.0, fitted.weights, {}, None))
    return received


@pytest.fixture(scope="module")
def distilled(uploads):
    """The one decoder."""
    weights, _ = distil(OPTIONS, SETTING, decoders(uploads), {(k, c): 250 for k, classes in OWN.items() for c in classes})
    return OPTIONS.generator.decoder(weights, SHAPE, CLASSES)


def decoders(uploads):
    return {upload.client: upload.generator for upload in uploads}


def test_one_decoder_makes_the_classes_of_all_clients(uploads):
    """Neither client's own decoder knows the other's classes."""
    pool, cpu_s = OPTIONS.build(SETTING).synthesise(uploads)
    judge = LogisticRegression(max_iter=300).fit(digits()[0].flatten(1), digits()[1])
    for label in (1, 4, 3, 7):
        of_label = pool.labels_N == label
        x_NF = pool.images_NCHW[of_label].flatten(1).float() / 127.5 - 1
        assert judge.score(x_NF, pool.labels_N[of_label]) > 0.8
    assert len(pool.labels_N) == OPTIONS.samples
    assert cpu_s > 0


def test_the_one_decoder_repeats_what_the_clients_make_of_the_same_latents(uploads, distilled):
    """On latents it has not learned from: it explains most of what their images vary by within a class."""
    fresh = replace(SETTING, seed=SETTING.seed + 1)
    for client, classes in OWN.items():
        for label in classes:
            z_NZ, y_N, x_NCHW = lessons(OPTIONS.generator, fresh, decoders(uploads), {(client, label): 200})
            missed = (distilled.images(z_NZ, y_N) - x_NCHW).square().mean()
            assert missed < 0.5 * (x_NCHW - x_NCHW.mean(0)).square().mean()


def test_synthesis_repeats_to_the_bit(uploads):
    first, again = (OPTIONS.build(SETTING).synthesise(uploads)[0] for _ in range(2))
    assert torch.equal(first.images_NCHW, again.images_NCHW)
    assert torch.equal(first.labels_N, again.labels_N)


def test_workers_distil_once_and_sample_one_and_the_same_decoder(uploads):
    """The engine spreads over its workers what goes through `compute`; nothing is sampled from what clients sent."""
    strategy, jobs = OPTIONS.build(SETTING), {}

    def workers(function, items):
        jobs[function.__name__] = list(items)
        return in_turn(function, jobs[function.__name__])

    strategy.compute = workers
    strategy.synthesise(uploads)
    assert {name: len(items) for name, items in jobs.items()} == {"distil": 1, "sample": 4}
    sampled = [upload.generator for _, _, upload, *_ in jobs["sample"]]
    assert all(generator is sampled[0] for generator in sampled)
    assert not any(torch.equal(sampled[0][key], upload.generator[key]) for upload in uploads for key in sampled[0])


def test_lessons_too_few_for_the_classes_are_refused():
    with pytest.raises(SpecError, match=r"strategy.distil_samples = 5: the data have 10 classes"):
        OPTIONS.model_copy(update={"distil_samples": 5}).fits(SHAPE, CLASSES, 2)
