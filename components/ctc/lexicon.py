"""The lexicon decoder, which recognises only words of a given list, however long it is."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from components.ctc.decoding import Decoded, Emissions, pad_labels, rank_texts
from tfrecords import Charset, DataError, normalise_text
from tfrecords.directions import to_display_order

_MOST_BEGINNINGS = 500
_SPARE_WORDS = 5


class Cut(NamedTuple):
    """The share of an image's most probable beginning below which other beginnings are dropped.

    Attributes:
        first_half: the share while less than half of the image's symbols are recognised.
        second_half: the share from there on.
    """

    first_half: float
    second_half: float

    def bound_missed(self, time_steps: np.ndarray, longest: int) -> np.ndarray:
        """Computes the greatest posterior that a missed word can have: see `decode_with_lexicon`."""
        nodes = longest + 1
        return self.first_half**2 * time_steps**2 * nodes**3 + 4 * self.second_half * time_steps * nodes


_QUICK = Cut(1e-7, 1e-11)
_CAREFUL = Cut(1e-12, 1e-24)


@dataclasses.dataclass(frozen=True, eq=False)
class Trie:
    """Words in flat arrays: a node for each beginning of a word, level by level, the root first.

    Nodes are sorted within a level, so the children of a node lie next to each other.

    Attributes:
        symbols: int32 [nodes], the last symbol of each beginning; the blank at the root.
        first_child: int32 [nodes + 1]; the children of node `i` are `first_child[i]` to `first_child[i + 1] - 1`.
        word: int32 [nodes], the number of the word that ends there, or -1.
        steps_after_blank: int32 [nodes], time steps of the shortest way to the end of a word, if the last
            step was a blank.
        steps_after_symbol: the same, if the last step was the node's symbol: a repeat needs a blank.
    """

    symbols: np.ndarray
    first_child: np.ndarray
    word: np.ndarray
    steps_after_blank: np.ndarray
    steps_after_symbol: np.ndarray

    @classmethod
    def from_words(cls, ids: np.ndarray, lengths: np.ndarray, numbers: np.ndarray, blank: int) -> Trie:
        """Builds the trie of distinct words in sorted order.

        Args:
            ids: int [sum of lengths], their symbols, one word after the other.
            lengths: int [words].
            numbers: int [words], the numbers for `word`.
            blank: class of the CTC blank.
        """
        starts = np.cumsum(lengths) - lengths
        node_of = np.zeros(len(lengths), np.int32)  # of each word's beginning so far
        rows = np.arange(len(lengths))
        symbols, parents = [np.array([blank])], [np.array([-1])]
        bounds = [0, 1]  # of the levels
        for depth in range(int(lengths.max())):
            rows = rows[lengths[rows] > depth]
            symbol, parent = ids[starts[rows] + depth], node_of[rows]
            first = np.ones(len(rows), bool)
            first[1:] = (symbol[1:] != symbol[:-1]) | (parent[1:] != parent[:-1])
            node_of[rows] = bounds[-1] - 1 + np.cumsum(first)
            symbols.append(symbol[first])
            parents.append(parent[first])
            bounds.append(bounds[-1] + int(first.sum()))
        symbol, parent = np.concatenate(symbols), np.concatenate(parents)
        word = np.full(len(symbol), -1, np.int32)
        word[node_of] = numbers
        after_blank = np.where(word >= 0, 0, np.iinfo(np.int32).max).astype(np.int32)
        after_symbol = after_blank.copy()
        for start, end in reversed(list(itertools.pairwise(bounds[1:]))):
            above = parent[start:end]
            steps = after_symbol[start:end] + 1
            np.minimum.at(after_blank, above, steps)
            np.minimum.at(after_symbol, above, steps + (symbol[start:end] == symbol[above]))
        return cls(
            symbols=symbol.astype(np.int32),
            first_child=np.searchsorted(parent, np.arange(len(symbol) + 1)).astype(np.int32),
            word=word,
            steps_after_blank=after_blank,
            steps_after_symbol=after_symbol,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Lexicon:
    """The words that may be recognised.

    Attributes:
        words: those that can be recognised, with their symbols as they are seen on an image, distinct, sorted.
        unreadable: those with a symbol that the charset lacks, distinct, sorted.
        classes: of the charset, the blank included.
        forwards: the trie of the words.
        backwards: the trie of the words from their ends to their beginnings.
        ids: int64 [sum of lengths], the symbols of all words, one after the other.
        lengths: int64 [words].
    """

    words: tuple[str, ...]
    unreadable: tuple[str, ...]
    classes: int
    forwards: Trie
    backwards: Trie
    ids: np.ndarray
    lengths: np.ndarray

    @classmethod
    def from_words(cls, words: Iterable[str], charset: Charset, *, with_empty: bool = False) -> Lexicon:
        """Builds a lexicon of words in any order, each in its `normalise_text` form, without empty ones.

        Args:
            with_empty: whether the empty text is one more word.

        Raises:
            DataError: if no word can be recognised.
        """
        distinct = sorted({normalise_text(word) for word in words} - {""})
        if not distinct:
            raise DataError("the lexicon has no words: give one with a word on each line")
        known = set(charset.symbols)
        seen = {word: to_display_order(word, charset.direction) for word in distinct}
        readable = tuple(sorted({symbols for symbols in seen.values() if known.issuperset(symbols)}))
        if not readable:  # the empty text alone reads nothing
            raise DataError(
                f"the model's charset lacks symbols of each of the lexicon's {len(distinct)} words, "
                f"such as {distinct[0]!r}: was it trained on other texts?"
            )
        readable = ("", *readable) if with_empty else readable
        code_points = np.array([ord(symbol) for symbol in charset.symbols])

        def encode(texts: Iterable[str]) -> np.ndarray:
            return np.searchsorted(code_points, np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32))

        ids = encode(readable)
        lengths = np.array([len(word) for word in readable])
        reverse = [word[::-1] for word in readable]
        order = np.array(sorted(range(len(reverse)), key=reverse.__getitem__))
        return cls(
            words=readable,
            unreadable=tuple(word for word, symbols in seen.items() if not known.issuperset(symbols)),
            classes=charset.classes,
            forwards=Trie.from_words(ids, lengths, np.arange(len(lengths)), charset.blank),
            backwards=Trie.from_words(encode(reverse[i] for i in order), lengths[order], order, charset.blank),
            ids=ids,
            lengths=lengths,
        )

    def get_labels(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the symbols of some words, int [words, longest], padded with 0, and their lengths, int [words]."""
        lengths = self.lengths[numbers]
        starts = np.cumsum(self.lengths) - self.lengths
        return pad_labels(self.ids[_concatenate_ranges(starts[numbers], lengths)], lengths), lengths


def decode_with_lexicon(
    logits: np.ndarray, time_steps: np.ndarray, lexicon: Lexicon, alternatives: int = 5
) -> list[Decoded]:
    """Finds the most probable word of a lexicon for each image, and the next ones.

    **Search.** The forward variables (Graves et al. 2006, equations 6 to 8) of all words are computed together; words
    that begin alike share them. The same is done from the image's other end, where words that end alike share them.
    In each direction, a beginning is dropped after a time step if its probability is less than 1e-7 of that of the
    image's most probable beginning (1e-11 in the second half, where few words are left), or if 500 are more probable.
    Only beginnings that can still become a word in the remaining time steps count. So a word is found even if one
    half of it is misrecognised. The words found are scored exactly, over all alignments, and sorted by their scores.

    **Limits.** Let `e` be the share below which beginnings are dropped. In `n` time steps a word loses less than
    `2 * e * n * (symbols + 1)`: in each step once at each of its beginnings, and once on the way there. The posterior
    of a word is a sum over the `symbols + 1` places where the middle of the image can part it. If a word is missed
    from both ends, both factors of each term were lost in a first half, or one product in a second half. Together
    that is less than `Cut.bound_missed`: 6e-8 for 50 time steps and words of 10 symbols. If the best word found has
    no greater posterior (the line is none of the words, or was misrecognised), the image is searched again with 1e-12
    and 1e-24; a word missed then has less than 4e-18. This holds while at most 500 beginnings are left. Beyond that
    (large lexica, logits that are sure of little) nothing is certain, but a word is only missed if it drops out in
    both directions. An alternative that is less probable than these bounds need not be the very next one.

    **Confidence.** The log probability is that of the word among all texts, not among the words only; so it shows if
    a line is none of the words. Its difference to that of the first alternative is the margin.

    An image that no word fits (all need more time steps), or on which all words have probability 0, gets the empty
    text with log probability minus infinity, which is a confidence of 0.

    Args:
        lexicon: of the charset whose classes the logits have.
        alternatives: most other words to return.

    Raises:
        ValueError: if a logit within an image's time steps is not finite, or the lexicon has other classes.
    """
    if logits.shape[2] != lexicon.classes:
        raise ValueError(f"the lexicon is of {lexicon.classes} classes, the logits have {logits.shape[2]}")
    emissions = Emissions.from_logits(logits, time_steps)
    decoded = _find_best_words(emissions, time_steps, lexicon, alternatives, _QUICK)
    missed = _QUICK.bound_missed(time_steps, int(lexicon.lengths.max()))
    unsure = np.flatnonzero(np.exp([line.log_probability for line in decoded]) <= missed)
    if unsure.size:
        again = _find_best_words(emissions.select_images(unsure), time_steps[unsure], lexicon, alternatives, _CAREFUL)
        for image, line in zip(unsure.tolist(), again, strict=True):
            decoded[image] = line
    return decoded


def _find_best_words(
    emissions: Emissions, time_steps: np.ndarray, lexicon: Lexicon, alternatives: int, cut: Cut
) -> list[Decoded]:
    steps, batch, _ = emissions.weights.shape
    order = np.arange(steps)[:, None]
    order = np.where(order < time_steps, time_steps - 1 - order, order)
    reversed_weights = emissions.weights[order, np.arange(batch)]
    symbols_seen = np.cumsum(1 - emissions.weights[:, :, -1] * emissions.peaks, axis=0)
    middle = (symbols_seen < symbols_seen[-1:] / 2).sum(axis=0) + 1
    most = alternatives + 1 + _SPARE_WORDS
    candidates = np.concatenate(
        [
            _search(emissions.weights, time_steps, lexicon.forwards, middle, most, cut),
            _search(reversed_weights, time_steps, lexicon.backwards, time_steps - middle, most, cut),
        ],
        axis=1,
    )
    images, words = np.unique(candidates, axis=1)
    return rank_texts(emissions, *lexicon.get_labels(words), images, alternatives)


def _search(
    weights: np.ndarray, time_steps: np.ndarray, trie: Trie, middle: np.ndarray, most: int, cut: Cut
) -> np.ndarray:
    """Searches each image for its most probable words, in one direction.

    Args:
        middle: int [batch], the time step with which the second half begins.
        most: most words to return for an image.

    Returns:
        Images and numbers of words, int [2, words], sorted by image.
    """
    steps, batch, classes = weights.shape
    nodes = len(trie.symbols)
    best_symbol = weights[:, :, :-1].max(axis=2)
    # The beginnings of all images that are left, sorted by image and node.
    image = np.arange(batch)
    node = np.zeros(batch, np.int64)
    after_blank = np.ones(batch)  # probability of the alignments that end in a blank,
    after_symbol = np.zeros(batch)  # or in the node's symbol
    for step in range(steps):
        weight = weights[step].ravel()
        left = np.maximum(time_steps - step - 1, 0)
        share = np.where(step < middle, cut.first_half, cut.second_half)
        row = image * classes
        own = row + trie.symbols.take(node)
        total = after_blank + after_symbol
        stays_blank = total * weight.take(row + classes - 1)
        stays_blank[trie.steps_after_blank.take(node) > left.take(image)] = 0
        stays_symbol = after_symbol * weight.take(own)
        stays_symbol[trie.steps_after_symbol.take(node) > left.take(image)] = 0
        # Whatever is below this floor will be dropped in any case, so symbols of less weight are not looked at.
        floor = share * _find_greatest(stays_blank + stays_symbol, image, batch)
        least = floor.take(image) / total

        parent = np.flatnonzero(best_symbol[step].take(image) >= least)
        first_child = trie.first_child.take(node[parent])
        children = trie.first_child.take(node[parent] + 1) - first_child
        child = _concatenate_ranges(first_child, children)
        place = np.repeat(row[parent], children) + trie.symbols.take(child)
        gain = weight.take(place)
        worth = np.flatnonzero(gain >= np.repeat(least[parent], children))
        child, gain, place, parent = (
            values.take(worth) for values in (child, gain, place, np.repeat(parent, children))
        )
        gain *= np.where(place == own.take(parent), after_blank.take(parent), total.take(parent))
        child_image = image.take(parent)
        gain[trie.steps_after_symbol.take(child) > left.take(child_image)] = 0

        key, child_key = image * nodes + node, child_image * nodes + child
        place = np.searchsorted(key, child_key)
        there = key.take(place, mode="clip") == child_key if key.size else np.zeros(0, bool)
        stays_symbol[place[there]] += gain[there]
        gain[there] = 0
        total = stays_blank + stays_symbol
        best = np.maximum(_find_greatest(total, image, batch), _find_greatest(gain, child_image, batch))
        floor = share * best
        kept = np.flatnonzero((total >= floor.take(image)) & (total > 0))
        added = np.flatnonzero((gain >= floor.take(child_image)) & (gain > 0))
        order = np.argsort(np.concatenate([key.take(kept), child_key.take(added)]), kind="stable")
        image, node, after_blank, after_symbol = (
            np.concatenate([old.take(kept), new.take(added)]).take(order)
            for old, new in (
                (image, child_image),
                (node, child),
                (stays_blank, np.zeros(len(gain))),
                (stays_symbol, gain),
            )
        )
        after_blank /= best.take(image)
        after_symbol /= best.take(image)
        if np.bincount(image).max(initial=0) > _MOST_BEGINNINGS:
            kept = np.sort(_choose_greatest(image, after_blank + after_symbol, _MOST_BEGINNINGS))
            image, node, after_blank, after_symbol = image[kept], node[kept], after_blank[kept], after_symbol[kept]
    word = trie.word[node]
    image, word, total = image[word >= 0], word[word >= 0], (after_blank + after_symbol)[word >= 0]
    best_words = _choose_greatest(image, total, most)
    return np.stack([image[best_words], word[best_words]])


def _concatenate_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenates ranges: from each start on as many numbers as its length says."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def _find_greatest(values: np.ndarray, images: np.ndarray, batch: int) -> np.ndarray:
    """Finds the greatest value of each image, 0 where it has none; images ascend."""
    result = np.zeros(batch)
    starts = np.flatnonzero(np.diff(images, prepend=-1))
    if starts.size:
        result[images[starts]] = np.maximum.reduceat(values, starts)
    return result


def _choose_greatest(images: np.ndarray, values: np.ndarray, most: int) -> np.ndarray:
    """Chooses the places of the `most` greatest values of each image, sorted by image, then by value; images ascend.

    Values that differ by less than 1 in a million count as equal. The bits of positive floats sort as integers do, so
    one sort serves both keys and takes a fraction of the time of `np.lexsort`.
    """
    room = 63 - int(images.max(initial=0)).bit_length()
    keys = (images << room) + ((1 << room) - 1 - (values.view(np.int64) >> (63 - room)))
    starts = np.searchsorted(images, np.arange(images.max(initial=0) + 1))
    return np.argsort(keys)[np.arange(len(images)) - starts.take(images) < most]
