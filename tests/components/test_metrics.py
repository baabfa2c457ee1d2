from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import pytest

from components.metrics import (
    ErrorCounts,
    LineCounts,
    compute_edit_distance,
    compute_expected_calibration_error,
    rate_by_confidence,
    rate_by_length,
)


def recursive_distance(truth: str, read: str) -> int:
    """The definition of the Levenshtein distance, word for word."""

    @functools.cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        kept = distance(i - 1, j - 1) + (truth[i - 1] != read[j - 1])
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, kept)

    return distance(len(truth), len(read))


@pytest.mark.parametrize(
    ("truth", "read", "distance"),
    [
        ("", "", 0),
        ("abc", "abc", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("saturday", "sunday", 3),
        ("ab", "ba", 2),
        ("aab", "ab", 1),
    ],
)
def test_edit_distance_of_known_pairs(truth, read, distance):
    assert compute_edit_distance(truth, read) == distance


def test_edit_distance_is_its_definition_for_every_short_pair():
    texts = ["".join(text) for length in range(4) for text in itertools.product("ab", repeat=length)]
    for truth, read in itertools.product(texts, repeat=2):
        assert compute_edit_distance(truth, read) == recursive_distance(truth, read)


def test_edit_distance_counts_whole_words_too():
    assert compute_edit_distance(["the", "old", "mill"], ["the", "mill", "wheel"]) == 2


@pytest.mark.parametrize(
    ("truth", "read", "counts"),
    [
        ("abc", "abc", ErrorCounts(1, 1, 3, 0, 1, 0)),
        ("the old mill", "the cold mil", ErrorCounts(1, 0, 12, 2, 3, 2)),
        ("ab", "", ErrorCounts(1, 0, 2, 2, 1, 1)),
        ("", "ab", ErrorCounts(1, 0, 0, 2, 0, 1)),
        ("a b", "ab", ErrorCounts(1, 0, 3, 1, 2, 2)),
        ("ſo", "so", ErrorCounts(1, 0, 2, 1, 1, 1)),
    ],
)
def test_counts_of_one_image(truth, read, counts):
    assert ErrorCounts.from_texts(truth, read) == counts


def test_rates_are_errors_for_each_true_symbol_word_and_image():
    total = (
        ErrorCounts.from_texts("abcd", "abcx")
        + ErrorCounts.from_texts("one two", "one two")
        + ErrorCounts.from_texts("a", "aaaa")
    )
    assert (total.symbols, total.symbol_errors) == (12, 4)
    assert total.cer == pytest.approx(4 / 12)
    assert total.wer == pytest.approx(2 / 4)
    assert total.exact_match == pytest.approx(1 / 3)
    assert ErrorCounts.from_texts("a", "aaaa").cer == 3


def test_counts_of_parts_add_up_to_those_of_the_whole():
    pairs = [("ab", "ab"), ("abc", "abd"), ("", "x"), ("a b c", "a c"), ("zz", "")]
    counts = [ErrorCounts.from_texts(*pair) for pair in pairs]
    whole = sum(counts, ErrorCounts())
    assert sum(counts[:2], ErrorCounts()) + sum(counts[2:], ErrorCounts()) == whole
    assert whole.images == 5
    assert whole.exact == 1


def test_no_images_have_rates_of_zero():
    nothing = ErrorCounts()
    assert (nothing.cer, nothing.wer, nothing.exact_match) == (0, 0, 0)


@pytest.mark.parametrize(
    ("confidences", "correct", "error"),
    [
        ([1.0, 1.0], [True, True], 0.0),
        ([1.0, 1.0], [False, False], 1.0),
        ([0.75] * 4, [True, True, True, False], 0.0),
        ([0.9, 0.9], [True, False], 0.4),
        ([0.05, 0.95], [True, False], 0.95),  # two bins: the gaps do not cancel
        ([0.91, 0.99], [True, False], 0.45),  # one bin: means are compared
        ([0.0, 0.3], [False, True], 0.35),
        ([], [], 0.0),
    ],
)
def test_calibration_error_of_known_cases(confidences, correct, error):
    assert compute_expected_calibration_error(confidences, correct) == pytest.approx(error)


def test_calibration_error_is_that_of_the_equation():
    chooser = np.random.default_rng(0)
    confidences = chooser.uniform(0, 1, 500)
    correct = chooser.uniform(0, 1, 500) < confidences**2
    wanted = 0.0
    for low in np.arange(10) / 10:
        inside = (confidences >= low) & (confidences < low + 0.1)
        wanted += inside.sum() / 500 * abs(correct[inside].mean() - confidences[inside].mean())
    assert compute_expected_calibration_error(confidences.tolist(), correct.tolist()) == pytest.approx(wanted)


def lines_of(*lines: tuple[str, str, float]) -> LineCounts:
    counts = [dataclasses.astuple(ErrorCounts.from_texts(truth, read)) for truth, read, _ in lines]
    return LineCounts(np.array(counts, np.int64), np.array([confidence for *_, confidence in lines], np.float32))


def test_few_different_lengths_have_a_bucket_each():
    lines = lines_of(("ab", "ab", 0.9), ("abcd", "abxx", 0.5), ("ab", "a", 0.7), ("a", "a", 1.0))
    one, two, four = rate_by_length(lines)
    assert one == {"from": 1, "to": 1, "images": 1, "exact_match": 1, "cer": 0, "mean_confidence": 1}
    assert two == {
        "from": 2,
        "to": 2,
        "images": 2,
        "exact_match": 0.5,
        "cer": 0.25,
        "mean_confidence": pytest.approx(0.8),
    }
    assert four == {"from": 4, "to": 4, "images": 1, "exact_match": 0, "cer": 0.5, "mean_confidence": 0.5}


def test_many_different_lengths_have_buckets_of_about_equally_many_lines():
    lengths = np.random.default_rng(0).integers(1, 80, 4000).tolist()
    buckets = rate_by_length(lines_of(*[("x" * length, "x" * length, 1.0) for length in lengths]))
    assert sum(bucket["images"] for bucket in buckets) == 4000
    assert len(buckets) == 8
    for bucket in buckets:
        assert bucket["images"] == sum(bucket["from"] <= length <= bucket["to"] for length in lengths)
        assert 350 < bucket["images"] < 650
    for shorter, longer in itertools.pairwise(buckets):
        assert shorter["to"] < longer["from"]


def test_a_length_that_most_lines_have_is_never_divided():
    lengths = [5] * 1000 + list(range(1, 20))
    buckets = rate_by_length(lines_of(*[("x" * length, "x" * length, 1.0) for length in lengths]))
    assert sum(bucket["images"] for bucket in buckets) == len(lengths)
    assert next(bucket for bucket in buckets if bucket["from"] <= 5 <= bucket["to"])["images"] >= 1001


def test_confidences_are_counted_in_the_bins_of_the_calibration_error():
    lines = lines_of(("a", "a", 1.0), ("a", "b", 0.91), ("ab", "ab", 0.9), ("abc", "axc", 0.05), ("a", "a", 0.0))
    low, high = rate_by_confidence(lines)
    assert low == {
        "from": 0.0,
        "to": 0.1,
        "images": 2,
        "exact_match": 0.5,
        "cer": 0.25,
        "mean_confidence": pytest.approx(0.025),
    }
    assert (high["from"], high["to"], high["images"], high["cer"]) == (0.9, 1.0, 3, 0.25)
    error = sum(bin["images"] * abs(bin["mean_confidence"] - bin["exact_match"]) for bin in (low, high)) / 5
    assert error == pytest.approx(compute_expected_calibration_error(lines.confidences, lines.get_column("exact")))


def test_an_empty_label_adds_no_symbols_and_what_is_read_there_counts_as_errors():
    blank, filled = ErrorCounts.from_texts("", "xy"), ErrorCounts.from_texts("abcd", "abcd")
    assert (blank.exact, blank.symbols, blank.symbol_errors, blank.words, blank.word_errors) == (0, 0, 2, 0, 1)
    assert ErrorCounts.from_texts("", "") == ErrorCounts(images=1, exact=1)
    assert (blank + filled).cer == 0.5
