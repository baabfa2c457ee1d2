"""The result of a training: the model's files, calibrated, with pictures."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from components.ctc.calibration import ENOUGH_LINES, fit_temperature
from components.ctc.fusion import Fusion, tune_fusion
from components.ctc.language_model import LanguageModel, NgramCounts
from components.recogniser.manifest import CALIBRATION_NAME, LANGUAGE_MODEL_NAME, PLOTS_NAME
from components.training.data import RECOGNISED_BATCH, Examples, make_ordered_batches
from components.training.export import export_model
from components.training.int8 import CALIBRATION_LINES, LabelledBatch, Scored, count_errors, try_int8
from components.training.learner import make_logits_function
from components.training.networks import find_builder
from components.training.plots import plot_distortions, plot_history, plot_training_samples
from components.training.recipes import RECIPES, TIME_STRIDE
from components.training.request import TrainingRequest
from components.training.state import TrainingState
from tfrecords import Charset, DatasetManifest, normalise_text, storage

log = logging.getLogger(__name__)

LEFT_OUT_NAME = "left_out.json"
_MOST_LOGITS = 50_000_000  # that calibration keeps in memory
_SHOWN, _SHOWN_DISTORTED = 16, 8


def _make_labelled_batches(validation: Examples, classes: int) -> list[LabelledBatch]:
    """Makes batches of some `ENOUGH_LINES` validation lines, or of all if there are fewer."""
    numbers = int(validation.widths.sum()) // TIME_STRIDE * classes
    parts = max(1, len(validation) // ENOUGH_LINES, -(-numbers // _MOST_LOGITS))
    return [
        LabelledBatch(images, widths, [validation.get_label(i).tolist() for i in indices])
        for images, widths, indices in make_ordered_batches(validation, RECOGNISED_BATCH, 0, parts)
    ]


def _score(compute_logits: Callable, batches: Sequence[LabelledBatch]) -> list[Scored]:
    return [
        (*(output.numpy() for output in compute_logits(batch.images, batch.widths)), batch.labels) for batch in batches
    ]


def _calibrate(
    scored: Sequence[Scored], labels: Sequence[np.ndarray], charset: Charset, folder: str
) -> tuple[float, Fusion | None]:
    """Calibrates the model on lines of the validation split.

    Confidences are calibrated if logits are divided by a temperature. A language model goes with the model if
    it makes the texts of these lines better.

    Args:
        scored: validation lines; their logits are divided by the temperature.
        labels: what the language model learns from, int [length] each.
        folder: to which the language model is written.
    """
    temperature = fit_temperature(scored)
    for logits, _, _ in scored:
        logits /= np.float32(temperature)
    counts = NgramCounts.from_labels(labels, charset.classes)
    fusion = tune_fusion(scored, LanguageModel.from_counts(counts))
    if fusion is not None:
        counts.write(os.path.join(folder, LANGUAGE_MODEL_NAME))
        log.info(f"the decoder gets a language model, of weight {fusion.weight:g}: it makes validation texts better")
    return temperature, fusion


class _Labels(Sequence[np.ndarray]):
    """The labels of a split, int [length] each, and more behind them."""

    def __init__(self, examples: Examples, more: Sequence[np.ndarray]) -> None:
        self._examples, self._more = examples, more

    def __len__(self) -> int:
        return len(self._examples) + len(self._more)

    def __getitem__(self, number: Any) -> Any:
        count = len(self._examples)
        return self._examples.get_label(number) if number < count else self._more[number - count]


def _read_texts(path: str, charset: Charset) -> list[np.ndarray]:
    """Reads texts as labels, without those that have a symbol which is not in the charset."""
    with open(path, encoding="utf-8-sig") as file:
        texts = [text for text in map(normalise_text, file) if text]
    known = [text for text in texts if not charset.missing(text)]
    log.info(f"{len(known):,} texts beside the labels, for the language model")
    if len(known) < len(texts):
        log.warning(f"{len(texts) - len(known):,} texts have symbols that no label has, and are left out")
    return [np.array(charset.encode(text)) for text in known]


def write_model(
    request: TrainingRequest,
    charset: Charset,
    examples: Examples,
    validation: Examples,
    dataset: DatasetManifest,
    state: TrainingState,
) -> None:
    """Writes the model's files, its calibration and its pictures to the output folder.

    Logs a warning if images were left out of some steps, and lists them in `LEFT_OUT_NAME`.

    Args:
        examples: the training split.
        dataset: to which the examples belong.
        state: of the finished training; it holds the best weights.
    """
    folder, height = request.output_folder, dataset.height
    os.makedirs(os.path.join(folder, PLOTS_NAME), exist_ok=True)
    recogniser = find_builder(request.model, request.init_from)(charset.classes, height, False)
    recogniser.set_weights(state.best)
    labels = _Labels(examples, _read_texts(request.texts, charset) if request.texts is not None else [])
    batches = _make_labelled_batches(validation, charset.classes)
    scored = _score(make_logits_function(recogniser, height), batches)
    float_errors = count_errors(scored)
    temperature, fusion = _calibrate(scored, labels, charset, folder)
    del scored  # may be large
    export_model(recogniser, charset, height, folder, temperature, dataset.vertical)
    chosen = np.random.default_rng(request.seed).permutation(len(examples))[:CALIBRATION_LINES].tolist()
    int8 = try_int8(folder, examples.decode_lines(chosen), batches, float_errors)
    if int8.lines:
        log.info(f"on CPUs, infer will compute in {'8' if int8.layers else '32'} bits: {int8.why}")
    names = ("weight", "bonus", "exponent")
    calibration = {
        "temperature": temperature,
        "language_model": None if fusion is None else {name: getattr(fusion, name) for name in names},
        "int8": dataclasses.asdict(int8),
    }
    storage.write_json(os.path.join(folder, CALIBRATION_NAME), calibration)
    if state.left_out:
        uris = sorted(examples.read_uris(sorted(state.left_out)))
        storage.write_json(os.path.join(folder, LEFT_OUT_NAME), uris)
        log.warning(
            f"{len(uris)} images had a loss or a gradient that was not finite and were left out of those "
            f"steps; {LEFT_OUT_NAME} beside the model lists them: {', '.join(uris[:3])}{', …' * (len(uris) > 3)}"
        )
    plot_history(state.history, os.path.join(folder, PLOTS_NAME, "curves.png"))
    plot_training_samples(examples, chosen[:_SHOWN], os.path.join(folder, PLOTS_NAME, "training_samples.png"))
    if RECIPES[request.model].augment:
        path = os.path.join(folder, PLOTS_NAME, "distortions.png")
        plot_distortions(examples, chosen[:_SHOWN_DISTORTED], request.seed, path)
