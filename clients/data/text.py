"""Texts as rows of word ids: a vocabulary of the words in training texts, and rows of one length.

Shapes: N = texts, L = words kept of a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ...core.errors import DataError
from .silos import PAD, UNKNOWN

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; what is neither a letter nor a digit parts them."""
    return _WORD.findall(text.lower())


def vocabulary(texts: Iterable[str]) -> dict[str, int]:
    """Return an id for every word, most frequent first; 0 and 1 stand for padding and for unknown words."""
    counts = Counter(word for text in texts for word in words(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: i for i, word in enumerate(ranked, start=UNKNOWN + 1)}


def encode(texts: Sequence[str], known: Mapping[str, int], length: int) -> tuple[np.ndarray, int]:
    """Return texts as ids, and how many were longer than the `length` words that are kept.

    Returns
    -------
    ids_NL : ndarray of int32
    cut : int

    Raises
    ------
    DataError
        If a text has no word.
    """
    ids_NL, cut = np.full((len(texts), length), PAD, dtype=np.int32), 0
    for row, text in enumerate(texts):
        found = words(text)
        if not found:
            raise DataError(f"text {row}, {text!r}: has no word in it")
        cut += len(found) > length
        ids = [known.get(word, UNKNOWN) for word in found[:length]]
        ids_NL[row, : len(ids)] = ids
    return ids_NL, cut
