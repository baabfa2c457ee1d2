"""Columns of a line that was cut, found again on the page."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from components.layout import cut_line, find_cut
from components.layout.page_file import find_box
from tests.components.layout.test_cutting import (
    PAPER,
    curved,
    draw_page,
    level,
    make_line,
    outline,
    rising,
    sample,
    slanted,
)


def draw_dot(x: float, y: float) -> Image.Image:
    """Draws an empty page with a black dot of 5 pixels."""
    page = Image.new("L", (700, 420), PAPER)
    ImageDraw.Draw(page).ellipse((x - 2, y - 2, x + 2, y + 2), fill=0)
    return page


def contains(polygon, x: float, y: float) -> bool:
    page = Image.new("L", (700, 420), 0)
    ImageDraw.Draw(page).polygon([tuple(point) for point in polygon], fill=1)
    return bool(page.getpixel((round(x), round(y))))


@pytest.mark.parametrize("curve", [level, slanted, rising, curved])
@pytest.mark.parametrize("place", [0.1, 0.37, 0.5, 0.82, 0.95])
def test_what_is_seen_in_a_column_of_the_line_was_there_on_the_page(curve, place):
    points = sample(curve)
    line = make_line(outline(curve), sample(curve))
    x, y = points[round(place * (len(points) - 1))]
    y -= 10
    page = draw_dot(x, y)
    cut = np.asarray(cut_line(page, line))
    ink = np.argwhere(cut < PAPER / 2)
    assert len(ink)
    (first, last) = ink[:, 1].min(), ink[:, 1].max()
    found = find_cut(line, page.size)
    assert found.size == cut.shape[::-1]
    polygon = found.locate_columns(first, last + 1)
    assert contains(polygon, x, y)
    left, _, right, _ = find_box(polygon)
    assert right - left < 45  # 6 columns, perpendicular to a baseline of 20 degrees
    elsewhere = found.locate_columns(0, first - 3), found.locate_columns(last + 4, cut.shape[1])
    assert not any(contains(other, x, y) for other in elsewhere)


@pytest.mark.parametrize("curve", [level, slanted, rising, curved])
def test_all_columns_together_are_the_line(curve):
    """The words of the page, bars of ink, lie in the outline of all columns; each lies in that of its own."""
    line = make_line(outline(curve), sample(curve))
    page = draw_page(curve)
    cut = find_cut(line, page.size)
    mask = Image.new("L", page.size, 0)
    ImageDraw.Draw(mask).polygon(cut.locate_columns(0, cut.size[0]), fill=1)
    outside = np.asarray(page)[np.asarray(mask) == 0]
    assert (outside < PAPER / 2).mean() < 0.001
    columns = (np.asarray(cut_line(page, line)) < PAPER / 2).any(axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], columns, [0]])))
    assert len(edges) == 20
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        word = Image.new("L", page.size, 0)
        ImageDraw.Draw(word).polygon(cut.locate_columns(start, end), fill=1)
        inked = (np.asarray(page) < PAPER / 2) & (np.asarray(word) == 1)
        assert inked.sum() == pytest.approx((np.asarray(page) < PAPER / 2).sum() / 10, rel=0.15)


def test_a_line_partly_outside_the_page_is_located_on_it():
    line = make_line(box=(-20, 100, 80, 130))
    cut = find_cut(line, (700, 420))
    assert cut.size == (80, 30)
    assert find_box(cut.locate_columns(10, 20)) == (10, 100, 20, 130)
