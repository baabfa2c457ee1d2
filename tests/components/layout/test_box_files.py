"""Text files with the places and texts of the lines of a page."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from components.layout import PageFileError, cut_line, looks_like_box_file, parse_box_file, parse_page_file
from tfrecords import ImageRejected

SQUARE = ((10, 20), (110, 20), (110, 50), (10, 50))


def parse(text: str | bytes):
    content = text.encode() if isinstance(text, str) else text
    assert looks_like_box_file(content)
    return parse_box_file(content)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("10,20,110,20,110,50,10,50,TAN WOON YANN", "TAN WOON YANN"),
        ("10,20,110,20,110,50,10,50,TEL: 06-761, 762", "TEL: 06-761, 762"),
        ("10,20,110,20,110,50,10,50,1,200.00", "1,200.00"),
        (" 10, 20, 110, 20, 110, 50, 10, 50, 9,9", " 9,9"),
        ("10.0,20.0,110.0,20.0,110.0,50.0,10.0,50.0,x", "x"),
        ('10,20,110,20,110,50,10,50,"a, ""b"""', 'a, "b"'),
        ('10,20,110,50,"Tiredness, kills"', "Tiredness, kills"),
        ('10, 20, 110, 50, "Tired\\"ness"', 'Tired"ness'),
        ('10 20 110 50 "Tiredness kills"', "Tiredness kills"),
        ("10,20,110,50,Tired", "Tired"),
        ("10,20,110,20,110,50,10,50,Latin,Caffe", "Caffe"),
        ('10,20,110,20,110,50,10,50,0,"金氏眼镜"', "金氏眼镜"),
        ("a b.jpg\t10\t20\t100\t30\tAYO 9034", "AYO 9034"),
        ("a.jpg 10 20 100 30 AYO9034", "AYO9034"),
        ("10,20,110,20,110,50,10,50", None),
        ("10,20,110,50", None),
        ("a.jpg\t10\t20\t100\t30", None),
        ("10,20,110,20,110,50,10,50,", ""),
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_each_kind_of_line_is_read(line, text, end):
    for mark in ("", "\ufeff"):
        (found,) = parse(f"{mark}{line}{end}").lines
        assert (found.text, found.polygon, found.box, found.baseline) == (text, SQUARE, (10, 20, 110, 50), ())
    (found,) = parse(f"{line}{end}".encode("utf-16")).lines
    assert found.text == text


def test_lines_are_named_by_their_numbers_in_the_file_and_blank_ones_are_none():
    page = parse("\ufeff1,1,9,1,9,5,1,5,one\r\n\r\n1,6,9,6,9,9,1,9,two\r\n")
    assert [(line.line_id, line.text) for line in page.lines] == [("1", "one"), ("3", "two")]
    assert (page.image_name, page.width, page.height) == (None, None, None)


def test_a_script_counts_as_the_type_of_a_line():
    page = parse("1,1,9,1,9,5,1,5,Latin,one\n1,6,9,6,9,9,1,9,Arabic,###\n")
    assert [(line.types, line.text) for line in page.lines] == [
        (frozenset({"Latin"}), "one"),
        (frozenset({"Arabic"}), None),
    ]
    page = parse("1,1,9,1,9,5,1,5,Latin,one\n1,6,9,6,9,9,1,9,two\n")  # no column of scripts, then
    assert [(line.types, line.text) for line in page.lines] == [(frozenset(), "Latin,one"), (frozenset(), "two")]


def test_quotation_marks_that_only_some_texts_have_belong_to_the_text():
    page = parse('1,1,9,1,9,5,1,5,"one"\n1,6,9,6,9,9,1,9,two\n')
    assert [line.text for line in page.lines] == ['"one"', "two"]
    page = parse('1,1,9,1,9,5,1,5,"one"\n1,6,9,6,9,9,1,9,###\n1,6,9,6,9,9,1,9,"###"\n')
    assert [line.text for line in page.lines] == ["one", None, None]


def test_an_illegible_line_and_one_that_is_not_utf8_have_a_place_and_no_text():
    page = parse(b"1,1,9,1,9,5,1,5,###\n1,6,9,6,9,9,1,9,caf\xe9\n1,6,9,6,9,9,1,9,###x\n")
    assert [line.text for line in page.lines] == [None, None, "###x"]
    assert [line.no_text for line in page.lines] == [
        "marks it as illegible, by ### for its text",
        "gives a text for it that is not UTF-8: 'caf\\udce9'",
        "",
    ]
    assert all(line.polygon and not line.problem for line in page.lines)


def test_a_line_that_is_not_like_the_others_or_of_another_image_has_a_problem():
    page = parse("1,1,9,1,9,5,1,5,one\n1,1,9,5,two\nTOTAL 5\n1,6,9,6,9,9,1,9,four\n1,6,9,6,9,9,1,9,five\n")
    assert [line.text for line in page.lines] == ["one", None, None, "four", "five"]
    assert page.lines[1].problem == "line 2 is not like the others: '1,1,9,5,two'"
    page = parse("a.jpg 1 1 5 5 ONE\nb.jpg 1 1 5 5 TWO\n")
    assert page.image_name == "a.jpg"
    assert [(line.text, line.problem) for line in page.lines] == [
        ("ONE", ""),
        (None, "line 2 names 'b.jpg', and not 'a.jpg' as the first one does"),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"some text\nof a page\n1,1,9,1,9,5,1,5,one\n", "most of its lines do not begin with the place of a box"),
        (b"10,20,110,50,a\n100,120,40,20,b\n", "line 2 has a box from 100,120 to 40,20, which ends before it begins"),
        ("1,1,9,1,9,5,1,5,one".encode("utf-16")[:-1], "it begins as UTF-16, but is damaged"),
        (b"1,1,9,9,x\n" * 100_001, "it has more than 100000 lines"),
    ],
)
def test_a_file_whose_places_are_doubtful_is_refused(content, said):
    with pytest.raises(PageFileError) as error:
        parse_box_file(content)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"TAN WOON YANN\n",
        b"0 0.5 0.25 0.1 0.05\n",
        b"0 12 34 56 78\n",
        b"12,34,56\n",
        b'{"company": "X", "total": "9.00"}\n',
        b"one line\n1,2,3,4,text\n",
        b"a.jpg\tAYO9034\n",
        b"\xff\xfe\x00",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_other_text_files_are_no_files_of_boxes(content):
    assert not looks_like_box_file(content)


def test_a_file_that_is_cut_off_is_known_by_its_beginning():
    content = "".join(f"{number},1,99,1,99,5,1,5,text\n" for number in range(300)).encode()
    assert looks_like_box_file(content[:4096])
    assert looks_like_box_file(content.decode().encode("utf-16")[:4095])


@pytest.mark.parametrize(
    "piece", [b"1,", b"1 ", b" ", b'"', b"a.jpg ", b"a.jpg", b"1,1,1,1,1,1,1,1,", b"\xff\xfe", b"\t1"]
)
def test_files_that_are_made_to_do_harm_take_little_time(piece):
    content = piece * (2_000_000 // len(piece))
    began = time.monotonic()
    looks_like_box_file(content)
    with pytest.raises(PageFileError):
        parse_box_file(content + b"\nx\nx")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (0, 1, 3, 2), (1, 3, 0, 2)])
def test_corners_count_in_any_order(order):
    corners = ",".join("{},{}".format(*SQUARE[place]) for place in order)
    (line,) = parse(f"{corners},text").lines
    assert set(line.polygon) == set(SQUARE)
    page = Image.new("L", (200, 100), 200)
    ImageDraw.Draw(page).rectangle((10, 20, 109, 49), fill=30)
    assert (np.asarray(cut_line(page, line)) == 30).all()


def turn(degrees: float) -> tuple[Image.Image, str, np.ndarray]:
    """Draws dark bars in a line that is turned; returns the page, its corners, and the line as it is unturned."""
    line = Image.new("L", (300, 40), 220)
    draw = ImageDraw.Draw(line)
    for place in range(10, 290, 30):
        draw.rectangle((place, 8, place + 10, 31), fill=20)
    page = Image.new("L", (500, 500), 220)
    page.paste(line, (100, 230))
    turned = page.rotate(degrees, Image.Resampling.BICUBIC, center=(250, 250), fillcolor=220)
    angle = np.deg2rad(degrees)
    corners = np.array([(100, 230), (400, 230), (400, 270), (100, 270)]) - 250
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    places = np.round(corners @ rotation.T + 250).astype(int)
    return turned, ",".join(map(str, places.ravel())), np.asarray(line, float)


@pytest.mark.parametrize("degrees", [-40, -12, -3, 0, 3, 12, 40])
def test_a_tilted_line_is_straightened(degrees):
    page, corners, expected = turn(degrees)
    (line,) = parse(f"{corners},text").lines
    assert bool(line.baseline) == (degrees != 0)
    cut = np.asarray(cut_line(page, line).resize(expected.shape[::-1], Image.Resampling.BILINEAR), float)
    assert np.abs(cut - expected).mean() < 12


@pytest.mark.parametrize("degrees", [60, 90, 120])
def test_a_line_from_top_to_bottom_is_not_turned(degrees):
    page, corners, _ = turn(degrees)
    (line,) = parse(f"{corners},text").lines
    left, top, right, bottom = line.box
    assert cut_line(page, line).size == (right - left, bottom - top)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("10,20,10,20,10,20,10,20,x", "empty_outline"),
        ("10,20,10,60,x", "empty_outline"),
        ("a.jpg 10 20 0 5 X", "empty_outline"),
        ("1000,20,1100,20,1100,50,1000,50,x", "outside_page"),
        ("-90,20,-10,20,-10,50,-90,50,x", "outside_page"),
    ],
)
def test_a_box_without_pixels_is_rejected_with_the_reason(line, reason):
    with pytest.raises(ImageRejected) as error:
        cut_line(Image.new("L", (200, 100), 200), parse(line).lines[0])
    assert error.value.reason == reason


def test_the_part_of_a_box_inside_the_page_is_cut():
    assert cut_line(Image.new("L", (200, 100), 200), parse("150,80,260,130,x").lines[0]).size == (50, 20)


def test_a_file_of_boxes_is_no_xml():
    with pytest.raises(PageFileError, match="damaged XML"):
        parse_page_file(b"1,1,9,1,9,5,1,5,one\n")
