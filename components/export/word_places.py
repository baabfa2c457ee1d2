"""Places of words on their page, from their places on lines that were cut out of it."""

from __future__ import annotations

from collections.abc import Iterator

from components.export.page_lines import ReadPage
from components.export.readings import Reading
from components.layout import PageLine, find_cut
from components.layout.page_file import Box, Point
from components.listing.image_sizes import find_image_size
from components.page_images import SAME_ASPECT, scale_line
from tfrecords import ImageRejected

_MOST_PIXELS = 200_000_000  # of a page; a line may cover all of it


class PagePlaces:
    """Places on one page, in pixels of its image and of its page file.

    The image is not decoded. Its size counts as known if a line of the page, cut from an image of this size, would have
    the size that was recognised: otherwise a place would be a guess. It is looked for in the page file, and then in the
    first bytes of the image.

    Args:
        page: with readings, at least one.
    """

    def __init__(self, page: ReadPage) -> None:
        self._page = page
        some = list(page.readings.items())[:3]
        sizes = (size for size in self._list_sizes() if any(self._fits(name, reading, size) for name, reading in some))
        self.size = next(sizes, None)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the image for one of the page file: across and down; 1 where the size of one is not known."""
        assert self._page.page is not None
        width, height = self._page.page.width, self._page.page.height
        return (self.size[0] / width, self.size[1] / height) if self.size and width and height else (1.0, 1.0)

    def locate_words(self, name: str, reading: Reading) -> list[tuple[Point, ...]] | None:
        """Locates the words of a line: the outline of each in pixels of the image; None if that cannot be known."""
        words = reading.placed_words
        cut = self._find_fitting_cut(name, reading, self.size) if words and self.size else None
        if cut is None:
            return None
        return [cut.locate_columns(word.start, max(word.end, word.start + 1)) for word in words]

    @property
    def page_size(self) -> tuple[int, int] | None:
        """Width and height in pixels: of the image, or as the page file says; None if neither is known."""
        page = self._page.page
        assert page is not None
        return self.size or ((page.width, page.height or 0) if page.in_pixels and page.width else None)

    def scale_box(self, box: Box | None) -> Box | None:
        """Scales a box of the page file to pixels of the image; returns None if there is none, or no telling."""
        page = self._page.page
        assert page is not None
        if box is None or (self.size is None and not page.in_pixels):
            return None
        across, down = self.scale
        left, top, right, bottom = box
        return left * across, top * down, right * across, bottom * down

    def scale_to_file(self, points: tuple[Point, ...]) -> tuple[Point, ...]:
        """Scales points in pixels of the image to those of the page file."""
        across, down = self.scale
        return tuple((x / across, y / down) for x, y in points)

    def _list_sizes(self) -> Iterator[tuple[int, int]]:
        """Lists sizes that the image may have, the likeliest first."""
        assert self._page.page is not None
        width, height = self._page.page.width, self._page.page.height
        if width and height and self._page.page.in_pixels:
            yield width, height
        found = find_image_size(self._page.image)
        for size in (found, found[::-1]) if found else ():  # its metadata may turn it
            if not width or not height or abs(size[0] * height / (width * size[1]) - 1) <= SAME_ASPECT:
                yield size

    def _fits(self, name: str, reading: Reading, size: tuple[int, int]) -> bool:
        return self._find_fitting_cut(name, reading, size) is not None

    def _find_fitting_cut(self, name: str, reading: Reading, size: tuple[int, int]):
        assert self._page.page is not None
        if not 0 < size[0] * size[1] <= _MOST_PIXELS:
            return None
        line: PageLine = self._page.lines[name]
        width, height = self._page.page.width, self._page.page.height
        if width and height and (width, height) != size:
            line = scale_line(line, size[0] / width, size[1] / height)
        try:
            cut = find_cut(line, size)
        except ImageRejected:
            return None
        return cut if cut.size == (reading.width, reading.height) else None
