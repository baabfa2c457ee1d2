"""Pictures of training and reading: what a person looks at before trusting a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from components.training.data import Examples
    from components.training.history import EpochRecord

_COLUMNS = 2
_LEAST_LOSS = 1e-4  # a loss of 0 has no place on a logarithmic axis
_RIGHT, _WRONG = "#1b6e3c", "#b3261e"


@dataclasses.dataclass(frozen=True)
class ShownLine:
    """One cell of a grid: the line's grey pixels, uint8 [height, width], and what is written under it."""

    pixels: np.ndarray
    caption: str
    colour: str = "black"


def plot_training_samples(examples: Examples, chosen: Sequence[int], path: str) -> None:
    """A grid of training lines with their labels, as PNG."""
    _plot_grid(
        "Training samples and their labels",
        [ShownLine(examples.pixels(i), examples.texts[i]) for i in chosen],
        path,
    )


def plot_predictions(lines: Sequence[tuple[np.ndarray, str, str, float]], path: str) -> None:
    """A grid of lines with what was read beside the truth, wrong ones marked, as PNG.

    Args:
        lines: grey pixels, the truth, what was read, and its confidence.
    """
    wrong = sum(truth != read for _, truth, read, _ in lines)
    _plot_grid(
        f"Test lines as they were read: {len(lines) - wrong} right, {wrong} wrong",
        [
            ShownLine(pixels, f"✓ {read}   ({confidence:.0%})", _RIGHT)
            if truth == read
            else ShownLine(pixels, f"✗ read {read}   ({confidence:.0%})\ntruth {truth}", _WRONG)
            for pixels, truth, read, confidence in lines
        ],
        path,
    )


def plot_history(history: Sequence[EpochRecord], path: str) -> None:
    """Loss and CER by epoch, as PNG."""
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


def _plot_grid(title: str, lines: Sequence[ShownLine], path: str) -> None:
    rows = -(-len(lines) // _COLUMNS)
    figure = Figure(figsize=(11, 0.6 + 1.05 * max(rows, 1)), layout="constrained")
    figure.suptitle(title)
    for axes in figure.subplots(max(rows, 1), _COLUMNS, squeeze=False).flat:
        axes.set_axis_off()
    for axes, line in zip(figure.axes, lines, strict=False):
        axes.imshow(line.pixels, cmap="gray", vmin=0, vmax=255)
        # parse_math: a label may hold a dollar sign.
        axes.set_title(line.caption, fontsize=9, color=line.colour, parse_math=False)
    figure.savefig(path, dpi=110)
