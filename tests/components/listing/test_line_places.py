"""The paths of lines on pages."""

from __future__ import annotations

import pytest

from components.layout import PageFile, PageLine
from components.listing.line_places import LinePlace, find_line_place, get_page, name_lines


@pytest.mark.parametrize(
    ("place", "path"),
    [
        (("/s/0007.jpg", "/s/0007.xml", "l12"), "/s/0007.jpg#line=l12"),
        (("/s/img/0007.tif", "/s/xml/nzz7.xml", "r1l2"), "/s/img/0007.tif#xml=../xml/nzz7.xml&line=r1l2"),
        (("/s/a#b&c.jpg", "/s/x&line=y/a#.xml", "l.1:2-3"), "/s/a#b&c.jpg#xml=x&line=y/a#.xml&line=l.1:2-3"),
        (("gs://b/s/7.jpg", "gs://b/s/7.xml", "l1"), "gs://b/s/7.jpg#line=l1"),
        (("gs://b/img/7.jpg", "gs://b/page/7.xml", "l1"), "gs://b/img/7.jpg#xml=../page/7.xml&line=l1"),
        (("/s/X1.jpg", "/s/X1.txt", "12"), "/s/X1.jpg#txt=X1.txt&line=12"),
        (("/s/img/1.jpg", "/s/gt/gt_1.TXT", "3"), "/s/img/1.jpg#txt=../gt/gt_1.TXT&line=3"),
        (("gs://b/img/1.jpg", "gs://b/box/1.txt", "3"), "gs://b/img/1.jpg#txt=../box/1.txt&line=3"),
        (("/s/ü 7.jpg", "/s/ü 7.xml", "é1"), "/s/ü 7.jpg#line=é1"),
    ],
)
def test_a_line_is_found_again_by_its_path(place, path):
    assert LinePlace(*place).path == path
    assert find_line_place(path) == place
    assert get_page(path) == place[0]


@pytest.mark.parametrize(
    "path",
    [
        "/s/a.png",
        "/s/a#b.png",
        "/s/scan#line=3.png",
        "/s/line=3.png",
        "/s/a.png#txt=a.xml&line=3",
        "/s/a#line=.png/b c",
        "gs://b/#line=",
        "",
    ],
)
def test_the_path_of_an_image_is_no_place_of_a_line(path):
    assert find_line_place(path) is None
    assert get_page(path) == path


def test_a_line_whose_id_is_no_name_gets_one_by_its_number():
    lines = [PageLine(line_id, None, (), (), None, frozenset()) for line_id in ("l1", "a b", "x/y", "l4")]
    assert list(name_lines(PageFile(None, None, None, tuple(lines)))) == ["l1", "line-0002", "line-0003", "l4"]
