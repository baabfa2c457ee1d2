"""The lines of a page as its page file has them now, matched with their readings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from components.export.readings import Reading
from components.layout import PageFile, PageFileError, PageLine
from components.listing.collection import read_size_and_time
from components.listing.line_places import LinePlace, find_line_place, name_lines
from components.listing.page_files import parse_content, read_page_file_content
from components.listing.references import location_to_uri, uri_to_path
from components.rejects import Reject


@dataclasses.dataclass(frozen=True)
class ReadPage:
    """A page with the readings of its lines.

    Attributes:
        image: path or URL of its image; empty if no reading can be exported.
        content: bytes of the page file; empty likewise.
        page: what is in them; None likewise.
        lines: the lines of the page by their names, in the order of the file.
        readings: those that can be exported, by the names of their lines.
        rejects: readings that cannot.
        superseded: readings that were taken on another image, before the newest ones of the same lines.
    """

    image: str = ""
    content: bytes = b""
    page: PageFile | None = None
    lines: dict[str, PageLine] = dataclasses.field(default_factory=dict)
    readings: dict[str, Reading] = dataclasses.field(default_factory=dict)
    rejects: Sequence[Reject] = ()
    superseded: int = 0


def find_place(uri: str) -> LinePlace | None:
    """Finds the place of the line that a URI names; None for an image."""
    return find_line_place(uri_to_path(uri))


def match_page(page_file: str, readings: Sequence[Reading]) -> ReadPage:
    """Matches readings with the lines of their page file.

    A reading counts only while its image and the page file have the size and time that they had when it was made: the
    line may lie elsewhere otherwise.

    Args:
        page_file: path or URL.
        readings: of lines that this page file has, or had.
    """
    rejects: list[Reject] = []
    current: list[tuple[LinePlace, Reading]] = []
    states: dict[str, tuple[int, int] | OSError] = {}
    for reading in readings:
        place = find_place(reading.uri)
        assert place is not None
        if place.image not in states:
            states[place.image] = _find_state(place)
        if problem := _find_change(place, reading, states[place.image]):
            rejects.append(problem)
        else:
            current.append((place, reading))
    if not current:
        return ReadPage(rejects=rejects)
    try:
        content = read_page_file_content(page_file)
        page = parse_content(page_file, content)
    except (OSError, PageFileError) as error:
        reason = "damaged_page_file" if isinstance(error, PageFileError) else "unreadable"
        detail = f"{location_to_uri(page_file)}: {error}"
        return ReadPage(rejects=[*rejects, *(Reject(reading.uri, reason, detail) for _, reading in current)])
    lines = name_lines(page)
    found: dict[str, Reading] = {}
    superseded, image = 0, ""
    for place, reading in sorted(current, key=lambda pair: pair[1].scored_us):
        if place.line not in lines:
            detail = f"{location_to_uri(page_file)} has no line {place.line!r} any more"
            rejects.append(Reject(reading.uri, "no_lines", detail))
            continue
        superseded += place.line in found
        found[place.line] = reading
        image = place.image
    in_order = {name: found[name] for name in lines if name in found}
    return ReadPage(image, content, page, lines, in_order, rejects, superseded)


def _find_state(place: LinePlace) -> tuple[int, int] | OSError:
    """Finds size and time of image and page file as a listing has them; returns the error if one cannot be found."""
    try:
        return read_size_and_time(place.path)
    except OSError as error:
        return error


def _find_change(place: LinePlace, reading: Reading, state: tuple[int, int] | OSError) -> Reject | None:
    """Finds out whether the files of a reading are as they were; returns a reject that says why not."""
    if isinstance(state, OSError):
        return Reject(reading.uri, "unreadable", str(state))
    if state == (reading.size_bytes, reading.modified_us):
        return None
    return Reject(
        reading.uri,
        "changed_since",
        f"the image or {location_to_uri(place.page_file)} was changed after run {reading.run_id} read it",
    )
