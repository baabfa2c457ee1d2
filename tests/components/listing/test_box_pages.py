"""The listing of pages with files of boxes: which file belongs to which image, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from components.lines import read_referenced_line
from components.listing import LabelRules, PageRules
from components.listing.collection import Tally, read_size_and_time
from components.listing.line_places import find_line_place
from components.listing.page_lines import list_page_lines
from tests.components.archives.packing import KINDS, put_archive
from tests.rendered_pages import LineOnPage, draw_page, write_alto, write_corners, write_plates
from tfrecords import ImageLimits

LABELS = LabelRules("pages", split_by="page")


def make_page(folder: Path, name: str, box_file: str, *texts: str | None, plates: bool = False) -> Path:
    """Makes a page image with its file of boxes, both below the folder."""
    lines = [LineOnPage(Image.new("L", (90, 20), 90), text, "") for text in texts]
    boxes = draw_page(lines, folder / name)
    if plates:
        write_plates(folder / box_file, folder / name, lines, boxes)
    else:
        write_corners(folder / box_file, lines, boxes)
    return folder / name


def list_all(
    root: Path | str, rules: PageRules | None = None, labels: LabelRules | None = LABELS
) -> tuple[list, Tally]:
    tally = Tally()
    return list(list_page_lines(str(root), rules or PageRules(), labels, tally)), tally


def shorten(listed: list, root: Path) -> list[tuple[str, str | None, str | None]]:
    return [(line.uri.removeprefix(f"{root}/"), line.text, line.problem) for line in listed]


def test_each_box_is_listed_with_its_text_and_the_lines_of_a_page_stay_together(tmp_path):
    image = make_page(tmp_path, "a/X1.jpg", "a/X1.txt", "TOTAL 9,00", "CASH, CHANGE")
    make_page(tmp_path, "b/car 1.png", "b/car 1.txt", "AYO9034", plates=True)
    listed, tally = list_all(tmp_path)
    assert shorten(listed, tmp_path) == [
        ("a/X1.jpg#txt=X1.txt&line=1", "TOTAL 9,00", None),
        ("a/X1.jpg#txt=X1.txt&line=2", "CASH, CHANGE", None),
        ("b/car 1.png#txt=car 1.txt&line=1", "AYO9034", None),
    ]
    assert listed[0].split_key == listed[1].split_key != listed[2].split_key
    for line in listed:
        assert read_size_and_time(line.uri) == (line.size_bytes, line.modified_us)
    assert listed[0].size_bytes == image.stat().st_size + image.with_suffix(".txt").stat().st_size
    assert +tally.passed_over == {}
    assert tally.unused_labels == []
    assert [line.text for line in list_all(tmp_path, labels=None)[0]] == [None] * 3


@pytest.mark.parametrize(
    ("image", "box_file"),
    [
        ("img_1.jpg", "gt_img_1.txt"),
        ("train/img_1.jpg", "train_gt/gt_img_1.txt"),
        ("images/img_1.jpg", "box/img_1.TXT"),
        ("gt_img_1.jpg", "gt_img_1.txt"),
        ("img/IMG_1.JPG", "box/gt_img_1.txt"),
    ],
)
def test_a_file_of_boxes_belongs_to_the_image_of_its_name(tmp_path, image, box_file):
    make_page(tmp_path, image, box_file, "text")
    ((line,), _) = list_all(tmp_path)
    assert (line.text, line.problem) == ("text", None)
    place = find_line_place(line.uri)
    assert (place.image, place.page_file, place.line) == (f"{tmp_path}/{image}", f"{tmp_path}/{box_file}", "1")
    pixels = read_referenced_line(line, None, 20, ImageLimits()).pixels
    assert pixels.shape == (20, 90)


def test_a_file_of_boxes_belongs_to_the_image_that_it_names(tmp_path):
    image = make_page(tmp_path, "cars/eu1.jpg", "cars/plate.txt", "RK755AJ", plates=True)
    ((line,), _) = list_all(tmp_path)
    assert (line.uri, line.text) == (f"{image}#txt=plate.txt&line=1", "RK755AJ")


def test_single_images_have_the_files_of_boxes_beside_them(tmp_path):
    for name in ("1.txt", "gt_1.txt"):
        image = make_page(tmp_path / name, "1.png", name, "text")
        assert [line.text for line in list_all(image)[0]] == ["text"]


def test_what_is_wrong_with_a_page_or_a_line_is_said_and_others_are_listed(tmp_path):
    make_page(tmp_path, "1-good.png", "1-good.txt", "text", None, "")
    (tmp_path / "1-good.txt").write_text((tmp_path / "1-good.txt").read_text() + "TOTAL\n")
    make_page(tmp_path, "2-plain.png", "2-plain.txt", "x")
    (tmp_path / "2-plain.txt").write_text("the text of the page\nin two lines\n")
    make_page(tmp_path, "3-sizes.png", "3-sizes.txt", "x")
    (tmp_path / "3-sizes.txt").write_text("300,400,90,20,x\n")
    make_page(tmp_path, "4-both.png", "4-both.txt", "x")
    lines = [LineOnPage(Image.new("L", (90, 20), 90), "x", "l1")]
    write_alto(tmp_path / "4-both.xml", tmp_path / "4-both.png", lines, [(0, 0, 9, 9)])
    make_page(tmp_path, "gone.png", "gt_gone.txt", "x")
    (tmp_path / "gone.png").unlink()
    listed, tally = list_all(tmp_path)
    assert shorten(listed, tmp_path) == [
        ("1-good.png#txt=1-good.txt&line=1", "text", None),
        ("1-good.png#txt=1-good.txt&line=2", None, "no_label"),
        ("1-good.png#txt=1-good.txt&line=3", None, "empty_label"),
        ("1-good.png#txt=1-good.txt&line=4", None, "damaged_page_file"),
        ("2-plain.png", None, "no_page_file"),
        ("3-sizes.png", None, "damaged_page_file"),
        ("4-both.png", None, "several_page_files"),
    ]
    assert listed[1].detail == f"{tmp_path}/1-good.txt marks it as illegible, by ### for its text"
    assert listed[3].detail == f"{tmp_path}/1-good.txt: line 4 is not like the others: 'TOTAL'"
    assert "perhaps" not in listed[5].detail
    assert "if the last two numbers are its width and height" in listed[5].detail
    assert [(label.reason, Path(label.uri).name) for label in tally.unused_labels] == [("no_image", "gt_gone.txt")]
    assert +tally.passed_over == {".txt": 1}  # that of 2-plain
    without = list_all(tmp_path, labels=None)[0]
    assert [line.problem for line in without[:4]] == [None, None, None, "damaged_page_file"]


def test_a_text_file_that_cannot_be_read_does_not_stand_in_the_way_of_a_page_file(tmp_path):
    (tmp_path / "elsewhere.txt").write_text("a text")
    folder = tmp_path / "pages"
    make_page(folder, "1.png", "gone.txt", "x")
    lines = [LineOnPage(Image.new("L", (90, 20), 90), "text", "l1")]
    write_alto(folder / "1.xml", folder / "1.png", lines, [(0, 0, 9, 9)])
    (folder / "1.txt").symlink_to(tmp_path / "elsewhere.txt")
    (folder / "gone.txt").unlink()
    listed, tally = list_all(folder)
    assert shorten(listed, folder) == [("1.png#line=l1", "text", None)]
    assert [(label.reason, Path(label.uri).name) for label in tally.unused_labels] == [("damaged_page_file", "1.txt")]
    (folder / "1.xml").unlink()
    ((page,), _) = list_all(folder)
    assert page.problem == "damaged_page_file"
    assert "a link that leads out of the folder" in page.detail


def test_lines_of_some_scripts_are_chosen_as_types_of_lines_are(tmp_path):
    make_page(tmp_path, "1.png", "1.txt", "Latin,one", "Arabic,two")
    listed, tally = list_all(tmp_path, PageRules(("Latin",)))
    assert [line.text for line in listed] == ["one"]
    assert tally.passed_over["line of another type"] == 1


def test_boxes_in_an_object_store_are_listed_as_local_ones_are(tmp_path):
    make_page(tmp_path, "img/1.png", "box/gt_1.txt", "one", "two")
    store = fsspec.filesystem("memory")
    for path in ("img/1.png", "box/gt_1.txt"):
        store.pipe(f"/boxes/{path}", (tmp_path / path).read_bytes())
    listed, _ = list_all("memory:///boxes")
    assert [(line.uri, line.text) for line in listed] == [
        ("memory:///boxes/img/1.png#txt=../box/gt_1.txt&line=1", "one"),
        ("memory:///boxes/img/1.png#txt=../box/gt_1.txt&line=2", "two"),
    ]
    assert read_referenced_line(listed[0], None, 20, ImageLimits()).pixels.shape == (20, 90)
    store.rm("/boxes", recursive=True)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_in_an_archive_are_listed_and_cut_as_those_in_a_folder_are(tmp_path, kind):
    folder = tmp_path / "in"
    make_page(folder, "img/1.png", "box/gt_1.txt", "one", "two")
    make_page(folder, "cars/2.png", "cars/2.txt", "AB1", plates=True)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    archive = put_archive(tmp_path, kind, {str(path.relative_to(folder)): path.read_bytes() for path in paths})
    unpacked, (packed, tally) = list_all(folder)[0], list_all(archive)
    assert [line.uri.removeprefix(f"{archive}!") for line in packed] == [
        line.uri.removeprefix(str(folder)) for line in unpacked
    ]
    assert [line.text for line in packed] == ["AB1", "one", "two"]
    assert +tally.passed_over == {}
    for line, other in zip(packed, unpacked, strict=True):
        cut, same = (read_referenced_line(each, None, 32, ImageLimits()) for each in (line, other))
        assert np.array_equal(cut.pixels, same.pixels)
