"""A trained model that recognises lines, without Beam: the command's helper processes use it too."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar, overload

import numpy as np
from PIL import Image

from components.ctc.decoders import Decoding
from components.ctc.decoding import Decoded
from components.ctc.fusion import Fusion
from components.ctc.language_model import LanguageModel, NgramCounts
from components.recogniser.batches import recognise_in_batches
from components.recogniser.engines import ENGINES, Engine, load_engine
from components.recogniser.images import ImageSource, make_line
from components.recogniser.manifest import LANGUAGE_MODEL_NAME, ModelManifest
from components.recogniser.places import Contrast, find_symbol_edges
from components.recogniser.words import Word, find_words
from tfrecords import Charset, DataError, ImageLimits, ImageRejected, pad_lines, storage

_Decoded = TypeVar("_Decoded")
_READ_AHEAD = 1024
"""Images that `Recogniser.recognise` takes before it gives their results."""


@dataclasses.dataclass(frozen=True)
class Recognition:
    """The text of one line.

    Attributes:
        text: what the decoder found.
        confidence: posterior of the text over all its alignments, 0 to 1; with a language model, calibrated for texts
            that both chose.
        symbol_confidences: one for each symbol of the text, 0 to 1.
        alternatives: other texts and the natural logarithms of their posteriors, the most probable first, or as the
            language model ranks them; none from a decoder that finds one text.
        margin: by how much the logarithm of the text's posterior exceeds that of the first alternative; negative if a
            language model preferred a less probable text, None without an alternative.
        edges: start and end of one symbol of the text after the other, see `symbol_spans`; empty if the text has no
            alignment of a probability above 0.
        exponent: to which the posterior of the text was raised to be its confidence.
    """

    text: str
    confidence: float
    symbol_confidences: Sequence[float]
    alternatives: Sequence[tuple[str, float]] = ()
    margin: float | None = None
    edges: Sequence[int] = ()
    exponent: float = 1.0

    @property
    def symbol_spans(self) -> list[tuple[int, int]]:
        """Returns where each symbol of the text begins (inclusive) and ends (exclusive) along the image.

        They are pixels from the left of the image as a viewer shows it, or from the top of one whose text runs from top
        to bottom. From `recognise_lines` they are pixels of the line.
        """
        return list(zip(self.edges[::2], self.edges[1::2], strict=True))

    @property
    def words(self) -> list[Word]:
        """Returns the words of the text; none if the places of its symbols are not known."""
        if not self.edges:
            return []
        spans = np.array(self.edges).reshape(-1, 2)
        found = find_words([self.text], np.array(self.symbol_confidences), spans, [self.exponent])
        columns = (found.confidences.tolist(), found.starts.tolist(), found.ends.tolist())
        return list(map(Word, found.texts, *columns))

    def scale_edges(self, scale: float) -> Recognition:
        """Returns the same recognition with places in other pixels, of which so many are one of its own."""
        return dataclasses.replace(self, edges=[round(edge * scale) for edge in self.edges])


@dataclasses.dataclass(frozen=True)
class RecogniserSpec:
    """A model to load, and the way to use it; small to send to other processes.

    Attributes:
        model_folder: of a committed model, local or remote.
        engine: what computes logits: one of `components.recogniser.engines.ENGINES`.
        threads: processor cores that ONNX Runtime may use at once; TensorFlow takes what there is.
        decoding: how logits become text.

    Raises:
        ValueError: for an engine that does not exist, or less than one thread.
    """

    model_folder: str
    engine: str = "auto"
    threads: int = 1
    decoding: Decoding = dataclasses.field(default_factory=Decoding)

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}, but must be one of {', '.join(ENGINES)}")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")

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
        except TypeError:
            raise DataError(f"the manifest in {self.model_folder} is not that of a model") from None
        charset = manifest.read_charset(self.model_folder)
        engine = load_engine(self.engine, self.model_folder, manifest, self.threads)
        fusion = self._load_fusion(manifest)
        decode = self.decoding.make_function(charset, fusion)
        exponent = 1.0 if fusion is None else fusion.exponent
        seconds = time.monotonic() - started
        return Recogniser(self.model_folder, engine, decode, charset, manifest, seconds, exponent)

    def _load_fusion(self, manifest: ModelManifest) -> Fusion | None:
        """Loads the language model, if the model has one that the decoder uses."""
        if manifest.language_model is None or self.decoding.decoder not in ("auto", "beam"):
            return None
        path = manifest.fetch(self.model_folder, LANGUAGE_MODEL_NAME)
        try:
            return Fusion(LanguageModel.from_counts(NgramCounts.read(path)), **manifest.language_model)
        finally:
            if storage.is_remote(self.model_folder):
                storage.remove_folder(os.path.dirname(path))


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """A model that is loaded on this machine.

    Attributes:
        folder: of the model.
        engine: what computes its logits.
        decode: logits float [batch, time, classes] and time steps int [batch] to class ids with their probabilities.
        charset: of its classes.
        manifest: its description.
        load_s: seconds that it took to load.
        exponent: to which a text's posterior is raised to be its confidence; 1 without a language model.
    """

    folder: str
    engine: Engine
    decode: Callable[[np.ndarray, np.ndarray], list[Decoded]]
    charset: Charset
    manifest: ModelManifest
    load_s: float
    exponent: float = 1.0

    @overload
    def recognise(
        self, images: Iterable[ImageSource], *, return_rejects: Literal[False] = ..., limits: ImageLimits | None = ...
    ) -> Iterator[Recognition]: ...
    @overload
    def recognise(
        self, images: Iterable[ImageSource], *, return_rejects: Literal[True], limits: ImageLimits | None = ...
    ) -> Iterator[Recognition | ImageRejected]: ...
    def recognise(
        self, images: Iterable[ImageSource], *, return_rejects: bool = False, limits: ImageLimits | None = None
    ) -> Iterator[Any]:
        """Recognises images of any size, one result for each, in order.

        Images are taken as results are asked for, up to 1,024 ahead, and computed in batches of like width. An image
        that cannot be read raises `ImageRejected` when its turn comes, after the results of all images before it. To
        go on behind such an image, have the error returned in the place of its result.

        Args:
            images: paths or `gs://` URLs, bytes of image files, Pillow images, or arrays uint8 [height, width] grey,
                [height, width, 3] RGB or [height, width, 4] RGBA; mixed as you like.
            return_rejects: whether an `ImageRejected` is returned like a result instead of raised.
            limits: which images are refused; by default those that the command refuses by default.

        Raises:
            ImageRejected: for an image that cannot be read, with its path, or its place in `images`.
            TypeError: if `images` is one image, or something in it is none.
            DataError: if the model gives no numbers.
        """
        one = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image))
        if one or (isinstance(images, np.ndarray) and images.ndim < 3):
            raise TypeError(f"recognise takes several images, not one {type(images).__name__}: give it [image]")
        return self._recognise(enumerate(images), return_rejects, limits)

    def _recognise(
        self, numbered: Iterator[tuple[int, ImageSource]], return_rejects: bool, limits: ImageLimits | None
    ) -> Iterator[Recognition | ImageRejected]:
        outcomes: list[Any] = []

        def make_lines() -> Iterator[tuple[tuple[int, float], np.ndarray]]:
            for number, image in itertools.islice(numbered, _READ_AHEAD):
                name = "" if isinstance(image, (str, os.PathLike)) else f"images[{number}]"
                try:
                    line = make_line(image, self.manifest.height, limits, name, vertical=self.manifest.vertical)
                except ImageRejected as error:
                    outcomes.append(error)
                else:
                    outcomes.append(None)
                    yield (len(outcomes) - 1, line.scale), line.pixels

        while True:
            outcomes.clear()
            for (i, scale), recognition in recognise_in_batches(make_lines(), self.recognise_lines):
                outcomes[i] = recognition.scale_edges(scale)
            if not outcomes:
                return
            for outcome in outcomes:
                if isinstance(outcome, ImageRejected) and not return_rejects:
                    raise outcome
                yield outcome

    def recognise_lines(self, batch: Sequence[np.ndarray]) -> list[Recognition]:
        """Recognises one batch of lines, uint8 [height, width] of the model's height, in order.

        Raises:
            DataError: for a line of another height than the model's, or a model that gives no numbers.
        """
        images, widths = self._pad(batch)
        contrast = Contrast.measure(images, widths)
        logits, time_steps = self._score(images, widths)
        del images
        decoded = self.decode_with(self.decode, logits, time_steps)
        runs = [line.runs for line in decoded]
        edges = find_symbol_edges(runs, contrast, widths, time_steps, self.manifest.time_stride)
        return list(map(self._make_recognition, decoded, edges))

    def _make_recognition(self, line: Decoded, edges: list[int]) -> Recognition:
        text, places = self.charset.decode_with_places(line.ids)
        confidences = line.symbol_confidences.tolist()
        return Recognition(
            text,
            math.exp(self.exponent * line.log_probability),
            [confidences[place] for place in places],
            [(self.charset.decode(ids), log_probability) for ids, log_probability in line.alternatives],
            line.log_probability - line.alternatives[0][1] if line.alternatives else None,
            [edge for place in places for edge in edges[2 * place : 2 * place + 2]],
            self.exponent,
        )

    def compute_logits(self, batch: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Computes the calibrated logits of one batch of lines, uint8 [height, width] of the model's height.

        Returns:
            Logits float32 [batch, time, classes] and time steps int [batch].

        Raises:
            DataError: for a line of another height than the model's.
        """
        return self._score(*self._pad(batch))

    def _pad(self, batch: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        for line in batch:
            if line.shape[0] != self.manifest.height:
                raise DataError(
                    f"a line is {line.shape[0]} pixels high, but model {self.manifest.model_id} "
                    f"reads lines of {self.manifest.height}"
                )
        return pad_lines(batch, self.manifest.time_stride)

    def _score(self, images: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, time_steps = self.engine.score(images, widths)
        return logits / np.float32(self.engine.temperature), time_steps

    def decode_with(self, decode: Callable[..., _Decoded], *arguments: np.ndarray) -> _Decoded:
        """Calls a function of logits; raises a `DataError` if they are not finite."""
        try:
            return decode(*arguments)
        except ValueError as error:
            raise DataError(f"model {self.manifest.model_id} in {self.folder}: {error}") from None
