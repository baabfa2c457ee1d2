"""Temperatures: found again where they were put in, and bounded where nothing can be learned."""

from __future__ import annotations

import numpy as np
import pytest

from components.ctc.calibration import fit_temperature
from components.ctc.decoding import decode_greedily

CLASSES, STEPS = 5, 8


def drawn(sharpness: float, lines: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, list[list[int]]]]:
    """Batches whose truths are drawn from the very posteriors of their logits, the logits then made sharper."""
    chooser = np.random.default_rng(seed)
    logits = chooser.normal(0, 4, (lines, STEPS, CLASSES))
    time_steps = chooser.integers(3, STEPS + 1, lines).astype(np.int32)
    probabilities = np.exp(logits - logits.max(axis=2, keepdims=True))
    cumulated = (probabilities / probabilities.sum(axis=2, keepdims=True)).cumsum(axis=2)
    path = (chooser.random((lines, STEPS, 1)) > cumulated).sum(axis=2).clip(0, CLASSES - 1)
    truths = [
        [int(a) for i, a in enumerate(row[:steps]) if a != CLASSES - 1 and (i == 0 or a != row[i - 1])]
        for row, steps in zip(path, time_steps, strict=True)
    ]
    sharper = (logits * sharpness).astype(np.float32)
    return [(sharper[i : i + 64], time_steps[i : i + 64], truths[i : i + 64]) for i in range(0, lines, 64)]


@pytest.mark.parametrize("sharpness", [0.7, 1.0, 1.5, 2.5])
def test_logits_that_are_too_sharp_by_a_factor_get_that_factor_as_temperature(sharpness):
    assert fit_temperature(drawn(sharpness, 4000)) == pytest.approx(sharpness, rel=0.12)


def test_confidences_under_the_temperature_say_how_often_they_are_right():
    batches = drawn(2.5, 4000)
    temperature = fit_temperature(batches)

    def mean_gap(temperature: float) -> float:
        confidence = right = 0.0
        for logits, time_steps, truths in batches:
            for decoded, truth in zip(decode_greedily(logits / temperature, time_steps), truths, strict=True):
                confidence += np.exp(decoded.log_probability)
                right += decoded.ids.tolist() == truth
        return abs(confidence - right) / 4000

    assert mean_gap(temperature) < 0.02 < 0.1 < mean_gap(1.0)


def test_a_few_lines_without_an_error_do_not_make_a_model_sure_of_everything():
    """Each has a posterior of 0.9999 for its text; nothing says that the next thousand will be right too."""
    logits = np.full((20, 1, 2), 0.0, np.float32)
    logits[:, :, 0] = np.log(9999)
    temperature = fit_temperature([(logits, np.ones(20, np.int32), [[0]] * 20)])
    (decoded,) = decode_greedily(logits[:1] / temperature, np.ones(1, np.int32))
    assert np.exp(decoded.log_probability) == pytest.approx(21 / 22, abs=0.01)


def test_temperatures_are_bounded_whatever_the_lines():
    sure = np.full((50, 3, 3), -50, np.float32)
    sure[:, :, 0] = 50
    steps = np.full(50, 3, np.int32)
    assert fit_temperature([(sure, steps, [[1]] * 50)]) == pytest.approx(4)  # always wrong
    assert fit_temperature([(sure / 100, steps, [[0]] * 50)]) >= 0.5


def test_without_lines_nothing_changes_and_an_empty_text_is_a_text():
    assert fit_temperature([]) == 1.0
    blanks = np.zeros((4, 3, 3), np.float32)
    blanks[:, :, 2] = 3
    assert 0.5 <= fit_temperature([(blanks, np.full(4, 3, np.int32), [[], [], [], [0]])]) <= 4
