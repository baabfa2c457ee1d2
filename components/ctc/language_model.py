"""A character n-gram: the probability of each next symbol after the last few, learned from labels.

It is a finite automaton. A state stands for the last symbols of a text, as many of them as occurred often enough in the
labels. So a decoder looks up a probability and the next state in two arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

ORDER = 7
"""A symbol depends on this many symbols less one."""
_DISCOUNT = 0.9
_MOST_ENTRIES = 6_000_000  # of an array with a row for each state and a column for each symbol
_MOST_SYMBOLS = 5_000_000  # of the labels, to learn from


@dataclasses.dataclass(frozen=True)
class NgramCounts:
    """The counts of which a `LanguageModel` is made: a few numbers for each context, small enough to keep in a file.

    Contexts are sorted by their length; that of length 0 is context 0. Entries are sorted by context and symbol.

    Attributes:
        classes: of the charset, with the blank, in whose place the end of a text is counted.
        lengths: int [contexts], symbols of each context.
        suffixes: int [contexts], the context without its first symbol.
        contexts, symbols: int [entries], a context and a symbol that came after it.
        counts: int [entries], for the longest contexts and those at the start of a text how often it came there, for
            others after how many different contexts of one symbol more (Kneser & Ney 1995).
        followers: int [entries], the longest context at hand after that symbol; 0 at the end of a text.
        start: the context before the first symbol.
    """

    classes: int
    lengths: np.ndarray
    suffixes: np.ndarray
    contexts: np.ndarray
    symbols: np.ndarray
    counts: np.ndarray
    followers: np.ndarray
    start: int

    def write(self, path: str) -> None:
        """Writes the counts to a local file, `.npz`."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        arrays["numbers"] = np.array([self.classes, self.start])
        small: dict[str, Any] = {name: array.astype(np.int32) for name, array in arrays.items()}
        np.savez_compressed(path, **small)

    @classmethod
    def read(cls, path: str) -> NgramCounts:
        """Reads what `write` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.int64) for name in file.files}
        classes, start = arrays.pop("numbers").tolist()
        return cls(classes=classes, start=start, **arrays)

    @classmethod
    def from_labels(cls, labels: Sequence[np.ndarray], classes: int) -> NgramCounts:
        """Counts in labels, int [length] each; leaves out the rarest contexts if there are very many."""
        text, before = _join_labels(labels, classes)
        # For each place in the text, the number of the context of 0, 1, … symbols before it; -1 where there are fewer.
        numbers = [np.zeros(len(text), np.int32)]
        suffixes, frequencies = [np.zeros(1, np.int64)], [np.array([len(text)])]
        for length in range(1, ORDER):
            places = np.flatnonzero(before >= length)
            keys = numbers[-1][places].astype(np.int64) * (classes + 1) + text[places - length]
            unique, inverse, frequency = np.unique(keys, return_inverse=True, return_counts=True)
            longer = np.full(len(text), -1, np.int32)
            longer[places] = inverse
            numbers.append(longer)
            suffixes.append(unique // (classes + 1))
            frequencies.append(frequency)

        # A context is never more frequent than its suffix. So the suffix of one that is kept is kept.
        most, every = max(1, _MOST_ENTRIES // classes), np.sort(np.concatenate(frequencies))[::-1]
        least = every[most] + 1 if len(every) > most else 1
        kept = [np.flatnonzero(frequency >= least) if n else np.array([0]) for n, frequency in enumerate(frequencies)]
        first = np.cumsum([0, *map(len, kept)])
        renumbered = []
        for length, old in enumerate(kept):
            new = np.full(len(frequencies[length]) + 1, -1, np.int32)  # the last, for none
            new[old] = np.arange(len(old)) + first[length]
            renumbered.append(new)
        at = np.stack([new[old] for new, old in zip(renumbered, numbers, strict=True)])  # [ORDER, places]

        entries = [_count_symbols(text, before, at, numbers, length, classes) for length in range(ORDER)]
        contexts, symbols, counts, followers = (np.concatenate(parts) for parts in zip(*entries, strict=True))
        of_suffixes = [np.array([0]), *(renumbered[n - 1][suffixes[n][kept[n]]] for n in range(1, ORDER))]
        lengths = np.repeat(np.arange(ORDER), np.diff(first))
        start = int(at[:2, 1].max()) if len(text) else 0
        return cls(classes, lengths, np.concatenate(of_suffixes), contexts, symbols, counts, followers, start)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """An n-gram over the symbols of a charset, and the end of a text.

    Attributes:
        log_probabilities: float32 [states, classes], natural logarithms; the last class stands for the end of the text.
        next_states: int32 [states, classes - 1], the state after each symbol.
        start: the state before the first symbol.
    """

    log_probabilities: np.ndarray
    next_states: np.ndarray
    start: int

    @classmethod
    def from_counts(cls, counts: NgramCounts) -> LanguageModel:
        """Computes the probabilities, smoothed as Chen & Goodman 1999, section 2.7 ("interpolated Kneser-Ney").

        From each count a constant is taken away. What that frees goes to all symbols, as they are distributed after
        the context without its first symbol. The shortest context shares it equally.
        """
        total = np.bincount(counts.contexts, counts.counts, len(counts.lengths))
        kinds = np.bincount(counts.contexts, minlength=len(counts.lengths))
        shares = np.divide(_DISCOUNT * kinds, total, out=np.ones(len(total)), where=total > 0)
        values = (counts.counts - _DISCOUNT) / total[counts.contexts]
        probabilities = np.empty((len(counts.lengths), counts.classes), np.float32)
        next_states = np.zeros((len(counts.lengths), counts.classes - 1), np.int32)
        probabilities[0] = 1 / counts.classes
        first = np.searchsorted(counts.lengths, np.arange(ORDER + 1))
        first_entry = np.searchsorted(counts.contexts, first)
        for length in range(ORDER):
            own, entries = slice(first[length], first[length + 1]), slice(first_entry[length], first_entry[length + 1])
            suffixes = counts.suffixes[own]
            probabilities[own] = shares[own, None] * probabilities[suffixes]
            next_states[own] = next_states[suffixes]
            contexts, symbols = counts.contexts[entries], counts.symbols[entries]
            probabilities[contexts, symbols] += values[entries]
            inside = symbols < counts.classes - 1
            next_states[contexts[inside], symbols[inside]] = counts.followers[entries][inside]
        return cls(np.log(probabilities), next_states, counts.start)


def _draw_labels(labels: int, total: int) -> np.ndarray:
    """Draws labels, always the same, if there are more symbols than can be learned from; returns their numbers."""
    drawn = np.random.default_rng(0).random(labels) * total < _MOST_SYMBOLS
    return np.flatnonzero(drawn)


def _join_labels(labels: Sequence[np.ndarray], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Joins labels, or some of very many, to one text: a mark before each, `classes`, and one behind it, `classes - 1`.

    Returns:
        The text, int32 [places], and for each place the number of symbols of its label before it, that mark included,
        int32 [places].
    """
    lengths = np.fromiter(map(len, labels), np.int64, len(labels))
    drawn = _draw_labels(len(labels), int(lengths.sum()))
    ends = np.cumsum(lengths[drawn] + 2)
    text = np.empty(ends[-1] if len(ends) else 0, np.int32)
    before = np.arange(len(text), dtype=np.int32)
    start = 0
    for number, end in zip(drawn.tolist(), ends.tolist(), strict=True):
        text[start], text[start + 1 : end - 1], text[end - 1] = classes, labels[number], classes - 1
        before[start:end] -= start
        start = end
    return text, before


def _count_symbols(
    text: np.ndarray, before: np.ndarray, at: np.ndarray, numbers: list[np.ndarray], length: int, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts the symbols after the contexts of one length; returns the arrays of their entries.

    Args:
        at: int [ORDER, places], for each length the context before a place, -1 where there is none or it is left out.
        numbers: the same before any was left out.
    """
    if length + 1 < ORDER:  # one place for each different context of one symbol more
        longer = np.flatnonzero(numbers[length + 1] >= 0)
        _, chosen = np.unique(numbers[length + 1][longer].astype(np.int64) * classes + text[longer], return_index=True)
        places = np.concatenate([longer[chosen], np.flatnonzero((before == length) & (before > 0))])
    else:
        places = np.flatnonzero(before >= length)
    places = places[at[length][places] >= 0]
    keys, examples, counts = np.unique(
        at[length][places].astype(np.int64) * classes + text[places], return_index=True, return_counts=True
    )
    after = np.minimum(places[examples] + 1, len(text) - 1)
    symbols = keys % classes
    followers = np.where(symbols < classes - 1, at[: length + 2, after].max(axis=0, initial=0), 0)
    return keys // classes, symbols, counts, followers
