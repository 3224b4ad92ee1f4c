"""The servers of DENSE, Co-Boosting and FedDF, on classifiers of three clients with a third of the digits each.

Shapes: N = samples, C, H, W = channels, height, width, K = classes, M = members.
"""

from copy import deepcopy
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small import SMALL, setting
from torch.distributions import Categorical, kl_divergence

from fedcosim.clients.data.federated import federate
from fedcosim.clients.data.options import DataOptions
from fedcosim.clients.models import initialise
from fedcosim.clients.tasks import classification
from fedcosim.core.errors import SpecError
from fedcosim.core.records import tensors
from fedcosim.core.seeds import torch_stream
from fedcosim.server.spec import parse
from fedcosim.strategies.coboosting import CoBoosting, CoBoostingOptions, hard_cross_entropy, perturbed, reweighed
from fedcosim.strategies.dense import Dense, DenseOptions, ImageGenerator
from fedcosim.strategies.distillation import Teacher, distil, divergence
from fedcosim.strategies.feddf import FedDfOptions

CLIENTS = 3
SPEC = parse(
    {
        **SMALL,
        "federation": {"clients": CLIENTS, "rounds": 1},
        "data": {"source": "digits"},
        "model": {"name": "lenet"},
        "strategy": {"name": "ensemble"},
        "train": {"epochs": 10, "batch_size": 32, "optimizer": "adam", "lr": 2e-3},
        "evaluate": {},
    }
)
SETTING = setting(SPEC, CLIENTS, CLIENTS)
QUICK = {"epochs": 20, "generator_steps": 15, "width": 8}
OPTIONS = [DenseOptions(**QUICK), CoBoostingOptions(**QUICK), FedDfOptions(proxy="digits", proxy_samples=300, steps=50)]
BRIEF = [
    DenseOptions(epochs=2, generator_steps=2, batch_size=8, width=2),
    CoBoostingOptions(epochs=2, generator_steps=2, batch_size=8, width=2),
    FedDfOptions(proxy="digits", proxy_samples=20, steps=3),
]


def by_name(options):
    return options.name


@pytest.fixture(scope="module")
def data(data_cache):
    """All digits, shared out alike."""
    return federate(DataOptions(source="digits"), CLIENTS, SPEC.seed)


@pytest.fixture(scope="module")
def members(data):
    """What the clients upload."""
    uploads = []
    for client in range(CLIENTS):
        model = initialise(SETTING.model, SETTING.shape_CHW, SETTING.classes, SETTING.seed)
        classification.train(model, *data.train(client), SPEC.train, torch_stream(SPEC.seed, "train", client))
        uploads.append(model.state_dict())
    return uploads


@pytest.fixture(scope="module")
def mean(members):
    """Their unweighted mean; clients have as many records each."""
    return {key: torch.stack([weights[key] for weights in members]).mean(0) for key in members[0]}


@pytest.fixture(scope="module")
def test_set(data):
    """Held-out digits of all clients."""
    parts = [data.test(client) for client in range(CLIENTS)]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def accuracy(weights, test_set):
    model = initialise(SETTING.model, SETTING.shape_CHW, SETTING.classes, SETTING.seed)
    model.load_state_dict({key: torch.as_tensor(value) for key, value in weights.items()})
    return classification.score(classification.predict(model, test_set[0], SPEC.train), test_set[1])["accuracy"]


@pytest.mark.parametrize("options", OPTIONS, ids=by_name)
def test_the_student_is_no_straw_man(options, members, mean, test_set):
    """Chance is 0.1; these are told nothing but the members' weights, and FedDF unlabelled digits."""
    weights, figures = distil(options, SETTING, members, mean)
    assert accuracy(weights, test_set) > 0.5
    assert figures["members"] == CLIENTS
    assert 0 <= figures["train_loss"] < 1
    assert figures["server_training_cpu_s"] > 0


@pytest.mark.parametrize("options", BRIEF, ids=by_name)
def test_the_same_uploads_and_seed_give_the_same_bits(options, members, mean):
    """Whatever the process-wide generators have been through before."""
    first, _ = distil(options, SETTING, members, mean)
    torch.rand(1)
    again, _ = distil(options, SETTING, members, mean)
    other, _ = distil(options, replace(SETTING, seed=SETTING.seed + 1), members, mean)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not all(np.array_equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("options", BRIEF, ids=by_name)
def test_what_is_made_of_uploads_is_laid_out_like_one_of_them(options, one_client):
    """Replies of real clients, in any order; a worker finds the job by its name and gets copies to work on."""
    asked = one_client(SPEC)
    replies = [asked.ask(client) for client in range(CLIENTS)]
    strategy = options.build(SETTING)

    def worker(function, items):
        assert getattr(import_module(function.__module__), function.__name__) is function
        return [function(*deepcopy(item)) for item in items]

    strategy.compute = worker
    results = [strategy.aggregate_train(1, order) for order in (replies, replies[::-1])]
    (made, again), figures = ([tensors(arrays) for arrays, _ in results]), results[0][1]
    assert all(torch.equal(made[key], again[key]) for key in made)
    sent = tensors(asked.arrays)
    assert {key: (t.dtype, t.shape) for key, t in made.items()} == {key: (t.dtype, t.shape) for key, t in sent.items()}
    assert figures["proxy_images" if options.name == "feddf" else "synthetic_images"] == (20 if options.name == "feddf" else 16)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_teacher_says_the_mean_of_its_members_logits(count, members, test_set):
    """However many have arrived."""
    x_NCHW = test_set[0][:20]
    model = initialise(SETTING.model, SETTING.shape_CHW, SETTING.classes, SETTING.seed)
    said = 0
    for weights in members[:count]:
        model.load_state_dict(weights)
        said += model(x_NCHW).detach() / count
    torch.testing.assert_close(Teacher(SETTING, members[:count])(x_NCHW), said)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_is_kl_from_teacher_to_student_times_the_temperatures_square(temperature):
    teacher_NK, student_NK = torch.randn(2, 6, 10, generator=torch_stream(0, "logits")) * 5
    expected_N = kl_divergence(Categorical(logits=teacher_NK / temperature), Categorical(logits=student_NK / temperature))
    torch.testing.assert_close(divergence(teacher_NK, student_NK, temperature), expected_N * temperature**2)


@pytest.mark.parametrize("shape_CHW", [(1, 4, 4), (3, 7, 5), (1, 28, 28), (3, 32, 32)])
def test_the_generator_makes_images_of_any_shape_in_range(shape_CHW):
    x_NCHW = ImageGenerator(6, 3, shape_CHW, torch_stream(0, "weights"))(torch.randn(5, 6))
    assert x_NCHW.shape == (5, *shape_CHW)
    assert x_NCHW.abs().max() <= 1


@pytest.mark.parametrize("options", [DenseOptions(), CoBoostingOptions()], ids=by_name)
def test_images_too_small_to_make_are_refused(options):
    with pytest.raises(SpecError, match=f"strategy.name = '{options.name}': the images are 3 x 8; .* from 4 x 4 up"):
        options.fits((1, 3, 8), 10, CLIENTS)
    options.fits((1, 4, 4), 10, CLIENTS)


def run_of(cls, options, members):
    student = initialise(SETTING.model, SETTING.shape_CHW, SETTING.classes, SETTING.seed + 1)
    return cls(options, SETTING, Teacher(SETTING, members), student)


def test_dense_rewards_divergence_only_where_teacher_and_student_disagree(members, test_set):
    """On images they see the same class in, the adversarial term is nothing, whatever its weight."""
    x_NCHW, y_N = test_set
    run = run_of(Dense, DenseOptions(adversarial=7.0), members)
    agree_N = run.teacher(x_NCHW).argmax(1) == run.student(x_NCHW).argmax(1)
    assert 0 < agree_N.sum() < len(y_N)
    with torch.no_grad():
        for kept_N, sign in ((agree_N, 0), (~agree_N, 1)):
            teacher_NK, student_NK = run.teacher(x_NCHW[kept_N]), run.student(x_NCHW[kept_N])
            apart_N = kl_divergence(Categorical(logits=teacher_NK), Categorical(logits=student_NK))
            label_N = -Categorical(logits=teacher_NK).log_prob(y_N[kept_N])
            expected = (label_N - 7.0 * sign * apart_N).mean()
            torch.testing.assert_close(run.generator_loss(x_NCHW[kept_N], y_N[kept_N]), expected)


@pytest.mark.parametrize("cls", [Dense, CoBoosting])
def test_fitting_a_generator_finds_images_in_which_the_teacher_sees_what_was_asked_for(cls, members):
    """By twice as much as by chance, at the least."""
    options = (DenseOptions if cls is Dense else CoBoostingOptions)(adversarial=0.0, width=8)
    run = run_of(cls, options, members)
    x_NCHW, y_N = run.synthesise()
    assert x_NCHW.shape == (options.batch_size, *SETTING.shape_CHW)
    assert (run.teacher(x_NCHW).argmax(1) == y_N).float().mean() > 0.2


def test_samples_the_teacher_finds_easy_count_little():
    """(1 - p)^hardness, with p a constant: the gradient is that of cross-entropy, scaled; without hardness, just that."""
    logits_NK = torch.tensor([[6.0, 0, 0], [0, 0, 0]], requires_grad=True)
    p_NK = logits_NK.detach().softmax(1)
    (slope_NK,) = torch.autograd.grad(hard_cross_entropy(logits_NK, torch.tensor([0, 0]), 2.0), logits_NK)
    plain_NK = (p_NK - torch.tensor([1.0, 0, 0])) / 2
    torch.testing.assert_close(slope_NK, (1 - p_NK[:, :1]) ** 2 * plain_NK)
    (slope_NK,) = torch.autograd.grad(hard_cross_entropy(logits_NK, torch.tensor([0, 0]), 0.0), logits_NK)
    torch.testing.assert_close(slope_NK, plain_NK)


def test_varied_images_move_by_eta_grey_levels_to_where_the_random_mixture_grows(members, test_set):
    """Of 255 levels over -1..1; the mixture is what the same random numbers give again."""
    x_NCHW, eta, temperature = test_set[0][:50], 1.0, 4.0
    teacher = Teacher(SETTING, members)
    moved_NCHW = perturbed(teacher, x_NCHW, eta, temperature, torch_stream(0, "mixture"))
    distance_NCHW = (moved_NCHW - x_NCHW).abs()
    assert distance_NCHW.max() <= 2 * eta / 255 + 1e-6
    assert (distance_NCHW > 1.99 * eta / 255).float().mean() > 0.9
    mixture_NK = torch.rand(50, 10, generator=torch_stream(0, "mixture")) * 2 - 1
    before_N, after_N = ((mixture_NK * (teacher(x) / temperature).softmax(1)).sum(1) for x in (x_NCHW, moved_NCHW))
    assert (after_N > before_N).float().mean() > 0.95


@given(
    shares_M=arrays(np.float32, st.integers(1, 6), elements=st.floats(0, 1, width=32)).filter(lambda a: a.sum() > 0.1),
    size=st.floats(0, 0.99),
    seed=st.integers(0, 2**31),
)
def test_member_weights_stay_a_distribution(shares_M, size, seed):
    """Even where a step is longer than any weight."""
    draws = torch.Generator().manual_seed(seed)
    weights_M = torch.from_numpy(shares_M / shares_M.sum())
    logits_MNK = torch.randn(len(weights_M), 8, 4, generator=draws)
    moved_M = reweighed(weights_M, logits_MNK, torch.randint(4, (8,), generator=draws), size)
    assert (moved_M >= 0).all()
    assert moved_M.sum().item() == pytest.approx(1)


def test_members_that_are_right_gain_weight():
    """One of three knows the labels, one knows nothing, one is always wrong."""
    y_N = torch.arange(8) % 4
    right_NK = torch.nn.functional.one_hot(y_N, 4).float() * 3
    weights_M = torch.full((3,), 1 / 3)
    for _ in range(10):
        weights_M = reweighed(weights_M, torch.stack([right_NK, 0 * right_NK, -right_NK]), y_N, 0.01)
    assert weights_M[0] > 0.4
    assert weights_M[2] < 0.3


def test_coboosting_records_weights_that_differ(members, mean):
    _, figures = distil(BRIEF[1], SETTING, members, mean)
    assert sum(figures["member_weights"]) == pytest.approx(1)
    assert len(set(figures["member_weights"])) > 1


def test_feddf_starts_from_the_mean_of_the_uploads(members, mean):
    """Algorithm 1 of the paper; the data-free methods start from the experiment's initial classifier."""
    initial = initialise(SETTING.model, SETTING.shape_CHW, SETTING.classes, SETTING.seed).state_dict()
    for options, start in ((BRIEF[0], initial), (BRIEF[1], initial), (BRIEF[2], mean)):
        student = options.student(SETTING, mean).state_dict()
        assert all(torch.equal(student[key], start[key]) for key in start)


def test_feddf_sees_some_images_of_its_proxy_as_clients_see_theirs():
    """Grey level k of 17 is (15 k / 255 - 0.5) / 0.5; each image at most once."""
    x_NCHW = FedDfOptions(proxy="digits", proxy_samples=200).proxies(seed=5)
    from sklearn.datasets import load_digits

    known = {row.tobytes() for row in load_digits().data.astype(np.uint8)}
    seen = [row.tobytes() for row in ((x_NCHW + 1) * 127.5 / 15).round().to(torch.uint8).flatten(1).numpy()]
    assert len(seen) == 200
    assert known.issuperset(seen)


@pytest.mark.parametrize(
    ("fields", "shape_CHW", "sentence"),
    [
        ({}, (1, 28, 28), "strategy.proxy = 'digits': its images are 1 x 8 x 8; choose a source of 1 x 28 x 28 images"),
        ({}, (3, 8, 8), "strategy.proxy = 'digits': its images are 1 x 8 x 8; choose a source of 3 x 8 x 8 images"),
        ({"proxy_samples": 2000}, (1, 8, 8), "strategy.proxy_samples = 2000: digits has 1797; choose 1 to 1797"),
        ({"proxy": "mnist", "proxy_path": "/nowhere"}, (1, 28, 28), "strategy.proxy = 'mnist': .*not found in /nowhere"),
    ],
)
def test_feddf_refuses_a_proxy_that_does_not_fit(fields, shape_CHW, sentence):
    options = FedDfOptions(**{"proxy": "digits", "proxy_samples": 1797, **fields})
    with pytest.raises(SpecError, match=sentence):
        options.fits(shape_CHW, 10, CLIENTS)


def test_feddf_takes_a_proxy_that_fits():
    FedDfOptions(proxy="digits", proxy_samples=1797).fits(SETTING.shape_CHW, SETTING.classes, CLIENTS)
