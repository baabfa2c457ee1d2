"""Promises about texts: the bound, the thresholds, and whether promises are kept."""

from __future__ import annotations

import numpy as np
import pytest

from components.evaluation.promise import (
    USUAL_TARGETS,
    bound_error,
    count_needed,
    describe_acceptance,
    explain_no_promise,
    make_promise,
)
from components.metrics import LineCounts


def count(confidences: np.ndarray, wrong: np.ndarray) -> LineCounts:
    """Lines of one symbol each, read with these confidences."""
    ones = np.ones(len(wrong), np.int64)
    counts = np.stack([ones, ~wrong, ones, wrong, ones, wrong], axis=1).astype(np.int64)
    return LineCounts(counts, confidences.astype(np.float32))


def draw_lines(seed: int, lines: int, books: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws confidences, which lines are wrong, and the book of each line; some books are harder than they seem."""
    chooser = np.random.default_rng(seed)
    book = chooser.integers(0, books, lines) if books else np.zeros(lines, int)
    logits = chooser.normal(4, 2, lines)
    hardness = chooser.normal(0, 1, books)[book] if books else 0.0
    return 1 / (1 + np.exp(-logits)), chooser.random(lines) > 1 / (1 + np.exp(hardness - logits)), book


@pytest.mark.parametrize(
    ("wrong", "lines", "bound"),
    [(0, 100, 1 - 0.05**0.01), (5, 100, 0.10225), (3, 3, 1), (0, 0, 1), (0, 1, 0.95), (999, 1000, 0.99995)],
)
def test_the_bound_is_that_of_clopper_and_pearson(wrong, lines, bound):
    assert bound_error(wrong, lines) == pytest.approx(bound, abs=5e-6)


@pytest.mark.parametrize("target", [0.0001, 0.001, 0.01, 0.3, 0.99])
@pytest.mark.parametrize("wrong", [0, 1, 7])
def test_so_many_lines_are_needed_and_no_fewer(target, wrong):
    lines = count_needed(target, wrong)
    assert bound_error(wrong, lines) <= target
    assert lines == wrong + 1 or bound_error(wrong, lines - 1) > target


def test_the_curve_counts_the_lines_that_each_threshold_accepts():
    confidences = np.array([0.999, 0.2, 0.97, 0.97, 0.6])
    acceptance = describe_acceptance(count(confidences, np.array([False, True, False, True, False])))
    assert (acceptance["lines"], acceptance["level"], acceptance["similarity"]) == (5, 0.95, None)
    assert [(point["accepted"], point["wrong"]) for point in acceptance["curve"]] == [(1, 0), (3, 1), (4, 1), (5, 2)]
    for point in acceptance["curve"]:
        assert (confidences >= point["threshold"]).sum() == point["accepted"] == point["counted_as"]
        assert point["bound"] == bound_error(point["wrong"], point["accepted"])


def test_a_confidence_that_is_a_threshold_is_accepted_and_the_least_one_too():
    acceptance = describe_acceptance(count(np.array([0.5, 0.0]), np.array([False, False])))
    assert [(point["threshold"], point["accepted"]) for point in acceptance["curve"]] == [(0.5, 1), (0.0, 2)]


def test_a_promise_accepts_what_it_can_and_stops_before_the_first_threshold_that_breaks_it():
    confidences = np.repeat([0.99, 0.9, 0.6, 0.3], 500)
    wrong = np.zeros(2000, bool)
    wrong[:4] = wrong[1000:1080] = True
    acceptance = describe_acceptance(count(confidences, wrong))
    promise = make_promise(acceptance, 0.01)
    assert (promise.accepted, promise.wrong, promise.coverage) == (1000, 4, 0.5)
    assert promise.threshold is not None
    assert 0.6 < promise.threshold <= 0.9
    assert make_promise(acceptance, 0.2).coverage == 1


def test_what_cannot_be_promised_is_said_with_what_it_takes():
    right = describe_acceptance(count(np.full(82, 0.9), np.zeros(82, bool)))
    assert make_promise(right, 0.001).threshold is None
    assert explain_no_promise(right, 0.001) == (
        "no text is accepted, since --target_error=0.001 cannot be promised: it takes at least 2,995 held-out lines, "
        "all of them accepted and right, and there are 82; they allow --target_error=0.05"
    )
    wrong = describe_acceptance(count(np.full(400, 0.9), np.arange(400) % 2 == 0))
    assert explain_no_promise(wrong, 0.05) == (
        "no text is accepted, since --target_error=0.05 cannot be promised: 200 of the 400 most confident readings of "
        "the 400 held-out lines are wrong; they allow no useful promise"
    )


def test_lines_of_one_group_that_are_wrong_together_count_as_fewer():
    confidences, books = np.full(400, 0.9), np.arange(400) // 40
    together = describe_acceptance(count(confidences, books == 0), books)
    apart = describe_acceptance(count(confidences, np.arange(400) % 10 == 0), books)
    assert together["similarity"] == 1
    assert [point["counted_as"] for point in together["curve"]] == [10]
    assert together["curve"][0]["bound"] == bound_error(1, 10)
    assert apart["similarity"] == 0
    assert [point["counted_as"] for point in apart["curve"]] == [400]
    assert "which count as 10, since lines of one group are wrong together" in explain_no_promise(together, 0.01)
    alone = describe_acceptance(count(confidences[:5], np.zeros(5, bool)), np.zeros(5, int))
    assert alone["curve"][0]["counted_as"] == 1


@pytest.mark.parametrize(("lines", "books"), [(400, 0), (3000, 0), (2000, 40)])
def test_promises_are_kept_in_95_of_100_worlds(lines, books):
    """In each world the lines and the books are drawn anew, and the promise is held against lines of further books."""
    made = kept = 0
    for seed in range(100):
        confidences, wrong, book = draw_lines(seed, lines, books)
        acceptance = describe_acceptance(count(confidences, wrong), book if books else None)
        further, further_wrong, _ = draw_lines(1000 + seed, 100_000, 5000 if books else 0)
        for target in USUAL_TARGETS[3:6]:
            promise = make_promise(acceptance, target)
            made += promise.threshold is not None
            kept += promise.threshold is None or further_wrong[further >= promise.threshold].mean() <= target
    assert made > 60
    assert kept >= 0.95 * 300
