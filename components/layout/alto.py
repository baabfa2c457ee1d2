"""Elements of ALTO files, versions 2 to 4 (https://www.loc.gov/standards/alto/)."""

from __future__ import annotations

from xml.parsers import expat

from components.layout.elements import Attributes, PageReader
from components.layout.page_file import (
    Box,
    PageFile,
    PageFileError,
    find_box,
    parse_number,
    parse_points,
    parse_size,
    shorten,
)

_PIXELS = ("", "pixel", "pixels", "px")
_PHYSICAL = ("mm10", "inch1200")
_TAGS = ("LayoutTag", "StructureTag", "RoleTag", "NamedEntityTag", "OtherTag")


class AltoReader(PageReader):
    """Reader of the elements of an ALTO file.

    A line's text is what stands on the line: the content of its strings, joined by one space, and of the hyphen at its
    end. The whole of a divided word (`SUBS_CONTENT`) is not used.
    """

    format = "ALTO"

    def __init__(self, parser: expat.XMLParserType):
        super().__init__(parser)
        self._labels: dict[str, str] = {}
        self.starts = {
            "MeasurementUnit": lambda _: self.collect_text(),
            "fileName": lambda _: self.collect_text(),
            "Page": self._start_page,
            "ComposedBlock": self._start_block,
            "TextBlock": self._start_block,
            "TextLine": self._start_text_line,
            "Polygon": self._read_polygon,
            "String": self._read_string,
            "HYP": self._read_hyphen,
            **dict.fromkeys(_TAGS, self._read_tag),
        }
        self.ends = {
            "MeasurementUnit": self._check_unit,
            "fileName": self._end_file_name,
            "ComposedBlock": self.end_region,
            "TextBlock": self.end_region,
            "TextLine": self._end_text_line,
        }
        self._strings: list[str] = []
        self._baseline_row: float | None = None
        self._unit = ""

    def finish(self) -> PageFile:
        """Returns the content of the file.

        Raises:
            PageFileError: if nothing tells how many units of its coordinates are a pixel.
        """
        if not self.in_pixels and not all(self.size):
            raise PageFileError(
                f"its coordinates are in {shorten(self._unit)}, and its Page has no WIDTH and HEIGHT, which would tell "
                "how many of these are a pixel; write it with the MeasurementUnit pixel"
            )
        return super().finish()

    def resolve_types(self, names: frozenset[str]) -> frozenset[str]:
        """Resolves the IDs of tags to their labels."""
        return frozenset(self._labels[name] for name in names if name in self._labels)

    def _check_unit(self) -> None:
        self._unit = unit = self.take_text().strip()
        self.in_pixels = unit.lower() in _PIXELS
        if not self.in_pixels and unit.lower() not in _PHYSICAL:
            raise PageFileError(
                f"its coordinates are in {shorten(unit)}, and it does not say how many of these are a pixel; "
                "write it with the MeasurementUnit pixel"
            )

    def _end_file_name(self) -> None:
        name = self.take_text().strip()
        self.image_name = self.image_name or name or None

    def _read_tag(self, attributes: Attributes) -> None:
        if (tag := attributes.get("ID")) and (label := attributes.get("LABEL", "").strip()):
            self._labels[tag] = label

    def _start_page(self, attributes: Attributes) -> None:
        self.start_page()
        width, height = (parse_size(attributes.get(name), owner=f"the page's {name}") for name in ("WIDTH", "HEIGHT"))
        self.size = width, height

    def _start_block(self, attributes: Attributes) -> None:
        self.start_region(_split_names(attributes))

    def _start_text_line(self, attributes: Attributes) -> None:
        line = self.start_line(attributes.get("ID"), _split_names(attributes))
        line.box = _read_box(attributes, owner=self.name_line("box"))
        owner, baseline = self.name_line("baseline"), attributes.get("BASELINE", "")
        self._strings, self._baseline_row = [], None
        if len(baseline.replace(",", " ").split()) == 1:
            self._baseline_row = parse_number(baseline.strip(", \t"), owner=owner)
        else:
            line.baseline = parse_points(baseline, owner=owner)

    def _end_text_line(self) -> None:
        if self.line:
            if self._strings:
                self.line.text = " ".join(filter(None, self._strings))
            if self._baseline_row is not None and (box := self.line.box or find_box(self.line.polygon)):
                self.line.baseline = (box[0], self._baseline_row), (box[2], self._baseline_row)
        self.end_line()

    def _read_polygon(self, attributes: Attributes) -> None:
        if self.line and self.is_in_line(2):  # a string's lies deeper
            self.line.polygon = parse_points(attributes.get("POINTS", ""), owner=self.name_line("polygon"))

    def _read_string(self, attributes: Attributes) -> None:
        content = attributes.get("CONTENT")
        if self.line and content is not None:
            self._strings.append(content)

    def _read_hyphen(self, attributes: Attributes) -> None:
        if self.line and (content := attributes.get("CONTENT")):
            last = self._strings.pop() if self._strings else ""
            self._strings.append(last if last.endswith(content) else last + content)


def _split_names(attributes: Attributes) -> frozenset[str]:
    return frozenset(names.split()) if (names := attributes.get("TAGREFS")) else frozenset()


def _read_box(attributes: Attributes, *, owner: str) -> Box | None:
    given = [attributes.get(name) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT")]
    if not all(given):
        return None
    left, top, width, height = (parse_number(value or "", owner=owner) for value in given)
    return left, top, left + width, top + height
