"""Lines cut from the images of pages. A page is decoded once for all of its lines that follow each other."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import NamedTuple

from PIL import Image

from components.archives.paths import get_file
from components.layout import PageFileError, PageLine, cut_line
from components.listing.line_places import LinePlace, name_lines
from components.listing.page_files import read_page_file
from components.listing.references import location_to_uri, read_regular_file
from tfrecords import ImageLimits, ImageRejected, LineImage, convert_line, read_grey, storage

_PIXELS_OF_PAGE = 5
"""A page may have so many times the pixels of an image that is one line."""
SAME_ASPECT = 0.01
"""By how much width and height of an image may differ from the page file's, relative to each other."""


class _Page(NamedTuple):
    """A decoded page.

    Attributes:
        grey: upright, of mode L.
        lines: by name, in pixels of `grey`.
    """

    grey: Image.Image
    lines: dict[str, PageLine]


def read_line_of_page(place: LinePlace, height: int, limits: ImageLimits, vertical: bool = False) -> LineImage:
    """Cuts a line from its page, as a grey line of the given height.

    Args:
        height: pixels; the width follows from the aspect, at least 1.
        limits: which images are refused. A page may have five times `max_pixels`.
        vertical: whether the text runs from top to bottom.

    Raises:
        ImageRejected: with the reason and the numbers behind it.
        OSError: if a file cannot be read.
    """
    stamps = tuple(map(_read_last_change, place[:2]))
    page = _load_page(place.image, place.page_file, stamps, limits)
    if isinstance(page, ImageRejected):
        raise ImageRejected(page.reason, page.detail)
    if (line := page.lines.get(place.line)) is None:
        raise ImageRejected("no_lines", f"{location_to_uri(place.page_file)} has no line {place.line!r} any more")
    return convert_line(cut_line(page.grey, line), height, limits, vertical)


def _read_last_change(path: str) -> int | None:
    """Reads the last change of a local file, or of the archive that it lies in; None for a URL."""
    return None if storage.is_remote(path) else os.stat(get_file(path)).st_mtime_ns


@functools.lru_cache(maxsize=1)
def _load_page(
    image: str, page_file: str, _stamps: tuple[int | None, ...], limits: ImageLimits
) -> _Page | ImageRejected:
    """Reads a page and its page file, or says why the page is refused: so often as it has lines."""
    try:
        return _read_page(image, page_file, limits)
    except ImageRejected as error:
        return error


def _read_page(image: str, page_file: str, limits: ImageLimits) -> _Page:
    content = read_regular_file(image, limits.max_bytes + 1)
    limits.check_read(content)
    grey = read_grey(content, dataclasses.replace(limits, max_pixels=_PIXELS_OF_PAGE * limits.max_pixels))
    grey.info.clear()  # it is upright, and what is cut out of it is not to be turned again
    try:
        page = read_page_file(page_file)
    except PageFileError as error:
        raise ImageRejected("damaged_page_file", f"{location_to_uri(page_file)}: {error}") from None
    lines = name_lines(page)
    if page.width and page.height and (page.width, page.height) != grey.size:
        across, down = grey.width / page.width, grey.height / page.height
        if abs(across / down - 1) > SAME_ASPECT:
            turned = "; perhaps it is about the image before its metadata turn it: store the image turned"
            raise ImageRejected(
                "other_size",
                f"the image has {grey.width}x{grey.height} pixels, but {location_to_uri(page_file)} is about one of "
                f"{page.width}x{page.height}{turned if (page.height, page.width) == grey.size else ''}",
            )
        lines = {name: scale_line(line, across, down) for name, line in lines.items()}
    return _Page(grey, lines)


def scale_line(line: PageLine, across: float, down: float) -> PageLine:
    """Scales the coordinates of a line."""

    def scale(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        return tuple((x * across, y * down) for x, y in points)

    box = line.box and (line.box[0] * across, line.box[1] * down, line.box[2] * across, line.box[3] * down)
    return dataclasses.replace(line, polygon=scale(line.polygon), baseline=scale(line.baseline), box=box)
