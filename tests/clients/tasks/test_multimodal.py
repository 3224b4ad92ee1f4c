"""Local objectives of a multimodal federation: contrast, labels, draws, proximal term, gates."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from fedcosim.clients.data.multimodal import Samples
from fedcosim.clients.data.silos import Classes, Pixels, SiloType, Tokens
from fedcosim.clients.models.gates import attach, gated_layers, merge
from fedcosim.clients.models.towers import TowersOptions
from fedcosim.clients.tasks.multimodal import Extras, MultimodalTrainOptions, drawn, fit, info_nce, judge, shifted
from fedcosim.clients.work import observed

OPTIONS = TowersOptions(dim=16, depth=1, heads=2, patch=4)
IMAGE, TEXT = Pixels((1, 8, 8)), Tokens(vocabulary=30, length=4)
IMAGES = SiloType("image", {"image": IMAGE}, Classes(4))
PAIRS = SiloType("image+text", {"image": IMAGE, "text": TEXT})
TRAIN = MultimodalTrainOptions(optimizer="adam", lr=0.01, epochs=8, pair_epochs=20, pair_batch_size=12, shift=1)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(count: int = 24) -> Samples:
    """Image i has bright pixels where its text has words: a match can be learned."""
    ids = torch.arange(count)
    images = torch.zeros(count, 1, 8, 8)
    for i in ids.tolist():
        images[i, 0, i % 8, :] = 2.0
        images[i, 0, :, i // 8] -= 2.0
    texts = torch.stack([2 + ids % 8, 12 + ids // 8, torch.zeros_like(ids), torch.zeros_like(ids)], dim=1)
    return Samples({"image": images, "text": torch.stack([texts, texts.roll(1, dims=1)], dim=1)}, ids)


def labelled(count: int = 40) -> Samples:
    labels = torch.arange(count) % 4
    images = torch.randn(count, 1, 8, 8, generator=stream()) * 0.1
    images[torch.arange(count), 0, 2 * labels] += 2.0
    return Samples({"image": images}, torch.arange(count), labels)


@given(st.integers(1, 6), st.integers(0, 3))
def test_info_nce_is_the_definition(batch, seed):
    """Sum over rows and columns of -log softmax at the partner, negatives of the same key left out."""
    generator = stream(seed)
    a, b = (F.normalize(torch.randn(batch, 5, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    keys = torch.randint(0, 4, (batch,), generator=generator)
    total = 0.0
    for left, right in ((a, b), (b, a)):
        for i in range(batch):
            terms = {j: math.exp(float(left[i] @ right[j]) / 0.5) for j in range(batch) if j == i or keys[j] != keys[i]}
            total -= math.log(terms[i] / sum(terms.values())) / batch
    assert float(info_nce(a, b, keys, 0.5)) == pytest.approx(total / 2)


def test_a_single_pair_gives_no_loss_and_no_gradient():
    a = torch.randn(1, 4, requires_grad=True)
    loss = info_nce(F.normalize(a, dim=1), F.normalize(torch.randn(1, 4), dim=1), torch.zeros(1, dtype=torch.long), 0.07)
    loss.backward()
    assert loss == 0
    assert not a.grad.any()


def test_twins_in_a_batch_are_no_negatives():
    """Two copies of one pair: told apart they would cost log 2 for ever."""
    a = F.normalize(torch.ones(2, 4), dim=1)
    assert info_nce(a, a, torch.tensor([5, 5]), 0.07) == 0
    assert info_nce(a, a, torch.tensor([5, 6]), 0.07) == pytest.approx(math.log(2))


def test_matching_is_learned():
    model, samples = OPTIONS.build_for(PAIRS, 0), pairs()
    before = judge(model, samples)["retrieval_sum_1_5_10"]
    first = fit(model, samples, TRAIN, stream())
    later = fit(model, samples, TRAIN, stream(1))
    assert later < first
    assert judge(model, samples)["retrieval_sum_1_5_10"] > before + 1


def test_labels_are_learned():
    model, samples = OPTIONS.build_for(IMAGES, 0), labelled()
    fit(model, samples, TRAIN.model_copy(update={"epochs": 25, "shift": 0}), stream())
    assert judge(model, samples)["accuracy"] > 0.9


def test_training_is_its_seed():
    results = []
    for seed in (1, 1, 2):
        model = OPTIONS.build_for(PAIRS, 0)
        fit(model, pairs(), TRAIN, stream(seed))
        results.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
    assert any(not torch.equal(results[0][key], results[2][key]) for key in results[0])


def test_each_pass_sees_every_sample_once_in_batches_of_equal_size():
    """25 pairs in batches of at most 12: three of 8 or 9, never one of 1, which has nothing to be told from."""
    from fedcosim.clients.tasks.multimodal import _batches

    batches = list(_batches(25, 2, 12, stream()))
    assert [len(batch) for batch in batches] == [9, 8, 8] * 2
    assert sorted(torch.cat(batches[:3]).tolist()) == list(range(25))


def test_draws_take_one_text_of_each_sample_and_move_images_by_no_more_than_asked():
    samples = pairs()
    batch = drawn(samples, torch.arange(24), 1, stream())
    for row in range(24):
        options = samples.views["text"][row].tolist()
        assert batch.views["text"][row].tolist() in options
    x = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(50, 1, 1, 1)
    inner = shifted(x, 2, stream())[:, 0, 2:-2, 2:-2] - x[:, 0, 2:-2, 2:-2]
    moves = {tuple(sorted(set(one.flatten().tolist()))) for one in inner}
    assert moves == {(8.0 * dy + dx,) for dy in range(-2, 3) for dx in range(-2, 3)} & moves
    assert len(moves) > 15


def test_fedprox_adds_the_squared_distance():
    """One step of plain SGD at the start has no distance yet; from the second on the pull back is mu (w - w0) exactly."""
    options = MultimodalTrainOptions(optimizer="sgd", lr=0.1, epochs=2, batch_size=40, shift=0)
    samples, mu = labelled(), 0.5
    free, held = OPTIONS.build_for(IMAGES, 0), OPTIONS.build_for(IMAGES, 0)
    start = copy.deepcopy(held.state_dict())
    fit(free, samples, options.model_copy(update={"epochs": 1}), stream())
    one = copy.deepcopy(free.state_dict())
    fit(free, samples, options.model_copy(update={"epochs": 1}), stream())
    fit(held, samples, options, stream(), Extras(proximal_mu=mu))
    for key, tensor in held.state_dict().items():
        torch.testing.assert_close(tensor, free.state_dict()[key] - 0.1 * mu * (one[key] - start[key]), atol=1e-5, rtol=1e-4)


def test_gates_may_have_a_learning_rate_of_their_own():
    found = []
    for rate in (None, 0.5):
        model = OPTIONS.build_for(IMAGES, 0)
        tower = model.towers["image"]
        borrowed = {path: torch.randn(1, *tower.get_submodule(path).weight.shape) for path in gated_layers(1, "blocks")}
        gates = attach(tower, borrowed, trained=False)
        fit(model, labelled(), TRAIN.model_copy(update={"epochs": 1, "batch_size": 40}), stream(), Extras(gates, rate))
        found.append(torch.cat([gate.g_K.detach().abs() for gate in gates]))
        merge(tower)
        assert all(torch.equal(gate.others_KOI, weights) for gate, weights in zip(gates, borrowed.values(), strict=True))
    # one step of Adam moves by its learning rate
    torch.testing.assert_close(found[0], torch.full_like(found[0], TRAIN.lr), rtol=1e-3, atol=0)
    torch.testing.assert_close(found[1], torch.full_like(found[1], 0.5), rtol=1e-3, atol=0)


def test_the_learning_rate_falls_from_round_to_round():
    options = TRAIN.model_copy(update={"lr_decay": 0.9})
    assert options.in_round(1).lr == options.lr
    assert options.in_round(3).lr == pytest.approx(0.81 * options.lr)


@pytest.mark.parametrize("gated", [False, True])
def test_who_prices_training_is_told_what_it_is(gated):
    """[hardware] needs one step, traced operator by operator, and their number; gates are part of it."""
    model, gates = OPTIONS.build_for(IMAGES, 0), []
    if gated:
        tower = model.towers["image"]
        borrowed = {path: torch.ones(1, *tower.get_submodule(path).weight.shape) for path in gated_layers(1, "blocks")}
        gates = attach(tower, borrowed, trained=True)
    with observed() as done:
        fit(model, labelled(), TRAIN.model_copy(update={"epochs": 3, "batch_size": 16}), stream(), Extras(gates))
    (work,) = done
    assert (work.steps, work.batch_size) == (9, 16)
    assert sum(op.flops for op in work.step.operators) > 16 * 1e3
