"""The model as Beam sees it: a `ModelHandler` from grey lines to what was read on them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from components.inference.decoders import Decoding
from components.inference.decoding import Decoded
from components.inference.engines import Engine, load_engine
from components.models import ModelManifest
from tfrecords import Charset, DataError, pad_lines


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was read on one line.

    Attributes:
        text: what the decoder found.
        confidence: posterior of the text over all its alignments, 0 to 1.
        symbol_confidences: one for each symbol of the text, 0 to 1.
        alternatives: other texts and the natural logarithms of their posteriors, the most probable first.
        margin: by how much the logarithm of the text's posterior exceeds that of the first alternative; None
            without one.
    """

    text: str
    confidence: float
    symbol_confidences: Sequence[float]
    alternatives: Sequence[tuple[str, float]] = ()
    margin: float | None = None


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to score on this machine.

    Attributes:
        engine: what scores its batches.
        decode: logits float [batch, time, classes] and time steps int [batch] to what they say.
        charset: of its classes.
        manifest: what it is.
        load_s: seconds that it took to load.
    """

    engine: Engine
    decode: Callable[[np.ndarray, np.ndarray], list[Decoded]]
    charset: Charset
    manifest: ModelManifest
    load_s: float


class LineModelHandler(ModelHandler[np.ndarray, Reading, LoadedModel]):
    """Reads grey lines, uint8 [height, width], of any widths; works in a plain `RunInference` too.

    Args:
        model_folder: of a committed model, local or remote.
        engine: what scores batches: `tensorflow`, `onnx`, or `auto` for the faster one on each machine.
        threads: processor cores that ONNX Runtime may use at once; TensorFlow takes what there is.
        decoding: how logits become text.
    """

    def __init__(self, model_folder: str, engine: str = "auto", threads: int = 1, decoding: Decoding | None = None):
        super().__init__()
        self._decoding = decoding or Decoding()
        self._model_folder = model_folder
        self._engine = engine
        self._threads = threads

    def load_model(self) -> LoadedModel:
        """Loads what the engine needs, its files checked against the manifest.

        Raises:
            DataError: if the folder holds no intact model, or none for this engine.
        """
        started = time.monotonic()
        try:
            manifest = ModelManifest.read(self._model_folder)
        except FileNotFoundError:
            raise DataError(f"{self._model_folder} holds no committed model: run the train step first") from None
        charset = manifest.read_charset(self._model_folder)
        engine = load_engine(self._engine, self._model_folder, manifest, self._threads)
        decode = self._decoding.function(charset)
        return LoadedModel(engine, decode, charset, manifest, time.monotonic() - started)

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
        logits, time_steps = model.engine.score(images, widths)
        try:
            decoded = model.decode(logits / np.float32(model.manifest.temperature), time_steps)
        except ValueError as error:
            raise DataError(f"model {model.manifest.model_id} in {self._model_folder}: {error}") from None
        return [
            Reading(
                model.charset.decode(line.ids),
                math.exp(line.log_probability),
                line.symbol_confidences.tolist(),
                [(model.charset.decode(ids), log_probability) for ids, log_probability in line.alternatives],
                line.log_probability - line.alternatives[0][1] if line.alternatives else None,
            )
            for line in decoded
        ]

    def get_num_bytes(self, batch: Sequence[np.ndarray]) -> int:
        """Bytes of the lines' pixels."""
        return sum(line.nbytes for line in batch)

    def get_metrics_namespace(self) -> str:
        """Where RunInference's own counters appear."""
        return "inference"
