"""Writing of texts into PAGE files, versions 2010 to 2019 (https://github.com/PRImA-Research-Lab/PAGE-XML)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from components.layout.element_places import Edit, MarkedFile, replace_children
from components.layout.line_texts import (
    LineText,
    ProcessingStep,
    WordText,
    choose_id,
    format_attribute,
    format_element,
    format_points,
)

_VERSION = re.compile(r"/PAGE/gts/pagecontent/(\d{4})-\d\d-\d\d")
_POINTS_SINCE, _STEPS_SINCE = 2013, 2019  # versions that have points in an attribute, and processing steps
_BEFORE_WORDS = ("AlternativeImage", "Coords", "Baseline")


def edit_page_lines(marked: MarkedFile, texts: Mapping[int, LineText]) -> list[Edit]:
    """Replaces words and texts of lines, by their numbers; words are written if their places are known."""
    version = _find_version(marked)
    beginning = choose_id(marked.content, "word_")
    edits = []
    for number, text in texts.items():
        line = marked.lines[number]
        words = [
            _format_word(line.prefix, word, f"{beginning}{number + 1}_{place}", version)
            for place, word in enumerate(text.words, 1)
        ]
        new = [*words, _format_text(line.prefix, text.text, text.confidence, version)]
        edits += replace_children(marked, line, ("Word", "TextEquiv"), new, _BEFORE_WORDS)
    return edits


def edit_page_regions(marked: MarkedFile, texts: Sequence[str | None], changed: Collection[int]) -> list[Edit]:
    """Replaces the text of each region that has one, and a line with a new text, by the texts of its lines.

    Args:
        texts: of all lines of the file, as they are now.
        changed: numbers of the lines with new texts.
    """
    version = _find_version(marked)
    number_of = {id(line): number for number, line in enumerate(marked.lines)}
    edits = []
    for region in marked.regions:
        numbers = [number_of[id(child)] for child in region.children if child.local_name == "TextLine"]
        if region.find_child("TextEquiv") and any(number in changed for number in numbers):
            text = _format_text(region.prefix, "\n".join(texts[number] or "" for number in numbers), None, version)
            edits += replace_children(marked, region, ("TextEquiv",), [text], ())
    return edits


def edit_page_relations(marked: MarkedFile, changed: Collection[int]) -> list[Edit]:
    """Removes relations of words that are gone, since a reference without its element makes a file invalid.

    Args:
        changed: numbers of the lines with new texts.
    """
    page = marked.root.find_child("Page")
    relations = None if page is None else page.find_child("Relations")
    if relations is None:
        return []
    words = (child for number in changed for child in marked.lines[number].children if child.local_name == "Word")
    gone = {word.attributes["id"] for word in words if "id" in word.attributes}
    all_of_them = [child for child in relations.children if child.local_name == "Relation"]
    cut = [each for each in all_of_them if any(part.attributes.get("regionRef") in gone for part in each.children)]
    if len(cut) == len(all_of_them):  # without any the element may not be there
        cut = [relations] if cut else []
    return [Edit(element.start, element.end, "") for element in cut]


def describe_page_steps(marked: MarkedFile, steps: Sequence[ProcessingStep]) -> list[Edit]:
    """Adds a `MetadataItem` for each step to files of the versions that have it."""
    metadata = marked.root.find_child("Metadata")
    if metadata is None or not metadata.children or _find_version(marked) < _STEPS_SINCE:
        return []
    new = [
        f'<{metadata.prefix}MetadataItem type="processingStep" name="recognition"'
        f"{format_attribute('value', step.model_id)}{format_attribute('date', step.at)}/>"
        for step in steps
    ]
    return replace_children(marked, metadata, (), new, [child.local_name for child in metadata.children])


def _find_version(marked: MarkedFile) -> int:
    """Finds the year of a file's version; that of the newest if its namespace tells none."""
    root = marked.root
    namespace = root.attributes.get(f"xmlns:{root.prefix.rstrip(':')}" if root.prefix else "xmlns", "")
    return int(match[1]) if (match := _VERSION.search(namespace)) else _STEPS_SINCE


def _format_text(prefix: str, text: str, confidence: float | None, version: int) -> str:
    """Formats a text; the versions of 2010 ask for a plain one, too, and have no confidence."""
    unicode = format_element(f"{prefix}Unicode", text)
    if version < _POINTS_SINCE:
        return f"<{prefix}TextEquiv>{format_element(f'{prefix}PlainText', text)}{unicode}</{prefix}TextEquiv>"
    return f"<{prefix}TextEquiv{format_attribute('conf', confidence)}>{unicode}</{prefix}TextEquiv>"


def _format_word(prefix: str, word: WordText, word_id: str, version: int) -> str:
    points = format_points(word.polygon)
    if version < _POINTS_SINCE:
        inner = "".join(f'<{prefix}Point x="{x}" y="{y}"/>' for x, y in points)
        coords = f"<{prefix}Coords>{inner}</{prefix}Coords>"
    else:
        coords = f"<{prefix}Coords{format_attribute('points', ' '.join(f'{x},{y}' for x, y in points))}/>"
    text = _format_text(prefix, word.text, word.confidence, version)
    return f"<{prefix}Word{format_attribute('id', word_id)}>{coords}{text}</{prefix}Word>"
