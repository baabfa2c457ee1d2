"""The expected CER of a text: what its symbols' confidences say of it, corrected by held-out lines.

The confidence of a whole text falls with its length, as one wrong symbol makes it wrong. The expected CER does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from components.metrics import LineCounts

_BUCKETS = 10


def count_expected_errors(symbol_confidences: Sequence[Sequence[float]], confidences: np.ndarray) -> np.ndarray:
    """Counts the symbols of texts that are expected to be wrong, by the confidences alone.

    Args:
        symbol_confidences: of each text.
        confidences: float [texts], of whole texts.

    Returns:
        float32 [texts]: the sum of what each symbol lacks to certainty; of an empty text, what the text lacks.
    """
    lengths = np.array([len(symbols) for symbols in symbol_confidences], np.int64)
    doubts = 1 - np.fromiter(itertools.chain.from_iterable(symbol_confidences), np.float64, lengths.sum())
    text_of = np.repeat(np.arange(len(lengths)), lengths)
    return np.where(lengths, np.bincount(text_of, doubts, len(lengths)), 1 - confidences).astype(np.float32)


def calibrate_expected_errors(lines: LineCounts, expected_errors: np.ndarray) -> dict[str, Any]:
    """Compares expected symbol errors with those of held-out lines.

    Args:
        expected_errors: float [lines], as `count_expected_errors` returns them.

    Returns:
        `factor`, by which expected errors are multiplied to be as many as there are (a ratio estimator, Cochran 1977,
        "Sampling Techniques", section 6.2); it makes up for symbols that were left out, which have no confidence. And
        `buckets` of about as many lines each, those with the least expected CER first: `images`, `expected_cer` and
        `cer`.
    """
    errors, symbols = lines.get_column("symbol_errors"), lines.get_column("symbols")
    # One error more on either side, so that a few lines without any do not promise that there never are.
    factor = float((errors.sum() + 1) / (expected_errors.sum(dtype=np.float64) + 1))
    order = np.argsort(expected_errors / np.maximum(symbols, 1), kind="stable")
    buckets = [
        {
            "images": len(inside),
            "expected_cer": factor
            * float(expected_errors[inside].sum(dtype=np.float64))
            / max(symbols[inside].sum(), 1),
            "cer": float(errors[inside].sum() / max(symbols[inside].sum(), 1)),
        }
        for inside in np.array_split(order, _BUCKETS)
        if len(inside)
    ]
    return {"factor": factor, "buckets": buckets}


def estimate_cer(expected_errors: np.ndarray, lengths: np.ndarray, factor: float) -> np.ndarray:
    """Estimates the CER of each text.

    Args:
        expected_errors: float [texts], as `count_expected_errors` returns them.
        lengths: int [texts], symbols of each text.
        factor: as `calibrate_expected_errors` returns it.

    Returns:
        float32 [texts], at most 1.
    """
    return np.minimum(1, factor * expected_errors / np.maximum(lengths, 1)).astype(np.float32)
