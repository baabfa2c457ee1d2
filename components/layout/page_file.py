"""The layout of one page: its image, and its lines with their text, outlines, baselines and types."""

from __future__ import annotations

import dataclasses
from collections.abc import Sized

Point = tuple[float, float]
Box = tuple[float, float, float, float]

_MOST_POINTS = 10_000
_LONGEST_POINT = 50  # characters
_LARGEST = 1e7  # pixels: far more than any image has


class PageFileError(ValueError):
    """A page file (ALTO, PAGE, or a file of boxes) that cannot be read, with what is wrong in one sentence."""


@dataclasses.dataclass(frozen=True)
class PageLine:
    """A line of a page. All coordinates are pixels of the page's image, as the file gives them.

    Attributes:
        line_id: unique in the file. A line without an ID, or with that of an earlier line, is named by its place:
            `line-0007` is the seventh.
        text: as transcribed, words joined by one space; empty if the file gives an empty text, None if it gives none.
        polygon: at least 3 points, or none. A polygon of 1 or 2 points repeats its last one, and has no area. A line
            with nothing but a baseline has a band about it (`components.layout.bands`).
        baseline: at least 2 points in the order of the file, or none.
        box: left, top, right, bottom; that of the polygon if the file gives none.
        types: names of the types of the line and of the regions that it lies in.
        no_text: why there is no text, if the file says that; otherwise empty.
        problem: why the line cannot be used, whatever is wanted of it; otherwise empty.
    """

    line_id: str
    text: str | None
    polygon: tuple[Point, ...]
    baseline: tuple[Point, ...]
    box: Box | None
    types: frozenset[str]
    no_text: str = ""
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class PageFile:
    """The content of an ALTO or PAGE file, or of a file of boxes.

    Attributes:
        image_name: as written in the file.
        width, height: of the page, as the file says; None if it does not, as no file of boxes does.
        lines: in the order of the file.
        in_pixels: whether all lengths are in pixels, and not in parts of millimetres or inches. How many of these are a
            pixel, width and height tell.
    """

    image_name: str | None
    width: int | None
    height: int | None
    lines: tuple[PageLine, ...]
    in_pixels: bool = True


def parse_points(text: str, *, owner: str) -> tuple[Point, ...]:
    """Parses a list of points, `x,y x,y` or `x y x y`.

    Args:
        owner: of the points, for the error.

    Raises:
        PageFileError: for anything else, and for coordinates that no image has.
    """
    if len(text) > _MOST_POINTS * _LONGEST_POINT:
        raise _refuse_points(owner)
    numbers = [parse_number(part, owner=owner) for part in text.replace(",", " ").split()]
    if len(numbers) % 2:
        raise PageFileError(f"{owner} has {len(numbers)} coordinates, which are not pairs: {shorten(text)}")
    points = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    check_points(points, owner=owner)
    return points


def check_points(points: Sized, *, owner: str) -> None:
    """Raises `PageFileError` if there are too many points for a line."""
    if len(points) > _MOST_POINTS:
        raise _refuse_points(owner)


def _refuse_points(owner: str) -> PageFileError:
    return PageFileError(f"{owner} has more than {_MOST_POINTS} points")


def parse_number(text: str, *, owner: str) -> float:
    """Parses a coordinate or a length; raises `PageFileError` if it is not a number that an image can have."""
    try:
        number = float(text)
    except ValueError:
        raise PageFileError(f"{owner} has a coordinate that is not a number: {shorten(text)}") from None
    if not -_LARGEST <= number <= _LARGEST:  # nor is NaN
        raise PageFileError(f"{owner} has a coordinate that no image has: {shorten(text)}")
    return number


def parse_size(text: str | None, *, owner: str) -> int | None:
    """Parses the width or height of a page; returns None if the file gives none or 0."""
    if text is None or not text.strip():
        return None
    return max(0, round(parse_number(text, owner=owner))) or None


def close_polygon(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Repeats the last of 1 or 2 points, so that a polygon has at least 3, or none."""
    return points + points[-1:] * (3 - len(points)) if 0 < len(points) < 3 else points


def find_box(points: tuple[Point, ...]) -> Box | None:
    """Finds the left, top, right and bottom of points; None if there are none."""
    if not points:
        return None
    columns, rows = zip(*points, strict=True)
    return min(columns), min(rows), max(columns), max(rows)


def shorten(text: str) -> str:
    """Shortens a value of the file for an error message."""
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
