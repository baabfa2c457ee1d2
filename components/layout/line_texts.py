"""Texts of lines that are written into page files."""

from __future__ import annotations

import dataclasses
import math
from xml.sax.saxutils import escape, quoteattr

from components.layout.page_file import Box, Point, find_box


@dataclasses.dataclass(frozen=True)
class WordText:
    """A word whose place is known.

    Attributes:
        confidence: 0 to 1; None if it is not known.
        polygon: its outline, pixels of the page as the page file has them.
    """

    text: str
    confidence: float | None
    polygon: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class LineText:
    """A text for a line.

    Attributes:
        confidence: 0 to 1; None if it is not known.
        box: of the line, pixels of the page as the page file has them; None if it is not known.
        words: all of them, joined by one space the text; none if their places are not known.
    """

    text: str
    confidence: float | None
    box: Box | None
    words: tuple[WordText, ...] = ()


@dataclasses.dataclass(frozen=True)
class ProcessingStep:
    """The recognition by one model.

    Attributes:
        at: ISO 8601, UTC.
    """

    model_id: str
    at: str


SOFTWARE = "line-reader"
"""The name of this program in files for other systems."""


def format_box(points: tuple[Point, ...] | None, box: Box | None) -> tuple[int, int, int, int] | None:
    """Rounds a box outwards to whole pixels, none of them below zero: left, top, right, bottom."""
    found = find_box(points or ()) or box
    if found is None:
        return None
    left, top, right, bottom = found
    left, top = max(0, math.floor(left)), max(0, math.floor(top))
    return left, top, max(left, math.ceil(right)), max(top, math.ceil(bottom))


def format_points(points: tuple[Point, ...]) -> list[tuple[int, int]]:
    """Rounds points to whole pixels, none of them below zero."""
    return [(max(0, round(x)), max(0, round(y))) for x, y in points]


def format_attribute(name: str, value: object) -> str:
    """Formats an attribute with a space before it; nothing if there is no value."""
    return "" if value is None else f" {name}={quoteattr(str(value))}"


def format_element(name: str, text: str) -> str:
    """Formats an element that holds a text."""
    return f"<{name}>{escape(text)}</{name}>"


def choose_id(content: bytes, wanted: str) -> str:
    """Chooses the beginning of IDs that no attribute in a file begins with: the wanted one, or a longer one."""
    while f'"{wanted}'.encode() in content or f"'{wanted}".encode() in content:
        wanted += "_"
    return wanted
