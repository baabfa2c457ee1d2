"""Character error rate, word error rate, exact match and calibration of recognised texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

CALIBRATION_BINS = 10
_LENGTH_BUCKETS = 8


def compute_edit_distance(truth: Sequence, recognised: Sequence) -> int:
    """Counts the fewest insertions, deletions and substitutions between two sequences (Levenshtein 1966)."""
    return Levenshtein.distance(truth, recognised)


@dataclasses.dataclass(frozen=True)
class ErrorCounts:
    """Sums over images, so that counts of parts add up to the counts of the whole.

    Attributes:
        images: number of images that were recognised.
        exact: number of images that were recognised without any error.
        symbols, symbol_errors: symbols of the true labels, and edits between them and the recognised texts.
        words, word_errors: the same over words, separated by spaces.
    """

    images: int = 0
    exact: int = 0
    symbols: int = 0
    symbol_errors: int = 0
    words: int = 0
    word_errors: int = 0

    @classmethod
    def from_texts(cls, truth: str, recognised: str) -> ErrorCounts:
        """Counts the errors of one image."""
        if truth == recognised:
            return cls(1, 1, len(truth), 0, len(truth.split()), 0)
        words = truth.split()
        symbol_errors = compute_edit_distance(truth, recognised)
        return cls(1, 0, len(truth), symbol_errors, len(words), compute_edit_distance(words, recognised.split()))

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    @property
    def cer(self) -> float:
        """Character error rate: symbol errors for each true symbol; above 1 if many symbols were added.

        An empty label has no symbols, and only what was read there counts as errors, to all others' symbols. Over empty
        labels alone it is their number.
        """
        return self.symbol_errors / max(self.symbols, 1)

    @property
    def wer(self) -> float:
        """Word error rate: word errors for each true word."""
        return self.word_errors / max(self.words, 1)

    @property
    def exact_match(self) -> float:
        """Share of images that were recognised without any error."""
        return self.exact / max(self.images, 1)


@dataclasses.dataclass(frozen=True)
class LineCounts:
    """Counts of each of many lines.

    Attributes:
        counts: int64 [lines, 6], the fields of `ErrorCounts` in their order.
        confidences: float32 [lines], 0 to 1.
    """

    counts: np.ndarray
    confidences: np.ndarray

    @property
    def total(self) -> ErrorCounts:
        """Sums over all lines."""
        return ErrorCounts(*self.counts.sum(axis=0).tolist())

    def get_column(self, name: str) -> np.ndarray:
        """Returns one field of `ErrorCounts` for every line, int64 [lines]."""
        return self.counts[:, [field.name for field in dataclasses.fields(ErrorCounts)].index(name)]


def rate_by_length(lines: LineCounts) -> list[dict[str, Any]]:
    """Computes how well labels of different lengths are recognised, the shortest first.

    Each length has a bucket of its own if there are at most eight lengths. Otherwise there are up to
    eight buckets with about equally many lines.

    Returns:
        For each bucket `from` and `to` (symbols, both included), `images`, `exact_match`,
        `cer` and `mean_confidence`.
    """
    lengths = lines.get_column("symbols")
    ends = np.unique(lengths)
    if len(ends) > _LENGTH_BUCKETS:
        shares = np.arange(1, _LENGTH_BUCKETS + 1) / _LENGTH_BUCKETS
        ends = np.unique(np.quantile(lengths, shares, method="inverted_cdf"))
    bucket_of = np.searchsorted(ends, lengths)
    return [
        {"from": int(lengths[inside].min()), "to": int(lengths[inside].max()), **_compute_rates(lines, inside)}
        for inside in (bucket_of == bucket for bucket in range(len(ends)))
    ]


def rate_by_confidence(lines: LineCounts) -> list[dict[str, Any]]:
    """Computes how well lines of different confidence are recognised: the points of the calibration curve.

    Returns:
        For each bin of `compute_expected_calibration_error` that holds a line, the least confident
        first, `from` and `to` (of the confidence), `images`, `exact_match`, `cer` and `mean_confidence`.
    """
    bin_of = _choose_bins(lines.confidences, CALIBRATION_BINS)
    return [
        {
            "from": number / CALIBRATION_BINS,
            "to": (number + 1) / CALIBRATION_BINS,
            **_compute_rates(lines, bin_of == number),
        }
        for number in np.unique(bin_of).tolist()
    ]


def compute_expected_calibration_error(
    confidences: np.ndarray | Sequence[float], correct: np.ndarray | Sequence[bool], bins: int = CALIBRATION_BINS
) -> float:
    """Computes the mean gap between confidence and accuracy over equal-width bins, weighted by images.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.

    Args:
        confidences: float [images], 0 to 1.
        correct: bool [images], whether the whole text is right.
    """
    confidences, correct = np.asarray(confidences), np.asarray(correct)
    bin_of = _choose_bins(confidences, bins)
    gaps = np.bincount(bin_of, confidences, bins) - np.bincount(bin_of, correct, bins)
    return float(np.abs(gaps).sum() / max(len(confidences), 1))


def _choose_bins(confidences: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((confidences * bins).astype(np.int64), bins - 1)


def _compute_rates(lines: LineCounts, inside: np.ndarray) -> dict[str, Any]:
    part = LineCounts(lines.counts[inside], lines.confidences[inside])
    return {
        "images": part.total.images,
        "exact_match": part.total.exact_match,
        "cer": part.total.cer,
        "mean_confidence": float(part.confidences.mean(dtype=np.float64)),
    }
