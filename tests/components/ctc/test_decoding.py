"""Greedy decoding and the posterior of a text, held against TensorFlow and against every alignment there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from components.ctc.decoding import Emissions, align_symbols, compute_label_log_probability, decode_greedily
from components.ctc.loss import compute_ctc_loss
from tests.alignments import best_alignment, probability_of_every_text, softmax


def random_rows(seed: int, rows: int = 20, steps: int = 15, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Few classes, so that runs, repeats split by blanks and empty texts all occur."""
    chooser = np.random.default_rng(seed)
    return chooser.normal(0, 2, (rows, steps, classes)).astype(np.float32), chooser.integers(1, steps + 1, rows)


@pytest.mark.parametrize("seed", range(4))
def test_greedy_text_is_that_of_the_tensorflow_decoder(seed):
    logits, time_steps = random_rows(seed)
    (sparse,), _ = tf.nn.ctc_greedy_decoder(logits.transpose(1, 0, 2), time_steps.astype(np.int32))
    dense = tf.sparse.to_dense(sparse, default_value=-1).numpy()
    wanted = [[symbol for symbol in row if symbol >= 0] for row in dense.tolist()]
    assert [line.ids.tolist() for line in decode_greedily(logits, time_steps)] == wanted
    assert any(left == right for row in wanted for left, right in itertools.pairwise(row))


def test_probability_of_the_text_is_that_of_the_forward_algorithm_and_of_the_loss(label_loss):
    logits, time_steps = random_rows(5)
    decoded = decode_greedily(logits, time_steps)
    lengths = np.array([len(line.ids) for line in decoded])
    labels = np.zeros((len(decoded), lengths.max()), np.int32)
    for row, line in zip(labels, decoded, strict=True):
        row[: len(line.ids)] = line.ids
    ours = [line.log_probability for line in decoded]
    reference = [-label_loss(x[:n], line.ids.tolist()) for x, n, line in zip(logits, time_steps, decoded, strict=True)]
    np.testing.assert_allclose(ours, reference, atol=1e-9)
    np.testing.assert_allclose(ours, -compute_ctc_loss(logits, time_steps, labels, lengths).numpy(), atol=1e-4)
    np.testing.assert_allclose(compute_label_log_probability(logits, time_steps, labels, lengths), ours, atol=1e-12)


@pytest.mark.parametrize(("steps", "classes"), [(1, 2), (2, 3), (4, 3), (5, 4)])
def test_probability_of_each_text_is_the_sum_over_all_its_alignments(steps, classes):
    logits = np.random.default_rng(steps).normal(0, 1.5, (1, steps, classes)).astype(np.float32)
    texts = probability_of_every_text(logits[0])
    assert sum(texts.values()) == pytest.approx(1)
    for text, probability in texts.items():
        label = np.array([[*text, 0]])
        found = compute_label_log_probability(logits, np.array([steps]), label, np.array([len(text)]))
        assert np.exp(found[0]) == pytest.approx(probability, rel=1e-9)
    line = decode_greedily(logits, np.array([steps]))[0]
    assert np.exp(line.log_probability) == pytest.approx(texts[tuple(line.ids.tolist())], rel=1e-9)


def test_repeats_are_merged_unless_a_blank_lies_between_and_confidence_is_the_peak_of_each_run():
    best = [0, 0, 2, 0, 1, 1, 2]  # class 2 is the blank: the text is 0, 0, 1
    peaks = [1.0, 3.0, 2.0, 2.5, 4.0, 1.5, 2.0]
    logits = np.zeros((1, 7, 3))
    logits[0, np.arange(7), best] = peaks
    line = decode_greedily(logits, np.array([7]))[0]
    assert line.ids.tolist() == [0, 0, 1]
    wanted = [softmax(logits[0])[step, best[step]] for step in (1, 3, 4)]
    np.testing.assert_allclose(line.symbol_confidences, wanted, rtol=1e-6)
    assert line.symbol_confidences.dtype == np.float32
    assert line.runs.tolist() == [[0, 2], [3, 4], [4, 6]]
    assert line.runs.dtype == np.int32


@pytest.mark.parametrize("scale", [0.3, 1, 4])
def test_symbols_of_any_text_have_the_time_steps_of_its_most_probable_alignment_and_the_peaks_over_them(scale):
    logits = np.random.default_rng(12).normal(0, scale, (1, 5, 4))
    steps = np.array([5])
    for text in probability_of_every_text(logits[0]):
        confidences, runs = np.zeros(len(text)), [[5, 0] for _ in text]
        for step, place, probability in best_alignment(logits[0], text):
            confidences[place] = max(confidences[place], probability)
            runs[place] = [min(runs[place][0], step), step + 1]
        label = np.array([[*text, 0]])
        found = align_symbols(Emissions.from_logits(logits, steps), label, np.array([len(text)]))[0]
        np.testing.assert_allclose(found[0], confidences, rtol=1e-6)
        assert found[1].tolist() == runs


def test_greedy_symbols_have_the_time_steps_of_the_most_probable_alignment_of_their_text():
    logits, time_steps = random_rows(13)
    lines = decode_greedily(logits, time_steps)
    labels, lengths = np.zeros((len(lines), 15), int), np.array([len(line.ids) for line in lines])
    for row, line in zip(labels, lines, strict=True):
        row[: len(line.ids)] = line.ids
    aligned = align_symbols(Emissions.from_logits(logits, time_steps), labels, lengths)
    for line, (confidences, runs), steps in zip(lines, aligned, time_steps, strict=True):
        np.testing.assert_allclose(line.symbol_confidences, confidences, rtol=1e-6)
        assert line.runs.tolist() == runs.tolist()
        assert line.runs.max(initial=0) <= steps


def test_a_text_without_an_alignment_of_any_probability_has_no_time_steps():
    logits = np.zeros((2, 4, 3))
    logits[0, :, 2] = 1e4  # so sure of the blank that everything else has probability 0
    found = align_symbols(Emissions.from_logits(logits, np.array([4, 4])), np.array([[0, 1], [0, 1]]), np.array([2, 2]))
    assert [len(runs) for _, runs in found] == [0, 2]
    assert [len(confidences) for confidences, _ in found] == [2, 2]


def test_a_run_never_goes_on_into_the_next_line():
    logits = np.zeros((2, 2, 3))
    logits[:, :, 1] = 5
    assert [line.ids.tolist() for line in decode_greedily(logits, np.array([2, 2]))] == [[1], [1]]


def test_a_line_of_blanks_is_an_empty_text_with_its_probability(label_loss):
    logits = np.zeros((2, 3, 3))
    logits[0, :, 2] = 4
    logits[1, :, 0] = 4
    empty, other = decode_greedily(logits, np.array([3, 3]))
    assert empty.ids.tolist() == []
    assert empty.symbol_confidences.tolist() == []
    assert empty.log_probability == pytest.approx(3 * np.log(softmax(logits[0, 0])[2]))
    assert other.ids.tolist() == [0]
    alone = decode_greedily(logits[:1], np.array([3]))[0]
    assert alone.log_probability == pytest.approx(empty.log_probability)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused_within_a_line_and_ignored_behind_it(broken):
    logits, _ = random_rows(6, rows=2, steps=5)
    time_steps = np.array([5, 3])
    wanted = decode_greedily(logits, time_steps)
    logits[1, 3] = broken
    found = decode_greedily(logits, time_steps)
    assert [line.ids.tolist() for line in found] == [line.ids.tolist() for line in wanted]
    assert [line.log_probability for line in found] == [line.log_probability for line in wanted]
    logits[1, 2, 0] = broken
    with pytest.raises(ValueError, match="not finite"):
        decode_greedily(logits, time_steps)


def test_a_line_reads_the_same_alone_and_in_a_longer_batch():
    logits, time_steps = random_rows(7)
    for row, line in enumerate(decode_greedily(logits, time_steps)):
        steps = time_steps[row]
        alone = decode_greedily(logits[row : row + 1, :steps], np.array([steps]))[0]
        assert line.ids.tolist() == alone.ids.tolist()
        assert line.log_probability == pytest.approx(alone.log_probability, abs=1e-12)
        np.testing.assert_array_equal(line.symbol_confidences, alone.symbol_confidences)


def test_labels_that_do_not_fit_have_probability_zero():
    logits = np.random.default_rng(8).normal(0, 1, (3, 4, 3))
    labels = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 0]])
    found = compute_label_log_probability(logits, np.array([4, 4, 2]), labels, np.array([3, 3, 3]))
    assert np.isfinite(found[0])
    assert found[1:].tolist() == [-np.inf, -np.inf]


def test_long_unlikely_lines_do_not_underflow(label_loss):
    logits = np.random.default_rng(9).normal(0, 4, (1, 900, 6))
    label = np.random.default_rng(9).integers(0, 5, 30)
    found = compute_label_log_probability(logits, np.array([900]), label[None], np.array([30]))[0]
    assert found < -1000
    assert found == pytest.approx(-label_loss(logits[0], label.tolist()), rel=1e-9)


def test_what_lies_beyond_a_label_never_matters():
    logits, time_steps = random_rows(10, rows=2)
    tight = compute_label_log_probability(logits, time_steps, np.array([[1, 2], [0, 0]]), np.array([2, 1]))
    wide = compute_label_log_probability(logits, time_steps, np.array([[1, 2, 99], [0, -7, 99]]), np.array([2, 1]))
    np.testing.assert_array_equal(wide, tight)
