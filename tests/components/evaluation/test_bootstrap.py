"""Intervals of rates: exact where they can be known, and right as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from components.evaluation import bootstrap
from components.evaluation.bootstrap import (
    compute_percentile_interval,
    estimate_cer_difference,
    estimate_rate_intervals,
    resample_sums,
)
from components.metrics import LineCounts


def lines_of(*rows: tuple[int, int]) -> LineCounts:
    """Lines of one word each, by symbols and symbol errors."""
    counts = np.array([(1, errors == 0, symbols, errors, 1, errors > 0) for symbols, errors in rows], np.int64)
    return LineCounts(counts, np.ones(len(rows), np.float32))


def test_a_model_that_is_always_right_or_always_wrong_has_intervals_without_width():
    right = estimate_rate_intervals(lines_of(*[(5, 0)] * 30))
    assert right == {"cer": (0, 0), "wer": (0, 0), "exact_match": (1, 1)}
    wrong = estimate_rate_intervals(lines_of(*[(5, 5)] * 30))
    assert wrong == {"cer": (1, 1), "wer": (1, 1), "exact_match": (0, 0)}


def test_one_line_is_drawn_every_time():
    assert estimate_rate_intervals(lines_of((4, 1))) == {"cer": (0.25, 0.25), "wer": (1, 1), "exact_match": (0, 0)}


def test_no_lines_at_all_are_refused():
    with pytest.raises(ValueError, match="there are no lines"):
        resample_sums(np.empty((0, 6), np.int64))


def test_resamples_draw_as_many_lines_as_there_are_and_keep_their_columns_together():
    counts = np.array([[1, 10, 20], [1, 3, 6], [1, 10, 20], [1, 0, 0]])
    sums = resample_sums(counts, resamples=500)
    assert sums.shape == (500, 3)
    assert (sums[:, 0] == 4).all()
    assert (2 * sums[:, 1] == sums[:, 2]).all()
    assert len(np.unique(sums[:, 1])) > 5


def test_resamples_are_those_of_drawing_line_by_line():
    chooser = np.random.default_rng(5)
    counts = chooser.integers(0, 4, (40, 2))
    drawn = counts[chooser.integers(0, 40, (20_000, 40))].sum(axis=1)
    sums = resample_sums(counts, resamples=20_000)
    assert sums.mean(axis=0) == pytest.approx(drawn.mean(axis=0), rel=0.01)
    assert np.cov(sums.T) == pytest.approx(np.cov(drawn.T), rel=0.05, abs=1)


def test_the_same_lines_in_any_order_and_any_portions_give_the_same_interval(monkeypatch):
    chooser = np.random.default_rng(2)
    counts = chooser.integers(0, 30, (500, 6))
    sums = resample_sums(counts)
    np.testing.assert_array_equal(resample_sums(chooser.permutation(counts)), sums)
    monkeypatch.setattr(bootstrap, "_NUMBERS_AT_A_TIME", 7000)
    np.testing.assert_array_equal(resample_sums(counts), sums)


def test_groups_are_drawn_whole():
    counts = np.array([[1, 5], [1, 7], [1, 100]])
    sums = resample_sums(counts, np.array([8, 8, 3]), resamples=200)
    assert set(map(tuple, sums.tolist())) == {(4, 24), (3, 112), (2, 200)}


def test_lines_that_are_alike_in_their_groups_make_the_interval_wider():
    groups = np.repeat(np.arange(10), 50)
    lines = lines_of(*[(20, 4 if group < 3 else 0) for group in groups])
    (low, high), (grouped_low, grouped_high) = (
        estimate_rate_intervals(lines, by)["exact_match"] for by in (None, groups)
    )
    assert grouped_high - grouped_low > 4 * (high - low)


def test_an_interval_covers_the_true_rate_about_as_often_as_it_says():
    chooser = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        symbols = chooser.choice([10, 30], 300)
        errors = chooser.binomial(symbols, 0.05)
        low, high = estimate_rate_intervals(lines_of(*zip(symbols, errors, strict=True)))["cer"]
        covered += low <= 0.05 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_interval_is_between_the_percentiles():
    low, high = compute_percentile_interval(np.arange(1001) / 1000)
    assert (low, high) == pytest.approx((0.025, 0.975))


def test_a_difference_is_taken_line_by_line():
    chooser = np.random.default_rng(1)
    hard = chooser.integers(0, 10, 400)
    old = lines_of(*[(20, errors) for errors in hard])
    new = lines_of(*[(20, errors + 1) for errors in hard])
    # Each line has one error more: whatever is drawn, the difference is the same.
    assert estimate_cer_difference(new, old) == pytest.approx((0.05, 0.05))
    assert estimate_cer_difference(old, new) == pytest.approx((-0.05, -0.05))
    assert estimate_cer_difference(old, old) == (0, 0)
    assert estimate_cer_difference(new, old, np.arange(400) // 40) == pytest.approx((0.05, 0.05))


def test_models_that_read_other_lines_are_not_compared():
    with pytest.raises(ValueError, match="the same lines"):
        estimate_cer_difference(lines_of((3, 1), (4, 1)), lines_of((4, 1), (3, 1)))


def test_a_million_lines_are_resampled_in_little_memory():
    import tracemalloc

    chooser = np.random.default_rng(3)
    symbols = chooser.integers(20, 80, 1_000_000)
    errors = chooser.poisson(0.02 * symbols)
    ones = np.ones_like(symbols)
    counts = np.stack([ones, errors == 0, symbols, errors, symbols // 6, np.minimum(errors, 5)], axis=1)
    tracemalloc.start()
    low, high = compute_percentile_interval(np.divide(*resample_sums(counts)[:, [3, 2]].T))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert low < 0.02 < high
    assert high - low < 2e-4
    assert peak < 200e6
