"""hOCR 1.2 as a format of exports (http://kba.github.io/hocr-spec/1.2/): a file for a page, or a folder of lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from components.export.formats import MadeFile, split_by_page_file
from components.export.page_files import split_by_symbols
from components.export.page_lines import ReadPage, find_place, match_page
from components.export.readings import Reading, ReadWord
from components.export.rows import round_confidence
from components.export.word_places import PagePlaces
from components.layout import can_stand_in_xml
from components.layout.line_texts import SOFTWARE, format_box
from components.layout.page_file import Box, find_box
from components.listing.references import get_folder, join_path, location_to_uri, uri_to_path
from components.rejects import Reject

_FOLDER_NAME = "lines"
_HEAD = f"""<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8"/>
<title></title>
<meta name="ocr-system" content="{SOFTWARE}"/>
<meta name="ocr-capabilities" content="ocr_page ocr_line ocrx_word"/>
</head>
<body>
"""
_END = "</body>\n</html>\n"
_PlacedWord = tuple[ReadWord, Box]


class HocrFormat:
    """hOCR files: one for each page, and for each folder one with its images of lines, each as a page of its own."""

    suffix = ".hocr"

    def find_source(self, uri: str) -> str:
        """Finds the image of the page; for an image of a line, `lines` in its folder."""
        place = find_place(uri)
        return join_path(get_folder(uri_to_path(uri)), _FOLDER_NAME) if place is None else place.image

    def make(self, source: str, readings: Sequence[Reading]) -> MadeFile:
        """Makes the file of a page, or of a folder."""
        del source
        pages, whole = split_by_page_file(readings)
        rejects: list[Reject] = []
        parts: list[list[str]] = []
        exported = superseded = 0
        for page_file, some in pages.items():
            matched = match_page(page_file, some)
            usable, unusable = split_by_symbols(matched)
            rejects += [*matched.rejects, *unusable]
            superseded += matched.superseded
            exported += len(usable)
            if usable:
                parts.append(list(_format_page(matched, usable, len(parts) + 1)))
        for reading in whole:
            if can_stand_in_xml(reading.text):
                parts.append(list(_format_image(reading, len(parts) + 1)))
                exported += 1
            else:
                rejects.append(Reject(reading.uri, "not_in_xml", f"the text is {reading.text!r}"))
        content = "".join([_HEAD, *("".join(part) for part in parts), _END]).encode() if parts else None
        return MadeFile(content, exported, rejects, superseded)


def _format_page(matched: ReadPage, readings: dict[str, Reading], number: int) -> Iterator[str]:
    """Formats a page, in pixels of its image."""
    places = PagePlaces(matched)
    lines = []
    for name, reading in readings.items():
        outlines = places.locate_words(name, reading) or ()
        boxes = (find_box(outline) for outline in outlines)
        words = [(word, box) for word, box in zip(reading.placed_words, boxes, strict=False) if box]
        lines.append((reading, places.scale_box(matched.lines[name].box), words))
    yield _open_page(location_to_uri(matched.image), places.page_size, number)
    for place, (reading, box, words) in enumerate(lines, 1):
        yield _format_line(reading, box, words, f"{number}_{place}")
    yield "</div>\n"


def _format_image(reading: Reading, number: int) -> Iterator[str]:
    """Formats an image of a line."""
    yield _open_page(reading.uri, (reading.width, reading.height), number)
    words = [(word, (word.start, 0, max(word.end, word.start + 1), reading.height)) for word in reading.placed_words]
    yield _format_line(reading, (0, 0, reading.width, reading.height), words, f"{number}_1")
    yield "</div>\n"


def _open_page(uri: str, size: tuple[int, int] | None, number: int) -> str:
    box = f"; bbox 0 0 {size[0]} {size[1]}" if size else ""
    title = f'image "{uri.replace(chr(34), "%22")}"{box}; ppageno {number - 1}'
    return f'<div class="ocr_page" id="page_{number}" title={quoteattr(title)}>\n'


def _format_line(reading: Reading, box: Box | None, words: Sequence[_PlacedWord], number: str) -> str:
    """Formats a line, with its words if their places are known."""
    inner = escape(reading.text)
    if words:
        inner = " ".join(
            f'<span class="ocrx_word" id="word_{number}_{place}" title="{_describe(box, word.confidence)}">'
            f"{escape(word.text)}</span>"
            for place, (word, box) in enumerate(words, 1)
        )
    title = _describe(box, reading.confidence)
    return f'<span class="ocr_line" id="line_{number}" title="{title}">{inner}</span>\n'


def _describe(box: Box | None, confidence: float) -> str:
    """Describes place and confidence, the latter from 0 to 100."""
    sides, rounded = format_box(None, box), round_confidence(confidence)
    parts = [f"bbox {' '.join(map(str, sides))}"] if sides else []
    return "; ".join(parts if rounded is None else [*parts, f"x_wconf {round(100 * rounded)}"])
