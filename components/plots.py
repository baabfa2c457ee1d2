"""Pictures of training, and lines in a grid: what a person looks at before trusting a number."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

if TYPE_CHECKING:
    from components.training.data import Examples
    from components.training.history import EpochRecord

SANS = ("DejaVu Sans",)
"""The font of the pictures, which comes with matplotlib."""
_LONG = 12  # times as wide as high
_LEAST_LOSS = 1e-4  # a loss of 0 has no place on a logarithmic axis


@dataclasses.dataclass(frozen=True)
class ShownLine:
    """One cell of a grid: the line's grey pixels, uint8 [height, width], and what is written under it."""

    pixels: np.ndarray
    caption: str
    colour: str = "black"


def plot_training_samples(examples: Examples, chosen: Sequence[int], path: str) -> None:
    """A grid of training lines with their labels, as PNG."""
    plot_grid(
        "Training samples and their labels",
        [ShownLine(examples.pixels(i), examples.texts[i]) for i in chosen],
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


def plot_grid(title: str, lines: Sequence[ShownLine], path: str) -> None:
    """Lines with what is written under them, in two columns, or in one if some are long, as PNG."""
    columns = 1 if any(line.pixels.shape[1] > _LONG * line.pixels.shape[0] for line in lines) else 2
    rows = max(-(-len(lines) // columns), 1)
    figure = Figure(figsize=(11, 0.6 + 1.05 * rows), layout="constrained")
    figure.suptitle(title)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, line in zip(figure.axes, lines, strict=False):
        axes.imshow(line.pixels, cmap="gray", vmin=0, vmax=255)
        # parse_math: a label may hold a dollar sign.
        axes.set_title(replace_undrawable(line.caption), family=SANS, fontsize=9, color=line.colour, parse_math=False)
    figure.savefig(path, dpi=110)


def replace_undrawable(text: str, families: Sequence[str] = SANS) -> str:
    """A text with `▯` for every symbol that none of some fonts can draw."""
    return "".join(symbol if symbol == "\n" or _has_glyph(symbol, tuple(families)) else "▯" for symbol in text)


@functools.cache
def _has_glyph(symbol: str, families: tuple[str, ...]) -> bool:
    return any(get_font(findfont(FontProperties(family=family))).get_char_index(ord(symbol)) for family in families)
