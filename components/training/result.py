"""The result of a training: the model's files, calibrated, with pictures."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import numpy as np

from components.ctc.calibration import ENOUGH_LINES, fit_temperature
from components.recogniser.manifest import CALIBRATION_NAME, PLOTS_NAME
from components.training.data import Examples, make_evaluation_batches
from components.training.export import export_model
from components.training.learner import make_logits_function
from components.training.networks import find_builder
from components.training.plots import plot_history, plot_training_samples
from components.training.request import TrainingRequest
from components.training.state import TrainingState
from tfrecords import Charset, storage

log = logging.getLogger(__name__)

LEFT_OUT_NAME = "left_out.json"
EVALUATION_BATCH = 64
_SHOWN = 16


def _fit_temperature(compute_logits: Callable, validation: Examples) -> float:
    """Finds the number that calibrates confidences if logits are divided by it, on a part of the validation split."""
    parts = max(1, len(validation) // ENOUGH_LINES)
    return fit_temperature(
        (*(output.numpy() for output in compute_logits(images, widths)), _get_labels(validation, indices))
        for images, widths, indices in make_evaluation_batches(validation, EVALUATION_BATCH, 0, parts)
    )


def _get_labels(examples: Examples, indices: np.ndarray) -> list[list[int]]:
    return [examples.get_label(i).tolist() for i in indices]


def write_model(
    request: TrainingRequest,
    charset: Charset,
    examples: Examples,
    validation: Examples,
    height: int,
    state: TrainingState,
) -> None:
    """Writes the model's files, its calibration and its pictures to the output folder.

    Logs a warning if images were left out of some steps, and lists them in `LEFT_OUT_NAME`.

    Args:
        examples: the training split.
        height: of the lines, pixels.
        state: of the finished training; it holds the best weights.
    """
    folder = request.output_folder
    os.makedirs(os.path.join(folder, PLOTS_NAME), exist_ok=True)
    recogniser = find_builder(request.model, request.init_from)(charset.classes, height, False)
    recogniser.set_weights(state.best)
    temperature = _fit_temperature(make_logits_function(recogniser, height), validation)
    storage.write_json(os.path.join(folder, CALIBRATION_NAME), {"temperature": temperature})
    export_model(recogniser, charset, height, folder, temperature)
    if state.left_out:
        uris = sorted(examples.uris[i] for i in state.left_out)
        storage.write_json(os.path.join(folder, LEFT_OUT_NAME), uris)
        log.warning(
            f"{len(uris)} images had a loss or a gradient that was not finite and were left out of those "
            f"steps; {LEFT_OUT_NAME} beside the model lists them: {', '.join(uris[:3])}{', …' * (len(uris) > 3)}"
        )
    plot_history(state.history, os.path.join(folder, PLOTS_NAME, "curves.png"))
    chosen = np.random.default_rng(request.seed).permutation(len(examples))[:_SHOWN].tolist()
    plot_training_samples(examples, chosen, os.path.join(folder, PLOTS_NAME, "training_samples.png"))
