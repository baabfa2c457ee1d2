"""Character error rate, word error rate, exact match and calibration of read texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


def edit_distance(truth: Sequence, read: Sequence) -> int:
    """Fewest insertions, deletions and substitutions from one sequence to the other (Levenshtein 1966)."""
    if len(truth) < len(read):
        truth, read = read, truth
    previous = list(range(len(read) + 1))
    for row, wanted in enumerate(truth, 1):
        current = [row]
        for column, got in enumerate(read, 1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (wanted != got)))
        previous = current
    return previous[-1]


@dataclasses.dataclass(frozen=True)
class ErrorCounts:
    """Sums over images, so that counts of parts add up to the counts of the whole.

    Attributes:
        images: how many were read.
        exact: how many were read without any error.
        symbols, symbol_errors: of the true labels, and edits between them and what was read.
        words, word_errors: the same over words, separated by spaces.
    """

    images: int = 0
    exact: int = 0
    symbols: int = 0
    symbol_errors: int = 0
    words: int = 0
    word_errors: int = 0

    @classmethod
    def of(cls, truth: str, read: str) -> ErrorCounts:
        """The counts of one image."""
        if truth == read:
            return cls(1, 1, len(truth), 0, len(truth.split()), 0)
        words = truth.split()
        return cls(1, 0, len(truth), edit_distance(truth, read), len(words), edit_distance(words, read.split()))

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    @property
    def cer(self) -> float:
        """Character error rate: symbol errors for each true symbol; above 1 if more was read than was there."""
        return self.symbol_errors / max(self.symbols, 1)

    @property
    def wer(self) -> float:
        """Word error rate: word errors for each true word."""
        return self.word_errors / max(self.words, 1)

    @property
    def exact_match(self) -> float:
        """The share of images that were read without any error."""
        return self.exact / max(self.images, 1)


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """How far confidence is from accuracy: the mean gap over equal-width bins, weighted by images.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    sums = [[0.0, 0.0] for _ in range(bins)]
    for confidence, right in zip(confidences, correct, strict=True):
        cell = sums[min(int(confidence * bins), bins - 1)]
        cell[0] += confidence
        cell[1] += right
    return sum(abs(confidence - right) for confidence, right in sums) / max(len(confidences), 1)
