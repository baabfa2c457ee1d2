"""A model in a Beam pipeline: a `ModelHandler` for Beam's `RunInference`, and a DoFn that keeps one model a process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.utils.shared import Shared

from components.ctc.decoders import Decoding
from components.process_settings import prepare_process
from components.recogniser.model import Recogniser, RecogniserSpec, Recognition


class LineModelHandler(ModelHandler[np.ndarray, Recognition, Recogniser]):
    """A model handler of `RunInference` for grey lines, uint8 [height, width] of the model's height and any width.

    `components.recogniser.make_line` makes such lines from images.

    Args:
        model_folder: of a committed model, local or remote.
        engine: what computes logits: one of `components.recogniser.engines.ENGINES`.
        threads: processor cores that ONNX Runtime may use at once; TensorFlow takes what there is.
        decoding: how logits become text.
    """

    def __init__(self, model_folder: str, engine: str = "auto", threads: int = 1, decoding: Decoding | None = None):
        super().__init__()
        self._spec = RecogniserSpec(model_folder, engine, threads, decoding or Decoding())

    def load_model(self) -> Recogniser:
        """Loads what the engine needs, its files checked against the manifest.

        Raises:
            DataError: if the folder holds no intact model, or none for this engine.
        """
        return self._spec.load()

    def run_inference(
        self, batch: Sequence[np.ndarray], model: Recogniser, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Recognition]:
        """Recognises one batch of lines, in order.

        Raises:
            DataError: for a line of another height than the model's, or a model that gives no numbers.
        """
        del inference_args
        return model.recognise_lines(batch)

    def get_num_bytes(self, batch: Sequence[np.ndarray]) -> int:
        """Returns the bytes of the lines' pixels."""
        return sum(line.nbytes for line in batch)

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of RunInference's own counters."""
        return "inference"


class RecogniserDoFn(beam.DoFn):
    """A DoFn with a model that is loaded once in each worker process, whatever the number of threads."""

    def __init__(self, handler: LineModelHandler):
        self._handler = handler
        self._shared = Shared()

    def setup(self):
        """Prepares the worker's process, and loads the model, or finds it loaded."""
        prepare_process()
        self._model = self._shared.acquire(self._handler.load_model)

    def recognise(self, lines):
        """Recognises one batch of lines, in order."""
        return self._handler.run_inference(lines, self._model)

    @property
    def about_model(self) -> dict[str, Any]:
        """The engine, the reason for it, and the seconds of loading, for a shard's figures."""
        engine = self._model.engine
        return {"engine": engine.name, "why": engine.why, "model_load_s": self._model.load_s}
