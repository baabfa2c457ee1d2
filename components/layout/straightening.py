"""Straightening of slanted and curved lines along their baselines."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

_LEAST_BEND = 3.0  # pixels between the highest and the lowest place of a baseline
_LEAST_BEND_OF_HEIGHT = 0.1
_LONGEST_OF_WIDTH = 2.0  # a baseline, bent to half a circle and a little more
_MOST_SAMPLES = 1_000
_BORDER_POINTS = 100
_PIECES = (1, 2, 4, 8, 16, 32, 64)
_FINE = 4 * _PIECES[-1]
_EXACT = 0.25  # pixels by which a piece may differ from the curve
_BOX_MARGIN = 0.1  # of a line's height, for baselines that are not drawn exactly


@dataclasses.dataclass(frozen=True)
class Curve:
    """A smooth baseline that goes straight on beyond its ends.

    Attributes:
        lengths: float64 [samples], along the curve from the baseline's first point; below zero before it.
        points: float64 [samples, 2], columns and rows.
        reach: pixels over which it is smooth.
    """

    lengths: np.ndarray
    points: np.ndarray
    reach: float

    def find_points(self, lengths: np.ndarray) -> np.ndarray:
        """Finds the points at the given lengths, float64 [lengths, 2]."""
        return np.stack([np.interp(lengths, self.lengths, self.points[:, axis]) for axis in (0, 1)], axis=1)

    def find_normals(self, lengths: np.ndarray) -> np.ndarray:
        """Finds the directions from the line's top to its bottom at the given lengths, float64 [lengths, 2]."""
        along = self.find_points(lengths + self.reach / 2) - self.find_points(lengths - self.reach / 2)
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        return np.stack([-along[:, 1], along[:, 0]], axis=1)

    def choose_knots(self, start: float, stop: float) -> np.ndarray:
        """Chooses lengths, equally far apart, between which the curve is almost straight, float64 [pieces + 1]."""
        fine = np.linspace(start, stop, _FINE + 1)
        points = self.find_points(fine)
        for pieces in _PIECES:
            places = np.arange(_FINE + 1) * (pieces / _FINE)
            knots = points[:: _FINE // pieces]
            straight = [np.interp(places, np.arange(pieces + 1), knots[:, axis]) for axis in (0, 1)]
            if np.abs(points - np.stack(straight, axis=1)).max() <= _EXACT:
                break
        return fine[:: _FINE // pieces]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Projects points, [points, 2], to lengths along the curve and distances below it, float64 [points] each."""
        # The first and the last segment are what lies beyond the baseline.
        some = np.array([self.lengths[0], *self.choose_knots(*self.lengths[[1, -2]]), self.lengths[-1]])
        knots = self.find_points(some)
        begins, steps = knots[:-1], np.diff(knots, axis=0)
        sizes = np.maximum(np.linalg.norm(steps, axis=1), 1e-9)
        steps = steps / sizes[:, None]
        gaps = points[:, None] - begins[None]
        along = np.clip(np.einsum("psa,sa->ps", gaps, steps), 0, sizes)
        nearest = np.argmin(np.square(gaps - along[..., None] * steps).sum(axis=2), axis=1)
        places = np.arange(len(points))
        gap, step = gaps[places, nearest], steps[nearest]
        return some[nearest] + along[places, nearest], step[:, 0] * gap[:, 1] - step[:, 1] * gap[:, 0]


@dataclasses.dataclass(frozen=True)
class Straightening:
    """A way to straighten a line: columns perpendicular to its baseline, at equal steps along it.

    Attributes:
        width, height: of the straight line, pixels.
        columns: int64 [knots], from 0 to the width, between which the baseline is almost straight.
        upper, lower: float64 [knots, 2], the columns and rows in what was cut out of the page from which the first and
            the last pixel of these columns come.
    """

    width: int
    height: int
    columns: np.ndarray
    upper: np.ndarray
    lower: np.ndarray

    def apply(self, grey: Image.Image, paper: int) -> Image.Image:
        """Straightens what was cut out of the page, of mode L; pixels from beyond it get the shade of the paper."""
        columns, upper, lower = self.columns, self.upper, self.lower
        mesh = [
            (
                (int(columns[i]), 0, int(columns[i + 1]), self.height),
                (*upper[i], *lower[i], *lower[i + 1], *upper[i + 1]),
            )
            for i in range(len(columns) - 1)
        ]
        size = self.width, self.height
        return grey.transform(size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR, fillcolor=paper)

    def locate_columns(self, start: float, end: float) -> np.ndarray:
        """Locates columns of the straight line in what was cut out of the page, the inverse of `apply`.

        Returns:
            The outline, float64 [points, 2]: along the upper edge, and back along the lower one.
        """
        between = self.columns[(self.columns > start) & (self.columns < end)]
        places = np.array([start, *between, end])
        edges = [
            np.stack([np.interp(places, self.columns, edge[:, axis]) for axis in (0, 1)], axis=1)
            for edge in (self.upper, self.lower)
        ]
        return np.concatenate([edges[0], edges[1][::-1]])


def find_straightening(inside: np.ndarray, baseline: np.ndarray, *, is_box: bool) -> Straightening | None:
    """Finds the way to straighten a line.

    A baseline that runs to the left counts as if it ran to the right. The baseline is smoothed over about the line's
    height first, so that a jerk of the hand that drew it does not bend a symbol.

    Args:
        inside: bools [height, width], the pixels of the line's outline in what was cut out of the page.
        baseline: float [points, 2], columns and rows there.
        is_box: whether the outline is an upright box around the line, and so higher than a slanted line is.

    Returns:
        None if it is not worth it (the baseline is level to 3 pixels or a tenth of the line's height, or the line would
        not become lower), or if the baseline is not that of a line from left to right (it is steeper than 45 degrees,
        shorter than the line is high, or goes to and fro).
    """
    if baseline[-1, 0] < baseline[0, 0]:
        baseline = baseline[::-1]
    across, down = np.abs(baseline[-1] - baseline[0])
    length = float(np.linalg.norm(np.diff(baseline, axis=0), axis=1).sum())
    thickness = max(1.0, np.count_nonzero(inside) / max(length, 1.0))
    if down > across or length < thickness or length > _LONGEST_OF_WIDTH * across:
        return None
    curve = _smooth(baseline, thickness, beyond=float(sum(inside.shape)))
    lengths, heights = curve.project(_find_border(inside))
    start, stop, top, bottom = lengths.min(), lengths.max(), heights.min(), heights.max()
    rows = curve.find_points(np.linspace(start, stop, 64))[:, 1]
    if rows.max() - rows.min() <= max(_LEAST_BEND, _LEAST_BEND_OF_HEIGHT * thickness):
        return None
    if is_box:  # it touches the line's highest and its lowest place
        top, bottom = -rows.min(), max(0.0, inside.shape[0] - rows.max())
        margin = _BOX_MARGIN * (bottom - top)
        top, bottom = top - margin, bottom + margin
        if top >= 0:  # the baseline is not that of what is in the box
            return None
    width, height = round(stop - start), round(bottom - top)
    if width < 1 or width > 2 * sum(inside.shape) or not 0 < height < inside.shape[0]:
        return None
    columns = np.unique(np.round(curve.choose_knots(start, start + width) - start).astype(np.int64))
    points, normals = curve.find_points(columns + start), curve.find_normals(columns + start)
    return Straightening(width, height, columns, points + top * normals, points + (top + height) * normals)


def _smooth(baseline: np.ndarray, reach: float, *, beyond: float) -> Curve:
    sizes = np.linalg.norm(np.diff(baseline, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(sizes)])
    count = int(np.clip(np.ceil(along[-1] / (reach / 4)), 8, _MOST_SAMPLES))
    places = np.linspace(0.0, along[-1], count + 1)
    points = np.stack([np.interp(places, along, baseline[:, axis]) for axis in (0, 1)], axis=1)
    half = int(np.clip(round(reach / 2 / places[1]), 1, count))
    padded = np.pad(points, ((half, half), (0, 0)), mode="reflect", reflect_type="odd")
    window = np.full(2 * half + 1, 1 / (2 * half + 1))
    points = np.stack([np.convolve(padded[:, axis], window, mode="valid") for axis in (0, 1)], axis=1)
    end = min(2 * half, count)
    first, last = points[0] - points[end], points[-1] - points[-1 - end]
    first, last = (way / max(float(np.linalg.norm(way)), 1e-9) for way in (first, last))
    points = np.concatenate([points[:1] + beyond * first, points, points[-1:] + beyond * last])
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]) - beyond
    return Curve(lengths, points, reach)


def _find_border(inside: np.ndarray) -> np.ndarray:
    """Finds points on the outermost pixels of the rows and of the columns, a few for each, float64 [points, 2]."""
    upper_and_lower = _find_ends(inside.T)
    left_and_right = _find_ends(inside)[:, ::-1]
    return np.concatenate([upper_and_lower, left_and_right])


def _find_ends(lines: np.ndarray) -> np.ndarray:
    """Finds the outermost ends of lines of pixels, bools [lines, pixels], as line and pixel, float64 [points, 2]."""
    filled = np.flatnonzero(lines.any(axis=1))
    lines = lines[filled]
    group = -(-len(filled) // _BORDER_POINTS)  # lines that share a point
    starts = np.arange(0, len(filled), group)
    first = np.minimum.reduceat(lines.argmax(axis=1), starts)
    last = np.maximum.reduceat(lines.shape[1] - lines[:, ::-1].argmax(axis=1), starts)
    middles = filled[np.minimum(starts + group // 2, len(filled) - 1)] + 0.5
    return np.concatenate([np.stack([middles, first], axis=1), np.stack([middles, last], axis=1)])
