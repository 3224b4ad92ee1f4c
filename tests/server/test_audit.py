"""The audit of hand-made runs, whose synthetic data are known: copies of training images, noise, wrong labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from small import small

from fedcosim.clients.client_app import Workbench
from fedcosim.clients.tasks.diffusion import DiffusionOptions, initial
from fedcosim.core.errors import RunError
from fedcosim.server.audit import audit, denoising_losses, frechet_distance, matched, memorisation, nearest, write_audit
from fedcosim.strategies.generative import to_bytes

SPEC = small("fedavg", "model={name='lenet'}", "federation.clients=3", "federation.per_round=3", "train.batch_size=32")


DIFFUSION = small(
    "feddiff",
    "model={name='lenet'}",
    "data={source='digits', train_per_client=40, test_per_client=100}",
    "federation={clients=2, per_round=2, rounds=1}",
    "strategy.generator={steps=250, batch_size=20, lr=0.005}",
)


def stream(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data(data_cache):
    return Workbench(SPEC).data


@pytest.fixture
def run(tmp_path):
    """Make a run's directory of a spec and synthetic data."""

    def make(x_NCHW, labels_N, clients_N, spec=SPEC):
        (tmp_path / "spec.toml").write_text(spec.to_toml())
        tensors = {"images": to_bytes(x_NCHW), "labels": labels_N, "clients": clients_N}
        safetensors.torch.save_file(tensors, tmp_path / "synthetic.safetensors")
        return tmp_path

    return make


def training_images(data):
    parts = [data.train(client) for client in range(data.num_clients)]
    clients_N = torch.repeat_interleave(torch.arange(data.num_clients), torch.tensor([len(y) for _, y in parts]))
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]), clients_N


def test_copies_of_training_images_look_real_and_are_found_out(run, data):
    """The worst generator there is for privacy, and a perfect one otherwise."""
    x_NCHW, y_N, clients_N = training_images(data)
    folder = run(x_NCHW, y_N, clients_N)
    figures = write_audit(folder)
    assert figures == json.loads((folder / "audit.json").read_text())
    assert figures["judge_accuracy"] > 0.9
    assert figures["label_agreement"] > 0.95
    assert figures["memorisation_ratio"] < 1e-3
    assert figures["memorisation_share"] > 0.99
    assert figures["feature_fid"] == pytest.approx(figures["feature_fid_real"], rel=1e-3)
    assert figures["synthetic_images"] == len(y_N)
    assert [client["synthetic_images"] for client in figures["clients"]] == data.num_train.tolist()
    for client, counts in zip(figures["clients"], data.train_labels_histogram(), strict=True):
        assert [agreement is None for agreement in client["label_agreement_by_class"]] == (counts == 0).tolist()


def test_noise_looks_like_nothing_and_memorises_nothing(run, data):
    x_NCHW, y_N, clients_N = training_images(data)
    figures = audit(run(torch.rand(x_NCHW.shape, generator=stream(0)) * 2 - 1, y_N, clients_N))
    assert figures["label_agreement"] < 0.3
    assert figures["feature_fid"] > 10 * figures["feature_fid_real"]
    assert 0.9 < figures["memorisation_ratio"] < 1.1
    assert figures["memorisation_share"] == 0
    assert figures["membership_auc"] is None


def test_wrong_labels_are_laid_at_the_door_of_their_client(run, data):
    """Client 1 takes every digit for the next one."""
    x_NCHW, y_N, clients_N = training_images(data)
    figures = audit(run(x_NCHW, torch.where(clients_N == 1, (y_N + 1) % 10, y_N), clients_N))
    first, second, third = (client["label_agreement"] for client in figures["clients"])
    assert min(first, third) > 0.95
    assert second < 0.05
    sizes = data.num_train / data.num_train.sum()
    assert figures["label_agreement"] == pytest.approx(np.dot(sizes, [first, second, third]), abs=1e-5)
    assert all(share < 0.2 for share in figures["clients"][1]["label_agreement_by_class"] if share is not None)


def test_a_copy_of_another_clients_image_is_no_memory_of_ones_own(data):
    x_NCHW = data.train(0)[0][:50]
    test_MCHW = torch.cat([data.test(client)[0] for client in range(3)])
    own, foreign = (memorisation(x_NCHW, torch.full((50,), client), data, test_MCHW) for client in (0, 1))
    assert own.max() == 0
    assert foreign.median() > 0.5


def test_a_model_that_knows_its_records_by_heart_is_told_on(run):
    """Client 1 has seen each of its 40 digits 125 times; what client 0 sent are weights without any training."""
    bench = Workbench(DIFFUSION)
    options, shape_CHW = DIFFUSION.strategy.generator, bench.data.shape_CHW
    trained = options.fit(1, *bench.data.train(1), 10, DIFFUSION.seed).weights
    untrained = initial(options, "S", shape_CHW, 10, DIFFUSION.seed).state_dict()
    x_NCHW, y_N, clients_N = training_images(bench.data)
    folder = run(x_NCHW, y_N, clients_N, DIFFUSION)
    uploads = {
        f"{client}/{key}": value for client, weights in enumerate((untrained, trained)) for key, value in weights.items()
    }
    safetensors.torch.save_file(uploads, folder / "uploads.safetensors")
    figures = audit(folder)
    nothing, everything = (client["membership_auc"] for client in figures["clients"])
    assert everything > 0.8
    assert 0.3 < nothing < 0.7
    assert figures["membership_auc"] == pytest.approx((nothing + everything) / 2)


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_a_loss_is_the_same_alone_and_among_others(prediction):
    """Same noise and level for every sample: what differs is the sample."""
    options = DiffusionOptions(tiers=("XS",), prediction=prediction, unshuffle=2)
    weights = initial(options, "XS", (1, 8, 8), 10, 0).state_dict()
    x_NCHW, y_N = torch.rand(300, 1, 8, 8, generator=stream(0)) * 2 - 1, torch.arange(300) % 10
    together = denoising_losses(options, 0, weights, x_NCHW, y_N, 10, 7)
    assert together.shape == (300,)
    torch.testing.assert_close(denoising_losses(options, 0, weights, x_NCHW[280:], y_N[280:], 10, 7), together[280:])


def test_members_and_others_are_as_many_of_each_class():
    """A client of mostly hard digits would otherwise seem to know the easy ones of others by heart."""
    labels, other_labels = torch.tensor([0] * 130 + [1] * 5 + [2] * 7), torch.tensor([1] * 9 + [0] * 120 + [3] * 50)
    samples = [(torch.arange(len(y))[:, None, None, None].float(), y) for y in (labels, other_labels)]
    members, others = matched(*samples, seed=1)
    for x_NCHW, y_N in (members, others):
        assert torch.bincount(y_N, minlength=4).tolist() == [100, 5, 0, 0]
        assert len(x_NCHW.unique()) == len(y_N)
    assert torch.equal(labels[members[0].flatten().long()], members[1])
    assert torch.equal(other_labels[others[0].flatten().long()], others[1])


def test_the_nearest_image_is_the_nearest_whatever_the_block():
    x_NCHW, others = torch.rand(600, 2, 3, 4, generator=stream(0)), torch.rand(70, 2, 3, 4, generator=stream(1))
    x_NCHW[400] = others[69]
    expected = cdist(x_NCHW.flatten(1), others.flatten(1)).min(1)
    torch.testing.assert_close(nearest(x_NCHW, others), torch.tensor(expected, dtype=torch.float32))
    assert nearest(x_NCHW, others)[400] == 0


def test_frechet_distance_is_its_formula():
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with SciPy's matrix square root."""
    a_NF, b_NF = torch.randn(500, 6, generator=stream(0)), torch.randn(300, 6, generator=stream(1)) * 2 + 1
    means = [x.double().mean(0).numpy() for x in (a_NF, b_NF)]
    covariances = [np.cov(x.double().numpy(), rowvar=False) for x in (a_NF, b_NF)]
    expected = np.square(means[0] - means[1]).sum() + np.trace(
        sum(covariances) - 2 * sqrtm(covariances[0] @ covariances[1]).real
    )
    assert frechet_distance(a_NF, b_NF) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a_NF, a_NF) == pytest.approx(0, abs=1e-6)


def test_a_run_without_synthetic_data_is_refused_in_a_sentence(run, data, tmp_path):
    folder = run(*training_images(data))
    (folder / "synthetic.safetensors").write_bytes(b"not tensors")
    with pytest.raises(RunError, match=r"synthetic\.safetensors: damaged"):
        audit(folder)
    (folder / "synthetic.safetensors").unlink()
    with pytest.raises(RunError, match=r"synthetic\.safetensors: missing; only a run whose server has sampled"):
        audit(folder)
