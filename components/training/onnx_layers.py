"""Networks of Keras layers as ONNX graphs, each layer written by a function of its class.

The graphs have no masks. Lines of equal time steps are computed together, without the columns behind them, and lines of
unequal time steps one after the other. So nothing of a batch reaches the logits of a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from components.training.layers import (
    LEAST_VARIANCE,
    FusedBatchNormalization,
    Ink,
    MaskColumns,
    NormalisedInk,
    StridedTimeSteps,
)
from components.training.onnx_graph import OnnxGraph

PRODUCER = "ctc-line-reader"
_IR_VERSION = 8  # the format of files with operation set 17
_LINE = "line_"  # begins the names in the graph of equally long lines
_IMAGES, _WIDTHS, _TIME_STEPS, _LOGITS = "images", "widths", "time_steps", "logits"
_COLUMNS = np.array([2])  # the axis of the columns in `images`


def can_write(network: keras.Model) -> bool:
    """Returns whether a network can be written: each layer's class and settings, and what stands before each layer.

    That is so for the `ctc_conv` networks, and not for networks that resize lines or have recurrent layers.
    """
    readers = Counter(id(x) for layer in network.layers for x in _list_inputs(layer))
    convolved: set[int] = set()  # outputs of convolutions that one layer alone reads
    masked: set[int] = set()  # outputs that are zero behind each line's end
    for layer in network.layers:
        inputs, output = {id(x) for x in _list_inputs(layer)}, id(layer.output)
        settings = layer.get_config()
        if any(settings[name] not in values for name, values in _SETTINGS.get(type(layer), _REFUSED).items()):
            return False
        if isinstance(layer, layers.Reshape) and layer.input.shape[1:] != (1, *layer.output.shape[1:]):
            return False
        if isinstance(layer, layers.BatchNormalization) and not inputs <= convolved:
            return False
        is_convolution = isinstance(layer, layers.Conv1D | layers.Conv2D)
        reads_neighbours = is_convolution and layer.kernel_size[-1] > 1
        if (reads_neighbours or isinstance(layer, layers.Dense)) and not inputs <= masked:
            return False
        if readers[output] == 1 and (is_convolution or (isinstance(layer, layers.Reshape) and inputs <= convolved)):
            convolved.add(output)
        if isinstance(layer, MaskColumns | NormalisedInk) or (isinstance(layer, _KEEP_ZEROS) and inputs <= masked):
            masked.add(output)
    return True


def write_network(network: keras.Model, opset: int) -> ModelProto:
    """Writes a network that `can_write` accepts as an ONNX model of the same inputs and outputs.

    A `Scan` goes over the batch: in one step if all lines have equal time steps, else line by line.
    """
    graph = OnnxGraph()
    lines = graph.add("Shape", _WIDTHS)
    steps = _write_time_steps(graph, network.get_layer(_TIME_STEPS), [_WIDTHS])
    is_equal = graph.add("Equal", graph.add("ReduceMin", steps), graph.add("ReduceMax", steps))
    parts = graph.add("Where", is_equal, np.array([1]), lines)
    shape = graph.add("Shape", _IMAGES)
    shape = graph.add("Concat", parts, np.array([-1]), graph.add("Slice", shape, np.array([1]), np.array([4])), axis=0)
    images = graph.add("Reshape", _IMAGES, shape)
    widths = graph.add("Reshape", _WIDTHS, graph.add("Concat", parts, np.array([-1]), axis=0))
    logits = graph.add("Scan", images, widths, num_scan_inputs=2, body=_write_lines(network))
    classes = network.output[_LOGITS].shape[-1]
    shape = graph.add("Concat", lines, np.array([-1, classes]), axis=0)
    graph.add("Reshape", logits, shape, output=_LOGITS)
    graph.add("Identity", steps, output=_TIME_STEPS)
    inputs, output = _describe_face(network, "batch")
    outputs = [output, helper.make_tensor_value_info(_TIME_STEPS, TensorProto.INT32, ["batch"])]
    return helper.make_model(
        graph.build(network.name, inputs, outputs),
        producer_name=PRODUCER,
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", opset)],
    )


def _write_lines(network: keras.Model) -> GraphProto:
    """Writes the graph of lines of equal time steps: images and widths to logits.

    Columns behind the lines are cut off before the first layer. Before the last layer they come back as zeros, which
    `MaskColumns` makes of them.
    """
    graph = OnnxGraph(_LINE)
    images, widths = _LINE + _IMAGES, _LINE + _WIDTHS
    time_steps, head = network.get_layer(_TIME_STEPS), network.get_layer(_LOGITS)
    steps = graph.add("ReduceMax", _write_time_steps(graph, time_steps, [widths]))
    end = graph.add("Mul", graph.add("Cast", steps, to=TensorProto.INT64), np.array([time_steps.stride]))
    cut = graph.add("Slice", images, np.array([0]), end, _COLUMNS)
    names = {id(network.get_layer(_IMAGES).output): cut, id(network.get_layer(_WIDTHS).output): widths}
    for layer in network.layers:
        if type(layer) in _WRITERS:
            names[id(layer.output)] = _WRITERS[type(layer)](graph, layer, [names[id(x)] for x in _list_inputs(layer)])
    x = graph.add("Transpose", names[id(head.input)], perm=[0, 2, 3, 1])
    x = graph.add("Squeeze", x, np.array([1]))
    columns = graph.add("Slice", graph.add("Shape", images), _COLUMNS, _COLUMNS + 1)
    time = _divide_up(graph, columns, np.array([time_steps.stride]))
    missing = graph.add("Sub", time, graph.add("Slice", graph.add("Shape", x), np.array([1]), np.array([2])))
    x = graph.add("Pad", x, graph.add("Concat", np.array([0, 0, 0, 0]), missing, np.array([0]), axis=0))
    kernel, bias = head.get_weights()
    graph.add("Add", graph.add("MatMul", x, kernel), bias, output=_LINE + _LOGITS)
    inputs, output = _describe_face(network, "lines", _LINE)
    return graph.build("lines_of_equal_time_steps", inputs, [output])


def _describe_face(network: keras.Model, lines: str, prefix: str = "") -> tuple[list[ValueInfoProto], ValueInfoProto]:
    """Describes images and widths, and logits, with names for the axes that have no fixed length."""
    images, logits = network.get_layer(_IMAGES).output, network.output[_LOGITS]
    shape = [lines, images.shape[1], "width", images.shape[3]]
    inputs = [
        helper.make_tensor_value_info(prefix + _IMAGES, TensorProto.UINT8, shape),
        helper.make_tensor_value_info(prefix + _WIDTHS, TensorProto.INT32, [lines]),
    ]
    shape = [lines, "time", logits.shape[-1]]
    return inputs, helper.make_tensor_value_info(prefix + _LOGITS, TensorProto.FLOAT, shape)


def _list_inputs(layer: layers.Layer) -> list[Any]:
    if isinstance(layer, layers.InputLayer):
        return []
    return layer.input if isinstance(layer.input, list) else [layer.input]


def _divide_up(graph: OnnxGraph, x: str, divisor: np.ndarray) -> str:
    """Divides integers and rounds up."""
    return graph.add("Div", graph.add("Add", x, divisor - np.ones_like(divisor)), divisor)


def _write_time_steps(graph: OnnxGraph, layer: StridedTimeSteps, inputs: Sequence[str]) -> str:
    return _divide_up(graph, inputs[0], np.array(layer.stride, np.int32))


def _write_ink(graph: OnnxGraph, layer: Ink, inputs: Sequence[str]) -> str:
    grey = _write_grey(graph, layer, inputs[0])
    return graph.add("Div", graph.add("Sub", _number(255), grey), _number(255))


def _write_normalised_ink(graph: OnnxGraph, layer: NormalisedInk, inputs: Sequence[str]) -> str:
    """Writes the layer's formulas for grey levels from which each line's mean is taken first.

    They sum to 0 then, so the sums of the lighter and the darker pixels differ in their sign alone.
    """
    images, widths = inputs
    grey = _write_grey(graph, layer, images)
    widths = graph.add("Reshape", widths, np.array([-1, 1, 1, 1]))
    columns = graph.add("Gather", graph.add("Shape", images), np.array(2))
    numbers = graph.add("Range", np.array(0), columns, np.array(1))
    numbers = graph.add("Cast", numbers, to=TensorProto.INT32)
    inside = graph.add("Cast", graph.add("Less", numbers, widths), to=TensorProto.FLOAT)
    height = np.array(layer.output.shape[1], np.int32)
    pixels = graph.add("Cast", graph.add("Mul", widths, height), to=TensorProto.FLOAT)
    mean = graph.add("Div", _sum_pixels(graph, graph.add("Mul", grey, inside)), pixels)
    grey = graph.add("Mul", graph.add("Sub", grey, mean), inside)
    variance = graph.add("Div", _sum_pixels(graph, graph.add("Mul", grey, grey)), pixels)
    is_darker = graph.add("Less", grey, _number(0))
    darker = _sum_pixels(graph, graph.add("Cast", is_darker, to=TensorProto.FLOAT))
    lighter = graph.add("Sub", pixels, darker)
    light = _sum_pixels(graph, graph.add("Relu", grey))
    paper = graph.add(
        "Where",
        graph.add("GreaterOrEqual", lighter, darker),
        graph.add("Div", light, graph.add("Max", lighter, _number(1))),
        graph.add("Neg", graph.add("Div", light, graph.add("Max", darker, _number(1)))),
    )
    deviation = graph.add("Sqrt", graph.add("Add", variance, _number(LEAST_VARIANCE)))
    return graph.add("Mul", graph.add("Sub", paper, grey), graph.add("Div", inside, deviation))


def _write_grey(graph: OnnxGraph, layer: layers.Layer, images: str) -> str:
    """Turns images, [lines, rows, columns, 1], into floats, [lines, 1, rows, columns]."""
    rows = layer.output.shape[1]
    return graph.add("Reshape", graph.add("Cast", images, to=TensorProto.FLOAT), np.array([0, 1, rows, -1]))


def _sum_pixels(graph: OnnxGraph, x: str) -> str:
    """Sums rows first: ONNX Runtime adds up one number after the other, which loses digits where they are many."""
    return graph.add("ReduceSum", graph.add("ReduceSum", x, np.array([3])), np.array([2]))


def _number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def _write_convolution(graph: OnnxGraph, layer: layers.Conv1D | layers.Conv2D, inputs: Sequence[str]) -> str:
    kernel, *biases = (weight.astype(np.float64) for weight in layer.get_weights())
    strides, dilations = layer.strides, layer.dilation_rate
    if kernel.ndim == 3:  # along a sequence, which has one row
        kernel, strides, dilations = kernel[None], (1, *strides), (1, *dilations)
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations}
    if layer.padding == "same" and max(strides) > 1:  # then the padding depends on the number of columns
        attributes["auto_pad"] = "SAME_UPPER"
    elif layer.padding == "same":
        missing = [(size - 1) * dilation for size, dilation in zip(kernel.shape, dilations, strict=False)]
        before = [number // 2 for number in missing]
        attributes["pads"] = [*before, *(number - half for number, half in zip(missing, before, strict=True))]
    bias = biases[0] if biases else np.zeros(kernel.shape[-1])
    return graph.convolve(inputs[0], kernel.transpose(3, 2, 0, 1), bias, **attributes)


def _write_normalisation(graph: OnnxGraph, layer: layers.BatchNormalization, inputs: Sequence[str]) -> str:
    gamma, beta, mean, variance = (weight.astype(np.float64) for weight in layer.get_weights())
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return graph.rescale(inputs[0], scale, beta - mean * scale)


def _write_relu(graph: OnnxGraph, layer: layers.ReLU, inputs: Sequence[str]) -> str:
    del layer
    return graph.add("Relu", inputs[0])


def _write_addition(graph: OnnxGraph, layer: layers.Add, inputs: Sequence[str]) -> str:
    del layer
    first, second = inputs
    return graph.add("Add", first, second)


def _write_nothing(graph: OnnxGraph, layer: layers.Layer, inputs: Sequence[str]) -> str:
    """Gives the input on: of dropout, of masks where no column lies behind a line, and of a sequence's own shape."""
    del graph, layer
    return inputs[0]


_WRITERS: dict[type[layers.Layer], Callable[[OnnxGraph, Any, Sequence[str]], str]] = {
    StridedTimeSteps: _write_time_steps,
    Ink: _write_ink,
    NormalisedInk: _write_normalised_ink,
    MaskColumns: _write_nothing,
    layers.Conv1D: _write_convolution,
    layers.Conv2D: _write_convolution,
    layers.BatchNormalization: _write_normalisation,
    FusedBatchNormalization: _write_normalisation,
    layers.ReLU: _write_relu,
    layers.Dropout: _write_nothing,
    layers.Reshape: _write_nothing,
    layers.Add: _write_addition,
}
_CONVOLUTION: dict[str, list[Any]] = {"activation": ["linear"], "groups": [1], "data_format": ["channels_last"]}
_NORMALISATION: dict[str, list[Any]] = {"axis": [-1], "center": [True], "scale": [True]}
_SETTINGS: dict[type[layers.Layer], dict[str, list[Any]]] = {
    layers.InputLayer: {"name": [_IMAGES, _WIDTHS]},
    layers.Dense: {"name": [_LOGITS], "activation": ["linear"], "use_bias": [True]},
    **{kind: {} for kind in _WRITERS},
    StridedTimeSteps: {"name": [_TIME_STEPS]},
    layers.Conv1D: {**_CONVOLUTION, "padding": ["same"]},
    layers.Conv2D: {**_CONVOLUTION, "padding": ["same", "valid"]},
    layers.BatchNormalization: _NORMALISATION,
    FusedBatchNormalization: _NORMALISATION,
    layers.ReLU: {"max_value": [None], "negative_slope": [0.0], "threshold": [0.0]},
}
"""Settings that a layer must have to be written, by its class: any of the values for each."""
_REFUSED: dict[str, list[Any]] = {"name": []}
"""Settings of a class that is not written: no value will do."""
_KEEP_ZEROS = (layers.Add, layers.Dropout, layers.ReLU, layers.Reshape)
"""Layers that give zero where all their inputs are zero."""
