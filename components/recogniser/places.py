"""Places of a text's symbols along its line, from the time steps at which the network writes them.

A network trained with CTC writes a symbol at one or two time steps near the symbol's middle, and blanks beside them. So
the border of two symbols is looked for around the middle between their time steps, and lies where there is least ink.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SHIFT = 1.5
"""Pixels by which the middle of what a time step sees lies to the right of its own pixels' middle: strided convolutions
pad more on the right (TensorFlow's padding `same`)."""
_REACH = 0.35  # of the distance between two symbols: so far from the middle between them their border may lie
_OUTER, _OUTER_REACH = (
    0.7,
    0.65,
)  # halves of a typical width: where a line's outer borders are likeliest, and their reach
_LONE_WIDTH = 0.6  # width of a symbol that is alone on its line, of the line's height
_COST = 0.2  # of a border at its reach, as so much of the line's range of ink
_UNSEEN = 0.2  # ink outside of a line, in shares of its range
_BETWEEN, _OUTSIDE = np.linspace(-1, 1, 17, dtype=np.float32), np.linspace(-0.7, 2, 19, dtype=np.float32)
"""Places that are tried for a border, as shares of its reach, from the likeliest one."""


class Contrast(NamedTuple):
    """Contrasts of the columns of lines, which are their ink.

    Attributes:
        columns: uint8 [batch, 1 + width + 1], the difference between the lightest and the darkest pixel of each column;
            outside of a line, where nothing is seen, a little more than the line's least.
        ranges: float32 [batch], by how much the greatest of a line exceeds the least.
        height: pixels of the lines.
    """

    columns: np.ndarray
    ranges: np.ndarray
    height: int

    @classmethod
    def measure(cls, images: np.ndarray, widths: np.ndarray) -> Contrast:
        """Measures the contrasts of lines, uint8 [batch, height, width, 1], of their own widths, int [batch].

        Every other row of pixels tells enough.
        """
        inside = np.ptp(images[:, ::2, :, 0], axis=1)
        columns = np.full((len(images), inside.shape[1] + 2), 255, np.uint8)
        outside = np.arange(inside.shape[1]) >= widths[:, None]
        np.copyto(columns[:, 1:-1], inside, where=~outside)
        most, least = inside.max(axis=1), columns.min(axis=1)  # padding has no contrast
        unseen = least + (_UNSEEN * (most - least)).astype(np.uint8)
        columns[:, [0, -1]] = unseen[:, None]
        np.copyto(columns[:, 1:-1], unseen[:, None], where=outside)
        return cls(columns, np.maximum(most - least, 1).astype(np.float32), images.shape[1])


def find_symbol_edges(
    runs: Sequence[np.ndarray], contrast: Contrast, widths: np.ndarray, time_steps: np.ndarray, stride: int
) -> list[list[int]]:
    """Finds where each symbol begins and ends along its line.

    Each symbol begins where the one before it ends. The first begins, and the last ends, where there is little ink, at
    most about a symbol's width away.

    Args:
        runs: `Decoded.runs` of each line, int [symbols, 2].
        contrast: of the lines.
        widths, time_steps: int [batch], of each line.
        stride: pixels of a time step, unless the network squeezes all lines to one number of time steps.

    Returns:
        For each line, start (inclusive) and end (exclusive) of one symbol after the other, in pixels.
    """
    lengths = np.array([len(run) for run in runs])
    ends = lengths.cumsum()
    filled = np.flatnonzero(lengths)
    lines = np.repeat(np.arange(len(runs)), lengths)
    strided = time_steps == -(-widths // stride)
    step = np.where(strided, stride, widths / time_steps).astype(np.float32)
    middles = np.concatenate(runs).sum(axis=1) * (step / 2)[lines]
    middles += np.where(strided, np.float32(_SHIFT), 0)[lines]
    middles = np.minimum(middles, widths[lines]).astype(np.float32)

    first, last = (ends - lengths)[filled], ends[filled] - 1
    half = (middles[last] - middles[first]) / np.maximum(2 * (last - first), 1).astype(np.float32)
    half[first == last] = contrast.height * _LONE_WIDTH / 2
    before = np.flatnonzero(lines[1:] == lines[:-1])
    distances = middles[before + 1] - middles[before]
    outer, reach = _OUTER * half, _OUTER_REACH * half
    edges = np.empty((len(lines), 2), np.float32)
    edges[first, 0] = _choose_borders(contrast, filled, _OUTSIDE, middles[first] - outer, -reach)
    edges[before, 1] = edges[before + 1, 0] = _choose_borders(
        contrast, lines[before], _BETWEEN, middles[before] + distances / 2, _REACH * distances
    )
    edges[last, 1] = _choose_borders(contrast, filled, _OUTSIDE, middles[last] + outer, reach)
    pixels = np.round(np.clip(edges, 0, widths[lines, None])).astype(int).ravel().tolist()
    return [pixels[2 * (end - length) : 2 * end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def _choose_borders(
    contrast: Contrast,
    lines: np.ndarray,
    shares: np.ndarray,
    likeliest: np.ndarray,
    reach: np.ndarray,
) -> np.ndarray:
    """Chooses the place of the least ink for each border, and of places alike in that the likeliest.

    Args:
        contrast: of the lines.
        lines: int [borders], the line of each.
        shares: float32 [places], `_BETWEEN` or `_OUTSIDE`.
        likeliest, reach: float32 [borders], pixels.

    Returns:
        float32 [borders], pixels from the beginning of the line; perhaps outside of it.
    """
    places = reach[:, None] * shares
    places += likeliest[:, None]
    columns = np.clip(places + 1, 0, contrast.columns.shape[1] - 1).astype(np.int64)
    columns += (lines * contrast.columns.shape[1])[:, None]
    costs = (_COST * contrast.ranges[lines])[:, None] * np.abs(shares)
    costs += contrast.columns.ravel()[columns]
    return places[np.arange(len(lines)), costs.argmin(axis=1)]
