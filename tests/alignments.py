"""The posterior of every text there is, by adding up every alignment: what the decoders are held against."""

from __future__ import annotations

import functools
import itertools

import numpy as np

Text = tuple[int, ...]


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def probability_of_every_text(logits: np.ndarray) -> dict[Text, float]:
    """Sums the probability of each alignment of `logits` [time, classes] under the text that it stands for."""
    steps, classes = logits.shape
    paths, text_of_path, texts = _alignments(steps, classes)
    probabilities = softmax(logits.astype(np.float64))[np.arange(steps), paths].prod(axis=1)
    return dict(zip(texts, np.bincount(text_of_path, probabilities).tolist(), strict=True))


@functools.cache
def _alignments(steps: int, classes: int) -> tuple[np.ndarray, np.ndarray, list[Text]]:
    paths = list(itertools.product(range(classes), repeat=steps))
    texts: dict[Text, int] = {}
    text_of_path = [
        texts.setdefault(tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != classes - 1), len(texts))
        for path in paths
    ]
    return np.array(paths), np.array(text_of_path), list(texts)


def best_alignment(logits: np.ndarray, text: Text) -> list[tuple[int, int, float]]:
    """Each time step of the text's most probable alignment that is no blank, with the symbol's place in the text and
    the probability of its class."""
    steps, classes = logits.shape
    paths, text_of_path, texts = _alignments(steps, classes)
    paths = paths[text_of_path == texts.index(text)]
    probabilities = softmax(logits.astype(np.float64))[np.arange(steps), paths]
    best = probabilities.prod(axis=1).argmax()
    starts = [symbol != before for before, symbol in itertools.pairwise([classes - 1, *paths[best].tolist()])]
    written = paths[best] != classes - 1
    places = np.cumsum(starts & written) - 1
    return [
        (step, place, probability)
        for step, (place, probability) in enumerate(zip(places.tolist(), probabilities[best].tolist(), strict=True))
        if written[step]
    ]
