"""The written ONNX graphs, held against Keras: layer by layer, and whole networks at all widths."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from keras import layers

from components.training.layers import (
    FusedBatchNormalization,
    Ink,
    MaskColumns,
    NormalisedInk,
    ResizeLines,
    StridedTimeSteps,
)
from components.training.networks import NETWORKS, build_ctc_conv, build_ctc_conv_context, build_ctc_conv_large
from components.training.onnx_layers import PRODUCER, can_write, write_network

OPSET = 17
CLASSES = 7
MIXED = [61, 8, 117, 3, 1, 120, 62]
WRITTEN: dict[str, Callable[..., keras.Model]] = {
    "ctc_conv": build_ctc_conv,
    "ctc_conv_context": build_ctc_conv_context,
    "ctc_conv_large": build_ctc_conv_large,
    "ctc_conv of an earlier version": functools.partial(build_ctc_conv, earlier=True),
    "ctc_conv_large of an earlier version": functools.partial(build_ctc_conv_large, earlier=True),
}
"""Every network whose graph is written."""


def make_lines(widths: Sequence[int], height: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines of noise, with noise behind their ends too, in a batch of whole time steps."""
    shape = (len(widths), height, -(-max(widths) // 4) * 4, 1)
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8), np.array(widths, np.int32)


def randomise(model: keras.Model) -> keras.Model:
    """Gives a network weights of a fixed choice, with statistics and biases that are not those of the start."""
    chooser = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([chooser.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
        else:
            layer.set_weights(
                [chooser.normal(0, 1 / weight[..., 0].size ** 0.5, weight.shape) for weight in layer.get_weights()]
            )
    return model


def make_session(model: onnx.ModelProto) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images and widths to logits and time steps, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images, widths: session.run(["logits", "time_steps"], {"images": images, "widths": widths})


def assert_is_network(network: keras.Model, images: np.ndarray, widths: np.ndarray) -> None:
    """The written graph gives the logits of Keras, also behind the lines' ends, but for the last digits of float32."""
    wanted = network([images, widths], training=False)
    logits, time_steps = make_session(write_network(network, OPSET))(images, widths)
    assert (logits.dtype, time_steps.dtype) == (np.float32, np.int32)
    largest = float(np.abs(wanted["logits"]).max())
    np.testing.assert_allclose(logits, wanted["logits"], rtol=0, atol=max(2e-5, 2e-6 * largest))
    np.testing.assert_array_equal(time_steps, wanted["time_steps"])


def build_small(
    ink: Callable = lambda images, widths: NormalisedInk()([images, widths]),
    first: Callable = lambda x: layers.Conv2D(3, 3, (2, 2), padding="same")(x),
    second: Callable = lambda x: layers.Conv2D(4, 3, (2, 2), padding="same")(x),
    along: Callable = lambda x: x,
) -> keras.Model:
    """A network of four layers, of which a test exchanges one: lines of 8 pixels, one time step for every 4."""
    images, widths = layers.Input((8, None, 1), name="images"), layers.Input((), dtype="int32", name="widths")
    steps = StridedTimeSteps(4, name="time_steps")(widths)
    x = MaskColumns(4)([ink(images, widths), steps])
    x = MaskColumns(2)([first(x), steps])
    x = MaskColumns(1)([second(x), steps])
    x = MaskColumns(1)([layers.Reshape((-1, 5))(layers.Conv2D(5, (2, 1))(x)), steps])
    x = MaskColumns(1)([along(x), steps])
    logits = layers.Dense(CLASSES, name="logits")(x)
    return keras.Model([images, widths], {"logits": logits, "time_steps": steps}, name="small")


def normalise_behind(convolution: layers.Layer, normalisation: type[layers.Layer]) -> Callable:
    return lambda x: normalisation()(convolution(x))


def add_its_normalisation(x):
    return layers.Add()([x, layers.BatchNormalization()(x)])


LAYERS = {
    "ink": {"ink": lambda images, widths: Ink()(images)},
    "normalised ink": {},
    "strides to both sides": {"first": layers.Conv2D(3, 5, (2, 2), padding="same", use_bias=False)},
    "an even kernel": {"along": layers.Conv1D(5, 4, padding="same")},
    "dilated": {"along": layers.Conv1D(6, 3, padding="same", dilation_rate=4)},
    "rows dilated": {
        "second": lambda x: layers.Conv2D(4, (3, 1), padding="same", dilation_rate=(2, 1))(
            layers.Conv2D(4, 3, (2, 2), padding="same")(x)
        )
    },
    "batch normalisation": {
        "second": normalise_behind(layers.Conv2D(4, 3, (2, 2), padding="same"), layers.BatchNormalization)
    },
    "fused batch normalisation": {
        "along": normalise_behind(layers.Conv1D(6, 3, padding="same", use_bias=False), FusedBatchNormalization)
    },
    "relu": {"first": lambda x: layers.ReLU()(layers.Conv2D(3, 3, (2, 2), padding="same")(x))},
    "dropout": {"along": layers.Dropout(0.5)},
    "sum": {"along": lambda x: layers.Add()([x, layers.Conv1D(5, 3, padding="same")(x)])},
}


@pytest.mark.parametrize("exchanged", LAYERS)
def test_each_layer_is_written_as_keras_computes_it(exchanged):
    network = randomise(build_small(**LAYERS[exchanged]))
    assert can_write(network)
    for widths in (MIXED, [64], [33, 36, 34], [3]):
        assert_is_network(network, *make_lines(widths, 8))


@pytest.mark.parametrize(("name", "height"), [*((name, 40) for name in WRITTEN), ("ctc_conv", 33)])
def test_whole_networks_give_the_logits_of_keras_at_all_widths(name, height):
    network = randomise(WRITTEN[name](CLASSES, height))
    assert can_write(network)
    for widths in (MIXED, [1], [5], [2000, 1990], [118, 117, 120, 119]):
        assert_is_network(network, *make_lines(widths, height))


def test_a_line_of_one_shade_and_one_of_two_are_written_as_keras_computes_them():
    """There the mean is a pixel's own value, and as many pixels are lighter as are darker."""
    network = randomise(build_small())
    images = np.full((3, 8, 12, 1), 200, np.uint8)
    images[1, :, ::2] = images[2, :, :6] = 100
    assert_is_network(network, images, np.array([12, 12, 9], np.int32))


def test_what_lies_behind_a_line_and_what_lines_it_is_computed_with_change_nothing():
    score = make_session(write_network(randomise(build_ctc_conv(CLASSES, 32)), OPSET))
    images, widths = make_lines(MIXED, 32)
    together, time_steps = score(images, widths)
    for row, (width, steps) in enumerate(zip(widths, time_steps, strict=True)):
        alone, own_steps = score(images[row : row + 1, :, : 4 * steps], widths[row : row + 1])
        assert own_steps.tolist() == [steps] == [-(-width // 4)]
        np.testing.assert_array_equal(together[row, :steps], alone[0])
        equal, _ = score(images[[row] * 3], widths[[row] * 3])
        np.testing.assert_allclose(equal[:, :steps], np.repeat(alone, 3, axis=0), rtol=1e-6, atol=1e-5)


def test_another_implementation_of_onnx_computes_the_same():
    network = randomise(build_small(along=layers.Conv1D(5, 3, padding="same", dilation_rate=2)))
    images, widths = make_lines([13, 30, 30], 8)
    found = onnx.reference.ReferenceEvaluator(write_network(network, OPSET)).run(
        ["logits", "time_steps"], {"images": images, "widths": widths}
    )
    wanted = network([images, widths], training=False)
    np.testing.assert_allclose(found[0], wanted["logits"], atol=2e-5)
    np.testing.assert_array_equal(found[1], wanted["time_steps"])


def test_the_graph_of_the_default_network_is_small():
    model = write_network(build_ctc_conv(CLASSES, 48), OPSET)
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
    operations = [node.op_type for node in [*model.graph.node, *body.node]]
    assert len(operations) <= 100
    assert (operations.count("Conv"), operations.count("Relu"), operations.count("MatMul")) == (8, 8 + 1, 1)
    assert "BatchNormalization" not in operations


def test_the_same_weights_give_the_same_bytes():
    """Keras counts the layers of a process in their names; a graph does not."""
    first, second = (write_network(randomise(build_ctc_conv(CLASSES, 32)), OPSET) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
    assert first.producer_name == PRODUCER
    onnx.checker.check_model(first, full_check=True)


REFUSED = {
    "a class without a writer": {"along": layers.LayerNormalization()},
    "an activation inside a convolution": {"first": layers.Conv2D(3, 3, (2, 2), padding="same", activation="relu")},
    "padding to one side": {"along": layers.Conv1D(5, 3, padding="causal")},
    "a limit of what is passed on": {"along": layers.ReLU(max_value=6)},
    "normalisation without a convolution": {"along": layers.BatchNormalization()},
    "normalisation of what another layer reads": {
        "along": lambda x: add_its_normalisation(layers.Conv1D(5, 3, padding="same")(x)),
    },
    "a convolution that reads what another one left behind a line": {
        "second": lambda x: layers.Conv2D(4, 3, padding="same")(layers.Conv2D(4, 3, (2, 2), padding="same")(x)),
    },
    "a second dense layer": {"along": layers.Dense(5)},
    "lines that are resized": {"ink": lambda images, widths: ResizeLines(8, 16)([images, widths])},
}


@pytest.mark.parametrize("exchanged", REFUSED)
def test_a_network_with_another_layer_or_setting_is_not_written(exchanged):
    assert not can_write(build_small(**REFUSED[exchanged]))


def test_each_network_is_written_or_converted_as_the_pages_say():
    written = {name for name, build in NETWORKS.items() if can_write(build(CLASSES, 48))}
    assert written == {"ctc_conv", "ctc_conv_context", "ctc_conv_large"}
