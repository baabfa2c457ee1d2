"""Cutting of lines out of the image of their page."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image

from components.layout.outlines import estimate_paper, fill_outline
from components.layout.page_file import Box, PageLine, Point, find_box
from components.layout.straightening import Straightening, find_straightening
from tfrecords import ImageRejected


@dataclasses.dataclass(frozen=True)
class LineCut:
    """The way from a page to a line that is cut out of it, and back.

    Attributes:
        crop: left, top, right, bottom of the pixels around the line's outline.
        inside: bools [height, width], those of them that lie in the outline.
        straightening: None if the line stays as it is.
    """

    crop: tuple[int, int, int, int]
    inside: np.ndarray
    straightening: Straightening | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the line, pixels."""
        if self.straightening is not None:
            return self.straightening.width, self.straightening.height
        left, top, right, bottom = self.crop
        return right - left, bottom - top

    def locate_columns(self, start: float, end: float) -> tuple[Point, ...]:
        """Locates columns of the line on the page: the outline of what was there, along its top and back."""
        left, top, _, bottom = self.crop
        if self.straightening is None:
            return (left + start, top), (left + end, top), (left + end, bottom), (left + start, bottom)
        points = self.straightening.locate_columns(start, end)
        return tuple((left + float(x), top + float(y)) for x, y in points)


def cut_line(page: Image.Image, line: PageLine) -> Image.Image:
    """Cuts a line out of its page: along its polygon, or else its box.

    Pixels outside the polygon get the shade of the line's own paper. A polygon that crosses itself is filled by the
    nonzero rule. What lies outside the page is left out. A line whose baseline is slanted or curved is straightened
    (`find_straightening`). A line that runs from top to bottom stays as it is, and no line is turned.

    Args:
        page: mode L.

    Returns:
        Mode L.

    Raises:
        ImageRejected: like `find_cut`.
    """
    cut = find_cut(line, page.size)
    grey = page.crop(cut.crop)
    paper = estimate_paper(grey, cut.inside)
    if not cut.inside.all():
        grey = Image.fromarray(np.where(cut.inside, np.asarray(grey), np.uint8(paper)))
    return grey if cut.straightening is None else cut.straightening.apply(grey, paper)


def find_cut(line: PageLine, page_size: tuple[int, int]) -> LineCut:
    """Finds the way to cut a line out of a page, without the page's pixels.

    Args:
        page_size: width and height, pixels.

    Raises:
        ImageRejected: `no_outline` for a line with neither polygon nor box, whatever its baseline,
            `empty_outline` for one without area,
            `outside_page` for a line that lies wholly outside the page.
    """
    outline = find_box(line.polygon) or line.box
    if outline is None:
        raise ImageRejected(
            "no_outline", "the page file gives neither a polygon nor a box for the line, and nothing tells its height"
        )
    crop = _find_crop(outline, page_size)
    left, top, right, bottom = crop
    if line.polygon:
        inside = fill_outline(np.subtract(line.polygon, (left, top)), right - left, bottom - top)
        if not inside.any():
            _refuse_empty(outline, page_size)
    else:
        inside = np.ones((bottom - top, right - left), bool)
    if not line.baseline:
        return LineCut(crop, inside, None)
    baseline = np.subtract(line.baseline, (left, top))
    return LineCut(crop, inside, find_straightening(inside, baseline, is_box=bool(inside.all())))


def _find_crop(outline: Box, page_size: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = page_size
    left, top, right, bottom = outline
    if left >= right or top >= bottom:
        raise ImageRejected("empty_outline", f"the line's outline has no area: {_describe(outline)}")
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        _refuse_outside(outline, page_size)
    return (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(width, math.ceil(right)),
        min(height, math.ceil(bottom)),
    )


def _refuse_empty(outline: Box, page_size: tuple[int, int]) -> None:
    width, height = page_size
    left, top, right, bottom = outline
    if left < 0 or top < 0 or right > width or bottom > height:
        _refuse_outside(outline, page_size)
    raise ImageRejected("empty_outline", f"the line's outline has no pixel in it: {_describe(outline)}")


def _refuse_outside(outline: Box, page_size: tuple[int, int]) -> None:
    width, height = page_size
    raise ImageRejected("outside_page", f"the line's outline is {_describe(outline)}, the page {width}x{height} pixels")


def _describe(outline: Box) -> str:
    left, top, right, bottom = outline
    return f"columns {left:g} to {right:g}, rows {top:g} to {bottom:g}"
