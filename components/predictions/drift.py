"""Drift: measures of how differently confidences are spread than before, or than on lines with a known text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_GROUPS = 10
_PSEUDO_COUNT = 0.5


def compute_population_stability_index(before: Sequence[int], now: Sequence[int]) -> float:
    """Measures how far apart two histograms are: `sum((q - p) * ln(q / p))` over groups of bins.

    The index of Siddiqi, Credit Risk Scorecards (2006), chapter 10, which is the symmetric divergence of Kullback and
    Leibler (1951), equation 2.6. By custom, above 0.1 is a small change and above 0.25 a large one. A group of
    neighbouring bins ends at each tenth of the range and at each tenth of what `before` holds. So the index sees a
    shift within the bins that hold nearly all, and one into bins that held nothing. Half a count is added to each
    group: an empty one would make the index infinite.

    Args:
        before, now: counts in the same bins of equal width, at least one each.

    Raises:
        ValueError: for histograms of different bins, or an empty one.
    """
    reference, current = np.asarray(before, np.float64), np.asarray(now, np.float64)
    if reference.shape != current.shape or reference.ndim != 1:
        raise ValueError(f"histograms of {reference.shape} and {current.shape} bins cannot be compared")
    if not reference.sum() or not current.sum():
        raise ValueError("a histogram of nothing cannot be compared")
    bins = len(reference)
    tenths_of_range = np.arange(1, bins + 1) * _GROUPS // bins
    tenths_of_rows = np.floor(np.cumsum(reference) / reference.sum() * _GROUPS + 1e-9).astype(int)
    ends = (np.diff(tenths_of_range, prepend=0) > 0) | (np.diff(tenths_of_rows, prepend=0) > 0)
    group = np.concatenate([[0], np.cumsum(ends)[:-1]])
    p, q = (np.bincount(group, counts) + _PSEUDO_COUNT for counts in (reference, current))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def estimate_mean_error(mean: float, counts: Sequence[int]) -> float:
    """Estimates the standard error of a difference between mean confidences that are alike but for chance.

    A confidence is from 0 to 1, so its variance is at most `mean * (1 - mean)` (Bhatia and Davis 2000). The estimate
    uses this greatest variance, since a handful of lines does not tell theirs.

    Args:
        mean: of one of both, from 0 to 1.
        counts: of the lines behind each mean, at least one each.
    """
    return math.sqrt(mean * (1 - mean) * sum(1 / count for count in counts))
