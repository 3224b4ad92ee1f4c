"""The diffusion model: its loss against closed forms, its samples against a judge of real digits, and what is uploaded.

Shapes: N = samples, C, H, W = channels, height, width, D = noise draws, T = timesteps.
"""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from fedcosim.clients.privacy import Private
from fedcosim.clients.tasks.diffusion import (
    DiffusionOptions,
    build,
    decay_at,
    full_batches,
    generate,
    initial,
    noise_schedule,
    rate_at,
    row_losses,
    stratified_timesteps,
    tier_of,
    train,
)
from fedcosim.core.errors import SpecError
from fedcosim.core.options import validate
from fedcosim.core.records import array_record, layout

SHAPE, CLASSES = (1, 8, 8), 10
QUICK = DiffusionOptions(tiers=("XS",), steps=5, batch_size=8, sampling_steps=4)
LEARNS = DiffusionOptions(tiers=("S",), steps=100, lr=4e-3, batch_size=32, sampling_steps=10)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def digits(*classes):
    """Real digits of some classes, pixels in -1..1."""
    x_NF, y_N = load_digits(return_X_y=True)
    x_NCHW, y_N = torch.tensor(x_NF, dtype=torch.float32).view(-1, *SHAPE) / 8 - 1, torch.tensor(y_N)
    rows = torch.isin(y_N, torch.tensor(classes))
    return x_NCHW[rows], y_N[rows]


def options_of(**changes):
    return DiffusionOptions(**{**QUICK.model_dump(), **changes})


def same(one, other):
    return all(torch.equal(one.weights[key], other.weights[key]) for key in one.weights)


def sample(options, fitted, labels_N, seed=0):
    return options.sampler(0, fitted.weights, SHAPE, CLASSES)(labels_N, stream(seed))


@pytest.fixture(scope="module")
def judge():
    """A linear classifier of real digits of all ten classes."""
    x_NF, y_N = load_digits(return_X_y=True)
    return LogisticRegression(max_iter=300).fit(x_NF / 8 - 1, y_N)


def agreement(judge, options, fitted, *classes):
    """Share of 100 samples of each class in which the judge sees that class."""
    labels_N = torch.tensor(classes).repeat_interleave(100)
    x_NCHW = sample(options, fitted, labels_N)
    assert x_NCHW.amin() >= -1
    assert x_NCHW.amax() <= 1
    return judge.score(x_NCHW.flatten(1), labels_N)


@pytest.fixture(scope="module")
def fitted():
    """The U-Net of a client that has threes and sevens only."""
    return LEARNS.fit(0, *digits(3, 7), CLASSES, seed=1)


@pytest.fixture(scope="module")
def barely():
    """A U-Net that has hardly been trained."""
    return QUICK.fit(0, *digits(3, 7), CLASSES, seed=1)


@pytest.mark.parametrize(
    "changes",
    [{}, {"sampling_steps": 20}, {"solver": "dpm-solver"}, {"guidance": 1.0}, {"solver": "dpm-solver", "guidance": 1.0}],
)
def test_a_judge_of_real_digits_sees_the_requested_labels(changes, judge, fitted):
    """Chance is 10 %; a model that ignored labels would be at 50 %. Both solvers and guidance sample the same model."""
    assert agreement(judge, LEARNS.model_copy(update=changes), fitted, 3, 7) > 0.9


def test_samples_of_one_class_differ_among_themselves_as_real_ones_do(fitted):
    """A model that gave everybody the mean seven would please the judge, too."""
    x_NF, real_NF = sample(LEARNS, fitted, torch.full((200,), 7)).flatten(1), digits(7)[0].flatten(1)
    assert 0.5 < x_NF.var(0).sum() / real_NF.var(0).sum() < 1.5


@pytest.mark.parametrize(
    ("changes", "least"), [({"unshuffle": 2, "steps": 120}, 0.85), ({"prediction": "eps", "steps": 200}, 0.6)]
)
def test_it_learns_unshuffled_and_from_noise_too(changes, least, judge):
    """Predicting noise learns more slowly; that is why it is not the default."""
    options = LEARNS.model_copy(update={"tiers": ("XS",), "lr": 8e-3, **changes})
    assert agreement(judge, options, options.fit(0, *digits(3, 7), CLASSES, seed=1), 3, 7) > least


def silent(options):
    """A U-Net that predicts zero, so that its loss is the mean square of its target."""
    unet = initial(options, "XS", SHAPE, CLASSES, seed=1)
    for parameter in unet.conv_out.parameters():
        nn.init.zeros_(parameter)
    return unet


def test_channels_of_the_unet_are_put_back_in_their_pixels():
    """One step of a silent model gives the noise it started from, times the root of abar: channel 2 a + b is pixel (a, b)."""
    options = options_of(unshuffle=2, sampling_steps=1)
    x_NCHW = generate(silent(options), torch.zeros(3, dtype=torch.int64), options, stream())
    noise_NCHW = torch.randn(3, 4, 4, 4, generator=stream())
    root = noise_schedule(options).alphas_cumprod[-1].sqrt()
    for a in range(2):
        for b in range(2):
            torch.testing.assert_close(x_NCHW[:, 0, a::2, b::2], noise_NCHW[:, 2 * a + b] * root)


@pytest.mark.parametrize(("prediction", "expected"), [("eps", 1.0), ("v", (1 + 0.3**2) / 2)])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_target_has_the_size_that_the_papers_give_it(prediction, expected, draws):
    """Of a grey image c, eps^2 is 1 and v^2 = abar + (1 - abar) c^2; the cosine schedule's abar is 1/2 in the mean."""
    options = options_of(prediction=prediction, draws=draws)
    x_NCHW = torch.full((600, *SHAPE), 0.3)
    losses_R = row_losses(
        silent(options), x_NCHW, torch.zeros(600, dtype=torch.int64), options, noise_schedule(options), stream()
    )
    assert losses_R.shape == (600 * draws,)
    assert losses_R.mean().item() == pytest.approx(expected, abs=0.04)


def test_a_sample_has_one_timestep_in_every_stretch():
    """Four draws: one in each quarter of the schedule, evenly spread over it."""
    t_ND = stratified_timesteps(2000, options_of(draws=4, timesteps=400), stream()).view(2000, 4)
    assert torch.equal(t_ND // 100, torch.arange(4).expand(2000, 4))
    assert kstest((t_ND % 100 + 0.5).flatten() / 100, "uniform").pvalue > 0.01
    t_N = stratified_timesteps(2000, options_of(timesteps=3, sampling_steps=1), stream())
    assert set(t_N.tolist()) == {0, 1, 2}


def test_labels_are_hidden_as_often_as_asked():
    """With every label's embedding alike but the hidden one's, which is enormous, the loss tells which rows were hidden."""
    options = options_of(label_dropout=0.25)
    unet = initial(options, "XS", SHAPE, CLASSES, seed=1)
    with torch.no_grad():
        unet.class_embedding.weight.zero_()
        unet.class_embedding.weight[CLASSES] = 1e3
        x_NCHW, y_N = torch.zeros(800, *SHAPE), torch.arange(800) % CLASSES
        never, some = (
            row_losses(unet, x_NCHW, y_N, options.model_copy(update={"label_dropout": p}), noise_schedule(options), stream())
            for p in (0.0, 0.25)
        )
    assert ((never - some).abs() > 1e-3).float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_guidance_needs_a_difference_that_the_label_makes(barely):
    """Where the embedding of the label is that of the hidden one, (1 + w) a - w a = a."""
    guided = options_of(guidance=2.0)
    labels_N = torch.tensor([3, 7, 3, 7])
    assert not torch.allclose(sample(QUICK, barely, labels_N), sample(guided, barely, labels_N))
    unet = QUICK.unet(0, barely.weights, SHAPE, CLASSES)
    nn.init.constant_(unet.class_embedding.weight, 0.1)
    torch.testing.assert_close(generate(unet, labels_N, guided, stream()), generate(unet, labels_N, QUICK, stream()))


def test_fit_and_samples_repeat_to_the_bit_and_differ_by_client(barely):
    """Neither depends on the process-wide generator, nor changes it."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again, other = (QUICK.fit(client, *digits(3, 7), CLASSES, seed=1) for client in (0, 1))
    labels_N = torch.tensor([3, 7, 3])
    first = sample(QUICK, barely, labels_N)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(again, barely)
    assert again.loss == barely.loss
    assert not same(other, barely)
    assert torch.equal(sample(QUICK, again, labels_N), first)
    assert not torch.equal(sample(QUICK, barely, labels_N, seed=1), first)


def test_clients_of_one_tier_start_from_the_same_weights():
    """Averages of trained U-Nets would otherwise be averages of strangers."""
    first, same_again, other = (initial(QUICK, "XS", SHAPE, CLASSES, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], same_again[key]) for key in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])


@pytest.mark.parametrize(
    ("tier", "shape_CHW", "unshuffle", "parameters"),
    [
        ("XS", SHAPE, 1, 40_841),
        ("S", SHAPE, 1, 160_401),
        ("M", SHAPE, 1, 635_681),
        ("L", SHAPE, 1, 1_114_209),
        ("S", (3, 12, 8), 2, None),
        ("XS", (1, 28, 28), 2, None),
    ],
)
def test_the_layout_is_what_fit_gives(tier, shape_CHW, unshuffle, parameters):
    """Whatever the tier and the image; the numbers are those that the module's head tells."""
    options = options_of(tiers=(tier,), unshuffle=unshuffle, steps=1, batch_size=2, sampling_steps=1)
    x_NCHW, y_N = torch.rand(3, *shape_CHW, generator=stream()) * 2 - 1, torch.arange(3)
    fitted = options.fit(0, x_NCHW, y_N, CLASSES, seed=1)
    assert layout(array_record(fitted.weights)) == options.layout(0, shape_CHW, CLASSES)
    assert options.sampler(0, fitted.weights, shape_CHW, CLASSES)(y_N, stream()).shape == (3, *shape_CHW)
    if parameters is not None:
        assert sum(t.numel() for t in fitted.weights.values()) == parameters


def test_half_precision_hardly_changes_a_sample(fitted):
    half = {key: tensor.half() for key, tensor in fitted.weights.items()}
    labels_N = torch.tensor([3, 7]).repeat_interleave(20)
    x_NCHW = LEARNS.sampler(0, half, SHAPE, CLASSES)(labels_N, stream())
    assert (x_NCHW - sample(LEARNS, fitted, labels_N)).abs().mean() < 0.02


def test_tiers_go_round():
    options = options_of(tiers=("S", "XS", "S"))
    assert [tier_of(options, client) for client in range(5)] == ["S", "XS", "S", "S", "XS"]
    assert options.layout(0, SHAPE, CLASSES) == options.layout(3, SHAPE, CLASSES) != options.layout(1, SHAPE, CLASSES)


def test_what_is_uploaded_is_the_running_mean():
    """At decay 0 the last weights; the first step's decay is 1/10 whatever the cap, by the warm-up."""
    start = initial(QUICK, "XS", SHAPE, CLASSES, seed=1).state_dict()

    def uploaded_and_last(**changes):
        options = options_of(**changes)
        unet = initial(options, "XS", SHAPE, CLASSES, seed=1)
        return train(unet, *digits(3), options, stream(1), stream(2)).weights, unet.state_dict()

    mean, last = uploaded_and_last(ema=0.0, steps=3)
    assert all(torch.equal(mean[key], last[key]) for key in last)
    mean, last = uploaded_and_last(ema=0.99, steps=1)
    torch.testing.assert_close(mean, {key: 0.1 * start[key] + 0.9 * last[key] for key in last})


def test_decay_and_learning_rate_follow_their_curves():
    """Ten steps up, flat, and from 60 % down to almost zero; short trainings forget faster."""
    long, short = options_of(steps=2000), options_of(steps=200)
    assert [decay_at(step, long) for step in (0, 90, 1999)] == [1 / 10, 91 / 100, min(0.999, 2000 / 2009)]
    assert max(decay_at(step, short) for step in range(200)) <= 0.99
    rates = [rate_at(step, short) for step in range(200)]
    assert rates[:2] == [0.1, 0.2]
    assert set(rates[9:121]) == {1.0}
    assert rates[160] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.02
    assert rate_at(0, options_of(lr_warmup=0, steps=200)) == 1.0


@pytest.mark.parametrize("samples", [3, 8, 50])
def test_batches_are_full_and_use_samples_evenly(samples):
    """A client with fewer samples than a batch sees some of them several times a step, at other noise."""
    batches = list(full_batches(samples, options_of(steps=7, batch_size=8), stream()))
    assert [len(batch) for batch in batches] == 7 * [8]
    counts = torch.bincount(torch.cat(batches), minlength=samples)
    assert counts.max() - counts.min() <= 1


def test_training_lowers_the_loss(barely, fitted):
    assert fitted.loss < 0.7 * barely.loss


@pytest.mark.parametrize("solver", ["ddim", "dpm-solver"])
@pytest.mark.parametrize(("timesteps", "sampling_steps"), [(2, 1), (20, 10), (1000, 3)])
@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_samples_are_finite_and_in_range_at_the_edges_of_the_schedule(solver, timesteps, sampling_steps, prediction, barely):
    options = options_of(solver=solver, timesteps=timesteps, sampling_steps=sampling_steps, prediction=prediction)
    x_NCHW = sample(options, barely, torch.tensor([3, 7]))
    assert x_NCHW.isfinite().all()
    assert x_NCHW.abs().max() <= 1


@pytest.mark.parametrize(("batch_size", "draws"), [(1, 1), (16, 2)])
def test_a_private_fit_tells_no_loss_and_takes_steps_without_samples(batch_size, draws):
    """At one expected sample a step, every third step has none; it adds its noise all the same."""
    x_NCHW, y_N = digits(3, 7)
    options = options_of(batch_size=batch_size, draws=draws, steps=8)

    def fit(noise_seed):
        return options.fit(0, x_NCHW, y_N, CLASSES, 1, Private(1.0, 1.0, stream(noise_seed)))

    first, again, other = fit(1), fit(1), fit(2)
    assert first.loss is None
    assert first.steps == 8
    assert layout(array_record(first.weights)) == options.layout(0, SHAPE, CLASSES)
    assert all(t.isfinite().all() for t in first.weights.values())
    assert same(first, again)
    assert not same(first, other)


def test_little_noise_still_learns_the_labels(judge):
    options = options_of(steps=50, batch_size=48, lr=8e-3, label_dropout=0.0, sampling_steps=10)
    fitted = options.fit(0, *digits(3, 7), CLASSES, 1, Private(0.3, 1.0, stream()))
    assert agreement(judge, options, fitted, 3, 7) > 0.5


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"tiers": ()}, "strategy.generator.tiers = "),
        ({"tiers": ("XXL",)}, "strategy.generator.tiers.0 = 'XXL': input should be 'XS', 'S', 'M' or 'L'"),
        ({"label_dropout": 1.0}, "strategy.generator.label_dropout = 1.0: input should be less than 1"),
        (
            {"guidance": 1.5, "label_dropout": 0.0},
            "strategy.generator.guidance = 1.5: a model that never trains without labels",
        ),
        ({"sampling_steps": 30, "timesteps": 20}, "strategy.generator.sampling_steps = 30: too many for ddim with"),
        (
            {"sampling_steps": 11, "timesteps": 20, "solver": "dpm-solver"},
            "strategy.generator.sampling_steps = 11: too many for",
        ),
        ({"sampler": "ddim"}, "strategy.generator.sampler: unknown field; did you mean"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(fields, sentence):
    with pytest.raises(SpecError) as refused:
        validate(DiffusionOptions, fields, "strategy.generator")
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("shape_CHW", "fields", "sentence"),
    [
        (
            SHAPE,
            {"unshuffle": 3},
            r"unshuffle = 3: does not divide both sides of images of 8x8 pixels; choose one of 1, 2, 4, 8$",
        ),
        ((1, 8, 12), {"unshuffle": 8}, r"unshuffle = 8: .* 8x12 pixels; choose one of 1, 2, 4$"),
        (
            (1, 28, 28),
            {"unshuffle": 2, "tiers": ("L",)},
            r"\['L'\]: L halves images 2 times, which 14x14 .* choose from XS, S, M, or",
        ),
        ((1, 28, 28), {"unshuffle": 4}, r"\['XS'\]: XS halves images 1 times, which 7x7 .* allow; choose another unshuffle$"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_a_sentence(shape_CHW, fields, sentence):
    options = options_of(**fields)
    with pytest.raises(SpecError, match=sentence):
        options.layout(0, shape_CHW, CLASSES)
    with pytest.raises(SpecError, match=sentence):
        build(options, options.tiers[0], shape_CHW, CLASSES)
