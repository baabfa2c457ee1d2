"""Words of texts, with their places and confidences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SPACE = " "  # the only white space that a charset can have


class Word(NamedTuple):
    """A word of a text, between white space.

    Attributes:
        text: at least one symbol.
        confidence: the product of its symbols' confidences, raised to the exponent of the text's own confidence.
        start, end: the first of its symbols' starts and the last of their ends.
    """

    text: str
    confidence: float
    start: int
    end: int


class Words(NamedTuple):
    """Words of several texts, one after the other.

    Attributes:
        counts: int [texts], of the words of each text.
        texts: of the words.
        confidences, starts, ends: float and int [words], as of a `Word`.
    """

    counts: np.ndarray
    texts: list[str]
    confidences: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def find_words(texts: Sequence[str], confidences: np.ndarray, spans: np.ndarray, exponents: Sequence[float]) -> Words:
    """Finds the words of several texts at once.

    Args:
        confidences: float [symbols], of the symbols of all texts, one after the other.
        spans: int [symbols, 2], start and end of each.
        exponents: to which the posterior of each text is raised to be its confidence.
    """
    words = [word for text in texts for word in text.split(_SPACE) if word]
    if not words:
        none = np.zeros(0, int)
        return Words(np.zeros(len(texts), int), [], np.zeros(0), none, none)
    lines = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    symbols = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    is_space = symbols == ord(_SPACE)
    begins = ~is_space
    begins[1:] &= is_space[:-1] | (lines[1:] != lines[:-1])
    first = np.flatnonzero(begins)
    # What reaches from a word to the next one has white space at its end, which must not count.
    products = np.multiply.reduceat(np.where(is_space, 1, confidences), first)
    starts = np.minimum.reduceat(np.where(is_space, spans.max(), spans[:, 0]), first)
    ends = np.maximum.reduceat(np.where(is_space, 0, spans[:, 1]), first)
    lines = lines[first]
    powers = products ** np.asarray(exponents)[lines]
    return Words(np.bincount(lines, minlength=len(texts)), words, powers, starts, ends)
