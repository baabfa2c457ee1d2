"""The CTC loss, with true lengths instead of those of the padding."""

from __future__ import annotations

import tensorflow as tf


def compute_ctc_loss(
    logits: tf.Tensor, time_steps: tf.Tensor, labels: tf.Tensor, label_lengths: tf.Tensor
) -> tf.Tensor:
    """Computes the negative log probability of each label given its image (Graves et al. 2006, equation 8).

    Args:
        logits: float32 [batch, time, classes], unnormalised; class `classes - 1` is the blank.
        time_steps: int [batch], steps that the image's own width gives; logits beyond them are ignored.
        labels: int [batch, longest], symbol ids; those beyond a label's length are ignored.
        label_lengths: int [batch]; 0 is a label without symbols.

    Returns:
        float32 [batch], in nats. Infinity, with a gradient of zero, where a label does not
        fit its time steps (`time_steps < label_length + adjacent_repeats`).
    """
    time_steps = tf.cast(time_steps, tf.int32)
    label_lengths = tf.cast(label_lengths, tf.int32)
    labels = tf.cast(labels, tf.int32)
    within = tf.sequence_mask(time_steps, tf.shape(logits)[1])
    logits = tf.where(within[:, :, None], logits, 0.0)
    longest = tf.maximum(tf.reduce_max(label_lengths), 1)
    labels = tf.pad(labels, [[0, 0], [0, tf.maximum(longest - tf.shape(labels)[1], 0)]])[:, :longest]
    inside = tf.sequence_mask(label_lengths, longest)
    repeats = tf.reduce_sum(tf.cast((labels[:, 1:] == labels[:, :-1]) & inside[:, 1:], tf.int32), axis=1)
    fits = label_lengths + repeats <= time_steps
    empty = label_lengths == 0

    # tf.nn.ctc_loss refuses empty labels, and gives labels that do not fit a gradient. Both get a stand-in of one
    # symbol, whose loss is not used.
    ordinary = fits & ~empty
    inside = tf.where(ordinary[:, None], inside, tf.range(longest)[None] == 0)
    labels = tf.where(ordinary[:, None], labels, 0)
    indices = tf.where(inside)
    sparse = tf.SparseTensor(indices, tf.gather_nd(labels, indices), tf.cast([tf.shape(labels)[0], longest], tf.int64))
    losses = tf.nn.ctc_loss(
        labels=sparse,
        logits=tf.transpose(logits, [1, 0, 2]),
        label_length=None,
        logit_length=tf.maximum(time_steps, 1),
        logits_time_major=True,
        blank_index=-1,
    )
    only_blanks = tf.nn.log_softmax(logits)[:, :, -1]
    losses = tf.where(empty, -tf.reduce_sum(tf.where(within, only_blanks, 0.0), axis=1), losses)
    return tf.where(fits, losses, tf.constant(float("inf")))
