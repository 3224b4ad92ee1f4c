"""FedCola's server: exact means, shares as the paper has them, and nothing crosses between types but what is shared."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcosim.clients.data.silos import Classes, Pixels, SiloType, Tokens, named
from fedcosim.clients.models.towers import TowersOptions, part_of
from fedcosim.strategies.collaboration import Collaboration, Reply

OPTIONS = TowersOptions(dim=8, depth=1, heads=2, patch=4)
IMAGE, TEXT, SOUND = Pixels((1, 4, 4)), Tokens(vocabulary=5, length=3), Tokens(vocabulary=7, length=2)
I = SiloType("image", {"image": IMAGE}, Classes(4))  # noqa: E741 - the paper's names of the three types
T = SiloType("text", {"text": TEXT}, Classes(3))
M = SiloType("image+text", {"image": IMAGE, "text": TEXT})
TYPES = named([I, T, M])
QKV = "towers.image.blocks.0.attention.qkv.weight"
UP = "towers.image.blocks.0.mlp.up.weight"

State = dict[str, dict[str, np.ndarray]]


def start(types=TYPES, seed: int = 0) -> State:
    return {
        name: {k: t.numpy().copy() for k, t in OPTIONS.build_for(kind, seed).state_dict().items()}
        for name, kind in types.items()
    }


def reply(client: int, kind: str, examples: float, state: State, scale: float = 0.1) -> Reply:
    random = np.random.default_rng(client)
    arrays = {key: (x + scale * random.standard_normal(x.shape)).astype(np.float32) for key, x in state[kind].items()}
    return Reply(client, kind, examples, arrays)


def delta(state: State, replies: list[Reply], kind: str, key: str) -> np.ndarray:
    """The paper's D, written out."""
    mine = [r for r in replies if r.type == kind]
    n = sum(r.examples for r in mine)
    return sum(r.examples / n * (r.arrays[key].astype(np.float64) - state[kind][key]) for r in mine)


@pytest.fixture
def round_() -> tuple[State, list[Reply]]:
    state = start()
    kinds = ["image", "image", "text", "text", "image+text"]
    return state, [reply(c, kind, n, state) for c, (kind, n) in enumerate(zip(kinds, (30, 10, 20, 40, 60), strict=True))]


def test_at_two_modalities_it_is_the_papers_formula(round_):
    """Written out by hand for M and I: attention n_j / (n_i + n_j), everything else by the own share."""
    state, replies = round_
    new = Collaboration(TYPES).merged(state, replies)
    d_i, d_m = (delta(state, replies, kind, QKV) for kind in ("image", "image+text"))
    shared = 40 / 100 * d_i + 60 / 100 * d_m
    for kind in ("image", "image+text"):
        np.testing.assert_allclose(new[kind][QKV], state[kind][QKV] + shared, atol=1e-6)
    np.testing.assert_allclose(new["image"][UP], state["image"][UP] + 0.4 * delta(state, replies, "image", UP), atol=1e-6)
    up = "towers.text.blocks.0.mlp.up.weight"
    np.testing.assert_allclose(
        new["image+text"][up], state["image+text"][up] + 0.5 * delta(state, replies, "image+text", up), atol=1e-6
    )
    head = delta(state, replies, "image", "head.weight")
    np.testing.assert_allclose(new["image"]["head.weight"], state["image"]["head.weight"] + 0.4 * head, atol=1e-6)
    norm = delta(state, replies, "image+text", "norm.weight")  # of no tower: the mean of 0.6 and 0.5
    np.testing.assert_allclose(new["image+text"]["norm.weight"], state["image+text"]["norm.weight"] + 0.55 * norm, atol=1e-6)


def test_shared_layers_of_all_holders_are_equal_after_a_round(round_):
    state, replies = round_
    new = Collaboration(TYPES).merged(state, replies)
    for modality, kind in (("image", "image"), ("text", "text")):
        for key in state[kind]:
            if part_of(key).kind == "attention":
                assert part_of(key).modality == modality
                np.testing.assert_array_equal(new[kind][key], new["image+text"][key])


def test_three_modalities_share_with_everyone_who_holds_one():
    a = SiloType("sound", {"sound": SOUND}, Classes(2))
    av = SiloType("image+sound", {"image": IMAGE, "sound": SOUND})
    types = named([I, T, M, a, av])
    state = start(types)
    replies = [reply(c, kind, 10 * (c + 1), state) for c, kind in enumerate(types)]
    new = Collaboration(types).merged(state, replies)
    n = {kind: 10 * (c + 1) for c, kind in enumerate(types)}
    holders = ["image", "image+text", "image+sound"]
    step = sum(n[k] / sum(n[h] for h in holders) * delta(state, replies, k, QKV) for k in holders)
    for kind in holders:
        np.testing.assert_allclose(new[kind][QKV], state[kind][QKV] + step, atol=1e-6)


@given(st.permutations(range(5)))
def test_the_order_of_replies_changes_nothing(order):
    state = start()
    replies = [reply(c, kind, 10 + c, state) for c, kind in enumerate(["image", "image", "text", "image+text", "image"])]
    one, other = (Collaboration(TYPES).merged(state, [replies[i] for i in r]) for r in (range(5), order))
    for kind, arrays in state.items():
        for key in arrays:
            np.testing.assert_array_equal(one[kind][key], other[kind][key])


def test_clients_that_return_what_they_got_move_nothing():
    state = start()
    replies = [Reply(c, kind, 7.0, state[kind]) for c, kind in enumerate(["image", "image", "text", "image+text"])]
    new = Collaboration(TYPES).merged(state, replies)
    assert all(np.array_equal(new[kind][key], state[kind][key]) for kind in state for key in state[kind])


@pytest.mark.parametrize("kind", TYPES)
def test_without_a_partner_it_is_fedavg_within_the_type(kind):
    """Oracle: the weighted mean of the replies."""
    state = start()
    replies = [reply(c, kind, 10 + c, state) for c in range(3)]
    new = Collaboration(TYPES).merged(state, replies)
    alone = Collaboration(TYPES, share="none", compensation="none").merged(state, replies)
    for key in state[kind]:
        mean = sum(r.examples * r.arrays[key].astype(np.float64) for r in replies) / sum(r.examples for r in replies)
        np.testing.assert_allclose(new[kind][key], mean, atol=1e-6)
        np.testing.assert_array_equal(new[kind][key], alone[kind][key])


def test_a_type_without_replies_keeps_all_but_its_shared_layers(round_):
    """Three rounds away, and its own parts are bit-identical; attention goes on learning from the other holders."""
    state, replies = round_
    before = state["image+text"]
    for _ in range(3):
        state = Collaboration(TYPES).merged(state, [r for r in replies if r.type != "image+text"])
    for key, array in state["image+text"].items():
        assert np.array_equal(array, before[key]) == (part_of(key).kind != "attention")


def test_only_shared_layers_cross(round_):
    """Poison: a partner's MLP never arrives, its attention arrives with its share exactly."""
    state, replies = round_
    clean = Collaboration(TYPES).merged(state, replies)
    for poison in itertools.chain(state["image"]):
        bad = [
            Reply(r.client, r.type, r.examples, {**r.arrays, poison: r.arrays[poison] + 1e6}) if r.type == "image" else r
            for r in replies
        ]
        new = Collaboration(TYPES).merged(state, bad)
        for key, array in new["image+text"].items():
            if key == poison and part_of(poison).kind == "attention":
                np.testing.assert_allclose(array - clean["image+text"][key], 0.4 * 1e6, rtol=1e-4)
            else:
                np.testing.assert_array_equal(array, clean["image+text"][key])
        assert all(np.array_equal(new["text"][key], clean["text"][key]) for key in state["text"])


def test_text_never_enters_an_image_tower(round_):
    """The two towers' attentions have the same shapes: only the map of parts keeps them apart."""
    state, replies = round_
    clean = Collaboration(TYPES, share="towers").merged(state, replies)
    bad = [
        Reply(r.client, r.type, r.examples, {k: x + 9 for k, x in r.arrays.items()}) if r.type == "text" else r for r in replies
    ]
    new = Collaboration(TYPES, share="towers").merged(state, bad)
    for kind in ("image", "image+text"):
        for key in state[kind]:
            if part_of(key).modality != "text":
                np.testing.assert_array_equal(new[kind][key], clean[kind][key])


@pytest.mark.parametrize(("share", "crossing"), [("mlp", {"mlp"}), ("blocks", {"attention", "mlp", "norm"})])
def test_ablations_share_what_their_name_says(share, crossing, round_):
    """The published code's substring tests make `blocks` leave attention out and `mlp` share nothing."""
    state, replies = round_
    new = Collaboration(TYPES, share=share).merged(state, replies)
    equal = {
        part_of(k).kind for k in state["image"] if part_of(k).modality and np.array_equal(new["image"][k], new["image+text"][k])
    }
    assert equal == crossing


def test_controls_scale_without_sharing(round_):
    """`cponly` and `attndamp` of the tables: the own share as a learning rate, no partner."""
    state, replies = round_
    everything = Collaboration(TYPES, share="none", compensation="all").merged(state, replies)
    attention = Collaboration(TYPES, share="none", compensation="attention").merged(state, replies)
    for key in (QKV, UP):
        d = delta(state, replies, "image+text", key)
        np.testing.assert_allclose(everything["image+text"][key], state["image+text"][key] + 0.6 * d, atol=1e-6)
        factor = 0.6 if key == QKV else 1.0
        np.testing.assert_allclose(attention["image+text"][key], state["image+text"][key] + factor * d, atol=1e-6)


def test_the_published_codes_denominator_counts_both_modalities_for_pairs(round_):
    """n = 40 images, 60 texts, 60 pairs: for M everybody counts, for I only I and M."""
    state, replies = round_
    new = Collaboration(TYPES, denominator="release").merged(state, replies)
    d_i, d_m = (delta(state, replies, kind, QKV) for kind in ("image", "image+text"))
    np.testing.assert_allclose(new["image+text"][QKV], state["image+text"][QKV] + (40 * d_i + 60 * d_m) / 160, atol=1e-6)
    np.testing.assert_allclose(new["image"][QKV], state["image"][QKV] + (40 * d_i + 60 * d_m) / 100, atol=1e-6)


def test_paired_weight_and_server_learning_rate_scale_what_they_say(round_):
    state, replies = round_
    heavy = Collaboration(TYPES, paired_weight=100).merged(state, replies)
    d_i, d_m = (delta(state, replies, kind, QKV) for kind in ("image", "image+text"))
    np.testing.assert_allclose(heavy["image"][QKV], state["image"][QKV] + (40 * d_i + 6000 * d_m) / 6040, atol=1e-6)
    half = Collaboration(TYPES, share="none", compensation="none", server_lr=0.5).merged(state, replies)
    np.testing.assert_allclose(half["image"][UP], state["image"][UP] + 0.5 * delta(state, replies, "image", UP), atol=1e-6)
