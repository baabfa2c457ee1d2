"""Decoding with a language model, held against every text there is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from components.ctc.decoding import decode_greedily
from components.ctc.fusion import Fusion, decode_with_language_model, tune_fusion
from components.ctc.language_model import LanguageModel, NgramCounts
from tests.alignments import probability_of_every_text
from tests.components.ctc.test_language_model import make_labels


def make_fusion(classes: int, weight: float = 0.7, bonus: float = 0.4) -> Fusion:
    counts = NgramCounts.from_labels(make_labels(7, 40, classes, 5), classes)
    return Fusion(LanguageModel.from_counts(counts), weight, bonus)


def score_text(text: tuple[int, ...], probability: float, fusion: Fusion) -> float:
    state, total = fusion.model.start, math.log(probability) + fusion.bonus * len(text)
    for symbol in text:
        total += fusion.weight * fusion.model.log_probabilities[state, symbol]
        state = fusion.model.next_states[state, symbol]
    return total + fusion.weight * fusion.model.log_probabilities[state, -1]


@pytest.mark.parametrize(("steps", "classes"), [(1, 2), (3, 3), (5, 4), (6, 3)])
def test_a_wide_search_finds_the_text_of_the_greatest_score_and_the_next_ones(steps, classes):
    fusion = make_fusion(classes)
    logits = np.random.default_rng(steps).normal(0, 1.5, (20, steps, classes)).astype(np.float32)
    decoded = decode_with_language_model(logits, np.full(20, steps), fusion, 400, 3)
    alone = decode_with_language_model(logits, np.full(20, steps), fusion, 400, 0)
    differ = 0
    for line, one, greedy, row in zip(decoded, alone, decode_greedily(logits, np.full(20, steps)), logits, strict=True):
        probabilities = probability_of_every_text(row)
        ranked = sorted(probabilities, key=lambda text: -score_text(text, probabilities[text], fusion))
        found = [tuple(line.ids.tolist()), *(tuple(ids.tolist()) for ids, _ in line.alternatives)]
        assert found == ranked[:4]
        # The probabilities are the network's own.
        for text, given in zip(found, [line.log_probability, *(p for _, p in line.alternatives)], strict=True):
            assert math.exp(given) == pytest.approx(probabilities[text], rel=1e-6)
        assert len(line.symbol_confidences) == len(line.ids)
        assert tuple(one.ids.tolist()) == found[0]
        assert one.log_probability == pytest.approx(line.log_probability)
        np.testing.assert_allclose(one.symbol_confidences, line.symbol_confidences, rtol=1e-6)
        np.testing.assert_array_equal(one.runs, line.runs)
        assert line.runs.shape == (len(line.ids), 2)
        assert (np.diff(line.runs.ravel()) >= 0).all()
        assert one.alternatives == ()
        differ += one.ids.tolist() != greedy.ids.tolist()
    assert differ or classes == 2


def test_a_line_is_decoded_alike_in_any_batch():
    fusion, chooser = make_fusion(5), np.random.default_rng(3)
    logits, time_steps = chooser.normal(0, 3, (16, 30, 5)).astype(np.float32), chooser.integers(1, 31, 16)
    together = decode_with_language_model(logits, time_steps, fusion, 6, 2)
    for row, steps, line in zip(logits, time_steps, together, strict=True):
        (alone,) = decode_with_language_model(row[None, :steps], np.array([steps]), fusion, 6, 2)
        assert alone.ids.tolist() == line.ids.tolist()
        assert [ids.tolist() for ids, _ in alone.alternatives] == [ids.tolist() for ids, _ in line.alternatives]
        assert alone.log_probability == pytest.approx(line.log_probability)


def write_logits(texts: list[list[int]], classes: int, doubtful: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits that write texts surely, but for some symbols: another one is a little more probable there."""
    logits = np.full((len(texts), 2 * max(map(len, texts)) + 1, classes), -6.0, np.float32)
    logits[:, :, -1] = 3
    for row, text in zip(logits, texts, strict=True):
        for place, symbol in enumerate(text):
            row[2 * place + 1, symbol] = 8
            if symbol in doubtful:
                row[2 * place + 1, doubtful[symbol]] = 8.4
    return logits, np.array([2 * len(text) + 1 for text in texts])


def test_what_labels_never_have_is_corrected_and_time_steps_of_certain_blanks_change_nothing():
    texts = [[0, 1, 2], [3, 1, 2, 1, 2], [0, 1]]
    logits, time_steps = write_logits(texts, 6, {2: 4})
    counts = NgramCounts.from_labels([np.array(text) for text in texts] * 5, 6)
    fusion = Fusion(LanguageModel.from_counts(counts), 0.5, 0.0)
    assert [line.ids.tolist() for line in decode_greedily(logits, time_steps)] == [[0, 1, 4], [3, 1, 4, 1, 4], [0, 1]]
    decoded = decode_with_language_model(logits, time_steps, fusion, 4, 0)
    assert [line.ids.tolist() for line in decoded] == texts
    silence = np.full((3, 7, 6), -20.0, np.float32)
    silence[:, :, -1] = 20
    longer = np.concatenate([logits[:, :2], silence, logits[:, 2:]], axis=1)
    decoded = decode_with_language_model(longer, time_steps + 7, fusion, 4, 0)
    assert [line.ids.tolist() for line in decoded] == texts


def test_nothing_but_blanks_is_the_empty_text():
    logits = np.full((2, 5, 4), -20.0, np.float32)
    logits[:, :, -1] = 20
    for alternatives in (0, 2):
        decoded = decode_with_language_model(logits, np.array([5, 3]), make_fusion(4), 3, alternatives)
        assert [line.ids.tolist() for line in decoded] == [[], []]
        assert [line.log_probability for line in decoded] == pytest.approx([0, 0])


def test_logits_that_are_not_finite_are_refused():
    logits = np.zeros((1, 3, 4), np.float32)
    logits[0, 1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        decode_with_language_model(logits, np.array([3]), make_fusion(4), 3, 0)


def test_the_language_model_is_used_only_if_it_helps():
    texts = [[0, 1, 2], [3, 1, 2, 1, 2], [0, 1]] * 4
    model = LanguageModel.from_counts(NgramCounts.from_labels([np.array(text) for text in texts], 6))
    batch = (*write_logits(texts, 6, {2: 4}), texts)
    fusion = tune_fusion([batch], model)
    assert fusion is not None
    assert fusion.weight > 0
    assert fusion.exponent < 1, "half of the symbols are doubtful to the network, but all texts are right"
    certain = (*write_logits(texts, 6, {}), texts)
    assert tune_fusion([certain], model) is None
    two = (*write_logits(texts[:2], 6, {2: 4}), texts[:2])
    assert tune_fusion([two], model) is None, "two lines may be better by chance"
    assert tune_fusion([], model) is None
