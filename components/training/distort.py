"""Distortions of training lines, so that training never sees the same image twice."""

from __future__ import annotations

import math

import tensorflow as tf

from components.training.recipes import TIME_STRIDE

DISTORTIONS = 18
"""The number of amounts that `distort` takes for each line."""

# Trained on 400 lines of printed books for 40 epochs (one seed), the CER on two sets of other books was 2.9 and 3.8 %
# without any distortion, 2.7 and 3.1 % with neither waves nor blur, 2.8 and 2.9 % with these waves. Blur gained nothing
# on clean scans and is slight.
_STRETCH = 0.12  # of width, at most
_WAVE = 0.03  # pixels up or down for each along the line, at most
_BLUR = 0.4  # pixels, the widest standard deviation


def distort(images: tf.Tensor, widths: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Distorts training lines, each a little and differently, without changing their widths.

    Whole lines are tilted, sheared, narrowed, stretched in height and shifted. Elastic waves along a
    line draw symbols wider or narrower and move them up or down (after Simard et al. 2003, "Best
    Practices for Convolutional Neural Networks", section 2, with sines for random fields). Then come
    blur, contrast, brightness and grain.

    A line's pixels depend on its own image, its amounts and the width of the batch alone.

    Args:
        images: uint8 [batch, height, width, 1], white beyond each line's end; the width is a
            multiple of `TIME_STRIDE`.
        widths: int32 [batch].
        amounts: float32 [batch, DISTORTIONS] in [-1, 1], the strength of each distortion.

    Returns:
        uint8 [batch, height, width, 1], white beyond each line's end.
    """
    geometry, optics, light = tf.split(amounts, [13, 2, 3], axis=1)
    ink = _warp(images, tf.cast(widths, tf.float32), geometry)
    ink = _blur(ink, optics)
    contrast, brightness, grain = tf.unstack(light, axis=1)
    ink = (
        ink * (0.9 + 0.3 * contrast) + (0.025 + 0.075 * brightness) + _draw_noise(ink, amounts) * (0.03 + 0.03 * grain)
    )
    white = tf.round(255.0 * (1.0 - tf.clip_by_value(ink, 0.0, 1.0)))
    white = tf.transpose(tf.cast(white, tf.uint8), [2, 0, 1])[..., None]
    inside = tf.sequence_mask(widths, tf.shape(images)[2])[:, None, :, None]
    return tf.where(inside, white, tf.constant(255, tf.uint8))


def _warp(images: tf.Tensor, widths: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Moves every pixel of each line, and returns ink from 0 to 1, float32 [height, width, batch].

    Output pixel (x, y) comes from input (x', y'):
        x' = scale_x * x + offset_x + wave_x(x) + shear * (y - middle)
        y' = scale_y * (y - middle) + middle + offset_y + tilt * (x - width / 2) + wave_y(x)
    Bilinear interpolation works in two passes: first on strips of a few columns, each cut from its
    place and scaled to its size, then on single rows.
    """
    amounts = amounts[:, None]
    tilt, shear, narrow, place, stretch, across, down = tf.unstack(amounts[..., :7], axis=2)
    widths = widths[:, None]
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    line_height = tf.cast(height, tf.float32)
    bottom, right = line_height - 1, tf.cast(width - 1, tf.float32)
    tilt *= tf.minimum(0.05, 6.0 / widths)  # at most 3 pixels at the ends of a line
    scale_x = 1.06 + 0.06 * narrow
    offset_x = across - widths * (scale_x - 1) * (0.5 + 0.5 * place)
    half_height = (1.05 + 0.09 * stretch) * bottom / 2

    strips = width // TIME_STRIDE
    left = tf.range(strips, dtype=tf.float32) * TIME_STRIDE  # [strips]; what follows is [batch, strips]
    first, last = (
        scale_x * x + offset_x + _compute_wave(x, _STRETCH, amounts[..., 7:10], line_height)
        for x in (left, left + (TIME_STRIDE - 1.0))
    )
    centre = left + (TIME_STRIDE - 1.0) / 2
    middle = bottom / 2 + 2.0 * down + tilt * (centre - widths / 2)
    middle += _compute_wave(centre, _WAVE, amounts[..., 10:], line_height)
    boxes = [(middle - half_height) / bottom, first / right, (middle + half_height) / bottom, last / right]
    columns = tf.image.crop_and_resize(
        images,
        tf.reshape(tf.stack(boxes, axis=2), [-1, 4]),
        tf.repeat(tf.range(batch), strips),
        (height, TIME_STRIDE),
        extrapolation_value=255.0,
    )
    columns = tf.transpose(tf.reshape(columns, [batch, strips, height, TIME_STRIDE]), [0, 2, 1, 3])

    y = tf.range(height, dtype=tf.float32)[None]  # what follows is [batch, height]
    shift = 0.12 * shear * (y - bottom / 2) / right
    rows = tf.zeros_like(shift) + y / bottom
    grey = tf.image.crop_and_resize(
        tf.reshape(columns, [batch, height, width, 1]),
        tf.reshape(tf.stack([rows, shift, rows, shift + 1.0], axis=2), [-1, 4]),
        tf.repeat(tf.range(batch), height),
        (1, width),
        extrapolation_value=255.0,
    )
    return 1.0 - tf.transpose(tf.reshape(grey, [batch, height, width]), [1, 2, 0]) / 255.0


def _compute_wave(x: tf.Tensor, steepest: float, amounts: tf.Tensor, line_height: tf.Tensor) -> tf.Tensor:
    """Computes a sine over x, in pixels, from half a line height to two long, nowhere steeper than `steepest`."""
    amount, length, phase = tf.unstack(amounts, axis=2)
    frequency = 2 * math.pi / (line_height * 2.0**length)
    return amount * steepest / frequency * tf.sin(frequency * x + math.pi * phase)


def _blur(ink: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Blurs each line of [height, width, batch] with its own Gaussian, at most `_BLUR` pixels wide."""
    deviation = 0.05 + _BLUR * (0.5 + 0.5 * amounts)  # [batch, 2]: down and across
    taps = tf.exp(-0.5 * tf.square(tf.range(-2.0, 3.0)[:, None, None] / deviation))
    taps /= tf.reduce_sum(taps, axis=0)
    kernels = taps[:, None, :, 0] * taps[None, :, :, 1]
    return tf.nn.depthwise_conv2d(ink[None], kernels[..., None], [1, 1, 1, 1], "SAME")[0]


def _draw_noise(ink: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Draws uniform noise of mean 0 and variance 1, float32 [height, width, batch].

    Each line's own amounts are the seed, so the batch in which the line is does not matter.
    """
    height, width = tf.unstack(tf.shape(ink)[:2])
    noise = tf.map_fn(
        lambda seed: tf.random.stateless_uniform([height, width // 4], seed, None, None, tf.int32),
        tf.bitcast(amounts[:, :2], tf.int32),
    )
    noise = tf.reshape(tf.bitcast(noise, tf.uint8), [-1, height, width])  # four pixels a number
    return (tf.cast(tf.transpose(noise, [1, 2, 0]), tf.float32) - 127.5) / 73.9
