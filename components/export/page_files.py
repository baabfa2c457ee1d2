"""ALTO and PAGE files as a format of exports: copies of the collection's own, with the texts in them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

from components.export.formats import MadeFile
from components.export.page_lines import ReadPage, find_place, match_page
from components.export.readings import Reading
from components.export.rows import round_confidence
from components.export.word_places import PagePlaces
from components.layout import (
    LineText,
    PageFileError,
    ProcessingStep,
    WordText,
    can_stand_in_xml,
    find_format,
    write_texts,
)
from components.listing.line_places import is_box_file
from components.listing.references import location_to_uri
from components.rejects import Reject


class PageFileFormat:
    """Copies of page files of one format; pages of the other one, and those with a file of boxes, are passed over.

    Args:
        name: `ALTO` or `PAGE`.
    """

    suffix = None

    def __init__(self, name: str):
        self._name = name

    def find_source(self, uri: str) -> str | None:
        """Finds the ALTO or PAGE file of a line; None for an image, and for a line of a file of boxes."""
        place = find_place(uri)
        return None if place is None or is_box_file(place.page_file) else place.page_file

    def make(self, source: str, readings: Sequence[Reading]) -> MadeFile:
        """Makes the copy of a page file with the texts that were recognised on its lines."""
        matched = match_page(source, readings)
        if matched.page is None:
            return MadeFile(None, 0, matched.rejects)
        try:
            if find_format(matched.content) != self._name:
                return MadeFile(None, 0, matched.rejects, len(readings) - len(matched.rejects))
            usable, unusable = split_by_symbols(matched)
            if not usable:
                return MadeFile(None, 0, [*matched.rejects, *unusable], matched.superseded)
            numbers = {name: number for number, name in enumerate(matched.lines)}
            places = PagePlaces(matched)
            texts = {numbers[name]: _make_text(matched, places, name, reading) for name, reading in usable.items()}
            content = write_texts(matched.content, matched.page, texts, _list_steps(usable.values()))
        except PageFileError as error:
            detail = f"{location_to_uri(source)}: {error}"
            damaged = [Reject(reading.uri, "damaged_page_file", detail) for reading in matched.readings.values()]
            return MadeFile(None, 0, [*matched.rejects, *damaged], matched.superseded)
        return MadeFile(content, len(usable), [*matched.rejects, *unusable], matched.superseded)


def split_by_symbols(matched: ReadPage) -> tuple[dict[str, Reading], list[Reject]]:
    """Splits the readings of a page into those that XML can hold, and rejects."""
    usable, rejects = {}, []
    for name, reading in matched.readings.items():
        if can_stand_in_xml(reading.text):
            usable[name] = reading
        else:
            rejects.append(Reject(reading.uri, "not_in_xml", f"the text is {reading.text!r}"))
    return usable, rejects


def _make_text(matched: ReadPage, places: PagePlaces, name: str, reading: Reading) -> LineText:
    outlines = places.locate_words(name, reading) or ()
    words = tuple(
        WordText(word.text, round_confidence(word.confidence), places.scale_to_file(outline))
        for word, outline in zip(reading.placed_words, outlines, strict=False)
    )
    return LineText(reading.text, round_confidence(reading.confidence), matched.lines[name].box, words)


def _list_steps(readings: Iterable[Reading]) -> list[ProcessingStep]:
    """Lists the models that read the lines, each with the time of its newest reading."""
    newest: dict[str, int] = {}
    for reading in readings:
        newest[reading.model_id] = max(reading.scored_us, newest.get(reading.model_id, 0))
    return [
        ProcessingStep(model_id, datetime.datetime.fromtimestamp(at / 1e6, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        for model_id, at in sorted(newest.items())
    ]
