"""The result of a training: the model's files, calibrated, with pictures."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from components.ctc.calibration import ENOUGH_LINES, fit_temperature
from components.recogniser.manifest import CALIBRATION_NAME, PLOTS_NAME
from components.training.data import Examples, make_evaluation_batches
from components.training.export import export_model
from components.training.learner import make_logits_function
from components.training.networks import NETWORKS
from components.training.plots import plot_history, plot_training_samples
from components.training.request import TrainingRequest
from components.training.state import TrainingState
from tfrecords import Charset, storage

LEFT_OUT_NAME = "left_out.json"
EVALUATION_BATCH = 64
_SHOWN = 16


def _fit_temperature(read: Callable, validation: Examples) -> float:
    """What the logits are divided by so that confidences are calibrated, found on a part of the validation split."""
    parts = max(1, len(validation) // ENOUGH_LINES)
    return fit_temperature(
        (*(output.numpy() for output in read(images, widths)), [validation.label(i).tolist() for i in indices])
        for images, widths, indices in make_evaluation_batches(validation, EVALUATION_BATCH, 0, parts)
    )


def write_model(
    request: TrainingRequest,
    charset: Charset,
    examples: Examples,
    validation: Examples,
    height: int,
    state: TrainingState,
    say: Callable[[str], None],
) -> None:
    folder = request.output_folder
    os.makedirs(os.path.join(folder, PLOTS_NAME), exist_ok=True)
    reader = NETWORKS[request.model](charset.classes, height, False)
    reader.set_weights(state.best)
    temperature = _fit_temperature(make_logits_function(reader, height), validation)
    storage.write_json(os.path.join(folder, CALIBRATION_NAME), {"temperature": temperature})
    export_model(reader, charset, height, folder, temperature)
    if state.left_out:
        uris = sorted(examples.uris[i] for i in state.left_out)
        storage.write_json(os.path.join(folder, LEFT_OUT_NAME), uris)
        say(
            f"warning: {len(uris)} images had a loss or a gradient that was not finite and were left out of those "
            f"steps; {LEFT_OUT_NAME} beside the model lists them: {', '.join(uris[:3])}{', …' * (len(uris) > 3)}"
        )
    plot_history(state.history, os.path.join(folder, PLOTS_NAME, "curves.png"))
    chosen = np.random.default_rng(request.seed).permutation(len(examples))[:_SHOWN].tolist()
    plot_training_samples(examples, chosen, os.path.join(folder, PLOTS_NAME, "training_samples.png"))
