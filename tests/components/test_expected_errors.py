"""The expected CER of texts: counted by hand, and right on average where confidences are wrong by a factor."""

from __future__ import annotations

import numpy as np
import pytest

from components.expected_errors import calibrate_expected_errors, count_expected_errors, estimate_cer
from components.metrics import LineCounts


def test_expected_errors_are_what_symbols_lack_to_certainty_and_an_empty_text_has_its_own():
    found = count_expected_errors([[0.9, 0.5], [], [1.0]], np.array([0.4, 0.75, 1.0]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0.6, 0.25, 0], atol=1e-6)
    assert count_expected_errors([], np.array([])).shape == (0,)


def test_the_cer_of_a_text_is_at_most_1_and_does_not_fall_with_its_length():
    np.testing.assert_allclose(
        estimate_cer(np.array([0.5, 5.0, 3.0, 0.2]), np.array([5, 50, 1, 0]), factor=0.5), [0.05, 0.05, 1, 0.1]
    )


@pytest.mark.parametrize("too_sure", [0.5, 1.0, 3.0])
def test_held_out_lines_make_expected_errors_right_on_average(too_sure):
    chooser = np.random.default_rng(0)
    symbols = chooser.integers(5, 80, 3000)
    expected = chooser.gamma(0.4, 0.1, 3000) * symbols
    errors = chooser.poisson(too_sure * expected)
    ones = np.ones_like(symbols)
    lines = LineCounts(np.stack([ones, errors == 0, symbols, errors, ones, ones], axis=1), np.full(3000, 0.5))
    calibration = calibrate_expected_errors(lines, expected)
    assert calibration["factor"] == pytest.approx(too_sure, rel=0.03)
    buckets = calibration["buckets"]
    assert sum(bucket["images"] for bucket in buckets) == 3000
    assert [bucket["expected_cer"] for bucket in buckets] == sorted(bucket["expected_cer"] for bucket in buckets)
    for bucket in buckets[5:]:
        assert bucket["cer"] == pytest.approx(bucket["expected_cer"], rel=0.15)


def test_a_few_lines_without_an_error_do_not_promise_that_there_never_is_one():
    counts = np.array([[1, 1, 5, 0, 1, 0]] * 4)
    calibration = calibrate_expected_errors(LineCounts(counts, np.full(4, 0.5)), np.full(4, 0.5))
    assert calibration["factor"] == pytest.approx(1 / 3)
    assert [bucket["images"] for bucket in calibration["buckets"]] == [1, 1, 1, 1]
