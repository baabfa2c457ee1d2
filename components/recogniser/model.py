"""Reading lines with a committed model, without Beam: what helper processes import as well."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from components.ctc.decoders import Decoding
from components.ctc.decoding import Decoded
from components.recogniser.engines import Engine, load_engine
from components.recogniser.manifest import ModelManifest
from tfrecords import Charset, DataError, pad_lines


@dataclasses.dataclass(frozen=True)
class Recognition:
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
class RecogniserSpec:
    """Which model reads, and how.

    Attributes:
        model_folder: of a committed model, local or remote.
        engine: what scores batches: `tensorflow`, `onnx`, or `auto` for the faster one on each machine.
        threads: processor cores that ONNX Runtime may use at once; TensorFlow takes what there is.
        decoding: how logits become text.
    """

    model_folder: str
    engine: str = "auto"
    threads: int = 1
    decoding: Decoding = dataclasses.field(default_factory=Decoding)

    def load(self) -> Recogniser:
        """Loads what the engine needs, its files checked against the manifest.

        Raises:
            DataError: if the folder holds no intact model, or none for this engine.
        """
        started = time.monotonic()
        try:
            manifest = ModelManifest.read(self.model_folder)
        except FileNotFoundError:
            raise DataError(f"{self.model_folder} holds no committed model: run the train step first") from None
        charset = manifest.read_charset(self.model_folder)
        engine = load_engine(self.engine, self.model_folder, manifest, self.threads)
        decode = self.decoding.make_function(charset)
        return Recogniser(self.model_folder, engine, decode, charset, manifest, time.monotonic() - started)


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """A model ready to score on this machine.

    Attributes:
        folder: of the model.
        engine: what scores its batches.
        decode: logits float [batch, time, classes] and time steps int [batch] to what they say.
        charset: of its classes.
        manifest: what it is.
        load_s: seconds that it took to load.
    """

    folder: str
    engine: Engine
    decode: Callable[[np.ndarray, np.ndarray], list[Decoded]]
    charset: Charset
    manifest: ModelManifest
    load_s: float

    def read(self, batch: Sequence[np.ndarray]) -> list[Recognition]:
        """One reading for each line, uint8 [height, width], in order.

        Raises:
            DataError: for a line of another height than the model's, or a model that gives no numbers.
        """
        for line in batch:
            if line.shape[0] != self.manifest.height:
                raise DataError(
                    f"a line is {line.shape[0]} pixels high, but model {self.manifest.model_id} "
                    f"reads lines of {self.manifest.height}"
                )
        images, widths = pad_lines(batch, self.manifest.time_stride)
        logits, time_steps = self.engine.score(images, widths)
        try:
            decoded = self.decode(logits / np.float32(self.manifest.temperature), time_steps)
        except ValueError as error:
            raise DataError(f"model {self.manifest.model_id} in {self.folder}: {error}") from None
        return [
            Recognition(
                self.charset.decode(line.ids),
                math.exp(line.log_probability),
                line.symbol_confidences.tolist(),
                [(self.charset.decode(ids), log_probability) for ids, log_probability in line.alternatives],
                line.log_probability - line.alternatives[0][1] if line.alternatives else None,
            )
            for line in decoded
        ]
