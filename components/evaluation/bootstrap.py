"""Bootstrap intervals: how far a rate may be off because of the choice of held-out lines."""

from __future__ import annotations

import numpy as np

from components.metrics import LineCounts

LEVEL = 0.95
RESAMPLES = 2000
_SEED = 0
_NUMBERS_AT_A_TIME = 2_000_000


def estimate_rate_intervals(lines: LineCounts, groups: np.ndarray | None = None) -> dict[str, tuple[float, float]]:
    """Estimates bootstrap intervals of `cer`, `wer` and `exact_match`.

    A rate is a ratio of sums, so its two sums are resampled together. If no line has an error, or all
    symbols are wrong, the interval has no width.

    Args:
        groups: int [lines], the group of each line; None to resample single lines.
    """
    sums = resample_sums(lines.counts, groups)
    images, exact, symbols, symbol_errors, words, word_errors = sums.T
    return {
        "cer": compute_percentile_interval(symbol_errors / np.maximum(symbols, 1)),
        "wer": compute_percentile_interval(word_errors / np.maximum(words, 1)),
        "exact_match": compute_percentile_interval(exact / np.maximum(images, 1)),
    }


def estimate_cer_difference(new: LineCounts, old: LineCounts, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Estimates a bootstrap interval of the CER of a new model minus that of an old one.

    Both recognised the same lines, in the same order; each resample takes the same lines of both.

    Raises:
        ValueError: if the lines differ.
    """
    if not np.array_equal(new.get_column("symbols"), old.get_column("symbols")):
        raise ValueError("two models can be compared line by line only on the same lines, in the same order")
    columns = [new.get_column("symbols"), new.get_column("symbol_errors"), old.get_column("symbol_errors")]
    symbols, new_errors, old_errors = resample_sums(np.stack(columns, axis=1), groups).T
    return compute_percentile_interval((new_errors - old_errors) / np.maximum(symbols, 1))


def compute_percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Computes the percentile interval of bootstrapped values (Efron and Tibshirani 1993, section 13.3)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def resample_sums(
    counts: np.ndarray, groups: np.ndarray | None = None, *, resamples: int = RESAMPLES, seed: int = _SEED
) -> np.ndarray:
    """Sums counts over bootstrap samples of lines, or of groups of lines that are drawn whole.

    Lines with equal counts are one kind. The number of draws of each kind is multinomial; that is the
    same as drawing line by line, without time or memory for each line.

    Args:
        counts: int [lines, columns], at least one line.
        groups: int [lines], the group of each line.

    Returns:
        float64 [resamples, columns], whole numbers; the order of the lines does not matter.

    Raises:
        ValueError: if there are no lines.
    """
    if not len(counts):
        raise ValueError("there are no lines to resample")
    if groups is not None:
        counts = _sum_by_group(groups, counts)
    kinds, numbers = _find_distinct_rows(counts)
    chooser = np.random.default_rng(seed)
    at_a_time = max(1, _NUMBERS_AT_A_TIME // len(kinds))
    return np.concatenate(
        [
            chooser.multinomial(len(counts), numbers / len(counts), min(at_a_time, resamples - done)).astype(np.float64)
            @ kinds
            for done in range(0, resamples, at_a_time)
        ]
    )


def _sum_by_group(groups: np.ndarray, counts: np.ndarray) -> np.ndarray:
    _, group_of = np.unique(groups, return_inverse=True)
    return np.stack([np.bincount(group_of, column) for column in counts.T], axis=1).astype(np.int64)


def _find_distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds each different row, sorted, and how often it occurs; several times as fast as NumPy's own function."""
    kind = np.zeros(len(rows), np.int64)
    for column in rows.T:
        _, value = np.unique(column, return_inverse=True)
        _, kind = np.unique(kind * (value.max() + 1) + value, return_inverse=True)
    _, first, numbers = np.unique(kind, return_index=True, return_counts=True)
    return rows[first].astype(np.float64), numbers
