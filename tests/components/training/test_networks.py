"""The networks: their faces, their layers as specified, padding."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from components.training.export import make_input_signature
from components.training.layers import FusedBatchNormalization, NormalisedInk, ResizeLines
from components.training.learner import copy_weights
from components.training.networks import (
    NETWORKS,
    build_crnn_v1,
    build_ctc_conv,
    build_ctc_conv_context,
    build_ctc_conv_large,
    build_ocr_model_v1,
    find_builder,
)
from tfrecords import Charset

STORED = Path(__file__).with_name("stored")
CLASSES = 7
HEIGHT = 40
WIDTHS = np.array([61, 8, 117, 3], np.int32)


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def model(request: pytest.FixtureRequest) -> keras.Model:
    """A network whose batch-norm statistics, scales and shifts are not those of the start."""
    keras.utils.set_random_seed(2)
    model = NETWORKS[request.param](CLASSES, HEIGHT)
    chooser = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([chooser.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return model


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    """Lines of very different widths, padded with white."""
    images = np.random.default_rng(3).integers(0, 256, (len(WIDTHS), HEIGHT, 120, 1), np.uint8)
    for image, width in zip(images, WIDTHS, strict=True):
        image[:, width:] = 255
    return images, WIDTHS


def compiled(model: keras.Model):
    """A function of images and widths to logits and time steps: one graph for every shape."""

    @tf.function(input_signature=make_input_signature(HEIGHT))
    def score(images, widths):
        outputs = model([images, widths], training=False)
        return outputs["logits"], outputs["time_steps"]

    return lambda images, widths: tuple(each.numpy() for each in score(images, widths))


@pytest.fixture(scope="module")
def read(model):
    return compiled(model)


def assert_equal_within_time_steps(found, wanted, tolerance: float) -> None:
    """Same time steps, and the same logits within each line's own."""
    np.testing.assert_array_equal(found[1], wanted[1])
    for row, steps in enumerate(wanted[1]):
        np.testing.assert_allclose(found[0][row, :steps], wanted[0][row, :steps], atol=tolerance)


def test_logits_have_a_class_for_each_symbol_and_the_blank_and_enough_time_steps(model, read, batch):
    logits, time_steps = read(*batch)
    assert logits.dtype == np.float32
    assert time_steps.dtype == np.int32
    assert logits.shape == (4, 50 if model.name.endswith("_v1") else 30, CLASSES)
    assert time_steps.tolist() == ([50] * 4 if model.name.endswith("_v1") else [16, 2, 30, 1])


def test_logits_are_not_normalised(read, batch):
    logits, _ = read(*batch)
    assert np.abs(np.exp(logits).sum(axis=2) - 1).min() > 1e-3


def test_a_line_reads_the_same_alone_and_in_a_batch_padded_wider(read, batch):
    images, widths = batch
    together = read(images, widths)
    for row, width in enumerate(widths):
        own_width = -(-width // 4) * 4
        logits, time_steps = read(images[row : row + 1, :, :own_width], widths[row : row + 1])
        steps = time_steps[0]
        assert steps == together[1][row]
        np.testing.assert_allclose(logits[0, :steps], together[0][row, :steps], atol=1e-5)


def test_what_lies_behind_a_line_never_matters_to_its_logits(read, batch):
    """Padding is white, but a network that looked at it would learn from it."""
    images, widths = batch
    dark = images.copy()
    for image, width in zip(dark, widths, strict=True):
        image[:, -(-width // 4) * 4 :] = 0
    assert_equal_within_time_steps(read(dark, widths), read(images, widths), 1e-5)


def test_every_part_of_a_line_matters(read, batch):
    images, widths = batch
    for column in (0, widths[2] - 1):
        changed = images.copy()
        changed[2, :, column] = 255 - changed[2, :, column]
        difference = read(changed, widths)[0] - read(images, widths)[0]
        assert np.abs(difference[2]).max() > 1e-6
        np.testing.assert_allclose(difference[[0, 1, 3]], 0, atol=1e-6)


@pytest.mark.parametrize("build", [build_ctc_conv, build_ctc_conv_large])
def test_neither_the_darkness_of_paper_and_ink_nor_their_contrast_matters(build):
    keras.utils.set_random_seed(4)
    model = build(CLASSES, HEIGHT)
    images = np.random.default_rng(4).choice(np.array([20, 230], np.uint8), (4, HEIGHT, 120, 1), p=[0.2, 0.8])
    faint = (60 + images.astype(float) / 2).round().astype(np.uint8)
    widths = np.full(4, 120, np.int32)
    wanted, found = (model([lines, widths])["logits"].numpy() for lines in (images, faint))
    assert np.abs(found - wanted).max() < 0.05 * wanted.std()


def test_an_empty_line_has_no_ink_whatever_its_shade():
    for shade in (0, 120, 255):
        ink = NormalisedInk()([np.full((1, 8, 12, 1), shade, np.uint8), np.array([9], np.int32)])
        np.testing.assert_allclose(ink, 0, atol=1e-5)


def test_the_last_pixel_of_a_line_stays_the_last_when_it_is_squeezed():
    """Rounding puts it a little beyond the image now and then."""
    for size in range(8, 200):
        images = np.full((1, size, size, 1), 100, np.uint8)
        squeezed = ResizeLines(50, 200)([images, np.array([size], np.int32)]).numpy()
        np.testing.assert_allclose(squeezed, 100, atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 5, 7, 4), (3, 9, 4)])
def test_fused_batch_normalisation_is_that_of_keras(shape):
    chooser = np.random.default_rng(5)
    inputs = tf.constant(chooser.normal(2, 3, shape), tf.float32)
    direction = tf.constant(chooser.normal(size=shape), tf.float32)
    weights = [chooser.uniform(0.5, 1.5, 4) for _ in range(4)]
    results = []
    for kind in (layers.BatchNormalization, FusedBatchNormalization):
        layer = kind(momentum=0.9)
        layer.build(shape)
        layer.set_weights(weights)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = layer(inputs, training=True)
            loss = tf.reduce_sum(output * direction)
        gradients = tape.gradient(loss, [inputs, *(weight.value for weight in layer.trainable_weights)])
        results.append([output, *gradients, *layer.get_weights(), layer(inputs, training=False)])
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_synchronized_reaches_every_batch_normalisation():
    for build in NETWORKS.values():
        for synchronized in (False, True):
            found = build(CLASSES, HEIGHT, synchronized)
            norms = [layer for layer in found.layers if isinstance(layer, layers.BatchNormalization)]
            assert all(layer.synchronized == synchronized for layer in norms)


@pytest.mark.parametrize(
    ("build", "least", "most"),
    [
        (build_ctc_conv, 100_000, 200_000),
        (build_ctc_conv_context, 150_000, 250_000),
        (build_ctc_conv_large, 800_000, 1_200_000),
    ],
)
def test_strided_networks_are_of_their_size_and_take_one_time_step_for_every_four_pixels_begun(build, least, most):
    model = build(37, 48)
    assert least < model.count_params() < most
    widths = tf.constant([1, 4, 5, 8, 199, 200, 201])
    assert model.get_layer("time_steps")(widths).numpy().tolist() == [1, 1, 2, 2, 50, 50, 51]


def test_crnn_v1_has_the_layers_that_are_specified():
    model = build_crnn_v1(CLASSES, HEIGHT)
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert [(layer.filters, layer.kernel_size, layer.strides, layer.padding) for layer in convolutions] == [
        (8, (5, 5), (1, 1), "same"),
        (16, (5, 5), (1, 1), "same"),
        (32, (3, 3), (1, 1), "same"),
        (64, (3, 1), (1, 1), "same"),
    ]
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("BatchNormalization") == 4
    lstms = [layer for layer in model.layers if isinstance(layer, layers.LSTM)]
    assert [(layer.units, layer.return_sequences, layer.go_backwards) for layer in lstms] == [(100, True, False)] * 2
    assert "Bidirectional" not in kinds
    order = [kind for kind in kinds if kind in ("Conv2D", "BatchNormalization", "ReLU")]
    assert order == ["Conv2D", "BatchNormalization", "ReLU"] * 4
    assert model.get_layer("logits").units == CLASSES
    assert model.output["logits"].shape == (None, 50, CLASSES)


@pytest.mark.parametrize("build", [build_ctc_conv, build_ctc_conv_context, build_ctc_conv_large, build_crnn_v1])
def test_logits_at_the_start_of_training_already_differ_from_image_to_image(build):
    """Else an LSTM learns when a symbol is due before it learns what it looks like, and then memorises."""
    keras.utils.set_random_seed(1)
    images = np.random.default_rng(1).integers(0, 256, (16, HEIGHT, 120, 1), np.uint8)
    logits = build(CLASSES, HEIGHT)([images, np.full(16, 120, np.int32)], training=True)["logits"].numpy()
    assert 0.3 < logits.std(axis=0).mean() < 3


def test_ocr_model_v1_has_the_layers_that_are_specified():
    model = build_ocr_model_v1(CLASSES, HEIGHT)
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert [(layer.filters, layer.kernel_size, layer.padding, layer.activation.__name__) for layer in convolutions] == [
        (32, (3, 3), "same", "relu"),
        (64, (3, 3), "same", "relu"),
    ]
    assert {type(layer.kernel_initializer).__name__ for layer in convolutions} == {"HeNormal"}
    pools = [layer.pool_size for layer in model.layers if isinstance(layer, layers.MaxPooling2D)]
    assert pools == [(2, 2), (2, 2)]
    dense = [layer for layer in model.layers if isinstance(layer, layers.Dense)]
    assert [(layer.units, layer.activation.__name__) for layer in dense] == [(64, "relu"), (CLASSES, "linear")]
    assert [layer.rate for layer in model.layers if isinstance(layer, layers.Dropout)] == [0.2]
    both_ways = [layer for layer in model.layers if isinstance(layer, layers.Bidirectional)]
    assert [
        (one.units, one.dropout, one.return_sequences)
        for layer in both_ways
        for one in (layer.forward_layer, layer.backward_layer)
    ] == [(128, 0.25, True)] * 2 + [(64, 0.25, True)] * 2
    assert model.output["logits"].shape == (None, 50, CLASSES)


@pytest.mark.parametrize("build", [build_crnn_v1, build_ocr_model_v1])
def test_fixed_width_networks_give_fifty_time_steps_to_any_width(build):
    model = build(CLASSES, HEIGHT)
    assert model.get_layer("time_steps")(tf.constant([3, 200, 999])).numpy().tolist() == [50, 50, 50]


def test_a_keras_file_with_the_former_name_loads_and_is_the_same_network():
    """`crnn.keras` was written when `ctc_conv` was called `crnn`; its array number i is filled with i / 64."""
    old = keras.models.load_model(STORED / "crnn.keras")
    assert old.name == "crnn"
    new = find_builder("ctc_conv", str(STORED / "crnn.keras"))(old.output["logits"].shape[-1], 32)
    assert [type(layer) for layer in new.layers] == [type(layer) for layer in old.layers]
    for i, (weights, like) in enumerate(zip(old.get_weights(), new.get_weights(), strict=True)):
        np.testing.assert_array_equal(weights, np.full_like(like, i / 64))


def test_a_training_from_a_newer_file_or_from_scratch_normalises_ink(tmp_path):
    model = build_ctc_conv(CLASSES, 32)
    model.save(tmp_path / "new.keras")
    for start in (str(tmp_path / "new.keras"), None):
        kinds = [type(layer) for layer in find_builder("ctc_conv", start)(CLASSES, 32).layers]
        assert kinds == [type(layer) for layer in model.layers]
        assert kinds.count(NormalisedInk) == 1


def test_a_training_can_start_from_a_keras_file_with_the_former_name():
    symbols = tuple("0123abc")
    model = find_builder("ctc_conv", str(STORED / "crnn.keras"))(len(symbols) + 1, 32)
    copy_weights(model, str(STORED / "crnn.keras"), symbols, Charset(symbols))
    for i, weights in enumerate(model.get_weights()):
        np.testing.assert_array_equal(weights, np.full_like(weights, i / 64))
