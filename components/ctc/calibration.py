"""Temperature scaling, which makes confidences mean what they say: of texts with 0.9, nine in ten are right.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2, applied to whole texts: all logits are
divided by a temperature before the posterior of the recognised text is computed. A temperature above 1 makes a network
less sure of everything, one below 1 surer. The greedy text stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from components.ctc.decoding import compute_label_log_probability, decode_greedily

ENOUGH_LINES = 512
_TEMPERATURES = np.geomspace(0.5, 4, 16)


def fit_temperature(batches: Iterable[tuple[np.ndarray, np.ndarray, list[list[int]]]]) -> float:
    """Fits the temperature with which posteriors say best how often texts are right.

    The best one has the least cross entropy between posterior and right or wrong. Instead of 1 and 0, the targets are
    `(right + 1) / (right + 2)` and `1 / (wrong + 2)` (Platt 1999, "Probabilistic outputs for support vector
    machines", equation 11). So a split without any error does not make the model sure of everything.

    Args:
        batches: logits float [batch, time, classes], time steps int [batch], and the true symbol ids of each line,
            of lines on which the network was not trained.

    Returns:
        From 0.5 to 4; 1 without any line.
    """
    parts = [_score_greedy_texts(*batch) for batch in batches]
    if not parts:
        return 1.0
    log_posteriors = np.concatenate([part[0] for part in parts])
    right = np.concatenate([part[1] for part in parts])
    return _interpolate_minimum(compute_cross_entropies(log_posteriors, right))


def compute_cross_entropies(log_posteriors: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Computes the mean cross entropy between posteriors and right or wrong, with the targets of `fit_temperature`.

    Args:
        log_posteriors: float [lines, candidates], natural logarithms.
        right: bool [lines].

    Returns:
        float [candidates].
    """
    targets = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))[:, None]
    wrong_posteriors = np.log(np.maximum(-np.expm1(log_posteriors), 1e-12))
    return -(targets * log_posteriors + (1 - targets) * wrong_posteriors).mean(axis=0)


def _score_greedy_texts(logits: np.ndarray, time_steps: np.ndarray, truths: list[list[int]]) -> tuple[np.ndarray, ...]:
    """Scores the greedy text of each line under each temperature.

    Returns:
        Logarithms of the posteriors, float64 [batch, temperatures], and whether the text is right, bool [batch].
    """
    greedy = [decoded.ids for decoded in decode_greedily(logits, time_steps)]
    lengths = np.array([len(ids) for ids in greedy])
    labels = np.zeros((len(greedy), max(1, lengths.max())), np.int64)
    for row, ids in zip(labels, greedy, strict=True):
        row[: len(ids)] = ids
    log_posteriors = [
        compute_label_log_probability(logits / temperature, time_steps, labels, lengths)
        for temperature in _TEMPERATURES
    ]
    right = np.array([ids.tolist() == list(truth) for ids, truth in zip(greedy, truths, strict=True)])
    return np.stack(log_posteriors, axis=1), right


def _interpolate_minimum(entropies: np.ndarray) -> float:
    """Finds the temperature of the least entropy, by a parabola through the least value and its two neighbours.

    The parabola is over the logarithm of the temperature.
    """
    best = int(entropies.argmin())
    logarithms = np.log(_TEMPERATURES)
    if not 0 < best < len(entropies) - 1:
        return float(_TEMPERATURES[best])
    before, least, after = entropies[best - 1 : best + 2]
    step = logarithms[1] - logarithms[0]
    curvature = before - 2 * least + after
    shift = 0.5 * step * (before - after) / curvature if curvature > 0 else 0.0
    return float(np.exp(logarithms[best] + shift))
