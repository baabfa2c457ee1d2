"""Page files with new texts: a copy in which some lines have other words, and all else stays as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from components.layout.alto_writing import describe_alto_steps, edit_alto_line
from components.layout.element_places import apply_edits, mark_elements
from components.layout.line_texts import LineText, ProcessingStep
from components.layout.page_file import PageFile, PageFileError
from components.layout.page_xml_writing import (
    describe_page_steps,
    edit_page_lines,
    edit_page_regions,
    edit_page_relations,
)

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def can_stand_in_xml(text: str) -> bool:
    """Checks whether XML 1.0 can hold all symbols of a text (section 2.2 of its specification)."""
    return _NOT_XML.search(text) is None


def find_format(content: bytes) -> str:
    """Finds the format of a page file, `ALTO` or `PAGE`; raises `PageFileError` if it is neither."""
    name = mark_elements(content).root.local_name
    return {"alto": "ALTO", "PcGts": "PAGE"}[name]


def write_texts(
    content: bytes, page: PageFile, texts: Mapping[int, LineText], steps: Sequence[ProcessingStep]
) -> bytes:
    """Writes texts into the lines of a page file; returns the new file.

    Old words and texts of these lines are replaced. So is the text of a region of a PAGE file, which is that of its
    lines. Relations of words that are gone are removed. All other bytes stay. A processing step is added for each
    model, where the version of the format has a place for it.

    Args:
        content: the page file.
        page: what `parse_page_file` finds in it.
        texts: by the number of the line in the file, from 0.

    Raises:
        PageFileError: if the file is not one that `parse_page_file` parses.
    """
    marked = mark_elements(content)
    if len(marked.lines) != len(page.lines):
        raise PageFileError(f"it has {len(marked.lines)} elements of lines, but {len(page.lines)} lines")
    edits = []
    if marked.root.local_name == "alto":
        for number, text in texts.items():
            edits += edit_alto_line(marked, marked.lines[number], text)
        edits += describe_alto_steps(marked, steps)
    else:
        edits += edit_page_lines(marked, texts)
        after = [texts[number].text if number in texts else line.text for number, line in enumerate(page.lines)]
        edits += edit_page_regions(marked, after, texts.keys())
        edits += edit_page_relations(marked, texts.keys())
        edits += describe_page_steps(marked, steps)
    return apply_edits(marked, edits)
