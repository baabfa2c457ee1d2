"""Reading of ALTO and PAGE files, which strangers wrote.

A file is read once, from beginning to end, by the standard library's expat. A file with a document type is refused
before any entity of it is used, nothing outside the file is opened, and depth, lines, points and types are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar
from xml.parsers import expat

from components.layout.alto import AltoReader
from components.layout.elements import Attributes, PageReader
from components.layout.page_file import PageFile, PageFileError, shorten
from components.layout.page_xml import PageXmlReader

_Reader = TypeVar("_Reader", bound=PageReader)
_READERS: dict[str, type[PageReader]] = {"alto": AltoReader, "PcGts": PageXmlReader}
_MOST_BYTES = 100_000_000
_ROOT = re.compile(r"<(?:!DOCTYPE\s+)?(?:[\w.-]+:)?(?:alto|PcGts)(?=[\s/>\[])")
_PASSED_OVER = (("<?", "?>"), ("<!--", "-->"))
_ENCODINGS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)


def looks_like_page_file(beginning: bytes) -> bool:
    """Checks whether a file that begins so is ALTO or PAGE: by its root element, in any namespace.

    Args:
        beginning: the first bytes; 4,096 are enough unless the file begins with a long comment.
    """
    encoding = next((name for mark, name in _ENCODINGS if beginning.startswith(mark)), "utf-8")
    text = beginning.decode(encoding, "replace").removeprefix("\ufeff")
    start = 0
    while True:
        start = len(text) - len(text[start:].lstrip()) if text[start : start + 1].isspace() else start
        for opening, closing in _PASSED_OVER:
            if text.startswith(opening, start):
                end = text.find(closing, start + len(opening))
                if end < 0:
                    return False
                start = end + len(closing)
                break
        else:
            return _ROOT.match(text, start) is not None


def parse_page_file(content: bytes) -> PageFile:
    """Parses an ALTO or PAGE file.

    Raises:
        PageFileError: for a file that is neither, that is damaged, that has a document type, that is beyond the
            bounds, or whose coordinates are in units that nobody can turn into pixels.
    """

    def choose_reader(name: str, parser: expat.XMLParserType) -> PageReader:
        kind = _READERS.get(name.rpartition(":")[2])
        if kind is None:
            raise PageFileError(f"its root element is {shorten(name)}, neither alto nor PcGts")
        return kind(parser)

    return read_elements(content, choose_reader).finish()


def read_elements(
    content: bytes, choose_reader: Callable[[str, expat.XMLParserType], _Reader], encoding: str | None = None
) -> _Reader:
    """Reads a file's elements within the bounds; returns the reader that met them.

    Args:
        choose_reader: from the name of the root element, and the parser, to the reader.
        encoding: of the content, whatever it says itself; None for what it says.

    Raises:
        PageFileError: like `parse_page_file`, and what the reader raises.
    """
    if len(content) > _MOST_BYTES:
        raise PageFileError(f"it has {len(content)} bytes; the most that are read are {_MOST_BYTES}")
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True
    readers: list[_Reader] = []

    def start_root(name: str, attributes: Attributes) -> None:
        reader = choose_reader(name, parser)
        readers.append(reader)
        parser.StartElementHandler, parser.EndElementHandler = reader.start_element, reader.end_element
        reader.start_element(name, attributes)

    parser.StartElementHandler = start_root
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        parser.Parse(content, True)
    except PageFileError:
        raise
    except MemoryError:
        raise PageFileError("its parsing takes too much memory") from None
    except expat.ExpatError as error:
        problem = expat.ErrorString(error.code)
        raise PageFileError(f"it is damaged XML at line {error.lineno}, column {error.offset + 1}: {problem}") from None
    except (LookupError, ValueError) as error:  # of an encoding that it names
        raise PageFileError(f"it is in an encoding that is not read: {error}") from None
    finally:
        # Parser and reader hold each other, and all lines, until the next collection of garbage otherwise.
        parser.StartElementHandler = parser.EndElementHandler = parser.CharacterDataHandler = None
        parser.StartDoctypeDeclHandler = None
    return readers[0]


def _refuse_document_type(*declaration: object) -> None:
    raise PageFileError("it has a document type (<!DOCTYPE …>), which no ALTO or PAGE file needs; delete it")
