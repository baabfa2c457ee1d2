"""Pictures of training: samples with their labels, and curves of loss and error rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from components.plots import ShownLine, lay_out_text, plot_grid
from components.training.data import Examples
from components.training.distort import DISTORTIONS, distort
from components.training.history import EpochRecord
from components.training.recipes import TIME_STRIDE
from tfrecords import pad_lines

_WAYS = 2  # in which each line is shown distorted
_LEAST_LOSS = 1e-4  # a loss of 0 has no place on a logarithmic axis


def plot_training_samples(examples: Examples, chosen: Sequence[int], path: str) -> None:
    """Draws a grid of training lines with their labels, as PNG."""
    plot_grid(
        "Training samples and their labels",
        [
            ShownLine(line, lay_out_text(text))
            for line, text in zip(examples.decode_lines(chosen), examples.read_texts(chosen), strict=True)
        ],
        path,
    )


def plot_distortions(examples: Examples, chosen: Sequence[int], seed: int, path: str) -> None:
    """Draws training lines as they are, each followed by two ways in which training sees it, as PNG."""
    shown = []
    lines, texts = examples.decode_lines(chosen), examples.read_texts(chosen)
    for i, line, text in zip(chosen, lines, texts, strict=True):
        images, widths = pad_lines([line] * _WAYS, TIME_STRIDE)
        amounts = np.random.default_rng([seed, i]).uniform(-1, 1, (_WAYS, DISTORTIONS)).astype(np.float32)
        distorted = distort(images, widths, amounts).numpy()[:, :, : line.shape[1], 0]
        shown.append(ShownLine(line, lay_out_text(text)))
        shown += [ShownLine(pixels, f"distorted, {way} of {_WAYS}") for way, pixels in enumerate(distorted, 1)]
    plot_grid("Training lines, and how the network sees them", shown, path, columns=1 + _WAYS)


def plot_history(history: Sequence[EpochRecord], path: str) -> None:
    """Draws loss and CER by epoch, as PNG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, errors = figure.subplots(1, 2)
    epochs = [record.epoch for record in history]
    losses.plot(epochs, [max(record.train_loss, _LEAST_LOSS) for record in history], label="training")
    losses.plot(epochs, [max(record.validation_loss, _LEAST_LOSS) for record in history], label="validation")
    losses.set(title="CTC loss", xlabel="epoch", ylabel="nats per line", yscale="log")
    errors.plot(epochs, [100 * record.cer for record in history], label="CER")
    errors.plot(epochs, [100 * (1 - record.exact_match) for record in history], label="lines not exactly right")
    errors.set(title="Errors on the validation split", xlabel="epoch", ylabel="%", ylim=(0, None))
    for axes in (losses, errors):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)
