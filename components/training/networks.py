"""The networks that `--model` names, each small enough to read like a figure.

Every network is a Keras model with the same face:

    inputs   images      [batch, height, width, 1]   grey, 0 black to 255 white; white beyond a line's end
             widths      int32 [batch]               each line's own width in pixels
    outputs  logits      float32 [batch, time, classes]   unnormalised; the softmax is in the loss and in
                                                          the decoder; the blank is class `classes - 1`
             time_steps  int32 [batch]               the steps that belong to each line

Logits are float32 even where the rest computes in bfloat16.
"""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Callable

import keras
from keras import layers

from components.training.layers import (
    FixedTimeSteps,
    FusedBatchNormalization,
    Ink,
    MaskColumns,
    NormalisedInk,
    ResizeLines,
    StridedTimeSteps,
)
from components.training.recipes import TIME_STRIDE


def build_ctc_conv(classes: int, height: int, synchronized: bool = False, earlier: bool = False) -> keras.Model:
    """Builds the default network for short lines, fully convolutional: any width, one time step for every 4 pixels.

    It has about 0.15 million weights.

        paper to 0, standard deviation to 1
        conv 5x5, stride 2x2   ->  [height/2,  width/2, 16]
        conv 3x3, stride 2x2   ->  [height/4,  width/4, 32]
        conv 3x3, stride 2x1   ->  [height/8,  width/4, 48]
        conv 3x3, stride 2x1   ->  [height/16, width/4, 64]
        conv (height/16)x1     ->  [width/4, 96]    all rows of a column at once
        + conv 3, dilation 1   ->  [width/4, 96]
        + conv 3, dilation 2   ->  [width/4, 96]
        + conv 3, dilation 4   ->  [width/4, 96]    a step sees 7 neighbours on either side
        dense                  ->  [width/4, classes]

    Striding early keeps the convolutions cheap. "+" adds the result to the input. These three
    layers replace a recurrent one: they recognise no worse and train a third faster (Bai et al.
    2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks"). After every
    layer, the columns behind a line's end are set to zero, as if the line were alone. So its
    logits do not depend on its batch.

    `earlier` builds what earlier versions built under this name, without the normalisation.
    """
    return _build_strided("ctc_conv", classes, height, synchronized, earlier, (16, 32, 48, 64), 96, (1, 2, 4), 0.1)


def build_ctc_conv_context(classes: int, height: int, synchronized: bool = False) -> keras.Model:
    """Builds the default network for long lines: `ctc_conv` with two more layers along the line, of dilations 8 and 16.

    A step sees 31 neighbours on either side, which is a word or two. It has about 0.2 million weights.
    """
    channels, dilations = (16, 32, 48, 64), (1, 2, 4, 8, 16)
    return _build_strided("ctc_conv_context", classes, height, synchronized, False, channels, 96, dilations, 0.1)


def build_ctc_conv_large(classes: int, height: int, synchronized: bool = False, earlier: bool = False) -> keras.Model:
    """Builds a wider and deeper `ctc_conv`, for large collections of long lines.

    It has about 1 million weights. A step of training takes 2.7 times as long as with `ctc_conv`.

        conv 5x5, stride 2x2   ->  [height/2,  width/2, 32]
        conv 3x3, stride 2x2   ->  [height/4,  width/4, 64]
        conv 3x3, stride 2x1   ->  [height/8,  width/4, 96]
        conv 3x3, stride 2x1   ->  [height/16, width/4, 128]
        conv (height/16)x1     ->  [width/4, 192]
        + conv 3, dilation 1   ->  [width/4, 192]   ... 2, 4, 8, 16, 4 likewise: a step sees
                                                    35 neighbours on either side
        dense                  ->  [width/4, classes]

    `earlier` is as in `build_ctc_conv`; the dilations were 1, 2, 4, 1, 2, 4.
    """
    dilations = (1, 2, 4, 1, 2, 4) if earlier else (1, 2, 4, 8, 16, 4)
    return _build_strided(
        "ctc_conv_large", classes, height, synchronized, earlier, (32, 64, 96, 128), 192, dilations, 0.2
    )


def build_crnn_v1(classes: int, height: int, synchronized: bool = False) -> keras.Model:
    """Builds a reference network: lines squeezed to 200 by 50 pixels, 50 time steps, two one-way LSTMs.

    It does without cuDNN, whose operation would be exported too and fail on a machine without a GPU.

    The kernels behind the convolutions start larger than usual, so that the logits differ from
    image to image from the start. With the usual ones an LSTM's output is about a tenth of its
    input, and the network first learns *when* a symbol is due instead of what it looks like: on
    captcha codes the validation CER stayed at 90 % for 80 epochs. With these it is under 3 %
    after 10.
    """
    images, widths = _make_inputs(height)
    x = _squeeze(images, widths)

    def block(x, channels: int, kernel: tuple[int, int]):
        x = layers.Conv2D(channels, kernel, padding="same")(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9, synchronized=synchronized)(x))

    def larger(scale: float):
        return keras.initializers.VarianceScaling(scale)

    x = layers.MaxPooling2D((2, 2))(block(x, 8, (5, 5)))
    x = layers.MaxPooling2D((2, 2))(block(x, 16, (5, 5)))
    x = block(x, 32, (3, 3))
    x = block(x, 64, (3, 1))
    x = _rows_to_channels(x)
    for scale in (4.0, 16.0):
        x = layers.LSTM(100, return_sequences=True, use_cudnn=False, kernel_initializer=larger(scale))(x)
    logits = layers.Dense(classes, kernel_initializer=larger(9.0), dtype="float32", name="logits")(x)
    return _make_fixed_width_model("crnn_v1", images, widths, logits)


def build_ocr_model_v1(classes: int, height: int, synchronized: bool = False) -> keras.Model:
    """Builds a reference network: lines squeezed to 200 by 50 pixels, 50 time steps, two bidirectional LSTMs.

    It has no batch normalisation, so `synchronized` changes nothing.
    """
    del synchronized
    images, widths = _make_inputs(height)
    x = _squeeze(images, widths)
    x = layers.Permute((2, 1, 3))(x)  # the width comes first, as in the original
    for channels in (32, 64):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
        x = layers.MaxPooling2D((2, 2))(x)
    x = layers.Reshape((200 // 4, (50 // 4) * 64))(x)
    x = layers.Dense(64, activation="relu")(x)
    x = layers.Dropout(0.2)(x)
    x = layers.Bidirectional(layers.LSTM(128, return_sequences=True, dropout=0.25, use_cudnn=False))(x)
    x = layers.Bidirectional(layers.LSTM(64, return_sequences=True, dropout=0.25, use_cudnn=False))(x)
    return _make_fixed_width_model(
        "ocr_model_v1", images, widths, layers.Dense(classes, dtype="float32", name="logits")(x)
    )


NETWORKS = {
    "ctc_conv": build_ctc_conv,
    "ctc_conv_context": build_ctc_conv_context,
    "ctc_conv_large": build_ctc_conv_large,
    "crnn_v1": build_crnn_v1,
    "ocr_model_v1": build_ocr_model_v1,
}
"""Functions of `(classes, height, synchronized)` that build a Keras model. With `synchronized`, batch normalisation
shares its statistics over replicas."""
_EARLIER_FORMS = {
    "ctc_conv": functools.partial(build_ctc_conv, earlier=True),
    "ctc_conv_large": functools.partial(build_ctc_conv_large, earlier=True),
}
"""Networks as earlier versions built them under the same names."""


def find_builder(name: str, start: str | None) -> Callable[..., keras.Model]:
    """Finds the function of `NETWORKS` that builds a network, in the form of the model whose weights are its start.

    Args:
        start: path of that model's `.keras` file; None for a training from scratch.
    """
    if start is not None and name in _EARLIER_FORMS:
        with zipfile.ZipFile(start) as archive:
            layer_names = {layer["class_name"] for layer in json.loads(archive.read("config.json"))["config"]["layers"]}
        if NormalisedInk.__name__ not in layer_names:
            return _EARLIER_FORMS[name]
    return NETWORKS[name]


def _build_strided(
    name: str,
    classes: int,
    height: int,
    synchronized: bool,
    earlier: bool,
    channels: tuple[int, int, int, int],
    features: int,
    dilations: tuple[int, ...],
    dropout: float,
) -> keras.Model:
    """Builds `ctc_conv` in any size: four strided convolutions over the image, then residual ones along the line."""
    images, widths = _make_inputs(height)
    steps = StridedTimeSteps(TIME_STRIDE, name="time_steps")(widths)

    normalisation = layers.BatchNormalization if earlier else FusedBatchNormalization

    def normalised(x, columns_per_step: int = 1):
        x = normalisation(momentum=0.9, synchronized=synchronized)(x)
        return MaskColumns(columns_per_step)([layers.ReLU()(x), steps])

    def conv2d(x, channels: int, size: int, strides: tuple[int, int], columns_per_step: int = 1):
        x = layers.Conv2D(channels, size, strides, padding="same", use_bias=False)(x)
        return normalised(x, columns_per_step)

    def conv1d(x, size: int, dilation: int = 1):
        return normalised(layers.Conv1D(features, size, padding="same", dilation_rate=dilation, use_bias=False)(x))

    ink = Ink()(images) if earlier else NormalisedInk()([images, widths])
    x = MaskColumns(TIME_STRIDE)([ink, steps])
    x = conv2d(x, channels[0], 5, (2, 2), columns_per_step=2)
    x = conv2d(x, channels[1], 3, (2, 2))
    x = conv2d(x, channels[2], 3, (2, 1))
    x = conv2d(x, channels[3], 3, (2, 1))
    x = layers.Conv2D(features, (x.shape[1], 1), use_bias=False)(layers.Dropout(dropout)(x))
    x = normalised(layers.Reshape((-1, features))(x))
    for dilation in dilations:
        x = layers.Add()([x, layers.Dropout(dropout)(conv1d(x, 3, dilation))])
    logits = layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model([images, widths], {"logits": logits, "time_steps": steps}, name=name)


def _make_inputs(height: int):
    return layers.Input((height, None, 1), name="images"), layers.Input((), dtype="int32", name="widths")


def _rows_to_channels(x):
    """Turns [batch, rows, columns, channels] into a sequence over the width, [batch, columns, rows * channels]."""
    rows, channels = x.shape[1], x.shape[3]
    return layers.Reshape((-1, rows * channels))(layers.Permute((2, 1, 3))(x))


def _squeeze(images, widths):
    """Squeezes lines to 200 by 50 pixels, 0 black to 1 white, as the originals do."""
    return layers.Rescaling(1 / 255)(ResizeLines(50, 200)([images, widths]))


def _make_fixed_width_model(name: str, images, widths, logits) -> keras.Model:
    steps = FixedTimeSteps(logits.shape[1], name="time_steps")(widths)
    return keras.Model([images, widths], {"logits": logits, "time_steps": steps}, name=name)
