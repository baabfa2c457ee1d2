"""Reading of text files that give the places and texts of the lines of one page image, a line for each.

Three kinds are read, as data sets publish them. The text may be missing:

    x1,y1,x2,y2,x3,y3,x4,y4,text        the corners of a line (ICDAR 2015, SROIE); ICDAR MLT and RCTW-17 have a cell
                                        more before the text
    left,top,right,bottom,text          (ICDAR 2013; or between spaces, with the text in quotation marks)
    image left top width height text    (the benchmark of OpenALPR; between tabs or spaces)
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from components.layout.page_file import PageFile, PageFileError, PageLine, Point, find_box, shorten

_ILLEGIBLE = "###"
_LINES_LOOKED_AT = 20
_MOST_LINES = 100_000

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_WHOLE = r"\s*(-?\d{1,9})\s*"
_OF_IMAGE = re.compile(
    r"(?P<image>\S.*?\.[A-Za-z][A-Za-z0-9]{1,3})[\t ]+(-?\d{1,9})[\t ]+(-?\d{1,9})[\t ]+(\d{1,9})[\t ]+(\d{1,9})"
    r"(?:[\t ]+(?P<text>.*))?",
    re.DOTALL,
)
_CORNERS = re.compile(rf"{','.join([_NUMBER] * 8)}(?:,(?P<text>.*))?", re.DOTALL)
_SIDES = re.compile(rf"{','.join([_WHOLE] * 4)}(?:,(?P<text>.*))?", re.DOTALL)
_SPACED_SIDES = re.compile(r'(-?\d{1,9}) +(-?\d{1,9}) +(-?\d{1,9}) +(-?\d{1,9}) +(?P<text>".*")\s*', re.DOTALL)
_KINDS = (_OF_IMAGE, _CORNERS, _SIDES, _SPACED_SIDES)
_SCRIPT = re.compile("(Arabic|Bangla|Chinese|Hindi|Japanese|Korean|Latin|Mixed|None|Symbols),(.*)", re.DOTALL)
_DIFFICULT = re.compile(r'([01]),(".*")\s*', re.DOTALL)
_QUOTED = re.compile(r'\s*"(.*)"\s*', re.DOTALL)
_NOT_UTF8 = re.compile("[\ud800-\udfff]")
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _Box(NamedTuple):
    """A box of the file.

    Attributes:
        line: of the file, from 1.
        corners: in the order of the file.
        text: all that stands behind the places; None if nothing does.
        problem: why the line of the file cannot be used; otherwise empty.
    """

    line: int
    corners: Sequence[Point] = ()
    text: str | None = None
    problem: str = ""


def looks_like_box_file(content: bytes) -> bool:
    """Checks whether a text file gives places of lines: more than half of its first lines do.

    Args:
        content: of the file, or its first bytes; the last line of these may be cut off.
    """
    first = [line for line in _split_lines(_decode(content, "replace")) if line.strip()][:_LINES_LOOKED_AT]
    return 2 * sum(any(kind.fullmatch(line) for kind in _KINDS) for line in first) > len(first)


def parse_box_file(content: bytes) -> PageFile:
    """Parses a text file with the places of lines.

    A line of the page has the number of its line in the file as its ID. One that is not like the others, or that names
    another image, has a problem. A text that nobody could read, which is marked by `###`, is none.

    Raises:
        PageFileError: if hardly a line is of a known kind, if there are too many, or if the right side of a box lies to
            the left of its left one, so that all places are doubtful.
    """
    lines = [(number, line) for number, line in enumerate(_split_lines(_decode(content)), 1) if line.strip()]
    if len(lines) > _MOST_LINES:
        raise PageFileError(f"it has more than {_MOST_LINES} lines")
    kind = _choose_kind([line for _, line in lines])
    matches = [(number, line, kind.fullmatch(line)) for number, line in lines]
    image_name = None
    if kind is _OF_IMAGE:
        image_name = next(match["image"] for _, _, match in matches if match)
    boxes = [_read_box(number, line, match, image_name) for number, line, match in matches]
    texts = iter(_split_texts([box.text for box in boxes if box.text is not None]))
    page_lines = (_make_line(box) if box.text is None else _make_line(box, *next(texts)) for box in boxes)
    return PageFile(image_name, None, None, tuple(page_lines))


def _decode(content: bytes, errors: str = "strict") -> str:
    """Decodes UTF-8, in which other bytes become lone surrogates, or UTF-16 with a byte order mark."""
    if not content.startswith(_WIDE_MARKS):
        return content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    try:
        return content.decode("utf-16", errors)
    except UnicodeDecodeError as error:
        raise PageFileError(f"it begins as UTF-16, but is damaged ({error.reason}): save it as UTF-8") from None


def _split_lines(text: str) -> list[str]:
    return re.split("\r\n|\n|\r", text)


def _choose_kind(lines: Sequence[str]) -> re.Pattern[str]:
    """Chooses the first kind that more than half of the lines have: the corners are four sides and a text, too."""
    for kind in _KINDS:
        if 2 * sum(kind.fullmatch(line) is not None for line in lines) > len(lines):
            return kind
    if not lines:
        raise PageFileError("it is empty")
    raise PageFileError("most of its lines do not begin with the place of a box, as in x1,y1,x2,y2,x3,y3,x4,y4,text")


def _read_box(number: int, line: str, match: re.Match[str] | None, image_name: str | None) -> _Box:
    """Reads a line of the file.

    Raises:
        PageFileError: if a box ends before it begins: then its numbers are probably something else.
    """
    if match is None:
        return _Box(number, problem=f"line {number} is not like the others: {shorten(line)}")
    if match.re is _CORNERS:
        sides = [float(side) for side in match.groups()[:8]]
        return _Box(number, list(zip(sides[::2], sides[1::2], strict=True)), match["text"])
    if match.re is _OF_IMAGE:
        if match["image"] != image_name:
            named = f"{shorten(match['image'])}, and not {shorten(image_name or '')} as the first one does"
            return _Box(number, problem=f"line {number} names {named}")
        left, top, width, height = (float(side) for side in match.groups()[1:5])
        right, bottom = left + width, top + height
    else:
        left, top, right, bottom = (float(side) for side in match.groups()[:4])
        if right < left or bottom < top:
            raise PageFileError(
                f"line {number} has a box from {left:g},{top:g} to {right:g},{bottom:g}, which ends before it begins: "
                "if the last two numbers are its width and height, write left,top,right,bottom,text"
            )
    return _Box(number, [(left, top), (right, top), (right, bottom), (left, bottom)], match["text"])


def _split_texts(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Splits what stands behind the places to a script and the text, by what all lines of the file have in common."""
    scripts = [""] * len(texts)
    if matches := _match_all(_SCRIPT, texts):
        scripts, texts = [match[1] for match in matches], [match[2] for match in matches]
    elif matches := _match_all(_DIFFICULT, texts):
        texts = [match[2] for match in matches]
    if _match_all(_QUOTED, [text for text in texts if text.strip() != _ILLEGIBLE]):
        texts = [_unquote(text) for text in texts]
    return list(zip(scripts, texts, strict=True))


def _match_all(pattern: re.Pattern[str], texts: Sequence[str]) -> list[re.Match[str]]:
    """Matches every text; returns no match if one is not like the pattern."""
    matches = [match for match in map(pattern.fullmatch, texts) if match is not None]
    return matches if len(matches) == len(texts) else []


def _unquote(text: str) -> str:
    """Removes the quotation marks around a text, and what marks those inside it: they are doubled, or after `\\`."""
    match = _QUOTED.fullmatch(text)
    if match is None:
        return text
    inside = match[1]
    if '"' not in inside.replace('""', ""):
        return inside.replace('""', '"')
    return re.sub(r'\\(["\\])', r"\1", inside)


def _make_line(box: _Box, script: str = "", text: str | None = None) -> PageLine:
    types = frozenset({script} if script else ())
    if box.problem:
        return PageLine(str(box.line), None, (), (), None, types, problem=box.problem)
    no_text = ""
    if text is not None and text.strip() == _ILLEGIBLE:
        no_text = f"marks it as illegible, by {_ILLEGIBLE} for its text"
    elif text is not None and _NOT_UTF8.search(text):
        no_text = f"gives a text for it that is not UTF-8: {shorten(text)}"
    polygon = _order_corners(box.corners)
    read = None if no_text else text
    return PageLine(str(box.line), read, polygon, _find_baseline(polygon), find_box(polygon), types, no_text=no_text)


def _order_corners(corners: Sequence[Point]) -> tuple[Point, ...]:
    """Orders corners around their centre, so that no edge of the outline crosses another."""
    x, y = (sum(axis) / len(corners) for axis in zip(*corners, strict=True))
    return tuple(sorted(corners, key=lambda corner: math.atan2(corner[1] - y, corner[0] - x)))


def _find_baseline(polygon: tuple[Point, ...]) -> tuple[Point, ...]:
    """Finds the lowest edge that is not steeper than 45 degrees, from left to right; none if it is level."""
    edges = [tuple(sorted((polygon[place - 1], polygon[place]))) for place in range(len(polygon))]
    flat = [edge for edge in edges if 0 < edge[1][0] - edge[0][0] >= abs(edge[1][1] - edge[0][1])]
    lowest = max(flat, key=lambda edge: edge[0][1] + edge[1][1], default=())
    return lowest if lowest and lowest[0][1] != lowest[1][1] else ()
