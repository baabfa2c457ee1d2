"""Outlines of lines on the pixels of a page, and the paper inside them."""

from __future__ import annotations

import numpy as np
from PIL import Image

_EDGES_AT_ONCE = 512  # bounds the memory for outlines of many points


def fill_outline(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Finds the pixels whose centre lies in a polygon, by the nonzero rule: loops of its edge stay inside.

    Args:
        points: float [points, 2], columns and rows; (0, 0) is the corner of the first pixel. The last point is joined
            to the first.

    Returns:
        Bools [height, width].
    """
    turns = np.zeros((height, width + 1), np.int16)  # how often the edge winds around the pixels from here rightwards
    ends = np.roll(points, -1, axis=0)
    for start in range(0, len(points), _EDGES_AT_ONCE):
        _add_edges(turns, points[start : start + _EDGES_AT_ONCE], ends[start : start + _EDGES_AT_ONCE])
    return np.cumsum(turns[:, :-1], axis=1, dtype=np.int16) != 0


def _add_edges(turns: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> None:
    height, columns = turns.shape
    upper = np.minimum(begins[:, 1], ends[:, 1])
    lower = np.maximum(begins[:, 1], ends[:, 1])
    first = np.clip(np.ceil(upper - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(lower - 0.5), 0, height).astype(np.int64)
    counts = last - first
    edges = np.repeat(np.arange(len(begins)), counts)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    step = ends[edges] - begins[edges]
    crossings = begins[edges, 0] + (rows + 0.5 - begins[edges, 1]) * step[:, 0] / step[:, 1]
    places = np.clip(np.ceil(crossings - 0.5), 0, columns - 1).astype(np.int64)
    np.add.at(turns, (rows, places), np.where(step[:, 1] > 0, np.int16(1), np.int16(-1)))


def estimate_paper(grey: Image.Image, inside: np.ndarray) -> int:
    """Estimates the shade of the paper: the median of the pixels on that side of their mean which has more of them.

    Args:
        grey: mode L.
        inside: bools [height, width], the pixels that count: at least 1.
    """
    counts = np.array(grey.histogram(Image.fromarray(inside.view(np.uint8))))
    shades = np.arange(256)
    lighter = shades >= (counts @ shades) / counts.sum()
    if 2 * counts[lighter].sum() < counts.sum():
        lighter = ~lighter
    side = np.cumsum(np.where(lighter, counts, 0))
    return int(np.searchsorted(side, (side[-1] + 1) // 2))
