"""A network in 8 bits beside the one in 32, by ONNX Runtime's static quantisation, if it reads as well.

Weights and activations become integers of 8 bits, each channel's weights with a scale of their own (Jacob et al. 2018,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"). The first convolution
and the logits stay floats.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.ctc.calibration import fit_temperature
from components.ctc.decoding import decode_greedily
from components.metrics import compute_edit_distance
from components.process_settings import set_log_level
from components.recogniser.engines import Score, load_onnx
from components.recogniser.manifest import INT8_NAME, ONNX_NAME, Int8Trial
from components.training.recipes import TIME_STRIDE
from tfrecords import pad_lines

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

CALIBRATION_LINES = 100
"""Lines on which the ranges of the activations are measured."""
LEAST_SYMBOLS = 300
"""Symbols of validation lines without which nothing is said about a network in 8 bits."""
MOST_WORSE = 0.001
"""By so much the CER may be higher, also where its standard error is larger."""
LAYERS = {"all layers": ("Conv", "Relu", "Add"), "the convolutions": ("Conv",)}
"""ONNX operations in 8 bits, by their name for a person; the fastest first."""

Scored = tuple[np.ndarray, np.ndarray, list[list[int]]]
"""Logits float [batch, time, classes], time steps int [batch], and the true symbol ids of each line."""


@dataclasses.dataclass(frozen=True)
class LabelledBatch:
    """Validation lines that are scored together.

    Attributes:
        images: uint8 [batch, height, width, 1].
        widths: int32 [batch].
        labels: the true symbol ids of each line.
    """

    images: np.ndarray
    widths: np.ndarray
    labels: list[list[int]]


def try_int8(
    folder: str, lines: Sequence[np.ndarray], batches: Sequence[LabelledBatch], float_errors: np.ndarray
) -> Int8Trial:
    """Writes `model.int8.onnx` beside a model's `model.onnx` if its CER on validation lines is as good.

    Tries all layers in 8 bits, then the convolutions alone.

    Args:
        folder: of the model, local.
        lines: of the training split, uint8 [height, width], from which the ranges of the activations are taken.
        batches: of the validation split.
        float_errors: symbol errors of the network in 32 bits, int [lines], in the order of the batches.
    """
    import onnx

    from components.training.onnx_layers import PRODUCER

    lengths = np.array([len(label) for batch in batches for label in batch.labels], np.int64)
    if lengths.sum() < LEAST_SYMBOLS:
        return Int8Trial(
            f"the validation lines have {lengths.sum()} symbols, too few to tell whether 8 bits read as well: that "
            f"takes {LEAST_SYMBOLS}"
        )
    model = onnx.load(os.path.join(folder, ONNX_NAME))
    if model.producer_name != PRODUCER:
        return Int8Trial("this network has layers that are not computed in 8 bits")
    path = os.path.join(folder, INT8_NAME)
    trial = Int8Trial(
        "",
        float_cer=float(float_errors.sum() / lengths.sum()),
        standard_error=estimate_standard_error(float_errors, lengths),
        lines=len(lengths),
        calibration_lines=len(lines),
    )
    tried = []
    for layers, operations in LAYERS.items():
        quantised = quantise(model, lines, operations)
        onnx.save(quantised, path)
        scored = list(score_batches(load_onnx(path, TIME_STRIDE, threads=1), batches))
        errors = count_errors(scored)
        trial = dataclasses.replace(trial, cer=float(errors.sum() / lengths.sum()))
        tried.append(f"{trial.cer:.2%} with {layers} in 8")
        if is_as_good(errors, float_errors, lengths):
            temperature = fit_temperature(scored)
            metadata = {entry.key: entry.value for entry in model.metadata_props}
            onnx.helper.set_model_props(quantised, {**metadata, "temperature": str(temperature)})
            onnx.save(quantised, path)
            trial = dataclasses.replace(trial, layers=layers, temperature=temperature)
            break
    else:
        os.remove(path)
    why = f"the CER on {len(lengths):,} validation lines is {trial.float_cer:.2%} in 32 bits, {', '.join(tried)}"
    return dataclasses.replace(trial, why=why)


def quantise(model: ModelProto, lines: Sequence[np.ndarray], operations: Sequence[str]) -> ModelProto:
    """Returns a copy of a network that `components.training.onnx_layers` wrote, with operations in 8 bits.

    Weights have 7 bits: processors without instructions for the sum of four products add up pairs of them in 16 bits,
    which products of full 8 bits overflow.

    Args:
        lines: uint8 [height, width], from which the ranges of the activations are taken.
        operations: names of ONNX operations.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    body = _get_body(quantised)
    first = next(node.name for node in body.node if node.op_type == "Conv")
    opsets, version = model.opset_import, model.ir_version
    # Messages are about what is not done here on purpose.
    with tempfile.TemporaryDirectory() as scratch, set_log_level("root", logging.ERROR):
        source, target = os.path.join(scratch, "float.onnx"), os.path.join(scratch, "int8.onnx")
        onnx.save(onnx.helper.make_model(body, opset_imports=opsets, ir_version=version), source)
        quantize_static(
            source,
            target,
            _CalibrationReader(lines, [value.name for value in body.input]),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(operations),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[first],
        )
        body.CopyFrom(onnx.load(target).graph)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


class _CalibrationReader:
    """A source of single lines for ONNX Runtime, which asks for one after the other."""

    def __init__(self, lines: Sequence[np.ndarray], names: Sequence[str]):
        self._lines, self._names = iter(lines), names

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the inputs for the next line; None behind the last."""
        line = next(self._lines, None)
        return None if line is None else dict(zip(self._names, pad_lines([line], TIME_STRIDE), strict=True))


def _get_body(model: ModelProto) -> GraphProto:
    """Returns the graph of lines of equal time steps inside a written network, which can be changed in place."""
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    return next(attribute.g for attribute in scan.attribute if attribute.name == "body")


def score_batches(score: Score, batches: Sequence[LabelledBatch]) -> Iterator[Scored]:
    """Scores batches, and yields each with its labels."""
    for batch in batches:
        yield *score(batch.images, batch.widths), batch.labels


def count_errors(scored: Sequence[Scored]) -> np.ndarray:
    """Counts the symbol errors of the greedy text of each line, int64 [lines]."""
    return np.array(
        [
            compute_edit_distance(label, decoded.ids.tolist())
            for logits, time_steps, labels in scored
            for decoded, label in zip(decode_greedily(logits, time_steps), labels, strict=True)
        ],
        np.int64,
    )


def estimate_standard_error(errors: np.ndarray, lengths: np.ndarray) -> float:
    """Estimates the standard error of a CER, a ratio of two sums over lines (Cochran 1977, "Sampling techniques", 6.4).

    Args:
        errors, lengths: symbol errors and symbols, int [lines].
    """
    lines = len(errors)
    residuals = errors - errors.sum() / lengths.sum() * lengths
    return float(math.sqrt(lines / max(1, lines - 1) * np.square(residuals).sum()) / lengths.sum())


def is_as_good(errors: np.ndarray, float_errors: np.ndarray, lengths: np.ndarray) -> bool:
    """Checks that a CER is within one standard error of the other, and at most `MOST_WORSE` above it.

    Args:
        errors, float_errors, lengths: symbol errors of both, and symbols, int [lines].
    """
    worse = (errors.sum() - float_errors.sum()) / lengths.sum()
    return bool(worse <= min(MOST_WORSE, estimate_standard_error(float_errors, lengths)))
