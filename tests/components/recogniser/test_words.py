"""Words of texts, with their places and confidences."""

from __future__ import annotations

import numpy as np
import pytest

from components.recogniser import Recognition, Word

SPANS = [(0, 9), (9, 12), (12, 20), (20, 31), (31, 32), (32, 40)]
CONFIDENCES = [0.5, 0.9, 0.5, 0.8, 0.9, 0.25]


def words_of(text: str, exponent: float = 1.0, spans=SPANS) -> list[Word]:
    edges = [edge for span in spans[: len(text)] for edge in span]
    return Recognition(text, 0.5, CONFIDENCES[: len(text)], edges=edges, exponent=exponent).words


def test_words_lie_between_white_space_with_the_product_of_their_confidences():
    assert words_of("a bc d") == [Word("a", 0.5, 0, 9), Word("bc", 0.4, 12, 31), Word("d", 0.25, 32, 40)]
    assert words_of(" ab  ") == [Word("ab", 0.45, 9, 20)]
    assert words_of("abc") == [Word("abc", 0.225, 0, 20)]


def test_the_exponent_of_the_texts_confidence_is_that_of_its_words():
    assert [word.confidence for word in words_of("a bc d", 0.5)] == pytest.approx(np.sqrt([0.5, 0.4, 0.25]))


def test_a_word_from_right_to_left_begins_where_its_last_symbol_does():
    assert words_of("ab c", spans=[(30, 40), (22, 30), (18, 22), (5, 18)]) == [
        Word("ab", 0.45, 22, 40),
        Word("c", 0.8, 5, 18),
    ]


def test_a_text_without_words_or_without_places_has_none():
    assert words_of("") == words_of(" ") == words_of("  ") == []
    assert Recognition("ab", 0.5, [0.5, 0.9]).words == Recognition("ab", 0.5, [0.5, 0.9]).symbol_spans == []
