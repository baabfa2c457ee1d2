"""Pictures of lines in a grid, at which a person looks before trusting a number."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from tfrecords.directions import MIXED_RIGHT_TO_LEFT, to_display_order

SANS = ("DejaVu Sans",)
"""The font of the pictures, which comes with matplotlib."""
_LONG = 12  # times as wide as high, from which a line needs a row of its own


@dataclasses.dataclass(frozen=True)
class ShownLine:
    """One cell of a grid: the line's grey pixels, uint8 [height, width], and the caption under it."""

    pixels: np.ndarray
    caption: str
    colour: str = "black"


def plot_grid(title: str, lines: Sequence[ShownLine], path: str, columns: int = 2) -> None:
    """Draws lines with their captions in columns, or in one if some are long, as PNG."""
    if any(line.pixels.shape[1] > _LONG * line.pixels.shape[0] for line in lines):
        columns = 1
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


def lay_out_text(text: str) -> str:
    """Brings a text into display order: Matplotlib draws every symbol to the right of the one before."""
    return to_display_order(text, MIXED_RIGHT_TO_LEFT)


def replace_undrawable(text: str, families: Sequence[str] = SANS) -> str:
    """Replaces every symbol that none of some fonts can draw with `▯`."""
    return "".join(symbol if symbol == "\n" or _has_glyph(symbol, tuple(families)) else "▯" for symbol in text)


@functools.cache
def _has_glyph(symbol: str, families: tuple[str, ...]) -> bool:
    return any(get_font(findfont(FontProperties(family=family))).get_char_index(ord(symbol)) for family in families)
