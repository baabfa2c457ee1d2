"""Layers that Keras does not have, registered under names that `model.keras` files hold: never rename them."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers, ops

_PACKAGE = "line_networks"
_JUST_INSIDE = 1 - 1e-6
LEAST_VARIANCE = 8.0**2
"""Of grey levels from 0 to 255: the grain of an empty line is no ink."""


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Ink(layers.Layer):
    """Ink, 1 to 0, of grey pixels, 0 to 255, so that white and padding are zero.

    It computes without the last axis, of length 1. ONNX Runtime would go through that axis element by element, which
    took a third of the time of `ctc_conv`.
    """

    def call(self, images):
        grey = ops.cast(ops.squeeze(images, -1), "float32")
        return ops.expand_dims((255.0 - grey) / 255.0, -1)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class NormalisedInk(layers.Layer):
    """Ink of lines, float32, with paper at 0 and a standard deviation of 1 over each line: [images, widths] to images.

    So neither the shade of the paper nor the strength of the ink matters. Ink is negative where symbols are lighter
    than their ground. Columns behind a line's end are zero, like paper.

    The paper's shade is the mean of all pixels on one side of the line's mean: the side with more pixels. Without this
    layer, networks did not learn to recognise white symbols on blue at all. With the line's mean itself at 0 they
    learned that, but handwriting worse: convolutions pad images with zeros, which then are no paper.

    Like `Ink` it computes without the last axis.
    """

    def call(self, inputs):
        images, widths = inputs
        grey = ops.cast(ops.squeeze(images, -1), "float32")
        _, height, columns = ops.shape(grey)
        inside = ops.cast(ops.arange(columns, dtype="int32")[None, None] < widths[:, None, None], "float32")
        grey *= inside  # few passes over whole images: they cost as much as a layer
        pixels = ops.cast(height * widths, "float32")[:, None, None]
        grey_sum = _sum_line(grey)
        mean = grey_sum / pixels
        variance = ops.maximum(_sum_line(ops.square(grey)) / pixels - ops.square(mean), 0.0)
        darker = ops.cast(grey < mean, "float32")  # 1 behind the line's end, too
        darker_pixels = _sum_line(darker) - ops.cast(height * (columns - widths), "float32")[:, None, None]
        darker_sum = _sum_line(darker * grey)
        lighter_pixels = pixels - darker_pixels
        paper = ops.where(
            lighter_pixels >= darker_pixels,
            (grey_sum - darker_sum) / ops.maximum(lighter_pixels, 1.0),
            darker_sum / ops.maximum(darker_pixels, 1.0),
        )
        return ops.expand_dims((paper - grey) * (inside * ops.rsqrt(variance + LEAST_VARIANCE)), -1)

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def _sum_line(x):
    """Sums the pixels of each line, [batch, height, width] to [batch, 1, 1]."""
    return ops.sum(x, (1, 2), keepdims=True)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class StridedTimeSteps(layers.Layer):
    """Time steps of lines from their widths in pixels, int32 [batch]: one for every `stride` pixels begun."""

    def __init__(self, stride: int, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, widths):
        return (widths + self.stride - 1) // self.stride

    def get_config(self):
        return {**super().get_config(), "stride": self.stride}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class FixedTimeSteps(layers.Layer):
    """The same number of time steps for every line: widths, int32 [batch], to int32 [batch]."""

    def __init__(self, steps: int, **kwargs):
        super().__init__(**kwargs)
        self.steps = steps

    def call(self, widths):
        return ops.full_like(widths, self.steps)

    def get_config(self):
        return {**super().get_config(), "steps": self.steps}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class MaskColumns(layers.Layer):
    """A mask that sets the columns behind each line's end to zero: [x, time_steps] to x.

    x is [batch, rows, columns, channels] or [batch, columns, channels].
    `columns_per_step` of its columns make one time step.
    """

    def __init__(self, columns_per_step: int, **kwargs):
        super().__init__(**kwargs)
        self.columns_per_step = columns_per_step

    def call(self, inputs):
        x, steps = inputs
        inside = ops.arange(ops.shape(x)[-2], dtype="int32") < self.columns_per_step * steps[:, None]
        # TensorFlow Lite cannot slice [:, None] out of three axes.
        inside = ops.expand_dims(ops.cast(inside, x.dtype), -1)
        return x * (ops.expand_dims(inside, 1) if len(x.shape) == 4 else inside)

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "columns_per_step": self.columns_per_step}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class FusedBatchNormalization(layers.BatchNormalization):
    """Keras' batch normalisation, computed in training by TensorFlow's fused operation where one replica trains alone.

    Keras' own takes three times as long on a CPU, and a third of a training step of `ctc_conv`. The weights are the
    same, and so is the output but for rounding.
    """

    def call(self, inputs, training=None, mask=None):
        if not training or self.synchronized or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        shape = tf.shape(inputs)
        image = inputs if len(inputs.shape) == 4 else inputs[:, None]
        normalised, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            image, self.gamma.value, self.beta.value, epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.reduce_prod(shape[:-1]), tf.float32)
        variance *= (count - 1) / count  # Keras keeps that of the batch itself, not the estimate for all images
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))
        return tf.reshape(normalised, shape)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class ResizeLines(layers.Layer):
    """Lines of one size, without the padding behind their ends: [images, widths] to [batch, height, width, 1]."""

    def __init__(self, height: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.height = height
        self.width = width

    def call(self, inputs):
        images, widths = inputs
        images = ops.cast(images, "float32")
        # crop_and_resize maps corner pixel to corner pixel: the last one of a line is width - 1. It fills with black
        # whatever rounding puts beyond the image, be it a millionth of a pixel.
        last = tf.cast(tf.maximum(tf.shape(images)[2] - 1, 1), tf.float32)
        right = tf.cast(widths - 1, tf.float32) / last * _JUST_INSIDE
        zeros = tf.zeros_like(right)
        boxes = tf.stack([zeros, zeros, tf.fill(tf.shape(right), _JUST_INSIDE), right], axis=1)
        return tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), (self.height, self.width))

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.height, self.width, input_shape[0][3])

    def get_config(self):
        return {**super().get_config(), "height": self.height, "width": self.width}
