"""What clients computed: observing changes nothing, steps are counted, a recorded step is the step that is taken."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from fedcosim.clients.models import MODELS, initialise
from fedcosim.clients.privacy import Private
from fedcosim.clients.tasks import classification
from fedcosim.clients.tasks.classification import TrainOptions
from fedcosim.clients.tasks.cvae import CvaeOptions
from fedcosim.clients.tasks.diffusion import DiffusionOptions
from fedcosim.clients.work import Work, observed
from fedcosim.hwsim.roofline.trace import Example, training_step

SHAPE, CLASSES, SAMPLES = (1, 8, 8), 10, 50
CLASSIFIERS = {
    "lenet": {"name": "lenet"},
    "cnn": {"name": "cnn"},
    "vit": {"name": "vit", "dim": 16, "depth": 2, "heads": 2, "patch": 4},
}
X_NF, Y_N = load_digits(return_X_y=True)
X_NCHW, Y_N = torch.tensor(X_NF, dtype=torch.float32).view(-1, *SHAPE) / 8 - 1, torch.tensor(Y_N)
OPTIONS = TrainOptions(epochs=2, batch_size=16, momentum=0.9)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def private(seed: int = 3) -> Private:
    return Private(sigma=0.7, max_grad_norm=1.0, noise=stream(seed))


def classifier(kind: str) -> torch.nn.Module:
    model = initialise(MODELS.parse(CLASSIFIERS[kind]), SHAPE, CLASSES, seed=1)
    return model.to(memory_format=torch.channels_last) if model.channels_last else model


def fit(kind: str, options: TrainOptions = OPTIONS, samples: int = SAMPLES, **more) -> dict[str, torch.Tensor]:
    model = classifier(kind)
    classification.fit(model, X_NCHW[:samples], Y_N[:samples], options, stream(2), **more)
    return model.state_dict()


def generate(options, how: Private | None = None) -> dict[str, torch.Tensor]:
    return options.fit(0, X_NCHW[:SAMPLES], Y_N[:SAMPLES], CLASSES, seed=4, private=how).weights


DIFFUSION = DiffusionOptions(tiers=("XS",), steps=3, batch_size=8)
CVAE = CvaeOptions(channels=4, steps=3, batch_size=8)
TRAININGS = {
    "plain, with dropout": lambda: fit("cnn"),
    "proximal": lambda: fit("lenet", proximal_mu=0.1),
    "adam in bf16": lambda: fit("lenet", TrainOptions(optimizer="adam", precision="bf16", batch_size=16)),
    "transformer": lambda: fit("vit"),
    "private": lambda: fit("lenet", private=private()),
    "diffusion": lambda: generate(DIFFUSION),
    "private diffusion": lambda: generate(DIFFUSION, private()),
    "cvae": lambda: generate(CVAE),
    "private cvae": lambda: generate(CVAE, private()),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_observing_changes_nothing(name):
    """Not the weights, and not what anybody draws afterwards from the process's generators."""

    def trained(listen: bool) -> list[torch.Tensor]:
        torch.manual_seed(5)
        np.random.seed(5)
        if listen:
            with observed() as done:
                weights = TRAININGS[name]()
            assert len(done) == 1
        else:
            weights = TRAININGS[name]()
        return [*weights.values(), torch.rand(3), torch.from_numpy(np.random.rand(3))]

    alone, watched, again = trained(False), trained(True), trained(True)  # the last one finds its step recorded
    for one, other, third in zip(alone, watched, again, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


def work_of(train) -> Work:
    with observed() as done:
        train()
    (work,) = done
    return work


@pytest.mark.parametrize("name", TRAININGS)
def test_layers_do_most_of_a_forward_pass(name):
    """Three steps of all kinds of loops: what layers multiply is at most what is multiplied at all, two flops a product."""
    work = work_of(TRAININGS[name])
    forward = sum(op.count * op.flops for op in work.step.operators if op.phase == "forward")
    products = sum(layer.macs for layer in work.layers) / 3
    assert 0.6 * forward < 2 * products <= forward
    assert not work.layers[0].input_gradient


@pytest.mark.parametrize(("samples", "batch_size", "epochs"), [(50, 16, 2), (48, 16, 3), (1, 16, 4), (16, 16, 1), (17, 16, 1)])
def test_steps_are_those_of_all_epochs(samples, batch_size, epochs):
    """Counted by an optimizer hook while the loop runs."""
    taken = 0

    def count(*_: object) -> None:
        nonlocal taken
        taken += 1

    options = TrainOptions(epochs=epochs, batch_size=batch_size)
    work = work_of(lambda: fit("lenet", options, samples))
    hook = register_optimizer_step_post_hook(count)
    fit("lenet", options, samples)
    hook.remove()
    assert work.steps == taken == epochs * math.ceil(samples / batch_size)


@pytest.mark.parametrize("options", [DIFFUSION, CVAE], ids=["diffusion", "cvae"])
def test_steps_of_a_generator_are_those_of_its_options(options):
    assert work_of(lambda: generate(options)).steps == 3


@pytest.mark.parametrize(
    ("kind", "optimizer"), [("lenet", "sgd"), ("lenet", "momentum"), ("lenet", "adam"), ("cnn", "sgd"), ("vit", "momentum")]
)
def test_a_recorded_step_does_the_arithmetic_of_one_on_meta_tensors(kind, optimizer):
    """Two ways to the same figures: the loop that trains, on numbers, and the analysis of forward and backward without any."""
    changes = {"momentum": 0.9} if optimizer == "momentum" else {"optimizer": optimizer}
    work = work_of(lambda: fit(kind, TrainOptions(batch_size=16, **changes)))
    example = Example(classifier(kind), (X_NCHW[:16],), (Y_N[:16],), lambda model, x, y: F.cross_entropy(model(x), y))
    oracle = training_step(example, optimizer)
    assert work.step.flops == oracle.flops > 0
    assert work.step.uncounted == oracle.uncounted == ()
    for part in ("weights_bytes", "gradients_bytes", "optimizer_bytes"):
        assert getattr(work.step.footprint, part) == getattr(oracle.footprint, part)


def test_a_small_client_is_asked_for_small_steps():
    """Five samples make no batch of sixteen."""
    few, more = (work_of(lambda n=n: fit("lenet", samples=n)) for n in (5, 40))
    assert few.key != more.key
    assert few.step.flops < more.step.flops


def test_equal_steps_are_one_work():
    """Other samples, another seed: the same key, so that it is traced and asked for once."""
    keys = {work_of(lambda n=n: fit("lenet", samples=n)).key for n in (20, 33, 50)}
    assert len(keys) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.0},
        {"optimizer": "adam", "momentum": 0.0},
        {"weight_decay": 0.1},
        {"precision": "bf16"},
        {"batch_size": 8},
    ],
)
def test_other_steps_are_other_work(changes):
    assert work_of(lambda: fit("lenet")).key != work_of(lambda: fit("lenet", OPTIONS.model_copy(update=changes))).key


def test_private_steps_hold_a_gradient_for_every_sample():
    """DP-SGD by per-sample gradients: B x N x 4 bytes beside the N x 4 of their sum."""
    parameters = sum(p.numel() for p in classifier("lenet").parameters())
    plain = work_of(lambda: fit("lenet"))
    dp = work_of(lambda: fit("lenet", private=private()))
    assert plain.step.footprint.gradients_bytes == 4 * parameters
    assert dp.step.footprint.gradients_bytes == 4 * parameters * (1 + 16)
    assert dp.key != plain.key
    assert dp.step.flops > plain.step.flops


@pytest.mark.parametrize("options", [DIFFUSION, CVAE], ids=["diffusion", "cvae"])
def test_private_generators_do_too(options):
    plain, dp = work_of(lambda: generate(options)), work_of(lambda: generate(options, private()))
    assert dp.step.footprint.gradients_bytes == plain.step.footprint.gradients_bytes * (1 + 8)


def test_nobody_listening_hears_nothing():
    with observed() as before:
        pass
    fit("lenet")
    with observed() as after:
        pass
    assert before == after == []
