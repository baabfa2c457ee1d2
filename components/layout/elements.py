"""Elements of a page file as a parser meets them: what is common to ALTO and PAGE."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from xml.parsers import expat

from components.layout.bands import add_bands
from components.layout.page_file import (
    Box,
    PageFile,
    PageFileError,
    PageLine,
    Point,
    close_polygon,
    find_box,
    shorten,
)

Attributes = dict[str, str]

_MOST_ELEMENTS = 2_000_000  # a newspaper page with a place for every letter has a few 100,000
_MOST_LINES = 100_000
_MOST_TYPES = 100
_DEEPEST = 100


@dataclasses.dataclass
class LineElement:
    """An element of a line whose end is still to come, or the whole of it.

    Attributes:
        depth: of the element in the file; that of the root is 1.
        regions: names of the types of the regions around it, and `own` those of the line itself.
    """

    line_id: str
    depth: int
    regions: frozenset[str]
    own: frozenset[str]
    box: Box | None = None
    text: str | None = None
    polygon: tuple[Point, ...] = ()
    baseline: tuple[Point, ...] = ()


class PageReader:
    """Reader of the elements of one page file; a subclass knows those of its format.

    Attributes:
        format: its name.
        starts: what is done where an element of a name begins, and `ends` where it ends. Names are without prefixes.
    """

    format = ""

    def __init__(self, parser: expat.XMLParserType):
        self.starts: dict[str, Callable[[Attributes], None]] = {}
        self.ends: dict[str, Callable[[], None]] = {}
        self.depth = 0
        self.line: LineElement | None = None
        self.image_name: str | None = None
        self.size: tuple[int | None, int | None] = (None, None)
        self.in_pixels = True
        self._parser = parser
        self._elements = 0
        self._pages = 0
        self._lines: list[LineElement] = []
        self._regions: list[frozenset[str]] = [frozenset()]
        self._text: list[str] = []

    def start_element(self, name: str, attributes: Attributes) -> None:
        """Handles the beginning of an element."""
        self.depth += 1
        self._elements += 1
        if self._elements > _MOST_ELEMENTS:
            raise PageFileError(f"it has more than {_MOST_ELEMENTS} elements")
        if self.depth > _DEEPEST:
            raise PageFileError(f"its elements are nested more than {_DEEPEST} deep")
        if handle := self.starts.get(name.rpartition(":")[2]):
            handle(attributes)

    def end_element(self, name: str) -> None:
        """Handles the end of an element."""
        if handle := self.ends.get(name.rpartition(":")[2]):
            handle()
        self.depth -= 1

    def start_page(self) -> None:
        """Counts a page; raises `PageFileError` at the second."""
        self._pages += 1
        if self._pages > 1:
            raise PageFileError("it has several pages; a file of one page for each image is read")

    def start_region(self, types: frozenset[str]) -> None:
        """Enters a region, whose types are those of all lines in it."""
        self._regions.append(_limit_types(self._regions[-1] | types))

    def end_region(self) -> None:
        """Leaves a region."""
        self._regions.pop()

    def start_line(self, line_id: str | None, types: frozenset[str]) -> LineElement:
        """Begins a line."""
        if self.line is not None:
            raise PageFileError(f"a line lies in the line {shorten(self.line.line_id)}")
        if len(self._lines) == _MOST_LINES:
            raise PageFileError(f"it has more than {_MOST_LINES} lines")
        self.line = LineElement((line_id or "").strip(), self.depth, self._regions[-1], types)
        self._lines.append(self.line)
        return self.line

    def end_line(self) -> None:
        """Ends the line."""
        self.line = None

    def is_in_line(self, levels: int) -> bool:
        """Checks whether the element lies so many levels below a line: 1 is its child."""
        return self.line is not None and self.depth == self.line.depth + levels

    def name_line(self, part: str) -> str:
        """Names a part of the line for an error."""
        name = self.line.line_id if self.line else ""
        return f"the {part} of the line {shorten(name or _name_place(len(self._lines)))}"

    def collect_text(self) -> None:
        """Begins to collect the text between this tag and the one that ends the element."""
        self._text = []
        self._parser.CharacterDataHandler = self._text.append

    def take_text(self) -> str:
        """Ends collecting, and returns the text."""
        self._parser.CharacterDataHandler = None
        text, self._text = "".join(self._text), []
        return text

    def resolve_types(self, names: frozenset[str]) -> frozenset[str]:
        """Resolves what a file writes for types to their names."""
        return names

    def finish(self) -> PageFile:
        """Makes the page of all that was read; raises `PageFileError` if there was none."""
        if not self._pages:
            raise PageFileError(f"it is {self.format} without a Page")
        names = _name_lines([line.line_id for line in self._lines])
        resolved: dict[frozenset[str], frozenset[str]] = {}
        lines = []
        for line_id, line in zip(names, self._lines, strict=True):
            written = _limit_types(line.regions | line.own) if line.own else line.regions
            if written not in resolved:
                resolved[written] = self.resolve_types(written)
            polygon = close_polygon(line.polygon)
            baseline = line.baseline if len(line.baseline) > 1 else ()
            box = line.box or find_box(polygon)
            lines.append(PageLine(line_id, line.text, polygon, baseline, box, resolved[written]))
        self._lines = []
        self.starts, self.ends = {}, {}  # which hold the reader itself
        return PageFile(self.image_name, *self.size, add_bands(lines), self.in_pixels)


def _limit_types(types: frozenset[str]) -> frozenset[str]:
    if len(types) > _MOST_TYPES:
        raise PageFileError(f"a line or region has more than {_MOST_TYPES} types")
    return types


def _name_place(place: int) -> str:
    return f"line-{place:04d}"


def _name_lines(given: list[str]) -> list[str]:
    """Names lines without an ID, and those with an earlier line's, by their place: no two have one name."""
    taken, seen, names = set(given), set(), []
    for place, name in enumerate(given, 1):
        if not name or name in seen:
            name = _name_place(place)
            while name in taken:
                name += "-"
            taken.add(name)
        seen.add(name)
        names.append(name)
    return names
