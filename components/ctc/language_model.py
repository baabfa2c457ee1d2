"""A character n-gram: the probability of each next symbol after the last few, learned from labels.

It is a finite automaton. A state stands for the last symbols of a text, as many of them as occurred often enough in the
labels. So a decoder looks up a probability and the next state in two arrays.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ORDER = 7
"""A symbol depends on this many symbols less one."""
_DISCOUNT = 0.9
_MOST_ENTRIES = 6_000_000  # of an array with a row for each state and a column for each symbol
_MOST_SYMBOLS = 5_000_000  # of the labels, to learn from
_LONG = 500_000  # places of an array from which it is handled in parts, or on disk
_PARTS = 16


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
        # For each place in the text, the number of the context of 0, 1, … symbols before it; -1 where there are fewer,
        # or where the context without its first symbol is left out.
        numbers = [_keep_on_disk(np.zeros(len(text), np.int32))]
        suffixes, frequencies, contexts_of = [np.zeros(1, np.int64)], [np.array([len(text)])], [1]
        most = max(1, _MOST_ENTRIES // classes)
        every = np.array([len(text)])
        for length in range(1, ORDER):
            # A context is never more frequent than its suffix. So the suffix of one that is kept is kept, and from the
            # suffixes that are too rare already nothing follows.
            common = np.zeros(contexts_of[-1] + 1, bool)  # the last, for none
            common[:-1] = frequencies[-1] >= _find_least(every, most)
            if length == 1:
                common[0] = True
            extended = common[numbers[-1]] & (before >= length)
            keys = numbers[-1][extended].astype(np.int64)
            keys *= classes + 1
            keys += text[: len(text) - length][extended[length:]]
            unique, _, frequency = _find_unique(keys)
            longer = np.full(len(text), -1, np.int32)
            longer[extended] = _look_up(keys, unique)
            numbers.append(_keep_on_disk(longer))
            suffixes.append((unique // (classes + 1)).astype(np.int32))
            frequencies.append(frequency.astype(np.int32))
            contexts_of.append(len(unique))
            every = np.sort(np.concatenate([every, frequencies[-1]]))[::-1][: most + 1]
            del keys, unique, longer

        least = _find_least(every, most)
        kept = [np.flatnonzero(frequency >= least) if n else np.array([0]) for n, frequency in enumerate(frequencies)]
        first = np.cumsum([0, *map(len, kept)])
        renumbered = []
        for length, old in enumerate(kept):
            new = np.full(contexts_of[length] + 1, -1, np.int32)  # the last, for none
            new[old] = np.arange(len(old)) + first[length]
            renumbered.append(new)

        def find_contexts(length: int, places: np.ndarray | slice) -> np.ndarray:
            return renumbered[length][numbers[length][places]]

        entries = [_count_symbols(text, before, find_contexts, numbers, length, classes) for length in range(ORDER)]
        contexts, symbols, counts, followers = (np.concatenate(parts) for parts in zip(*entries, strict=True))
        of_suffixes = [np.array([0]), *(renumbered[n - 1][suffixes[n][kept[n]]] for n in range(1, ORDER))]
        lengths = np.repeat(np.arange(ORDER), np.diff(first))
        start = max(int(find_contexts(length, slice(1, 2))[0]) for length in (0, 1)) if len(text) else 0
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
        at most `ORDER`, uint8 [places].
    """
    lengths = np.fromiter(map(len, labels), np.int64, len(labels))
    drawn = _draw_labels(len(labels), int(lengths.sum()))
    ends = np.cumsum(lengths[drawn] + 2)
    text = np.empty(ends[-1] if len(ends) else 0, np.int32)
    before = np.empty(len(text), np.uint8)
    counted = np.minimum(np.arange(lengths.max(initial=0) + 2), ORDER).astype(np.uint8)
    start = 0
    for number, end in zip(drawn.tolist(), ends.tolist(), strict=True):
        text[start], text[start + 1 : end - 1], text[end - 1] = classes, labels[number], classes - 1
        before[start:end] = counted[: end - start]
        start = end
    return text, before


def _count_symbols(
    text: np.ndarray,
    before: np.ndarray,
    find_contexts: Callable[[int, np.ndarray], np.ndarray],
    numbers: Sequence[np.ndarray],
    length: int,
    classes: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts the symbols after the contexts of one length; returns the arrays of their entries.

    Args:
        find_contexts: finds the contexts of a length before some places, -1 where there is none or it is left out.
        numbers: int32 [places] each, for each length the number of the context before any was left out.
    """
    if length + 1 < ORDER:  # one place for each different context of one symbol more
        longer = np.flatnonzero(numbers[length + 1] >= 0)
        keys = numbers[length + 1][longer].astype(np.int64)
        keys *= classes
        keys += text[longer]
        _, chosen, _ = _find_unique(keys)
        places = np.concatenate([longer[chosen], np.flatnonzero((before == length) & (before > 0))])
        del longer, keys, chosen
    else:
        places = np.flatnonzero(before >= length)
    places = places[find_contexts(length, places) >= 0]
    keys = find_contexts(length, places).astype(np.int64)
    keys *= classes
    keys += text[places]
    keys, examples, counts = _find_unique(keys)
    after = np.minimum(places[examples] + 1, len(text) - 1)
    symbols = keys % classes
    longest = np.zeros(len(after), np.int32)
    for shorter in range(min(length + 2, ORDER)):
        np.maximum(longest, find_contexts(shorter, after), out=longest)
    followers = np.where(symbols < classes - 1, longest, 0)
    return keys // classes, symbols, counts, followers


def _find_least(every: np.ndarray, most: int) -> int:
    """Finds the frequency from which contexts are kept, given the greatest frequencies in falling order."""
    return int(every[most]) + 1 if len(every) > most else 1


def _keep_on_disk(array: np.ndarray) -> np.ndarray:
    """Moves a long array to a temporary file, and maps it into memory."""
    if len(array) < _LONG:
        return array
    with tempfile.TemporaryFile() as file:
        array.tofile(file)
        return np.memmap(file, array.dtype, "r").view(np.ndarray)


def _find_unique(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the different keys in their order, the first place of each and how often it comes, in less memory.

    Args:
        keys: int64 [places].
    """
    if len(keys) < _LONG:
        return np.unique(keys, return_index=True, return_counts=True)
    found = []
    for part in range(_PARTS):
        chosen = np.flatnonzero(keys & (_PARTS - 1) == part)
        unique, first, counts = np.unique(keys[chosen], return_index=True, return_counts=True)
        found.append((unique, chosen[first], counts))
    unique, first, counts = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    order = np.argsort(unique)
    return unique[order], first[order], counts[order]


def _look_up(keys: np.ndarray, unique: np.ndarray) -> np.ndarray:
    """Returns the places of keys among all different ones, int32 [keys]."""
    found = np.empty(len(keys), np.int32)
    for start in range(0, len(keys), _LONG):
        found[start : start + _LONG] = np.searchsorted(unique, keys[start : start + _LONG])
    return found
