"""Elements of PAGE files, versions 2010 to 2019 (https://github.com/PRImA-Research-Lab/PAGE-XML)."""

from __future__ import annotations

import re
from xml.parsers import expat

from components.layout.elements import Attributes, PageReader
from components.layout.page_file import Point, check_points, parse_number, parse_points, parse_size

_REGIONS = (
    "AdvertRegion",
    "ChartRegion",
    "ChemRegion",
    "CustomRegion",
    "GraphicRegion",
    "ImageRegion",
    "LineDrawingRegion",
    "MapRegion",
    "MathsRegion",
    "MusicRegion",
    "NoiseRegion",
    "SeparatorRegion",
    "TableCell",
    "TableRegion",
    "TextRegion",
    "UnknownRegion",
)
_STRUCTURE = re.compile(r"structure\s*\{([^{}]*)\}")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_LAST = 1 << 62


class PageXmlReader(PageReader):
    """Reader of the elements of a PAGE file.

    A line's text is its own `TextEquiv` with the lowest index, or the first without one. A line that has none has the
    text of its words, joined by one space.
    """

    format = "PAGE"

    def __init__(self, parser: expat.XMLParserType):
        super().__init__(parser)
        self.starts = {
            "Page": self._start_page,
            "TextLine": self._start_text_line,
            "Coords": self._start_coords,
            "Baseline": self._start_baseline,
            "Point": self._read_point,
            "Word": self._start_word,
            "TextEquiv": self._start_text_equiv,
            "Unicode": self._start_text,
            "PlainText": self._start_text,
            **dict.fromkeys(_REGIONS, self._start_region),
        }
        self.ends = {
            "TextLine": self._end_text_line,
            "Coords": self._end_coords,
            "Baseline": self._end_baseline,
            "Word": self._end_word,
            "TextEquiv": self._end_text_equiv,
            "Unicode": self._end_unicode,
            "PlainText": self._end_plain_text,
            **dict.fromkeys(_REGIONS, self.end_region),
        }
        self._points: list[Point] | None = None
        self._words: list[str] = []
        self._best: tuple[int, str] | None = None  # index and text of the TextEquiv of the line or word so far
        self._line_best: tuple[int, str] | None = None
        self._in_word = False
        self._index = _LAST
        self._unicode: str | None = None
        self._plain: str | None = None

    def _start_page(self, attributes: Attributes) -> None:
        self.start_page()
        self.image_name = attributes.get("imageFilename", "").strip() or None
        self.size = (
            parse_size(attributes.get("imageWidth"), owner="the page's imageWidth"),
            parse_size(attributes.get("imageHeight"), owner="the page's imageHeight"),
        )

    def _start_region(self, attributes: Attributes) -> None:
        self.start_region(_read_types(attributes.get("type", ""), attributes.get("custom", "")))

    def _start_text_line(self, attributes: Attributes) -> None:
        self.start_line(attributes.get("id"), _read_types("", attributes.get("custom", "")))
        self._words, self._best, self._in_word = [], None, False

    def _end_text_line(self) -> None:
        if self.line:
            if self._best:
                self.line.text = self._best[1]
            elif self._words:
                self.line.text = " ".join(filter(None, self._words))
        self.end_line()

    def _start_coords(self, attributes: Attributes) -> None:
        if self.is_in_line(1):
            self._points = list(parse_points(attributes.get("points", ""), owner=self.name_line("polygon")))

    def _end_coords(self) -> None:
        if self.line and self.is_in_line(1):
            self.line.polygon = tuple(self._points or ())
            self._points = None

    def _start_baseline(self, attributes: Attributes) -> None:
        if self.is_in_line(1):
            self._points = list(parse_points(attributes.get("points", ""), owner=self.name_line("baseline")))

    def _end_baseline(self) -> None:
        if self.line and self.is_in_line(1):
            self.line.baseline = tuple(self._points or ())
            self._points = None

    def _read_point(self, attributes: Attributes) -> None:
        if self._points is not None and self.is_in_line(2):
            column, row = (parse_number(attributes.get(name, ""), owner=self.name_line("point")) for name in "xy")
            self._points.append((column, row))
            check_points(self._points, owner=self.name_line("list of points"))

    def _start_word(self, attributes: Attributes) -> None:
        if self.is_in_line(1):
            self._line_best, self._best, self._in_word = self._best, None, True

    def _end_word(self) -> None:
        if self.is_in_line(1):
            if self._best:
                self._words.append(self._best[1])
            self._best, self._in_word = self._line_best, False

    def _start_text_equiv(self, attributes: Attributes) -> None:
        index = attributes.get("index", "").strip()
        self._index = int(index) if index.isdecimal() and len(index) < 19 else _LAST
        self._unicode = self._plain = None

    def _end_text_equiv(self) -> None:
        text = self._plain if self._unicode is None else self._unicode
        if text is None or not self._belongs(0) or (self._best and self._best[0] <= self._index):
            return
        self._best = self._index, text

    def _start_text(self, attributes: Attributes) -> None:
        if self._belongs(1):
            self.collect_text()

    def _end_unicode(self) -> None:
        if self._belongs(1):
            self._unicode = self.take_text()

    def _end_plain_text(self) -> None:
        if self._belongs(1):
            self._plain = self.take_text()

    def _belongs(self, levels: int) -> bool:
        """Checks whether an element so many levels below a `TextEquiv` is of a line or a word, not of a glyph."""
        return self.is_in_line(1 + levels) or (self.is_in_line(2 + levels) and self._in_word)


def _read_types(kind: str, custom: str) -> frozenset[str]:
    names = [kind]
    for structure in _STRUCTURE.findall(custom):
        for part in structure.split(";"):
            key, _, value = part.partition(":")
            if key.strip() == "type":
                names.append(_ESCAPE.sub(_unescape, value))
    return frozenset(filter(None, map(str.strip, names)))


def _unescape(escape: re.Match[str]) -> str:
    symbol = chr(int(escape[1], 16))
    return symbol if symbol.isprintable() else escape[0]
