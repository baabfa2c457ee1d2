"""From logits to text and confidence, vectorised over the batch in NumPy: the same on every engine.

Shapes: `logits` float [batch, time, classes], unnormalised, the blank being class
`classes - 1`; `time_steps` int [batch], the steps that each image's own width gives.
What lies beyond an image's time steps never matters.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One decoded line.

    Attributes:
        ids: symbol ids, int [length].
        symbol_confidences: float32 [length], each symbol's greatest posterior over its time steps.
        log_probability: natural logarithm of the posterior of the whole text, at most 0.
    """

    ids: np.ndarray
    symbol_confidences: np.ndarray
    log_probability: float


def greedy_decode(logits: np.ndarray, time_steps: np.ndarray) -> list[Decoded]:
    """Best class at every time step, repeats merged, blanks dropped (Graves et al. 2006, section 3.2).

    The probability is that of the text, over every alignment, not that of the one path.

    Raises:
        ValueError: if a logit within an image's time steps is not finite: a decoder that
            goes on would print symbol 0.
    """
    batch, steps, classes = logits.shape
    blank = classes - 1
    valid = np.arange(steps) < time_steps[:, None]
    log_probabilities = _log_softmax(logits.astype(np.float64))
    if not np.isfinite(log_probabilities[valid]).all():
        raise ValueError("the model gave logits that are not finite: train it again, with a lower --learning_rate")
    best = np.where(valid, logits.argmax(axis=2), blank)
    peak = np.take_along_axis(log_probabilities, best[:, :, None], axis=2)[:, :, 0]
    first = np.ones(best.shape, bool)
    first[:, 1:] = best[:, 1:] != best[:, :-1]
    starts = np.flatnonzero(first)
    run_peaks = np.maximum.reduceat(peak.ravel(), starts) if starts.size else np.empty(0)
    run_ids = best.ravel()[starts]
    symbol_runs = run_ids != blank
    rows = (starts // steps)[symbol_runs]
    lengths = np.bincount(rows, minlength=batch)
    ids = np.split(run_ids[symbol_runs], np.cumsum(lengths)[:-1])
    confidences = np.split(np.exp(run_peaks[symbol_runs]).astype(np.float32), np.cumsum(lengths)[:-1])
    labels = np.zeros((batch, int(lengths.max(initial=0))), np.int64)
    labels[np.arange(labels.shape[1]) < lengths[:, None]] = run_ids[symbol_runs]
    totals = _forward(log_probabilities, time_steps, labels, lengths, blank)
    return [Decoded(*row) for row in zip(ids, confidences, totals.tolist(), strict=True)]


def label_log_probability(
    logits: np.ndarray, time_steps: np.ndarray, labels: np.ndarray, label_lengths: np.ndarray
) -> np.ndarray:
    """The natural logarithm of the posterior of a label, `-ctc_loss`, over every alignment.

    Args:
        labels: int [batch, longest], padded with anything.
        label_lengths: int [batch].

    Returns:
        float64 [batch]; minus infinity where the label does not fit the time steps.
    """
    return _forward(_log_softmax(logits.astype(np.float64)), time_steps, labels, label_lengths, logits.shape[2] - 1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, which the callers look for
        shifted = logits - logits.max(axis=2, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))


def _forward(
    log_probabilities: np.ndarray, time_steps: np.ndarray, labels: np.ndarray, label_lengths: np.ndarray, blank: int
) -> np.ndarray:
    """The forward variables of Graves et al. 2006, equations 6 to 8, over a whole batch at once.

    Each step is divided by its sum, and the logarithms of those sums are added up
    (Rabiner 1989, section V.A), which is cheaper than logarithms throughout.
    """
    batch, steps, _ = log_probabilities.shape
    longest = labels.shape[1]
    states = 2 * longest + 1
    extended = np.full((batch, states), blank, np.int64)
    extended[:, 1::2] = np.where(np.arange(longest) < label_lengths[:, None], labels, blank)
    probabilities = np.exp(np.take_along_axis(log_probabilities, extended[:, None, :], axis=2))
    probabilities *= np.arange(states) <= 2 * label_lengths[:, None, None]
    may_skip = np.zeros((batch, states), bool)
    may_skip[:, 2:] = (extended[:, 2:] != blank) & (extended[:, 2:] != extended[:, :-2])

    alpha = np.zeros((batch, states))
    alpha[:, :2] = probabilities[:, 0, :2]
    total = np.zeros(batch)
    rows = np.arange(batch)
    result = np.full(batch, -np.inf)
    last = 2 * label_lengths
    with np.errstate(divide="ignore", invalid="ignore"):
        for step in range(steps):
            if step:
                moved = alpha.copy()
                moved[:, 1:] += alpha[:, :-1]
                moved[:, 2:] += np.where(may_skip[:, 2:], alpha[:, :-2], 0)
                alpha = moved * probabilities[:, step]
            scale = alpha.sum(axis=1)
            total += np.log(scale)
            alpha /= np.where(scale > 0, scale, 1)[:, None]
            ended = time_steps == step + 1
            if ended.any():
                final = alpha[rows, last] + np.where(last > 0, alpha[rows, last - 1], 0)
                result = np.where(ended, total + np.log(final), result)
    return np.minimum(result, 0)
