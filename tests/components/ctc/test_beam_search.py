"""Prefix beam search, held against every alignment of every text there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from components.ctc.beam_search import _find_worth_extending, decode_with_beam_search, sort_greatest_first
from components.ctc.decoding import Decoded, compute_label_log_probability, decode_greedily
from tests.alignments import Text, probability_of_every_text

EVERY_TEXT = 400  # of at most 5 time steps over 3 symbols there are fewer


def found(line: Decoded) -> dict[Text, float]:
    """Every text of a decoded line with its probability, in the order in which they are given."""
    texts = [(line.ids, line.log_probability), *line.alternatives]
    assert len({tuple(ids.tolist()) for ids, _ in texts}) == len(texts)
    probabilities = {tuple(ids.tolist()): float(np.exp(log_probability)) for ids, log_probability in texts}
    assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
    return probabilities


def random_batch(seed: int, *, steps: int, classes: int, scale: float, rows: int = 12) -> tuple[np.ndarray, np.ndarray]:
    chooser = np.random.default_rng(seed)
    logits = chooser.normal(0, scale, (rows, steps, classes)).astype(np.float32)
    logits[:, :, -1] += chooser.choice([0, scale], (rows, 1))  # some lines of many blanks, as networks give
    return logits, chooser.integers(1, steps + 1, rows)


CASES = [
    (seed, steps, classes, scale)
    for seed, ((steps, classes), scale) in enumerate(
        itertools.product([(1, 2), (3, 2), (5, 2), (2, 3), (4, 3), (5, 3), (5, 4)], [0.1, 1, 3, 12])
    )
]


@pytest.mark.parametrize(("seed", "steps", "classes", "scale"), CASES)
def test_a_wide_beam_finds_every_text_with_its_true_probability_the_most_probable_first(seed, steps, classes, scale):
    logits, time_steps = random_batch(seed, steps=steps, classes=classes, scale=scale)
    for row, line in enumerate(decode_with_beam_search(logits, time_steps, EVERY_TEXT, alternatives=EVERY_TEXT)):
        truth = probability_of_every_text(logits[row, : time_steps[row]])
        texts = found(line)
        assert texts == pytest.approx(truth, rel=1e-9, abs=1e-300)
        assert truth[next(iter(texts))] == pytest.approx(max(truth.values()), rel=1e-9)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 20])
@pytest.mark.parametrize("scale", [0.1, 1, 3, 12])
def test_a_narrow_beam_gives_distinct_texts_with_their_true_probabilities(width, scale):
    logits, time_steps = random_batch(width, steps=5, classes=4, scale=scale, rows=40)
    for row, line in enumerate(decode_with_beam_search(logits, time_steps, width, alternatives=EVERY_TEXT)):
        truth = probability_of_every_text(logits[row, : time_steps[row]])
        texts = found(line)
        assert 1 <= len(texts) <= width
        assert texts == pytest.approx({text: truth[text] for text in texts}, rel=1e-9)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("scale", [0.3, 2, 8])
def test_the_beam_is_that_of_plain_loops_over_all_classes_and_the_greedy_text(width, scale):
    chooser = np.random.default_rng(width)
    logits = chooser.normal(0, scale, (6, 12, 7))
    greedy = decode_greedily(logits, np.full(6, 12))
    for row, line in enumerate(decode_with_beam_search(logits, np.full(6, 12), width, alternatives=EVERY_TEXT)):
        texts = sorted(beam_of_plain_loops(logits[row], width) | {tuple(greedy[row].ids.tolist())})
        lengths = np.array([len(text) for text in texts])
        labels = np.array([text + (0,) * (12 - len(text)) for text in texts])
        scores = compute_label_log_probability(
            np.repeat(logits[[row]], len(texts), 0), np.full(len(texts), 12), labels, lengths
        )
        assert list(found(line)) == [texts[i] for i in np.argsort(-scores)[:width]]


def beam_of_plain_loops(logits: np.ndarray, width: int) -> set[Text]:
    blank = logits.shape[1] - 1
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    beam: dict[Text, tuple[float, float]] = {(): (1.0, 0.0)}
    for weights in probabilities.tolist():
        after_blank: dict[Text, float] = dict.fromkeys(beam, 0.0)
        after_symbol: dict[Text, float] = dict.fromkeys(beam, 0.0)
        for text, (blank_ended, symbol_ended) in beam.items():
            after_blank[text] += (blank_ended + symbol_ended) * weights[blank]
            if text:
                after_symbol[text] += symbol_ended * weights[text[-1]]
            for symbol in range(blank):
                reach = blank_ended if text and text[-1] == symbol else blank_ended + symbol_ended
                longer = (*text, symbol)
                after_symbol[longer] = after_symbol.get(longer, 0.0) + reach * weights[symbol]
        total = {text: after_blank.get(text, 0.0) + each for text, each in after_symbol.items()}
        best = sorted(total, key=total.__getitem__, reverse=True)[:width]
        beam = {text: (after_blank.get(text, 0.0), after_symbol[text]) for text in best}
    return set(beam)


def test_a_text_of_many_alignments_beats_the_best_path():
    logits = np.log(np.array([[[0.4, 0.6], [0.4, 0.6]]]))  # a, blank
    greedy = decode_greedily(logits, np.array([2]))[0]
    assert greedy.ids.tolist() == []
    assert np.exp(greedy.log_probability) == pytest.approx(0.36)
    beam = decode_with_beam_search(logits, np.array([2]), 4)[0]
    assert beam.ids.tolist() == [0]
    assert np.exp(beam.log_probability) == pytest.approx(0.4 * 0.4 + 0.4 * 0.6 + 0.6 * 0.4)
    assert [(ids.tolist(), pytest.approx(np.exp(each))) for ids, each in beam.alternatives] == [([], 0.36)]
    assert beam.symbol_confidences == pytest.approx([0.4])


def test_a_text_that_was_dropped_and_comes_back_beside_a_longer_one_does_not_make_that_two():
    probabilities = np.array(  # of a, b, blank at each time step
        [[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.05, 0.85, 0.1], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1]]
    )
    logits = np.log(probabilities)[None]
    truth = probability_of_every_text(logits[0])
    texts = found(decode_with_beam_search(logits, np.array([5]), 3, alternatives=EVERY_TEXT)[0])
    assert set(texts) == {(1, 0, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1)} == beam_of_plain_loops(logits[0], 3)
    assert texts == pytest.approx({text: truth[text] for text in texts})


def test_confidences_are_those_of_greedy_wherever_the_text_is():
    logits, time_steps = random_batch(3, steps=15, classes=4, scale=2, rows=60)
    greedy = decode_greedily(logits, time_steps)
    beam = decode_with_beam_search(logits, time_steps, 30)
    same = [(g, b) for g, b in zip(greedy, beam, strict=True) if g.ids.tolist() == b.ids.tolist()]
    assert 10 < len(same) < 60
    for left, right in same:
        np.testing.assert_allclose(right.symbol_confidences, left.symbol_confidences, rtol=1e-6)
        assert right.log_probability == pytest.approx(left.log_probability, abs=1e-12)
    for line in beam:
        assert line.symbol_confidences.dtype == np.float32
        assert line.symbol_confidences.shape == line.ids.shape
        assert line.runs.shape == (*line.ids.shape, 2)
        assert (line.runs[:, 0] < line.runs[:, 1]).all()
        assert ((line.symbol_confidences > 0) & (line.symbol_confidences <= 1)).all()


@pytest.mark.parametrize("width", [1, 2, 4, 60])
def test_the_text_is_never_less_probable_than_the_greedy_one(width):
    logits, time_steps = random_batch(4, steps=20, classes=6, scale=1.5, rows=60)
    greedy = decode_greedily(logits, time_steps)
    beam = decode_with_beam_search(logits, time_steps, width, alternatives=0)
    assert all(b.log_probability >= g.log_probability - 1e-12 for b, g in zip(beam, greedy, strict=True))
    assert sum(b.log_probability > g.log_probability + 1e-12 for b, g in zip(beam, greedy, strict=True)) > 5
    assert all(line.alternatives == () for line in beam)


def test_a_line_reads_the_same_alone_and_in_a_longer_batch():
    logits, time_steps = random_batch(5, steps=15, classes=5, scale=1.5, rows=20)
    padded = np.concatenate([logits, np.full((20, 4, 5), np.nan, np.float32)], axis=1)
    for row, line in enumerate(decode_with_beam_search(padded, time_steps, 6)):
        steps = time_steps[row]
        alone = decode_with_beam_search(logits[row : row + 1, :steps], np.array([steps]), 6)[0]
        assert list(found(line)) == list(found(alone))
        assert found(line) == pytest.approx(found(alone), rel=1e-12)
        np.testing.assert_array_equal(line.symbol_confidences, alone.symbol_confidences)


def test_a_line_of_blanks_is_an_empty_text():
    logits = np.zeros((1, 3, 3))
    logits[0, :, 2] = 9
    line = decode_with_beam_search(logits, np.array([3]), 3)[0]
    assert line.ids.tolist() == []
    assert line.symbol_confidences.tolist() == []
    assert np.exp(line.log_probability) == pytest.approx(probability_of_every_text(logits[0])[()])


def test_classes_that_can_never_be_leave_only_the_texts_that_can():
    logits = np.full((1, 4, 5), -2000.0)
    logits[0, [0, 1, 2, 3], [1, 4, 1, 2]] = 0
    line = decode_with_beam_search(logits, np.array([4]), 10)[0]
    assert line.ids.tolist() == [1, 1, 2]
    assert line.log_probability == 0
    assert line.alternatives == ()


def test_no_lines_are_no_texts():
    assert decode_with_beam_search(np.zeros((0, 4, 3)), np.zeros(0, int), 5) == []


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused_within_a_line(broken):
    logits = np.zeros((2, 4, 3))
    logits[1, 3, 0] = broken
    decode_with_beam_search(logits, np.array([4, 3]), 3)
    with pytest.raises(ValueError, match="not finite"):
        decode_with_beam_search(logits, np.array([4, 4]), 3)


def test_a_beam_of_no_width_is_refused():
    with pytest.raises(ValueError, match="beam_width must be at least 1, not 0"):
        decode_with_beam_search(np.zeros((1, 4, 3)), np.array([4]), 0)


@pytest.mark.parametrize("width", [1, 4, 16, 64])
def test_few_of_the_extensions_are_looked_at(width):
    slots, ranks = _find_worth_extending(width, 300)
    assert len(slots) <= 2 * width + width * np.log(width)
    assert (slots[ranks == 0] == np.arange(width)).all()


@pytest.mark.parametrize(("size", "count"), [(1, 1), (5, 5), (37, 5), (400, 64)])
def test_the_greatest_come_first_and_of_equal_ones_the_first(size, count):
    chooser = np.random.default_rng(size)
    values = chooser.random((30, size)) ** 30
    values[10:] = chooser.choice([0, 1e-200, 0.3, 1], (20, size))
    wanted = np.argsort(-values, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(sort_greatest_first(values, count), wanted)


def test_long_lines_do_not_underflow():
    chooser = np.random.default_rng(6)
    logits = chooser.normal(0, 4, (1, 600, 6))
    line = decode_with_beam_search(logits, np.array([600]), 4)[0]
    wanted = compute_label_log_probability(logits, np.array([600]), line.ids[None], np.array([len(line.ids)]))[0]
    assert line.log_probability == pytest.approx(wanted, abs=1e-9)
    assert line.log_probability < -100
