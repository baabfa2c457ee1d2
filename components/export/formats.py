"""Formats of which each file holds the readings of one image, page or folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from components.export.page_lines import find_place, match_page
from components.export.readings import Reading
from components.listing.references import uri_to_path
from components.rejects import Reject


@dataclasses.dataclass(frozen=True)
class MadeFile:
    """An exported file that was made, and is still to be written.

    Attributes:
        content: None if no reading has a place in it.
        exported: number of readings in it.
        rejects: readings that could not be exported.
        passed_over: number of readings for which the format has no place.
    """

    content: bytes | None
    exported: int
    rejects: Sequence[Reject] = ()
    passed_over: int = 0


class FileFormat(Protocol):
    """A format with a file for each image, page or folder.

    Attributes:
        suffix: of the files; None if they keep the names of what they are made from.
    """

    @property
    def suffix(self) -> str | None: ...

    def find_source(self, uri: str) -> str | None:
        """Finds what the file that holds a reading is made from, a path or URL; None if there is none for it."""

    def make(self, source: str, readings: Sequence[Reading]) -> MadeFile:
        """Makes the file of a source from its readings, which are sorted by URI."""


class TextFormat:
    """Text files, UTF-8: one for each image, and one for each page with its lines in their order."""

    suffix = ".txt"

    def find_source(self, uri: str) -> str:
        """Finds the image, or the image of the page."""
        place = find_place(uri)
        return uri_to_path(uri) if place is None else place.image

    def make(self, source: str, readings: Sequence[Reading]) -> MadeFile:
        """Makes the text of an image or a page."""
        del source
        pages, whole = split_by_page_file(readings)
        if not pages:
            return MadeFile(f"{whole[-1].text}\n".encode(), len(whole))
        matched = [match_page(page_file, some) for page_file, some in pages.items()]
        texts = [reading.text for page in matched for reading in page.readings.values()]
        rejects = [reject for page in matched for reject in page.rejects]
        passed_over = len(whole) + sum(page.superseded for page in matched)
        content = "".join(f"{text}\n" for text in texts).encode() if texts else None
        return MadeFile(content, len(texts), rejects, passed_over)


def split_by_page_file(readings: Sequence[Reading]) -> tuple[dict[str, list[Reading]], list[Reading]]:
    """Splits readings into those of lines, by their page files, and those of whole images."""
    pages: dict[str, list[Reading]] = {}
    whole: list[Reading] = []
    for reading in readings:
        place = find_place(reading.uri)
        (whole if place is None else pages.setdefault(place.page_file, [])).append(reading)
    return pages, whole
