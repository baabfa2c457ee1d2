"""The best constant text: what a model that reads nothing could answer for every line."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from components.metrics import ErrorCounts

_MOST_FREQUENT = 20
_SAMPLE = 10_000
"""Lines, at most, from which candidates are taken; all lines are held against the candidates."""
_CENTRES_AMONG = 200
_SHARES_OF_LENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

Pairs = Iterable[tuple[str, str]]
"""The label of each line, and the text that the model read on it."""


@dataclasses.dataclass(frozen=True)
class ConstantAnswer:
    """Answers that are right by chance: the best text to give for every line, and the label that most lines have.

    Attributes:
        text: the text with the fewest symbol errors over all lines, of those that were tried.
        symbol_errors: its edits to the labels of all lines together.
        cer: these for each symbol of the labels.
        label: the most frequent label.
        exact: lines with that label.
    """

    text: str
    symbol_errors: int
    cer: float
    label: str
    exact: int


def find_best_constant(read_pairs: Callable[[], Pairs]) -> ConstantAnswer:
    """Finds the text with the lowest CER over all lines among those that a model without eyes could know.

    Tried are the most frequent labels and readings, what all labels begin and end with, the most frequent symbol at
    each place counted from the left, cut to the lengths of the labels, and the label nearest to all others. A model
    whose readings do not depend on the images is no better than one of these texts, since its CER is a mean over its
    own readings.

    Args:
        read_pairs: reads label and reading of every line, from the first line on; called twice.

    Raises:
        ValueError: if there is no line.
    """
    labels, readings = _count_texts(read_pairs())
    if not labels:
        raise ValueError("there is no line to find the best constant text for")
    candidates = sorted(set(_propose(labels, readings)))
    errors, exact = np.zeros(len(candidates), np.int64), np.zeros(len(candidates), np.int64)
    symbols = 0
    for block in _count_in_blocks(read_pairs()):
        distances, counts = _measure(candidates, list(block)), np.array(list(block.values()))
        errors += distances @ counts
        exact += (distances == 0) @ counts
        symbols += sum(count * len(label) for label, count in block.items())
    best, most = int(np.argmin(errors)), int(np.argmax(exact))
    return ConstantAnswer(
        text=candidates[best],
        symbol_errors=int(errors[best]),
        cer=int(errors[best]) / max(symbols, 1),
        label=candidates[most],
        exact=int(exact[most]),
    )


def explain_no_better(total: ErrorCounts, constant: ConstantAnswer) -> str | None:
    """Says why a model reads no better than a constant text, with both figures; None if it reads better.

    A model reads better if its symbol errors are at least one standard error below those of the best constant text,
    and if the lines that it gets wrong are less than one standard error above those that do not have the most frequent
    label. As in `choose_best_epoch`, the standard error of a count `n` of rare errors is the square root of `n + 1`,
    that of the errors of the model, and of the lines without that label.

    Args:
        total: the counts of the model, over the same lines.
    """
    wrong, others = total.images - total.exact, total.images - constant.exact
    if not others:
        return (
            f"none of {total.images:,} held-out lines has another label than {_quote(constant.label)}, so that nothing "
            "shows whether it reads: hold out lines with other labels"
        )
    if total.symbol_errors + math.sqrt(total.symbol_errors + 1) > constant.symbol_errors:
        return (
            f"it reads no better than a constant text: its CER is {total.cer:.2%}, and the answer "
            f"{_quote(constant.text)} for every line has {constant.cer:.2%}"
        )
    if wrong >= others + math.sqrt(others + 1):
        return (
            f"it reads no better than the most frequent label: it is right on {total.exact:,} of {total.images:,} "
            f"lines, and the answer {_quote(constant.label)} for every line on {constant.exact:,}"
        )
    return None


def _quote(text: str) -> str:
    return f'"{text if len(text) <= 60 else text[:60] + "…"}"'


def _count_texts(pairs: Pairs) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Counts labels and readings of the first lines."""
    some = list(itertools.islice(pairs, _SAMPLE))
    return collections.Counter(label for label, _ in some), collections.Counter(reading for _, reading in some)


def _count_in_blocks(pairs: Pairs) -> Iterator[collections.Counter[str]]:
    """Counts the labels of some lines at a time, so that memory does not grow with their number."""
    lines = iter(pairs)
    while block := collections.Counter(label for label, _ in itertools.islice(lines, _SAMPLE)):
        yield block


def _propose(labels: collections.Counter[str], readings: collections.Counter[str]) -> Iterator[str]:
    """Yields texts that may be the best constant."""
    for counts in (labels, readings):
        yield from (text for text, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_FREQUENT])
    prefix = find_common_start(labels)
    suffix = find_common_start([label[::-1] for label in labels])[::-1]
    yield from (prefix, suffix)
    lengths = np.repeat([len(label) for label in labels], list(labels.values()))
    typical = _join_most_frequent_symbols(labels, int(lengths.max()))
    for length in np.quantile(lengths, _SHARES_OF_LENGTHS, method="inverted_cdf").tolist():
        yield typical[: int(length)]
        yield typical[: max(0, int(length) - len(suffix))] + suffix
    some = sorted(labels)[:: max(1, len(labels) // _CENTRES_AMONG)]
    distances = _measure(some, some) @ np.array([labels[label] for label in some])
    yield some[int(np.argmin(distances))]


def find_common_start(texts: Collection[str]) -> str:
    """Finds what all texts begin with; the first and the last in their order have no more in common than all have."""
    first, last = min(texts), max(texts)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(symbol for symbol, _ in same)


def _join_most_frequent_symbols(labels: collections.Counter[str], length: int) -> str:
    """Joins the most frequent symbol at each place of the labels, counted from the left."""
    at_place: list[collections.Counter[str]] = [collections.Counter() for _ in range(length)]
    for label, count in labels.items():
        for place, symbol in zip(at_place, label, strict=False):
            place[symbol] += count
    return "".join(min(place.items(), key=lambda item: (-item[1], item[0]))[0] for place in at_place)


def _measure(texts: list[str], others: list[str]) -> np.ndarray:
    """Measures the edit distance of each text to each other one, int64 [texts, others]."""
    return cdist(texts, others, scorer=Levenshtein.distance, dtype=np.int32).astype(np.int64)
