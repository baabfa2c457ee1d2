"""Cutting of lines out of the image of their page."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from components.layout.outlines import estimate_paper, fill_outline
from components.layout.page_file import Box, PageLine, find_box
from components.layout.straightening import straighten_line
from tfrecords import ImageRejected


def cut_line(page: Image.Image, line: PageLine) -> Image.Image:
    """Cuts a line out of its page: along its polygon, or else its box.

    Pixels outside the polygon get the shade of the line's own paper. A polygon that crosses itself is filled by the
    nonzero rule. What lies outside the page is left out. A line whose baseline is slanted or curved is straightened
    (`straighten_line`). A line that runs from top to bottom stays as it is, and no line is turned.

    Args:
        page: mode L.

    Returns:
        Mode L.

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
    crop = _find_crop(outline, page)
    left, top, right, bottom = crop
    grey = page.crop(crop)
    pixels = np.asarray(grey)
    if line.polygon:
        inside = fill_outline(np.subtract(line.polygon, (left, top)), right - left, bottom - top)
        if not inside.any():
            _refuse_empty(outline, page)
        paper = estimate_paper(grey, inside)
        if not inside.all():
            grey = Image.fromarray(np.where(inside, pixels, np.uint8(paper)))
    else:
        inside = np.ones(pixels.shape, bool)
        paper = estimate_paper(grey, inside)
    if line.baseline:
        baseline = np.subtract(line.baseline, (left, top))
        return straighten_line(grey, inside, baseline, paper, is_box=bool(inside.all())) or grey
    return grey


def _find_crop(outline: Box, page: Image.Image) -> tuple[int, int, int, int]:
    left, top, right, bottom = outline
    if left >= right or top >= bottom:
        raise ImageRejected("empty_outline", f"the line's outline has no area: {_describe(outline)}")
    if left >= page.width or top >= page.height or right <= 0 or bottom <= 0:
        _refuse_outside(outline, page)
    return (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(page.width, math.ceil(right)),
        min(page.height, math.ceil(bottom)),
    )


def _refuse_empty(outline: Box, page: Image.Image) -> None:
    left, top, right, bottom = outline
    if left < 0 or top < 0 or right > page.width or bottom > page.height:
        _refuse_outside(outline, page)
    raise ImageRejected("empty_outline", f"the line's outline has no pixel in it: {_describe(outline)}")


def _refuse_outside(outline: Box, page: Image.Image) -> None:
    raise ImageRejected(
        "outside_page", f"the line's outline is {_describe(outline)}, the page {page.width}x{page.height} pixels"
    )


def _describe(outline: Box) -> str:
    left, top, right, bottom = outline
    return f"columns {left:g} to {right:g}, rows {top:g} to {bottom:g}"
