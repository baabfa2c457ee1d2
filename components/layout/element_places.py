"""Places of elements in the bytes of a page file, so that a part of it is replaced and all else stays as it is."""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Callable, Iterable
from xml.parsers import expat

from components.layout.elements import Attributes, PageReader
from components.layout.page_file import PageFileError
from components.layout.reading import read_elements

_TAG = re.compile(rb"""<(?:[^>"']+|"[^"]*"|'[^']*')*>""")
_ENCODING = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z][\w.-]*)["']""")
_MARKS = (
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
_REGIONS = ("TextRegion", "TableCell")
_PARENTS = ("TextLine", *_REGIONS, "Relations", "Relation")
_WIDEST_SPACE = 200  # bytes that are taken for an indentation
_KEPT_DEPTH = 3  # the root, its children, and theirs


@dataclasses.dataclass
class Element:
    """An element, by the places of its parts in UTF-8.

    Attributes:
        name: with its prefix.
        start, end: the first byte of its first tag, and the byte after its last one.
        content, content_end: the first byte after its first tag, and that of its last one; equal if one tag is both.
        children: those that are kept: of lines, regions of text and relations all, and those of the root and of its
            children.
    """

    name: str
    attributes: Attributes
    start: int
    content: int
    content_end: int = 0
    end: int = 0
    children: list[Element] = dataclasses.field(default_factory=list)

    @property
    def local_name(self) -> str:
        """The name without its prefix."""
        return self.name.rpartition(":")[2]

    @property
    def prefix(self) -> str:
        """The prefix with its colon; empty if there is none."""
        return self.name[: -len(self.local_name)]

    def find_child(self, local_name: str) -> Element | None:
        """Finds the first child of a name."""
        return next((child for child in self.children if child.local_name == local_name), None)


@dataclasses.dataclass(frozen=True)
class MarkedFile:
    """A page file as UTF-8, with the places of its elements.

    Attributes:
        content: in UTF-8.
        root: the whole file.
        lines: elements of the lines, in the order of the file.
        regions: elements of regions of text.
        encode: brings a content in UTF-8 to the encoding of the file.
    """

    content: bytes
    root: Element
    lines: list[Element]
    regions: list[Element]
    encode: Callable[[bytes], bytes]


class _PlaceReader(PageReader):
    """Reader that notes the places of elements."""

    def __init__(self, parser: expat.XMLParserType, content: bytes):
        super().__init__(parser)
        self.root: Element | None = None
        self.line_elements: list[Element] = []
        self.regions: list[Element] = []
        self._content = content
        self._open: list[Element | None] = [None]

    def start_element(self, name: str, attributes: Attributes) -> None:
        """Notes where an element begins."""
        super().start_element(name, attributes)
        local, parent = name.rpartition(":")[2], self._open[-1]
        if not (self.depth <= _KEPT_DEPTH or local in _PARENTS or (parent and parent.local_name in _PARENTS)):
            self._open.append(None)
            return
        start = self._parser.CurrentByteIndex
        tag = _TAG.match(self._content, start)
        if tag is None:
            raise PageFileError(f"its tag at byte {start} cannot be found again")
        element = Element(name, attributes, start, tag.end())
        if tag[0].endswith(b"/>"):
            element.content_end = element.end = tag.end()
        if parent is not None:
            parent.children.append(element)
        self.root = self.root or element
        if local == "TextLine":
            self.line_elements.append(element)
        elif local in _REGIONS:
            self.regions.append(element)
        self._open.append(element)

    def end_element(self, name: str) -> None:
        """Notes where an element ends."""
        super().end_element(name)
        element = self._open.pop()
        if element is not None and not element.end:
            element.content_end = self._parser.CurrentByteIndex
            element.end = self._content.index(b">", element.content_end) + 1


def mark_elements(content: bytes) -> MarkedFile:
    """Finds the places of the elements of a page file that `parse_page_file` can parse.

    Raises:
        PageFileError: for another file.
    """
    encoding = _find_encoding(content)
    if encoding == "utf-8":
        text = content
    else:
        try:
            text = content.decode(encoding).encode()
        except (LookupError, UnicodeError) as error:
            raise PageFileError(f"it is in an encoding that is not read: {error}") from None

    def encode(changed: bytes) -> bytes:
        return changed if encoding == "utf-8" else changed.decode().encode(encoding, "xmlcharrefreplace")

    reader = read_elements(text, lambda _, parser: _PlaceReader(parser, text), "utf-8")
    assert reader.root is not None
    return MarkedFile(text, reader.root, reader.line_elements, reader.regions, encode)


def _find_encoding(content: bytes) -> str:
    for mark, name in _MARKS:
        if content.startswith(mark):
            return name
    found = _ENCODING.match(content.removeprefix(codecs.BOM_UTF8))
    name = found[1].decode().lower() if found else "utf-8"
    return "utf-8" if name in ("utf-8", "utf8") else name


@dataclasses.dataclass(frozen=True)
class Edit:
    """A part of a file that is replaced: from one byte to another, which may be the same."""

    start: int
    end: int
    text: str


def replace_children(
    marked: MarkedFile, parent: Element, old: Iterable[str], new: list[str], after: Iterable[str]
) -> list[Edit]:
    """Replaces some children of an element; what stands between them stays, unless it is white space.

    Args:
        old: names of the children to remove, without prefixes.
        new: elements to put in their place, or behind the last of the others that have to stand before them.
        after: names of those others.
    """
    content = marked.content
    if parent.content == parent.end:  # <TextLine …/>
        start = parent.end - len(b"/>")
        return [Edit(start, parent.end, f">{''.join(new)}</{parent.name}>")] if new else []
    removed = [child for child in parent.children if child.local_name in old]
    before = [child.end for child in parent.children if child.local_name in after]
    place = removed[0].start if removed else max(before, default=parent.content)
    edits, end = [], None
    for child in removed:
        start = child.start if end is None or content[end : child.start].strip() else end
        edits.append(Edit(start, child.end, ""))
        end = child.end
    if removed:
        space = _find_space_before(content, place)
        return [Edit(place, edits[0].end, space.join(new)), *edits[1:]]
    space = _find_space_before(content, parent.children[0].start) if parent.children else ""
    return [Edit(place, place, "".join(f"{space}{element}" for element in new))]


def _find_space_before(content: bytes, place: int) -> str:
    """Finds the white space before a place, as an indentation for what follows."""
    before = content[max(0, place - _WIDEST_SPACE) : place]
    return before[len(before.rstrip()) :].decode()


def apply_edits(marked: MarkedFile, edits: Iterable[Edit]) -> bytes:
    """Applies edits, none of which reaches into another; returns the file in its own encoding."""
    parts, place = [], 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        parts += [marked.content[place : edit.start], edit.text.encode()]
        place = edit.end
    return marked.encode(b"".join([*parts, marked.content[place:]]))
