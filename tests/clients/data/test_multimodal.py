"""Silos of several modalities: who holds what, nothing held out is trained on, and every promise of a type is checked."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from emoji_files import write_emoji
from hypothesis import given
from hypothesis import strategies as st
from multimodal import small_multimodal

from fedcosim.clients.data.emoji import SIDE, EmojiOptions, ImageSilos, TextSilos
from fedcosim.clients.data.labelled import balanced
from fedcosim.clients.data.multimodal import Federation, MultimodalData, MultimodalOptions, Samples, Silo, gather, store
from fedcosim.clients.data.silos import Classes, Function, Number, Pixels, SiloType, Tokens
from fedcosim.clients.data.text import encode, vocabulary, words
from fedcosim.clients.data.wordnet import CLASSES
from fedcosim.clients.models.towers import TowersOptions
from fedcosim.clients.space import pictures
from fedcosim.clients.tasks.multimodal import MultimodalTrainOptions, fit, judge
from fedcosim.core.errors import DataError, SpecError
from fedcosim.server.spec import override, parse
from fedcosim.strategies.collaboration import Collaboration, Reply


@pytest.fixture(scope="module")
def options(data_cache) -> EmojiOptions:
    return small_multimodal().data


@pytest.fixture(scope="module")
def federation(options) -> Federation:
    return options.make(seed=1)


def of_type(federation: Federation, name: str) -> list[Silo]:
    return [silo for silo in federation.silos if silo.type == name]


def test_every_vendor_has_pairs_of_its_own_and_the_whole_gallery(federation):
    """Four silos, 24 pairs, no concept twice; 12 concepts held out, which every vendor draws in its own way."""
    silos = of_type(federation, "image+text")
    keys = np.concatenate([silo.train.keys_N for silo in silos])
    assert len(keys) == len(set(keys)) == 24
    assert [silo.examples for silo in silos] == [12] * 4  # six pairs, two captions of each
    galleries = [silo.test.views["image"] for silo in silos]
    assert all(len(gallery) == 12 for gallery in galleries)
    assert not any(np.array_equal(galleries[0], other) for other in galleries[1:])


def test_nothing_held_out_is_trained_on_and_no_pair_is_with_a_uni_modal_silo(federation):
    """The unit of the split is the concept: another vendor's drawing of a test concept would be a leak."""
    held_out = {int(key) for silo in federation.silos for key in silo.test.keys_N}
    trained = {name: {int(k) for silo in of_type(federation, name) for k in silo.train.keys_N} for name in ("image", "text")}
    paired = {int(key) for silo in of_type(federation, "image+text") for key in silo.train.keys_N}
    for keys in (*trained.values(), paired):
        assert not keys & held_out
    assert not paired & (trained["image"] | trained["text"])
    assert len(held_out) == 12


def test_flags_components_and_what_not_all_draw_are_left_out(federation):
    assert max(int(key) for silo in federation.silos for key in silo.train.keys_N) < 64


def test_labels_are_those_of_the_concepts(federation):
    """Concept i has shape (i // 2) % 4; classes are the shapes in alphabetical order."""
    names = ["square", "disc", "stripe", "triangle"]
    order = sorted(names)
    for silo in of_type(federation, "image") + of_type(federation, "text"):
        expected = [order.index(names[(int(key) // 2) % 4]) for key in silo.train.keys_N]
        assert silo.train.labels_N.tolist() == expected


def test_captions_begin_with_the_label_and_tests_have_all_tags(federation, options):
    """Decoded with the vocabulary of the training texts; words that only tests have are unknown."""
    silo = of_type(federation, "image+text")[0]
    texts = silo.train.views["text"]
    assert texts.shape == (6, 2, 6)
    sizes_and_colours = {tuple(row[:3]) for row in texts.reshape(-1, 6).tolist()}
    assert len(sizes_and_colours) == 6  # both captions of a concept start with the same three words
    assert (silo.test.views["text"] == 0).sum() == 0  # three words and four tags: seven, of which six are kept
    assert federation.notes["texts_cut"] >= 4 * 12 + 4 * 3


def test_the_same_seed_gives_the_same_silos_and_another_other_ones(federation, options):
    again, other = options.make(seed=1), options.make(seed=2)
    for one, two in zip(federation.silos, again.silos, strict=True):
        for name, column in one.train.columns().items():
            np.testing.assert_array_equal(column, two.train.columns()[name])
    assert any(set(a.train.keys_N) != set(b.train.keys_N) for a, b in zip(federation.silos, other.silos, strict=True))
    for a, b in zip(federation.silos, other.silos, strict=True):  # runs of several seeds share the gallery
        assert set(a.test.keys_N) == set(b.test.keys_N)


def test_leaving_a_type_out_changes_no_other(federation, options):
    """Contributions of types are differences between such runs: the remaining silos must be the same."""
    alone = options.model_copy(update={"images": None}).make(seed=1)
    assert {silo.type for silo in alone.silos} == {"image+text", "text"}
    for one, two in zip(of_type(federation, "image+text"), of_type(alone, "image+text"), strict=True):
        np.testing.assert_array_equal(one.train.views["image"], two.train.views["image"])
        np.testing.assert_array_equal(one.train.keys_N, two.train.keys_N)


def test_shuffled_labels_are_the_same_labels_in_another_order(federation, options):
    shuffled = options.model_copy(update={"images": ImageSilos(silos=4, labels="shuffled")}).make(seed=1)
    pairs = list(zip(of_type(federation, "image"), of_type(shuffled, "image"), strict=True))
    for one, two in pairs:
        np.testing.assert_array_equal(np.sort(one.train.labels_N), np.sort(two.train.labels_N))
        np.testing.assert_array_equal(one.test.labels_N, two.test.labels_N)
    assert any(not np.array_equal(one.train.labels_N, two.train.labels_N) for one, two in pairs)


def test_public_pairs_are_nobodys_own(options):
    federation = options.model_copy(update={"public": 8}).make(seed=1)
    public = {int(key) for key in federation.public.keys_N}
    assert len(public) == 8
    assert not public & {int(k) for silo in federation.silos for part in (silo.train, silo.test) for k in part.keys_N}


def test_what_is_stored_is_what_was_made(federation, tmp_path):
    data = store(federation, tmp_path / "silos")
    assert data.types.keys() == {"image+text", "image", "text"}
    assert data.type_of == [silo.type for silo in federation.silos]
    for client, silo in enumerate(federation.silos):
        train = pickle.loads(pickle.dumps(data)).train(client)  # noqa: S301 - workers get it so
        for modality, view in silo.train.views.items():
            back = train.views[modality]
            if modality == "image":
                assert back.dtype == torch.float32
                back = ((back + 1) * 127.5).round()
            np.testing.assert_array_equal(back.numpy(), view)
        assert (data.num_train[client], data.num_test[client]) == (len(silo.train), len(silo.test))


def test_a_damaged_file_is_made_again(options):
    data = gather(options, seed=9)
    blob = bytearray(data.path.read_bytes())
    blob[-1] ^= 1
    data.path.write_bytes(blob)
    with pytest.raises(DataError, match="damaged"):
        MultimodalData(data.path)
    assert gather(options, seed=9).num_clients == 12


def test_other_image_sources_come_in_the_same_shape_and_balanced(data_cache, monkeypatch, tmp_path):
    """Grey 28 x 28 images get colour and a border; ten classes, equally often over all silos."""
    idx = tmp_path / "mnist"
    idx.mkdir()
    for name, count in (("train", 300), ("t10k", 100)):
        pixels = np.full((count, 28, 28), 200, np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (idx / f"{name}-images-idx3-ubyte").write_bytes(
            bytes((0, 0, 8, 3)) + np.array(pixels.shape, ">u4").tobytes() + pixels.tobytes()
        )
        (idx / f"{name}-labels-idx1-ubyte").write_bytes(
            bytes((0, 0, 8, 1)) + np.array([count], ">u4").tobytes() + labels.tobytes()
        )
    monkeypatch.setenv("FEDCOSIM_DATA", str(tmp_path))
    changed = {"images": {"source": "mnist", "silos": 4, "train": 40, "test": 10}, "texts": None}
    options = EmojiOptions.model_validate(small_multimodal().data.model_dump() | changed)
    silos = of_type(options.make(seed=1), "image")
    labels = np.concatenate([np.concatenate([silo.train.labels_N, silo.test.labels_N]) for silo in silos])
    assert np.bincount(labels).tolist() == [20] * 10
    view = silos[0].train.views["image"]
    assert view.shape == (40, 3, SIDE, SIDE)
    assert view[:, :, 2:-2, 2:-2].min() == 200
    assert view[:, :, 0].max() == 0
    uneven = options.model_copy(update={"images": options.images.model_copy(update={"alpha": 0.3, "train": 10, "test": 5})})
    spread = [len(np.unique(silo.train.labels_N)) for silo in of_type(uneven.make(seed=1), "image")]
    assert min(spread) < 8
    with pytest.raises(DataError, match=r"data.images.train = 400: 4 silos need 1640 samples, there are 400"):
        options.model_copy(update={"images": options.images.model_copy(update={"train": 400})}).make(seed=1)


NOUNS = """  1 This software and database is being provided to you
00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is perceived; "an example"
00001930 05 n 01 thing 0 001 @ 00001740 n 0000 | a creature with four legs
"""


def test_glosses_are_definitions_with_their_subject_field(data_cache, monkeypatch, tmp_path):
    from fedcosim.clients.data import wordnet

    (tmp_path / "wordnet").mkdir()
    (tmp_path / "wordnet" / "data.noun").write_text(NOUNS)
    monkeypatch.setenv("FEDCOSIM_DATA", str(tmp_path))
    texts, labels = wordnet.load()
    assert texts == ["that which is perceived", "a creature with four legs"]
    assert [CLASSES[label] for label in labels] == ["tops", "animal"]
    (tmp_path / "wordnet" / "data.noun").write_text("not a synset\n")
    with pytest.raises(DataError, match="line 1: is not a noun of WordNet"):
        wordnet.load()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 60))
def test_a_balanced_draw_takes_no_class_more_than_once_above_another_that_has_more(labels, wanted):
    labels_N = np.array(labels)
    rows = balanced(labels_N, wanted, np.random.default_rng(0))
    assert len(set(rows)) == len(rows) == min(wanted, len(labels))
    taken, there = (np.bincount(x, minlength=5) for x in (labels_N[rows], labels_N))
    left = taken < there
    assert not left.any() or taken.max() - taken[left].min() <= 1


def test_texts_become_ids_and_what_is_cut_is_counted():
    known = vocabulary(["a cat", "a dog's cat", "a b"])
    assert known["a"] == 2
    assert known["cat"] == 3
    ids, cut = encode(["a cat", "the cat a cat", "Dog's-A"], known, 3)
    assert ids.tolist() == [[2, 3, 0], [1, 3, 2], [known["dog's"], 2, 0]]
    assert cut == 1
    assert words("Ünïcode über_alles 2") == ["ünïcode", "über", "alles", "2"]
    with pytest.raises(DataError, match=r"text 1, '—': has no word in it"):
        encode(["a", "—"], known, 3)


IMAGE, TEXT = Pixels((1, 2, 2)), Tokens(vocabulary=9, length=4)
PAIRS, TEXTS = SiloType("pairs", {"image": IMAGE, "text": TEXT}), SiloType("texts", {"text": TEXT}, Classes(3))


def pairs(count: int = 12, **views: np.ndarray) -> Samples:
    made = {"image": np.zeros((count, 1, 2, 2), np.uint8), "text": np.ones((count, 1, 4), np.int32)} | views
    return Samples(made, np.arange(count))


def texts(labels: list[float] | None, count: int = 3) -> Samples:
    count = count if labels is None else len(labels)
    return Samples({"text": np.ones((count, 1, 4), np.int32)}, np.arange(count), None if labels is None else np.array(labels))


def silos(train: Samples, test: Samples | None = None, kind: SiloType = PAIRS) -> Federation:
    return Federation([kind], [Silo(kind.name, train, test or train, len(train))])


@pytest.mark.parametrize(
    ("federation", "complaint"),
    [
        (
            silos(pairs(text=np.ones((11, 1, 4), np.int32))),
            r"client 0, train: every sample needs all its parts, but there are .*11",
        ),
        (silos(Samples({"text": np.ones((3, 1, 4), np.int32)}, np.arange(3))), r"modality 'image' is missing"),
        (silos(pairs(text=np.full((12, 1, 4), 9))), r"client 0, train, text: token 9; choose 0 to 8"),
        (silos(pairs(text=np.full((12, 1, 4), -1))), r"token -1; choose 0 to 8"),
        (silos(pairs(text=np.zeros((12, 1, 4), np.int32))), r"sample 0 has an empty text"),
        (silos(pairs(text=np.ones((12, 1, 5), np.int32))), r"token ids of shape N, texts, 4 are needed"),
        (silos(pairs(image=np.zeros((12, 1, 2, 3), np.uint8))), r"bytes \(uint8\) of shape N, \(1, 2, 2\) are needed"),
        (silos(pairs(image=np.full((12, 1, 2, 2), np.nan))), r"image: float64\[12, 1, 2, 2\]; bytes"),
        (silos(pairs(1)), r"client 0: one pair has nothing to be told from"),
        (silos(pairs(0)), r"client 0: has 0 training samples"),
        (silos(pairs(), pairs(10)), r"recall at 10 is certain in a gallery of 10"),
        (silos(texts(None), kind=TEXTS), r"labels are missing"),
        (silos(texts([0, 1, 3]), kind=TEXTS), r"labels run from 0 to 3; choose 0 to 2"),
        (silos(texts([0.0, np.inf]), kind=replace(TEXTS, target=Number(0, 1))), r"finite numbers are needed"),
        (
            silos(texts([0.0, 1.0]), kind=replace(TEXTS, target=Number(0, 1, True))),
            r"positive numbers are needed",
        ),
        (silos(texts([0, 1, 1]), kind=replace(TEXTS, target=Function(4))), r"int64\[3\]; bits of shape N, 4 are needed"),
        (Federation([PAIRS, TEXTS], [Silo("pairs", pairs(), pairs(), 12)]), r"type 'texts': no client is of this type"),
        (Federation([PAIRS], [Silo("sounds", pairs(), pairs(), 12)]), r"type 'sounds' is unknown; choose one of pairs"),
        (Federation([PAIRS, PAIRS], []), r"type 'pairs': there are two of that name"),
    ],
)
def test_what_a_type_does_not_promise_is_refused(federation, complaint):
    with pytest.raises(DataError, match=complaint):
        federation.check()


def test_files_that_are_not_there_or_damaged_are_named(data_cache, tmp_path, monkeypatch):
    folder = write_emoji(tmp_path / "emoji")
    options = EmojiOptions(path=str(folder), pairs=24, test=12)
    shutil.rmtree(folder / "emoji-datasource-apple" / "img")
    with pytest.raises(DataError, match=r"apple/64/.*png: cannot be read as a picture"):
        options.make(seed=1)
    (folder / "emojibase-data" / "en" / "data.json").write_text("[")
    with pytest.raises(DataError, match=r"data.json: cannot be read as JSON"):
        options.make(seed=1)
    (folder / "emoji-datasource-google" / "emoji.json").unlink()
    with pytest.raises(DataError, match=r"google.emoji.json: is missing. Get it with `fedcosim data fetch emoji`"):
        options.files()
    monkeypatch.delenv("FEDCOSIM_DATA", raising=False)
    with pytest.raises(DataError, match=r"FEDCOSIM_DATA is not set"):
        EmojiOptions().files()


def test_more_concepts_than_there_are_cannot_be_asked_for(options):
    with pytest.raises(
        DataError, match=r"data.pairs = 60: with data.test = 12 and data.public = 0 these are 72 concepts, but there are 64"
    ):
        options.model_copy(update={"pairs": 60}).make(seed=1)
    with pytest.raises(DataError, match=r"data.pairs = 6: 4 silos need 2 each"):
        options.model_copy(update={"pairs": 6}).make(seed=1)


REAL = Path(os.environ.get("FEDCOSIM_DATA", "nowhere")) / "emoji"


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the npm packages in $FEDCOSIM_DATA/emoji: `fedcosim data fetch emoji`")
def test_the_real_packages_give_the_known_counts(data_cache):
    federation = EmojiOptions(path=str(REAL), images=ImageSilos(), texts=TextSilos()).make(seed=1)
    assert [len(silo.train) for silo in federation.silos[:4]] == [75] * 4
    assert all(len(silo.train) == 445 for silo in federation.silos[4:])
    assert federation.types[1].target == Classes(97)


def test_a_spec_round_trips_and_a_wrong_source_is_named():
    spec = small_multimodal("data.texts=", "federation.clients=8", "federation.per_round=4")
    assert parse(spec.to_dict()).to_dict() == spec.to_dict()
    with pytest.raises(SpecError, match=r"data.images.source = 'svhn'"):
        parse(override(spec.to_dict(), ["data.images.source=svhn"]))


class TwoTexts(MultimodalOptions):
    """Pairs of two token sequences, such as source code and netlists, and silos with labels of one of them."""

    source: str = "two-texts"

    @property
    def clients(self) -> dict[str, int]:
        return {"code+graph": 1, "code": 1}

    def files(self) -> list[Path]:
        return []

    def make(self, seed: int) -> Federation:
        code, graph = Tokens(20, 4), Tokens(30, 6)
        tokens = np.random.default_rng(seed)
        views = {"code": tokens.integers(1, 20, (24, 2, 4)), "graph": tokens.integers(1, 30, (24, 1, 6))}
        paired = Samples(views, np.arange(24))
        labelled = Samples({"code": views["code"]}, np.arange(24), np.arange(24) % 3)
        types = [SiloType("code+graph", {"code": code, "graph": graph}), SiloType("code", {"code": code}, Classes(3))]
        return Federation(types, [Silo("code+graph", paired, paired, 24), Silo("code", labelled, labelled, 24)])


def test_two_token_sequences_are_a_source_like_any_other(data_cache):
    """No pixels anywhere: kept, trained, judged, illustrated and aggregated as images and texts are."""
    data = gather(TwoTexts(), seed=1)
    model = TowersOptions(dim=16, depth=1, heads=2)
    paired, labelled = (model.build_for(kind, 0) for kind in data.types.values())
    train = MultimodalTrainOptions(optimizer="adam", lr=0.01, pair_epochs=5, pair_batch_size=12)
    fit(paired, data.train(0), train, torch.Generator())
    fit(labelled, data.train(1), train, torch.Generator())
    assert judge(paired, data.test(0))["retrieval_gallery"] == 24
    assert 0 <= judge(labelled, data.test(1))["accuracy"] <= 1
    assert set(pictures(paired, data.test(0))) == {"space.png"}
    state = {
        name: {k: t.numpy() for k, t in model.build_for(kind, 0).state_dict().items()} for name, kind in data.types.items()
    }
    trained = {"code+graph": paired, "code": labelled}
    replies = [Reply(c, n, 24, {k: t.numpy() for k, t in m.state_dict().items()}) for c, (n, m) in enumerate(trained.items())]
    new = Collaboration(data.types).merged(state, replies)
    key = "towers.code.blocks.0.attention.qkv.weight"
    np.testing.assert_array_equal(new["code"][key], new["code+graph"][key])
    assert not np.array_equal(new["code"][key], state["code"][key])
