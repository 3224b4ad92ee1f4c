"""The ledger against numerical integration and published figures, DP-SGD against gradients by torch.func."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from flwr.app import ConfigRecord, RecordDict
from opacus.accountants import RDPAccountant
from scipy.stats import norm
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from fedcosim.clients.models import MODELS, initialise
from fedcosim.clients.privacy import (
    DpSgd,
    Ledger,
    PrivacyOptions,
    Release,
    check_records,
    noisy_counts,
    plan,
    poisson_batches,
)
from fedcosim.core.errors import SpecError, StateError
from fedcosim.core.options import validate
from fedcosim.core.records import from_bytes, to_bytes


def stream(seed):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------- accounting


def integrated_rdp(sigma, rate, order):
    """D_order(P || Q) of P = (1 - rate) N(0, s^2) + rate N(1, s^2) and Q = N(0, s^2), by the trapezoid rule."""
    x = np.linspace(-15 * sigma, order + 1 + 15 * sigma, 20_001)
    ratio = np.log1p(rate * np.expm1(np.minimum((2 * x - 1) / (2 * sigma**2), 700)))
    exponent = norm.logpdf(x, scale=sigma) + order * ratio
    top = exponent.max()
    return (top + math.log(np.trapezoid(np.exp(exponent - top), x))) / (order - 1)


def integrated_epsilon(releases, delta):
    """Compose over many orders; theorem 21 of arXiv:1905.09982, spelled out."""
    orders = [*np.linspace(1.1, 4, 100), *np.linspace(4.1, 16, 60), *range(17, 120, 2)]
    epsilons = []
    for order in orders:
        rdp = sum(r.steps * integrated_rdp(r.sigma, r.sample_rate, order) for r in releases)
        epsilons.append(rdp + math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1))
    return min(epsilons)


LEDGERS = [
    pytest.param([Release("training", 0.58, 128 / 4000, 80), Release("histogram", 2.4)], id="short"),
    pytest.param([Release("training", 0.535, 0.0427, 1171)], id="epsilon 50"),
    pytest.param([Release("training", 6.016, 0.0427, 1171)], id="epsilon 1"),
    pytest.param(
        [Release("training", 1.4, 0.25, 80), Release("histogram", 3.0, steps=4), Release("template", 3.0)], id="all kinds"
    ),
]


@pytest.mark.parametrize("releases", LEDGERS)
def test_epsilon_is_that_of_an_independent_recomputation(releases):
    assert Ledger(1e-5, releases).epsilon() == pytest.approx(integrated_epsilon(releases, 1e-5), rel=0.01)


@pytest.mark.parametrize("releases", LEDGERS)
def test_epsilon_is_that_of_opacus_accountant(releases):
    """Our list of orders is another than Opacus'."""
    accountant = RDPAccountant()
    accountant.history = [(r.sigma, r.sample_rate, r.steps) for r in releases]
    assert Ledger(1e-5, releases).epsilon() == pytest.approx(accountant.get_epsilon(1e-5), rel=0.005)


def test_a_thousand_steps_cost_what_google_dp_accounting_says():
    """Its RDP accountant gives 9.297 for these steps, its PLD accountant, nearly exact, 8.492."""
    ledger = Ledger(1e-5, [Release("training", 1.0, 0.04, 1000)])
    assert ledger.epsilon() == pytest.approx(9.297, rel=0.005)
    assert ledger.epsilon_prv() == pytest.approx(8.492, rel=0.005)


@pytest.mark.parametrize("releases", LEDGERS)
def test_prv_is_somewhat_below_rdp(releases):
    ledger = Ledger(1e-5, releases)
    assert 0.8 * ledger.epsilon() < ledger.epsilon_prv() < ledger.epsilon()


def test_one_gaussian_spends_what_its_exact_tradeoff_says():
    """delta(epsilon) of a Gaussian has a closed form (Balle & Wang, arXiv:1805.06530, theorem 8); it involves no sampling."""
    sigma, ledger = 2.0, Ledger(1e-5, [Release("histogram", 2.0)])

    def delta(epsilon):
        above, below = 1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma
        return norm.cdf(above) - math.exp(epsilon) * norm.cdf(below)

    assert delta(ledger.epsilon()) < 1e-5 < delta(0.85 * ledger.epsilon())
    assert delta(ledger.epsilon_prv()) < 1e-5 < delta(0.985 * ledger.epsilon_prv())


def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise():
    def epsilon(sigma=0.8, rate=0.1, steps=50):
        return Ledger(1e-5, [Release("training", sigma, rate, steps)]).epsilon()

    assert epsilon(steps=1) < epsilon(steps=2) < epsilon(steps=50) < epsilon(steps=51)
    assert epsilon(sigma=2.0) < epsilon(sigma=1.0) < epsilon(sigma=0.8)
    assert epsilon(rate=0.01) < epsilon(rate=0.1) < epsilon(rate=0.5) < epsilon(rate=1.0)


def test_nothing_released_spends_nothing():
    assert Ledger(1e-5).epsilon() == Ledger(1e-5).epsilon_prv() == 0


def test_equal_releases_merge_their_steps():
    ledger = Ledger(1e-5)
    for release in (Release("training", 1.0, 0.1, 7), Release("histogram", 1.0), Release("training", 1.0, 0.1, 3)):
        ledger.add(release)
    assert ledger.releases == (Release("training", 1.0, 0.1, 10), Release("histogram", 1.0))


@pytest.mark.parametrize("releases", [[], [Release("training", 0.1 + 0.2, 1 / 3, 7), Release("template", 2.5)]])
def test_a_ledger_survives_being_stored(releases):
    """It lives in the client's state between rounds: as a record, as bytes."""
    stored = from_bytes(to_bytes(RecordDict({"privacy": Ledger(1e-5, releases).to_record()})))
    assert Ledger.from_record(stored.config_records["privacy"], 1e-5).releases == tuple(releases)


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({"kind": ["training"]}),
        ConfigRecord({"kind": ["training"], "sigma": [1.0], "sample_rate": [0.1], "steps": [1, 2]}),
        ConfigRecord({"kind": ["weights"], "sigma": [1.0], "sample_rate": [0.1], "steps": [1]}),
    ],
)
def test_a_record_of_something_else_is_refused(record):
    with pytest.raises(StateError, match="not a privacy ledger"):
        Ledger.from_record(record, 1e-5)


# ------------------------------------------------------------------------------------------------------------ planning


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("trainings", [((0.032, 80),), ((0.25, 200), (0.1, 30)), ((1.0, 1),), ((0.0003, 5000),)])
@pytest.mark.parametrize("epsilon", [0.05, 1.0, 10.0, 50.0])
def test_a_plan_spends_all_that_is_promised_and_no_more(epsilon, trainings, template):
    noise = plan(PrivacyOptions(epsilon=epsilon), trainings, template)
    releases = [Release("training", noise.training, *training) for training in trainings]
    releases.append(Release("histogram", noise.histogram))
    releases += [Release("template", noise.template)] if template else []
    assert 0.99 * epsilon <= Ledger(1e-5, releases).epsilon() <= epsilon
    assert (noise.template is None) is not template


@pytest.mark.parametrize("epsilon", [1.0, 10.0])
def test_a_plan_keeps_the_promise_by_an_independent_recomputation(epsilon):
    noise = plan(PrivacyOptions(epsilon=epsilon, delta=1e-4), ((0.1, 100),), True)
    releases = [
        Release("training", noise.training, 0.1, 100),
        Release("histogram", noise.histogram),
        Release("template", noise.template),
    ]
    assert 0.985 * epsilon <= integrated_epsilon(releases, 1e-4) <= epsilon


def test_shares_are_shares_of_the_budget_of_one_gaussian():
    """Spent on counts alone, nearly all of the budget is epsilon; a quarter of it doubles the noise."""
    most = plan(PrivacyOptions(epsilon=3, histogram_share=0.96, template_share=0.01), ((0.1, 10),), False)
    quarter = plan(PrivacyOptions(epsilon=3, histogram_share=0.24, template_share=0.01), ((0.1, 10),), False)
    assert Ledger(1e-5, [Release("histogram", most.histogram)]).epsilon() == pytest.approx(3, rel=0.03)
    assert quarter.histogram == pytest.approx(2 * most.histogram)
    assert quarter.training < most.training


def test_more_training_under_the_same_promise_takes_more_noise():
    options = PrivacyOptions(epsilon=5)
    sigmas = [plan(options, ((0.1, steps),), False).training for steps in (10, 100, 1000)]
    assert sigmas == sorted(sigmas)
    assert plan(options, ((0.1, 100),), True).training > sigmas[1]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "privacy.epsilon: missing; it must be given"),
        ({"epsilon": 0}, "privacy.epsilon = 0: input should be greater than 0"),
        ({"epsilon": float("inf")}, "privacy.epsilon = inf: input should be a finite number"),
        (
            {"epsilon": 1e-3},
            "privacy.epsilon = 0.001: cannot be shown at privacy.delta = 1e-05, however much noise; choose more",
        ),
        ({"epsilon": 1, "delta": 1}, "privacy.delta = 1: input should be less than 1"),
        ({"epsilon": 1, "max_grad_norm": 0}, "privacy.max_grad_norm = 0: input should be greater than 0"),
        ({"epsilon": 1, "participations": 0}, "privacy.participations = 0: input should be greater than or equal to 1"),
        (
            {"epsilon": 1, "histogram_share": 0.6, "template_share": 0.4},
            "privacy.histogram_share = 0.6: with privacy.template_share = 0.4 nothing is left for training",
        ),
    ],
)
def test_a_promise_that_means_nothing_is_refused_by_name(fields, sentence):
    with pytest.raises(SpecError) as error:
        validate(PrivacyOptions, fields, "privacy")
    assert str(error.value).startswith(sentence)


def test_a_client_with_too_few_records_is_refused():
    options = PrivacyOptions(epsilon=1, delta=1e-2)
    check_records(options, 99, 49, client=3)
    with pytest.raises(SpecError, match=r"privacy.delta = 0.01: client 3 has 100 records; choose less than 0.01"):
        check_records(options, 100, 50, client=3)
    with pytest.raises(SpecError, match=r"batch_size = 32 .*: more than half of the 40 records of client 3, .* at most 20"):
        check_records(options, 40, 32, client=3)


# ------------------------------------------------------------------------------------------------- counts and sampling


def test_counts_get_the_noise_that_is_accounted_for():
    counts = noisy_counts(torch.full((20_000,), 1000), 3.0, stream(1))
    assert counts.mean().item() == pytest.approx(1000, abs=0.1)
    assert counts.std().item() == pytest.approx(3.0, rel=0.02)
    assert noisy_counts(torch.zeros(1000), 3.0, stream(1)).min() == 0


def test_every_record_is_sampled_by_itself():
    """Batch sizes of independent draws are binomial: a shuffled, fixed-size batch would have no variance."""
    batches = list(poisson_batches(200, 0.03, 3000, stream(2)))
    sizes = np.array([len(batch) for batch in batches])
    assert sizes.mean() == pytest.approx(6, rel=0.03)
    assert sizes.var() == pytest.approx(200 * 0.03 * 0.97, rel=0.1)
    assert sizes.min() == 0
    inclusions = torch.bincount(torch.cat(batches), minlength=200)
    assert len(inclusions) == 200
    assert inclusions.min() > 40  # 90 expected, a standard deviation of 9


def test_samples_depend_on_the_generator_alone():
    first, same, other = (torch.cat(list(poisson_batches(50, 0.2, 20, stream(seed)))) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# -------------------------------------------------------------------------------------------------------------- DP-SGD


def classifier(name, **fields):
    model = initialise(MODELS.parse({"name": name, **fields}), (1, 8, 8), 4, seed=3)
    return model.train()


def unet(attention):
    torch.manual_seed(0)
    kinds = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=kinds[0] if attention else ("DownBlock2D",) * 2,
        up_block_types=kinds[1] if attention else ("UpBlock2D",) * 2,
        add_attention=attention,
        norm_num_groups=4,
        num_class_embeds=5,
    ).train()


MODELS_TO_CHECK = {
    "lenet": lambda: classifier("lenet"),
    "lenet in channels_last": lambda: classifier("lenet").to(memory_format=torch.channels_last),
    "cnn": lambda: classifier("cnn", dropout_features=0, dropout_hidden=0),
    "vit": lambda: classifier("vit", dim=16, depth=2, heads=2, patch=4),
    "vit with adapters": lambda: classifier("vit", dim=16, depth=2, heads=2, patch=4, plugin={"mode": "add", "rank": 2}),
    "vit with rows": lambda: classifier("vit", dim=16, depth=2, heads=2, patch=4, plugin={"mode": "vector", "tokens": 2}),
    "unet": lambda: unet(attention=False),
    "unet with attention": lambda: unet(attention=True),
}


def batch(rows, generator=None):
    """Images, labels, and, for U-Nets, times and targets."""
    generator = generator or stream(5)
    x, target = torch.rand(2, rows, 1, 8, 8, generator=generator)
    return x, torch.randint(4, (rows,), generator=generator), torch.randint(1000, (rows,), generator=generator), target


def row_losses(model, data, parameters=None):
    """One loss a row, of a classifier or a U-Net; with the given parameters where some are given."""
    x, y, times, target = data

    def call(*inputs):
        return model(*inputs) if parameters is None else functional_call(model, parameters, inputs)

    if isinstance(model, UNet2DModel):
        return (call(x, times, y).sample - target).square().mean((1, 2, 3))
    return F.cross_entropy(call(x), y, reduction="none")


def record_gradients(model, data, draws):
    """The gradient of every record's mean loss, by torch.func: no hooks, no Opacus."""
    parameters = {key: parameter.detach() for key, parameter in model.named_parameters()}

    def loss(parameters, *record):
        return row_losses(model, record, parameters).mean()

    records = [t.unflatten(0, (-1, draws)) for t in data]
    return vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(parameters, *records)


def norms(gradients):
    return sum(gradient.flatten(1).square().sum(1) for gradient in gradients.values()).sqrt()


def moved(model, data, records, sigma=0.0, clip=1.0, expected=4, draws=1, seed=7):
    """What one step of DP-SGD at learning rate 1 subtracts from the parameters; the model itself stays as it is."""
    model = deepcopy(model)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with DpSgd(model, sgd, sigma, clip, expected, stream(seed), draws) as dp:
        dp.step(lambda m: row_losses(m, data), records)
    return {key: before[key] - parameter.detach() for key, parameter in model.named_parameters()}


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("name", MODELS_TO_CHECK)
def test_a_step_without_noise_is_the_mean_of_clipped_gradients(name, draws):
    """Half of the records are clipped. Opacus is silently wrong about convolutions behind attention if left alone."""
    model, data, records = MODELS_TO_CHECK[name](), batch(6 * draws), 6
    gradients = record_gradients(model, data, draws)
    clip = norms(gradients).median().item()
    factors = (clip / norms(gradients)).clamp(max=1)
    got = moved(model, data, records, clip=clip, expected=4, draws=draws)
    for key, gradient in gradients.items():
        expected = torch.einsum("b,b...->...", factors, gradient) / 4
        torch.testing.assert_close(got[key], expected, rtol=1e-3, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_dropout_layers_may_be_at_rest_while_the_model_trains():
    model = classifier("cnn")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    gradients = record_gradients(model, batch(5), 1)
    got = moved(model, batch(5), 5, clip=1e6, expected=5)
    torch.testing.assert_close(flat(got), flat({key: g.mean(0) for key, g in gradients.items()}), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_one_record_moves_the_sum_by_the_clip_norm_at_most(draws, precision):
    """That is the sensitivity the noise is made for, however many draws a record has and however coarse gradients are."""
    model, clip = classifier("lenet"), 0.7

    def sum_of(scale_of_last):
        weights = torch.ones(4 * draws)
        weights[-draws:] = scale_of_last
        copy = deepcopy(model)
        before = flat(dict(copy.named_parameters())).detach().clone()
        with DpSgd(copy, torch.optim.SGD(copy.parameters(), lr=1.0), 0.0, clip, 1, stream(1), draws) as dp:

            def losses(m):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                    return row_losses(m, batch(4 * draws)) * weights

            dp.step(losses, 4)
        return before - flat(dict(copy.named_parameters())).detach()

    assert (sum_of(1e4) - sum_of(0.0)).norm().item() == pytest.approx(clip, rel=1e-4)


@pytest.mark.parametrize("records", [0, 4])
def test_noise_has_the_standard_deviation_that_is_accounted_for(records):
    """Gradients are zero here, or there are no records: what moves the model is noise of sigma * clip / expected batch."""
    model, data = classifier("lenet"), batch(4)
    before = flat(dict(model.named_parameters())).detach().clone()
    with DpSgd(model, torch.optim.SGD(model.parameters(), lr=1.0), 1.5, 0.4, 8, stream(1)) as dp:
        dp.step(lambda m: row_losses(m, data) * 0, records)
    noise = before - flat(dict(model.named_parameters())).detach()
    assert len(noise) > 20_000
    assert noise.std().item() == pytest.approx(1.5 * 0.4 / 8, rel=0.02)
    assert abs(noise.mean().item()) < 0.03 * noise.std().item()


def test_draws_do_not_change_the_noise():
    noise = [moved(classifier("vit", dim=8, heads=2, patch=4), batch(0), 0, sigma=1.0, draws=draws) for draws in (1, 3)]
    assert torch.equal(*map(flat, noise))


def test_the_sum_is_divided_by_the_expected_batch():
    """The number of sampled records is private: dividing by it would tell."""
    model, data = classifier("lenet"), batch(6)
    few, many = (moved(model, data, 6, expected=expected) for expected in (3, 12))
    torch.testing.assert_close(flat(few), 4 * flat(many), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["lenet", "vit", "unet with attention"])
def test_equal_generators_give_equal_bytes(name):
    model, data = MODELS_TO_CHECK[name](), batch(4)
    first, same, other = (flat(moved(model, data, 4, sigma=1.0, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.isclose(first, other).any()


def test_steps_go_on_through_empty_batches():
    model, data = classifier("lenet"), batch(4)
    before = flat(dict(model.named_parameters())).detach().clone()
    with DpSgd(model, torch.optim.Adam(model.parameters(), lr=1e-3), 0.5, 1.0, 4, stream(1)) as dp:
        for records in (4, 0, 4, 0, 0, 4):
            dp.step(lambda m: row_losses(m, data), records)
            after = flat(dict(model.named_parameters())).detach().clone()
            assert not torch.equal(after, before)
            before = after
    assert before.isfinite().all()


@pytest.mark.parametrize("name", ["lenet", "vit", "unet with attention"])
def test_a_closed_model_is_as_before_but_for_its_weights(name):
    """Opacus' hooks and per-record gradients must not go on costing time and memory, or end up in an upload."""

    def belongings(model):
        return [set(vars(part)) for part in (*model.modules(), *model.parameters())], [
            len(hooks) for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)
        ]

    model, data = MODELS_TO_CHECK[name](), batch(4)
    before, keys = belongings(model), list(model.state_dict())
    with DpSgd(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.5, 1.0, 4, stream(1)) as dp:
        dp.step(lambda m: row_losses(m, data), 4)
    assert belongings(model) == before
    assert list(model.state_dict()) == keys
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_frozen_or_unused_parameter_is_no_obstacle():
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "frozen": nn.Linear(2, 2), "unused": nn.Linear(5, 5)})
    model["frozen"].requires_grad_(False)
    before = deepcopy(model.state_dict())
    with DpSgd(model, torch.optim.SGD(model.parameters(), lr=1.0), 1.0, 1.0, 4, stream(1)) as dp:
        dp.step(lambda m: m["frozen"](m["used"](torch.ones(4, 3))).square().sum(1), 4)
    same = {key: torch.equal(value, before[key]) for key, value in model.state_dict().items()}
    assert same == {key: key.startswith("frozen") for key in same}


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "BatchNorm cannot support training with differential privacy"),
        (nn.Linear(3, 4).eval(), "Model needs to be in training mode"),
    ],
)
def test_a_model_whose_records_cannot_be_told_apart_is_refused(model, complaint):
    with pytest.raises(SpecError, match=f"privacy: DP-SGD cannot train this model: {complaint}"):
        DpSgd(model, torch.optim.SGD(model.parameters(), lr=0.1), 1.0, 1.0, 4, stream(1))
