"""An ONNX graph under construction, written node by node.

Images in it are [lines, channels, rows, columns], as ONNX has them. A sequence over the columns has one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper


class OnnxGraph:
    """Nodes in the order of their computation, and constants, each value once.

    Attributes:
        prefix: of all names, so that those of a graph inside another one differ from the other's.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._nodes: list[NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = {}
        self._convolutions: dict[str, tuple[NodeProto, np.ndarray, np.ndarray]] = {}

    def add(self, operation: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: Any) -> str:
        """Adds a node with one output, and returns the output's name.

        Args:
            inputs: names of values, or constants.
            output: its name; by default one that says the operation.
        """
        output = output or f"{self.prefix}{operation.lower()}_{len(self._nodes)}"
        names = [each if isinstance(each, str) else self._name_constant(each) for each in inputs]
        self._nodes.append(helper.make_node(operation, names, [output], output, **attributes))
        return output

    def convolve(self, x: str, kernel: np.ndarray, bias: np.ndarray, **attributes: Any) -> str:
        """Adds a convolution.

        Args:
            kernel: float64 [channels, input channels, rows, columns].
            bias: float64 [channels].
        """
        output = self.add("Conv", x, kernel_shape=kernel.shape[2:], **attributes)
        self._convolutions[output] = (self._nodes[-1], kernel, bias)
        return output

    def rescale(self, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
        """Lets a convolution that nothing else reads give `scale * x + shift`, float64 [channels] each, in place of x.

        Raises:
            KeyError: if x is not the output of a convolution.
        """
        node, kernel, bias = self._convolutions[x]
        self._convolutions[x] = (node, kernel * scale[:, None, None, None], bias * scale + shift)
        return x

    def build(self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """Builds the graph. Nothing may be added behind this."""
        for node, *weights in self._convolutions.values():
            node.input.extend(self._name_constant(each.astype(np.float32)) for each in weights)
        constants = list(self._constants.values())
        return helper.make_graph(self._nodes, name, inputs, outputs, initializer=constants)

    def _name_constant(self, value: np.ndarray) -> str:
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            name = f"{self.prefix}constant_{len(self._constants)}"
            self._constants[key] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return self._constants[key].name
