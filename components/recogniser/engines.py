"""Engines that compute a model's logits: TensorFlow and ONNX Runtime, with one interface.

Neither is imported before a model is loaded. So a job that uses one does not pay for the other.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from types import ModuleType
from typing import TypeAlias

import numpy as np

from components.devices import find_gpus
from components.recogniser.manifest import INT8_NAME, ONNX_NAME, SAVED_MODEL_NAME, ModelManifest
from tfrecords import DataError, storage

TENSORFLOW, ONNX, ONNX_INT8 = "tensorflow", "onnx", "onnx-int8"
ENGINES = ("auto", TENSORFLOW, ONNX, ONNX_INT8)
_FILES = {TENSORFLOW: SAVED_MODEL_NAME, ONNX: ONNX_NAME, ONNX_INT8: INT8_NAME}
# The layers' results for so many pixels fit a core's second-level cache. Larger batches are a quarter slower.
_CACHED_PIXELS = 150_000
_MANY_LINES = 4  # for fewer, the start of another computation costs what computing them together saves
_IMPORT_LOCK = threading.Lock()


Score: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Engine:
    """A model that is loaded and ready to score.

    Attributes:
        name: one of `ENGINES`, but not `auto`.
        why: the reason for this engine, for a person.
        score: images uint8 [batch, height, width, 1] and widths int32 [batch] to logits float32
            [batch, time, classes] and time steps int32 [batch]. Logits behind a line's time steps mean nothing.
        temperature: its logits are divided by this, so that confidences are calibrated.
    """

    name: str
    why: str
    score: Score
    temperature: float


def load_engine(name: str, folder: str, manifest: ModelManifest, threads: int) -> Engine:
    """Loads a committed model, its files checked against the manifest.

    Args:
        name: one of `ENGINES`. `auto` takes the fastest one on this machine: TensorFlow where it sees a GPU, ONNX
            Runtime elsewhere, in 8 bits if the model has a network for that.
        folder: of the model, local or remote.
        threads: processor cores that ONNX Runtime may use at once.

    Raises:
        DataError: if the model has no file for this engine, or the file was damaged.
    """
    name, why = choose_engine(name, manifest)
    temperature = manifest.int8_temperature if name == ONNX_INT8 else manifest.temperature
    assert temperature is not None  # a model without it was not given this engine
    path = manifest.fetch(folder, _FILES[name])
    try:
        score = load_onnx(path, manifest.time_stride, threads) if is_onnx(name) else _load_tensorflow(path)
        return Engine(name, why, score, temperature)
    finally:
        if storage.is_remote(folder):  # the copy is in memory now
            storage.remove_folder(os.path.dirname(path))


def choose_engine(name: str, manifest: ModelManifest) -> tuple[str, str]:
    """Returns the engine that one of `ENGINES` means for a model on this machine, and the reason.

    Raises:
        DataError: if the model has no file for the engine that was asked for.
    """
    exported = ONNX_NAME in manifest.files
    if name == ONNX and not exported:
        raise DataError(
            f"model {manifest.model_id} has no {ONNX_NAME}, because an older version wrote it: "
            "read with --engine=tensorflow, or train it again"
        )
    if name == ONNX_INT8 and manifest.int8_temperature is None:
        why = "an older version wrote it" if manifest.int8 is None else manifest.int8.why
        raise DataError(f"model {manifest.model_id} has no {INT8_NAME} ({why}): recognise with --engine=auto")
    if name != "auto":
        return name, "as asked for"
    if not exported:
        return TENSORFLOW, f"the model has no {ONNX_NAME}"
    if find_gpus() and (gpus := _import_tensorflow().config.list_physical_devices("GPU")):
        return TENSORFLOW, f"it sees {len(gpus)} GPU{'s' * (len(gpus) > 1)}"
    if manifest.int8_temperature is not None:
        return ONNX_INT8, "fastest on a CPU, and as good on validation lines"
    return ONNX, "faster on a CPU"


def is_onnx(name: str) -> bool:
    """Checks whether an engine, by the name that `choose_engine` returns, is ONNX Runtime."""
    return name in (ONNX, ONNX_INT8)


def load_onnx(path: str, time_stride: int, threads: int) -> Score:
    """Loads a local file of a network for ONNX Runtime.

    Args:
        time_stride: the width of a batch is a multiple of this many pixels.
        threads: processor cores that it may use at once.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait in a loop would take cores from the processes that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def score(images: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = _list_parts(widths, time_stride, images.shape[1])
        outputs = [
            session.run(["logits", "time_steps"], {"images": images[lines, :, :columns], "widths": widths[lines]})
            for lines, columns in parts
        ]
        longest = max(logits.shape[1] for logits, _ in outputs)
        logits = np.zeros((len(images), longest, outputs[0][0].shape[2]), np.float32)
        time_steps = np.empty(len(images), np.int32)
        for (lines, _), (part, steps) in zip(parts, outputs, strict=True):
            logits[lines, : part.shape[1]] = part
            time_steps[lines] = steps
        return logits, time_steps

    return score


def _list_parts(widths: np.ndarray, time_stride: int, height: int) -> list[tuple[np.ndarray, int]]:
    """Lists the parts of a batch that are scored at once: as many lines of like width as the cache holds.

    A graph that `components.training.onnx_layers` wrote computes lines of equal time steps together, and others one by
    one. So many lines of equal time steps make parts of their own.

    Returns:
        For each part the numbers of its lines, and the columns of the widest; those behind need not be computed.
    """
    columns = -(-widths // time_stride) * time_stride
    by_width = np.argsort(-columns, kind="stable")  # the widest first, which tells how many fit
    groups = np.split(by_width, np.flatnonzero(np.diff(columns[by_width])) + 1)
    others = [line for group in groups if len(group) < _MANY_LINES for line in group]
    parts: list[tuple[np.ndarray, int]] = []
    for group in [*(group for group in groups if len(group) >= _MANY_LINES), np.array(others, np.intp)]:
        while len(group):
            widest = int(columns[group[0]])
            lines = max(1, _CACHED_PIXELS // (height * widest))
            parts.append((group[:lines], widest))
            group = group[lines:]
    return parts


def _load_tensorflow(folder: str) -> Score:
    tf = _import_tensorflow()
    loaded = tf.saved_model.load(folder)

    def score(images: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = loaded.score(tf.constant(images), tf.constant(widths))
        return outputs["logits"].numpy(), outputs["time_steps"].numpy()

    return score


def _import_tensorflow() -> ModuleType:
    """Imports TensorFlow and hides the messages that its libraries print to standard error as they start.

    On a machine without a GPU they fill a screen, and nothing turns them off before the libraries are loaded.
    """
    with _IMPORT_LOCK:
        if "tensorflow" not in sys.modules:
            standard_error = os.dup(2)
            try:
                with tempfile.TemporaryFile() as hidden:
                    os.dup2(hidden.fileno(), 2)
                    import tensorflow

                    tensorflow.config.list_physical_devices()
            finally:
                os.dup2(standard_error, 2)
                os.close(standard_error)
    return sys.modules["tensorflow"]
