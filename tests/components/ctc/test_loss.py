"""The CTC loss, held against the equations of Graves et al. 2006 and against Keras' legacy cost."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components.ctc.loss import compute_ctc_loss


def padded(labels: list[list[int]], filler: int = 0, width: int | None = None) -> np.ndarray:
    """Labels of different lengths as int32 [batch, width]."""
    rows = np.full((len(labels), width or max(map(len, labels))), filler, np.int32)
    for row, label in zip(rows, labels, strict=True):
        row[: len(label)] = label
    return rows


def losses_and_gradients(logits, time_steps, labels, label_lengths) -> tuple[np.ndarray, np.ndarray]:
    logits = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = compute_ctc_loss(logits, tf.constant(time_steps), tf.constant(labels), tf.constant(label_lengths))
    return losses.numpy(), tf.convert_to_tensor(tape.gradient(losses, logits)).numpy()


def random_batch(seed: int, batch: int = 8, classes: int = 5):
    """Logits, time steps and labels; some labels do not fit, some have no symbols."""
    chooser = np.random.default_rng(seed)
    time_steps = chooser.integers(1, 13, batch)
    logits = chooser.normal(0, 3, (batch, time_steps.max() + 2, classes))
    labels = [chooser.integers(0, classes - 1, chooser.integers(0, 7)).tolist() for _ in range(batch)]
    return logits, time_steps, labels


@pytest.mark.parametrize("seed", range(12))
def test_loss_is_that_of_the_forward_algorithm(seed, label_loss):
    logits, time_steps, labels = random_batch(seed)
    wanted = [label_loss(row[:steps], label) for row, steps, label in zip(logits, time_steps, labels, strict=True)]
    losses, _ = losses_and_gradients(logits, time_steps, padded(labels), [len(label) for label in labels])
    np.testing.assert_allclose(losses, wanted, rtol=1e-4, atol=1e-4)


def test_random_cases_hold_labels_that_fit_that_do_not_and_that_are_empty(label_loss):
    fits, empty = [], []
    for seed in range(12):
        logits, time_steps, labels = random_batch(seed)
        fits += [np.isfinite(label_loss(x[:n], label)) for x, n, label in zip(logits, time_steps, labels, strict=True)]
        empty += [not label for label in labels]
    assert 0 < sum(empty) < len(empty)
    assert 0 < sum(fits) < len(fits)


def test_tutorial_case_is_keras_legacy_cost_with_true_lengths_and_not_with_padded_ones():
    chooser = np.random.default_rng(0)
    logits = chooser.normal(0, 1, (2, 25, 26)).astype(np.float32)
    y_pred = tf.nn.softmax(logits)
    y_true = np.zeros((2, 10), np.int32)
    y_true[:, :4] = chooser.integers(0, 25, (2, 4))
    input_length = np.full((2, 1), 25)

    def legacy(label_length: int) -> np.ndarray:
        lengths = np.full((2, 1), label_length)
        return tf.keras.backend.ctc_batch_cost(y_true, y_pred, input_length, lengths).numpy()[:, 0]

    ours = compute_ctc_loss(logits, input_length[:, 0], y_true, [4, 4]).numpy()
    true_lengths, padded_lengths = legacy(4), legacy(tf.shape(y_true)[1])
    np.testing.assert_allclose(ours, true_lengths, rtol=1e-4)
    assert np.all(np.abs(padded_lengths - true_lengths) > 1)


@pytest.mark.parametrize("filler", [-1, 2, 4, 10**6])
def test_what_lies_beyond_a_label_never_matters(filler):
    logits, time_steps, labels = random_batch(3)
    lengths = [len(label) for label in labels]
    tight = losses_and_gradients(logits, time_steps, padded(labels), lengths)
    wide = losses_and_gradients(logits, time_steps, padded(labels, filler, width=11), lengths)
    np.testing.assert_array_equal(wide[0], tight[0])
    np.testing.assert_array_equal(wide[1], tight[1])


@pytest.mark.parametrize("filler", [1e3, -1e3, 1e30])
def test_logits_beyond_the_time_steps_never_matter_and_get_no_gradient(filler):
    logits, time_steps, labels = random_batch(4)
    lengths = [len(label) for label in labels]
    beyond = np.arange(logits.shape[1]) >= time_steps[:, None]
    losses, gradients = losses_and_gradients(logits, time_steps, padded(labels), lengths)
    logits[beyond] = [filler, 0, -filler, filler, 1]
    other_losses, other_gradients = losses_and_gradients(logits, time_steps, padded(labels), lengths)
    assert beyond.any(axis=1).all()
    np.testing.assert_array_equal(gradients[beyond], 0)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-6)
    np.testing.assert_allclose(other_gradients, gradients, atol=1e-6)


def test_blank_is_the_last_class():
    certain = 50 * np.eye(3, dtype=np.float32)[[0, 2, 0]]
    losses = compute_ctc_loss(np.stack([certain] * 3), [3, 3, 3], padded([[0, 0], [0], [1]]), [2, 1, 1]).numpy()
    assert losses[0] == pytest.approx(0, abs=1e-4)
    assert losses[1] > 40
    assert losses[2] > 40


def test_empty_label_costs_the_blanks_of_its_own_time_steps_only():
    logits = np.random.default_rng(5).normal(0, 2, (2, 6, 4)).astype(np.float32)
    losses, gradients = losses_and_gradients(logits, [4, 6], padded([[], [1, 2]]), [0, 2])
    probabilities = tf.nn.softmax(logits[0]).numpy()
    assert losses[0] == pytest.approx(-np.log(probabilities[:4, -1]).sum(), abs=1e-4)
    wanted = probabilities - np.eye(4)[-1]
    wanted[4:] = 0
    np.testing.assert_allclose(gradients[0], wanted, atol=1e-5)


def test_a_batch_of_empty_labels_without_any_column_has_finite_losses():
    losses = compute_ctc_loss(np.zeros((2, 3, 4), np.float32), [3, 1], np.zeros((2, 0), np.int32), [0, 0]).numpy()
    np.testing.assert_allclose(losses, [3 * np.log(4), np.log(4)], rtol=1e-5)


@pytest.mark.parametrize(
    ("label", "needed"), [([1], 1), ([1, 1], 3), ([0, 1, 2], 3), ([1, 1, 2, 2], 6), ([3, 3, 3], 5)]
)
def test_repeats_that_only_just_fit_are_finite_and_one_step_less_is_infinite(label, needed, label_loss):
    logits = np.random.default_rng(6).normal(0, 1, (3, 7, 5)).astype(np.float32)
    other = [2, 0]
    labels, lengths = padded([label, label, other]), [len(label), len(label), 2]
    losses, gradients = losses_and_gradients(logits, [needed, needed - 1, 7], labels, lengths)

    assert losses[0] == pytest.approx(label_loss(logits[0, :needed], label), abs=1e-4)
    assert losses[1] == np.inf
    np.testing.assert_array_equal(gradients[1], 0)
    assert np.abs(gradients[0]).max() > 1e-3
    alone_loss, alone_gradient = losses_and_gradients(logits[2:], [7], padded([other]), [2])
    assert losses[2] == pytest.approx(alone_loss[0], abs=1e-6)
    np.testing.assert_allclose(gradients[2], alone_gradient[0], atol=1e-6)


def test_infinite_losses_masked_as_in_training_leave_a_finite_gradient():
    logits = tf.constant(np.random.default_rng(7).normal(0, 1, (2, 4, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = compute_ctc_loss(logits, [4, 2], padded([[0, 1], [1, 1]]), [2, 2])
        total = tf.reduce_sum(tf.where(tf.math.is_finite(losses), losses, 0.0))
    gradient = tape.gradient(total, logits).numpy()
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1], 0)
    assert gradient[0].any()


def test_gradient_is_that_of_finite_differences(label_loss):
    logits = np.random.default_rng(8).normal(0, 1.5, (3, 6, 4))
    time_steps, labels = [6, 5, 4], [[0, 0, 1], [2, 1], []]
    _, gradients = losses_and_gradients(logits, time_steps, padded(labels), [3, 2, 0])
    numeric = np.zeros_like(logits)
    for place in np.ndindex(logits.shape):
        row = place[0]
        ends = []
        for shift in (1e-5, -1e-5):
            moved = logits.copy()
            moved[place] += shift
            ends.append(label_loss(moved[row, : time_steps[row]], labels[row]))
        numeric[place] = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(gradients, numeric, atol=1e-4)


def test_a_row_has_the_same_loss_and_gradient_alone_and_in_any_batch():
    logits, time_steps, labels = random_batch(9)
    lengths = [len(label) for label in labels]
    losses, gradients = losses_and_gradients(logits, time_steps, padded(labels), lengths)
    for row, (steps, label) in enumerate(zip(time_steps, labels, strict=True)):
        loss, gradient = losses_and_gradients(logits[row : row + 1, :steps], [steps], padded([label]), [len(label)])
        np.testing.assert_allclose(loss, losses[row : row + 1], rtol=1e-5)
        np.testing.assert_allclose(gradient[0], gradients[row, :steps], atol=1e-5)


def test_confident_mistakes_keep_their_full_loss_and_gradient(label_loss):
    logits = np.zeros((1, 2, 3), np.float32)
    logits[..., 1] = 60
    losses, gradients = losses_and_gradients(logits, [2], padded([[0]]), [1])
    assert losses[0] == pytest.approx(label_loss(logits[0], [0]), rel=1e-4)
    assert losses[0] > 100
    np.testing.assert_allclose(gradients[0, :, 1], 1, atol=1e-4)


def test_runs_in_a_graph_whose_shapes_are_not_known():
    logits, time_steps, labels = random_batch(10)
    lengths = np.array([len(label) for label in labels], np.int64)
    signature = [
        tf.TensorSpec([None, None, 5], tf.float32),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None, None], tf.int64),
        tf.TensorSpec([None], tf.int64),
    ]
    graph = tf.function(compute_ctc_loss, input_signature=signature)
    inputs = logits.astype(np.float32), time_steps.astype(np.int32), padded(labels).astype(np.int64), lengths
    np.testing.assert_allclose(graph(*inputs), compute_ctc_loss(*inputs), rtol=1e-6)
