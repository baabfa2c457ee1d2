"""Bands about baselines: outlines of lines of which a page file gives nothing but the baseline."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from components.layout.page_file import PageLine, Point, find_box

_ABOVE, _BELOW = 0.75, 0.25  # of the distance between baselines: ascenders are higher than descenders are low
_LINES_AHEAD = 20  # that are looked at, in search of the next one below
_LEAST_DISTANCE = 4.0  # pixels; two baselines that are closer are of one line


def add_bands(lines: Sequence[PageLine]) -> tuple[PageLine, ...]:
    """Gives each line that has a baseline, but neither polygon nor box, a band about the baseline as its polygon.

    The band is as high as the baselines of the file lie apart: the median of the distances from each to the next one
    below it. Three quarters of it are above the baseline. If no two baselines lie one above the other, or if a line
    is steeper than 45 degrees, its height is not known, and the line stays as it is.
    """
    if not any(map(_has_baseline_alone, lines)):
        return tuple(lines)
    distances = _find_distances([line.baseline for line in lines if line.baseline and not _is_steep(line.baseline)])
    if not distances:
        return tuple(lines)
    height = statistics.median(distances)
    return tuple(
        _add_band(line, height) if _has_baseline_alone(line) and not _is_steep(line.baseline) else line
        for line in lines
    )


def _has_baseline_alone(line: PageLine) -> bool:
    return bool(line.baseline) and not line.polygon and line.box is None


def _is_steep(baseline: tuple[Point, ...]) -> bool:
    (left, top), (right, bottom) = baseline[0], baseline[-1]
    return abs(bottom - top) > abs(right - left)


def _find_distances(baselines: list[tuple[Point, ...]]) -> list[float]:
    """Finds the distance from each baseline to the next one below that shares half of the shorter one's columns."""
    ends = sorted(
        ((points[0], points[-1]) if points[0][0] <= points[-1][0] else (points[-1], points[0]) for points in baselines),
        key=lambda pair: pair[0][1] + pair[1][1],
    )
    distances = []
    for place, upper in enumerate(ends):
        for lower in ends[place + 1 : place + 1 + _LINES_AHEAD]:
            left, right = max(upper[0][0], lower[0][0]), min(upper[1][0], lower[1][0])
            if right - left < 0.5 * min(upper[1][0] - upper[0][0], lower[1][0] - lower[0][0]):
                continue
            middle = (left + right) / 2
            if (distance := _find_row(lower, middle) - _find_row(upper, middle)) >= _LEAST_DISTANCE:
                distances.append(distance)
                break
    return distances


def _find_row(ends: tuple[Point, Point], column: float) -> float:
    (left, top), (right, bottom) = ends
    return top + (bottom - top) * (column - left) / (right - left) if right > left else top


def _add_band(line: PageLine, height: float) -> PageLine:
    (left, top), (right, bottom) = line.baseline[0], line.baseline[-1]
    length = ((right - left) ** 2 + (bottom - top) ** 2) ** 0.5 or 1.0
    # The direction from the line's top to its bottom, whichever way its baseline runs.
    across = abs(right - left) / length
    along = -(bottom - top) / length * (1 if right >= left else -1)
    upper = [(x - along * _ABOVE * height, y - across * _ABOVE * height) for x, y in line.baseline]
    lower = [(x + along * _BELOW * height, y + across * _BELOW * height) for x, y in reversed(line.baseline)]
    polygon = (*upper, *lower)
    return dataclasses.replace(line, polygon=polygon, box=find_box(polygon))
