"""The model as Beam sees it: a `ModelHandler` from grey lines to what was read on them."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from components.inference.decoding import greedy_decode
from components.models import SAVED_MODEL_NAME, ModelManifest
from tfrecords import Charset, DataError, pad_lines

_IMPORT_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was read on one line.

    Attributes:
        text: the most probable symbol at each time step, repeats merged and blanks dropped.
        confidence: posterior of the text over all its alignments, 0 to 1.
        symbol_confidences: one for each symbol of the text, 0 to 1.
    """

    text: str
    confidence: float
    symbol_confidences: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to score on this machine.

    Attributes:
        score: images uint8 [batch, height, width, 1] and widths int32 [batch] to logits and time steps.
        charset: of its classes.
        manifest: what it is.
    """

    score: Any
    charset: Charset
    manifest: ModelManifest


class LineModelHandler(ModelHandler[np.ndarray, Reading, LoadedModel]):
    """Reads grey lines, uint8 [height, width], of any widths; works in a plain `RunInference` too.

    Args:
        model_folder: of a committed model, local or remote.
    """

    def __init__(self, model_folder: str):
        super().__init__()
        self._model_folder = model_folder

    def load_model(self) -> LoadedModel:
        """Loads the SavedModel, its files checked against the manifest.

        Raises:
            DataError: if the folder holds no intact model.
        """
        tf = _import_tensorflow()
        try:
            manifest = ModelManifest.read(self._model_folder)
        except FileNotFoundError:
            raise DataError(f"{self._model_folder} holds no committed model: run the train step first") from None
        charset = manifest.read_charset(self._model_folder)
        loaded = tf.saved_model.load(manifest.fetch(self._model_folder, SAVED_MODEL_NAME))

        def score(images: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            outputs = loaded.score(tf.constant(images), tf.constant(widths))
            return outputs["logits"].numpy(), outputs["time_steps"].numpy()

        return LoadedModel(score, charset, manifest)

    def run_inference(
        self, batch: Sequence[np.ndarray], model: LoadedModel, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Reading]:
        """One reading for each line, in order.

        Raises:
            DataError: for a line of another height than the model's, or a model that gives no numbers.
        """
        del inference_args
        for line in batch:
            if line.shape[0] != model.manifest.height:
                raise DataError(
                    f"a line is {line.shape[0]} pixels high, but model {model.manifest.model_id} "
                    f"reads lines of {model.manifest.height}"
                )
        images, widths = pad_lines(batch, model.manifest.time_stride)
        try:
            decoded = greedy_decode(*model.score(images, widths))
        except ValueError as error:
            raise DataError(f"model {model.manifest.model_id} in {self._model_folder}: {error}") from None
        return [
            Reading(
                model.charset.decode(line.ids), math.exp(line.log_probability), tuple(line.symbol_confidences.tolist())
            )
            for line in decoded
        ]

    def get_num_bytes(self, batch: Sequence[np.ndarray]) -> int:
        """Bytes of the lines' pixels."""
        return sum(line.nbytes for line in batch)

    def get_metrics_namespace(self) -> str:
        """Where RunInference's own counters appear."""
        return "inference"


def _import_tensorflow() -> ModuleType:
    """TensorFlow, without what its libraries print to standard error as they start: on a machine without a GPU
    that is a screenful, and it cannot be turned off before they are loaded."""
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
