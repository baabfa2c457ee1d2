"""The best constant text, and models that read no better than it."""

from __future__ import annotations

import random

import pytest

from components.evaluation.constant import ConstantAnswer, explain_no_better, find_best_constant
from components.metrics import ErrorCounts, compute_edit_distance

CHOOSER = random.Random(0)
NAMES = [f"word_188_{CHOOSER.randrange(10_000):04d}" for _ in range(30)]
"""Labels that are file names with a long common prefix."""
METERS = [f"000{CHOOSER.randrange(10_000):04d}" for _ in range(30)]


def judge(labels: list[str], readings: list[str]) -> tuple[ConstantAnswer, str | None]:
    pairs = list(zip(labels, readings, strict=True))
    constant = find_best_constant(lambda: pairs)
    return constant, explain_no_better(sum((ErrorCounts.from_texts(*pair) for pair in pairs), ErrorCounts()), constant)


def spoil(text: str, chooser: random.Random, share: float) -> str:
    return "".join("?" if chooser.random() < share else symbol for symbol in text)


@pytest.mark.parametrize(
    "readings",
    [
        ["word_188_"] * 30,
        ["word_188_2"] * 30,
        [f"word_188_{CHOOSER.randrange(10_000):04d}" for _ in range(30)],
        [*NAMES[1:], NAMES[0]],
    ],
    ids=["prefix", "with a digit", "guesses", "labels of others"],
)
def test_a_model_that_reads_a_common_prefix_is_no_better_than_a_constant_text(readings):
    constant, why = judge(NAMES, readings)
    assert constant.text.startswith("word_188_")
    assert constant.cer < 0.25  # far below what looks like a bad model
    assert "reads no better than a constant text: its CER is " in why
    assert f'and the answer "{constant.text}" for every line has {constant.cer:.2%}' in why


@pytest.mark.parametrize("labels", [NAMES, METERS], ids=["names", "meters"])
@pytest.mark.parametrize("share", [0, 0.05, 0.1])
def test_a_model_that_reads_labels_with_a_common_prefix_is_better(labels, share):
    chooser = random.Random(1)
    assert judge(labels, [spoil(label, chooser, share) for label in labels])[1] is None


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_a_model_that_reads_few_lines_right_is_better_and_one_that_reads_one_of_them_everywhere_is_not(count):
    labels = METERS[:count]
    assert judge(labels, labels)[1] is None
    assert "no better than a constant text" in judge(labels, labels[:1] * count)[1]


def test_two_lines_that_differ_in_a_symbol_are_enough_for_a_model_without_an_error():
    assert judge(["00012", "00013"], ["00012", "00013"])[1] is None
    assert judge(["00012", "00013"], ["00012", "00018"])[1] is not None


@pytest.mark.parametrize("count", [1, 2, 30])
def test_lines_with_one_label_show_nothing(count):
    constant, why = judge(["AB12"] * count, ["AB12"] * count)
    assert (constant.text, constant.cer, constant.exact) == ("AB12", 0, count)
    assert why == (
        f'none of {count} held-out lines has another label than "AB12", so that nothing shows whether it reads: '
        "hold out lines with other labels"
    )


def test_one_line_with_another_label_among_many_shows_that_a_model_reads():
    labels = ["0000"] * 29 + ["0417"]
    assert judge(labels, labels)[1] is None
    assert judge(labels, ["0000"] * 30)[1] is not None


def test_a_model_that_is_never_right_where_most_lines_have_one_label_is_refused_though_its_cer_is_low():
    long = ["".join(CHOOSER.choices("abcdefgh ", k=40)) for _ in range(10)]
    labels = ["-"] * 20 + long
    constant, why = judge(labels, [""] * 20 + [f"{text[:-1]}?" for text in long])
    assert (constant.label, constant.exact) == ("-", 20)
    assert why == (
        "it reads no better than the most frequent label: it is right on 0 of 30 lines, and the answer "
        '"-" for every line on 20'
    )
    assert judge(labels, ["-"] * 20 + [f"{text[:-1]}?" for text in long])[1] is None


def test_long_lines_that_are_never_read_without_an_error_are_read_all_the_same():
    labels = ["".join(CHOOSER.choices("abcdefgh ", k=60)) for _ in range(50)]
    labels[1] = labels[0]
    constant, why = judge(labels, [spoil(label, CHOOSER, 0.17) + "?" for label in labels])
    assert constant.exact == 2
    assert why is None


def test_the_constant_text_is_no_worse_than_any_label_or_reading():
    labels = ["".join(CHOOSER.choices("abc", k=CHOOSER.randrange(1, 7))) + "end" for _ in range(200)]
    readings = ["".join(CHOOSER.choices("abc", k=2)) + "end" for _ in range(200)]
    constant, _ = judge(labels, readings)
    symbols = sum(map(len, labels))
    cers = [sum(compute_edit_distance(label, text) for label in labels) / symbols for text in {*labels, *readings}]
    assert constant.cer <= min(cers)
    assert constant.symbol_errors == sum(compute_edit_distance(label, constant.text) for label in labels)


def test_all_lines_count_and_not_only_those_that_candidates_are_taken_from():
    labels = ["ab"] * 10_000 + ["cde"] * 15_000
    pairs = [(label, "ab") for label in labels]
    constant = find_best_constant(lambda: iter(pairs))
    assert (constant.text, constant.exact) == ("ab", 10_000)
    assert constant.symbol_errors == 3 * 15_000


def test_without_lines_there_is_no_constant_text():
    with pytest.raises(ValueError, match="no line"):
        find_best_constant(list)
