"""Errors are counted where they are in the line."""

import pytest

from components.evaluation.positions import PositionCounts, explain_weak_place


def count(*lines: tuple[str, str]) -> PositionCounts:
    counts = PositionCounts()
    for truth, read in lines:
        counts.add(truth, read)
    return counts


@pytest.mark.parametrize(
    ("truth", "read", "errors"),
    [
        ("0123456789", "0123456789", {}),
        ("0123456789", "x123456789", {0: 1}),
        ("0123456789", "012345678", {9: 1}),
        ("0123456789", "0123456789xy", {9: 2}),
        ("0123456789", "01234xx56789", {5: 2}),
        ("0123456789", "", dict.fromkeys(range(10), 1)),
        ("01234", "0x234", {2: 1}),
        ("01234567890123456789", "01x34567890123456789", {1: 1}),
        ("7", "", {0: 1}),
    ],
)
def test_an_error_counts_in_the_tenth_in_which_it_is(truth, read, errors):
    assert count((truth, read)).errors == errors


def test_rates_are_of_the_symbols_of_each_tenth():
    rates = count(("0123456789", "012345678x"), ("0123456789", "0123456789"), ("ab", "ax")).compute_rates()
    assert [(rate["from"], rate["symbols"], rate["symbol_errors"]) for rate in rates] == [
        *((tenth / 10, 2 + (tenth in (0, 5)), int(tenth in (5, 9))) for tenth in range(10))
    ]
    assert rates[5]["cer"] == pytest.approx(1 / 3)
    assert rates[9]["cer"] == pytest.approx(1 / 2)
    assert [rate["from"] for rate in count(("abc", "abc")).compute_rates()] == [0, 0.3, 0.6]


def test_a_place_that_is_far_worse_than_the_others_is_named():
    bad = count(*[("0123456789", "012345678x")] * 40, *[("0123456789", "0x23456789")] * 20)
    assert explain_weak_place(bad.compute_rates()).startswith(
        "of the symbols from 90% to 100% of the line, 66.7% are wrong, and 3.7% elsewhere"
    )
    few = count(*[("0123456789", "012345678x")] * 20)
    assert explain_weak_place(few.compute_rates()) is None
    alike = count(*[("0123456789", "x1x3x5x7x9")] * 40)
    assert explain_weak_place(alike.compute_rates()) is None
    assert explain_weak_place(count(*[("7", "1")] * 40).compute_rates()) is None


def test_what_is_read_on_a_line_with_an_empty_label_has_no_place():
    rates = count(("", "xy"), ("", ""), ("ab", "ax")).compute_rates()
    assert [(rate["symbols"], rate["symbol_errors"]) for rate in rates] == [(1, 0), (1, 1)]
