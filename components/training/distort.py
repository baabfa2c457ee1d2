"""Distortions of training lines."""

from __future__ import annotations

import tensorflow as tf

DISTORTIONS = 10
"""How many amounts `distort` takes for each line."""


def distort(images: tf.Tensor, widths: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Training lines, each a little different from what it was, its width unchanged.

    One affine map per line (tilt, shear, narrowing, stretch in height, shift), a change of
    contrast and brightness, and grain.

    Args:
        images: uint8 [batch, height, width, 1], white beyond each line's end.
        widths: int32 [batch].
        amounts: float32 [batch, DISTORTIONS] in [-1, 1]: how much of each.

    Returns:
        Of the type and shape of `images`, white beyond each line's end.
    """
    ink = (255.0 - tf.cast(images, tf.float32)) / 255.0
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    tilt, shear, narrow, place, stretch, across, down, contrast, brightness, grain = tf.unstack(amounts, axis=1)
    line_width = tf.cast(widths, tf.float32)
    middle = tf.cast(height, tf.float32) / 2

    # Output pixel (x, y) comes from input (x', y'), as ImageProjectiveTransformV3 wants it:
    #   x' = scale_x * x + shear * (y - middle) + offset_x
    #   y' = tilt * (x - width / 2) + scale_y * (y - middle) + middle + offset_y
    tilt *= tf.minimum(0.05, 6.0 / line_width)  # at most 3 pixels at the ends of a line
    shear *= 0.12
    scale_x = 1.06 + 0.06 * narrow
    scale_y = 1.05 + 0.09 * stretch
    freed = line_width * (scale_x - 1)
    offset_x = across - freed * (0.5 + 0.5 * place)
    offset_y = 2.0 * down
    zeros = tf.zeros_like(tilt)
    transforms = tf.stack(
        [
            scale_x,
            shear,
            offset_x - shear * middle,
            tilt,
            scale_y,
            middle * (1 - scale_y) + offset_y - tilt * line_width / 2,
            zeros,
            zeros,
        ],
        axis=1,
    )
    ink = tf.raw_ops.ImageProjectiveTransformV3(
        images=ink,
        transforms=transforms,
        output_shape=tf.stack([height, width]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    # Each line's own amounts are the seed of its grain: it does not matter in which batch the line is.
    grains = tf.map_fn(
        lambda seed: tf.random.stateless_normal(tf.shape(ink)[1:], seed),
        tf.bitcast(amounts[:, :2], tf.int32),
        fn_output_signature=tf.float32,
    )

    def per_line(values: tf.Tensor) -> tf.Tensor:
        return values[:, None, None, None]

    ink = (
        ink * per_line(0.9 + 0.3 * contrast)
        + per_line(0.025 + 0.075 * brightness)
        + grains * per_line(0.03 + 0.03 * grain)
    )
    ink = tf.clip_by_value(ink, 0.0, 1.0)
    inside = tf.sequence_mask(widths, width)[:, None, :, None]
    return tf.where(inside, tf.cast(tf.round(255.0 * (1.0 - ink)), tf.uint8), tf.constant(255, tf.uint8))
