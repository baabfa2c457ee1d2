"""Alignments, and the table of which symbol was read as which."""

from __future__ import annotations

import itertools
import random

import pytest

from components.evaluation.confusions import Confusions, align_texts, describe_confusions, spell_symbol
from components.metrics import compute_edit_distance


@pytest.mark.parametrize(
    ("truth", "read", "pairs"),
    [
        ("", "", []),
        ("ab", "ab", [("a", "a"), ("b", "b")]),
        ("ſo", "fo", [("ſ", "f"), ("o", "o")]),
        ("abc", "ac", [("a", "a"), ("b", ""), ("c", "c")]),
        ("ac", "abc", [("a", "a"), ("", "b"), ("c", "c")]),
        ("ab", "", [("a", ""), ("b", "")]),
        ("", "ab", [("", "a"), ("", "b")]),
        ("oͤ", "o", [("o", "o"), ("\u0364", "")]),
        ("ﬁn", "fin", [("", "f"), ("ﬁ", "i"), ("n", "n")]),
    ],
)
def test_alignment_of_known_pairs(truth, read, pairs):
    assert align_texts(truth, read) == pairs


def test_an_alignment_spells_both_texts_with_the_fewest_edits():
    chooser = random.Random(0)
    texts = ["".join(chooser.choices("abſ\u0303 ", k=chooser.randrange(12))) for _ in range(60)]
    for truth, read in itertools.product(texts, repeat=2):
        pairs = align_texts(truth, read)
        assert "".join(pair[0] for pair in pairs) == truth
        assert "".join(pair[1] for pair in pairs) == read
        assert ("", "") not in pairs
        assert sum(a != b for a, b in pairs) == compute_edit_distance(truth, read)


def test_the_table_counts_pairs_that_differ_the_most_frequent_first():
    confusions = Confusions()
    for number, (truth, read) in enumerate(
        [("aſſe", "affe"), ("ſo", "fo"), ("ab", "b"), ("b", "bb"), ("e", "e"), ("ſ", "f")]
    ):
        confusions.add(truth, read, f"{number}.png")
    confusions.add("ſ", "f", "one-too-many.png")
    assert confusions.to_table().to_pylist() == [
        {"truth": "ſ", "read": "f", "count": 5, "truth_count": 5, "examples": ["0.png", "1.png", "5.png"]},
        {"truth": "", "read": "b", "count": 1, "truth_count": None, "examples": ["3.png"]},
        {"truth": "a", "read": "", "count": 1, "truth_count": 2, "examples": ["2.png"]},
    ]


def test_no_errors_are_an_empty_table():
    confusions = Confusions()
    confusions.add("ab", "ab", "0.png")
    table = confusions.to_table()
    assert table.num_rows == 0
    assert table.column_names == ["truth", "read", "count", "truth_count", "examples"]


@pytest.mark.parametrize(
    ("symbol", "spelt"),
    [
        ("ſ", "ſ"),
        ("ﬁ", "ﬁ"),
        ("$", "$"),
        (" ", "U+0020"),
        ("\u00a0", "U+00A0"),
        ("\u0303", "U+0303"),
        ("\u0364", "U+0364"),
        ("\u200d", "U+200D"),
        ("\ue5dc", "U+E5DC"),
        ("𝔄", "𝔄"),
        ("\U000e0100", "U+E0100"),
    ],
)
def test_a_symbol_that_cannot_be_seen_alone_is_spelt_by_its_code_point(symbol, spelt):
    assert spell_symbol(symbol) == spelt


def test_a_pair_in_words():
    assert describe_confusions("ſ", "f") == "ſ read as f"
    assert describe_confusions("\u0303", "") == "U+0303 left out"
    assert describe_confusions("", " ") == "U+0020 added"
