"""The listing of pages: which page file belongs to which image, and which lines there are."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from components.lines import read_referenced_line
from components.listing import LabelRules, PageRules
from components.listing.collection import Tally, read_size_and_time
from components.listing.page_lines import list_page_lines
from tests.components.archives.packing import KINDS, put_archive
from tests.rendered_pages import LineOnPage, draw_page, write_alto, write_page_xml
from tfrecords import ImageLimits

RULES = PageRules()
LABELS = LabelRules("pages", split_by="page")


def make_lines(*texts: str | None, types: tuple[str, ...] = ()) -> list[LineOnPage]:
    return [LineOnPage(Image.new("L", (90, 20), 90), text, f"l{i}", types) for i, text in enumerate(texts, 1)]


def make_page(folder: Path, name: str, *texts: str | None, alto: str | None = None, page: str | None = None) -> Path:
    """Makes a page image, and the page files with these paths below the folder."""
    image = folder / name
    lines = make_lines(*texts)
    boxes = draw_page(lines, image)
    if alto is not None:
        write_alto(folder / alto, image, lines, boxes)
    if page is not None:
        write_page_xml(folder / page, image, lines, boxes)
    return image


def list_all(root: Path | str, rules: PageRules = RULES, labels: LabelRules | None = LABELS) -> tuple[list, Tally]:
    tally = Tally()
    return list(list_page_lines(str(root), rules, labels, tally)), tally


def test_each_line_is_listed_with_its_text_and_the_lines_of_a_page_stay_together(tmp_path):
    image = make_page(tmp_path, "a/1.png", "one", "two  words", alto="a/1.xml")
    make_page(tmp_path, "b/2.png", "three", page="b/2.xml")
    listed, tally = list_all(tmp_path)
    assert [(line.uri.removeprefix(str(tmp_path)), line.text, line.problem) for line in listed] == [
        ("/a/1.png#line=l1", "one", None),
        ("/a/1.png#line=l2", "two words", None),
        ("/b/2.png#line=l1", "three", None),
    ]
    first, second, third = listed
    assert first.split_key == second.split_key == f"{tmp_path.name}/a/1.png" != third.split_key
    assert first.size_bytes == image.stat().st_size + image.with_suffix(".xml").stat().st_size
    assert tally.passed_over[".xml"] == 0
    assert tally.unused_labels == []
    assert [line.text for line in list_all(tmp_path, labels=None)[0]] == [None] * 3


@pytest.mark.parametrize("xml", ["xml/nzz_7.xml", "nzz_7.xml", "scans/nzz_7.xml", "scans/page/nzz_7.xml"])
def test_a_page_file_with_another_name_in_another_folder_is_found_by_the_image_that_it_names(tmp_path, xml):
    make_page(tmp_path, "scans/0007.png", "text", page=xml)
    (line,), _ = list_all(tmp_path)
    assert line.text == "text"
    path = line.uri
    assert path.startswith(f"{tmp_path}/scans/0007.png#xml=")
    assert read_size_and_time(path) == (line.size_bytes, line.modified_us)


def test_a_page_file_that_names_another_image_belongs_to_the_one_with_its_own_name(tmp_path):
    """Programs write names of other machines and with other suffixes."""
    make_page(tmp_path, "7.png", "text", alto="7.xml")
    xml = (tmp_path / "7.xml").read_text()
    for written in ("C:\\scans\\7.tif", "https://iiif.example/full/7/default.jpg", "", "0007"):
        (tmp_path / "7.xml").write_text(xml.replace("<fileName>7.png", f"<fileName>{written}"))
        (line,), _ = list_all(tmp_path)
        assert line.uri == f"{tmp_path}/7.png#line=l1"


def test_of_equal_names_the_one_in_the_same_folder_counts_and_else_none(tmp_path):
    for book in ("a", "b"):
        make_page(tmp_path, f"{book}/1.png", book, alto=f"{book}/1.xml")
    assert [line.text for line in list_all(tmp_path)[0]] == ["a", "b"]
    (tmp_path / "xml").mkdir()
    (tmp_path / "a/1.xml").rename(tmp_path / "xml/1.xml")
    listed, tally = list_all(tmp_path)
    assert [(line.uri.removeprefix(f"{tmp_path}/"), line.problem) for line in listed] == [
        ("a/1.png", "no_page_file"),
        ("b/1.png#line=l1", None),
    ]
    (unused,) = tally.unused_labels
    assert (unused.uri, unused.reason) == (f"{tmp_path}/xml/1.xml", "no_image")
    assert "it names '1.png'" in unused.detail


def test_page_files_of_several_books_go_to_the_images_of_their_own_book(tmp_path):
    """As Transkribus exports documents, and OCR-D its steps."""
    for book in ("a", "b"):
        make_page(tmp_path, f"{book}/1.png", book, page=f"{book}/page/1.xml")
    for step in ("OCR-D-IMG", "OCR-D-IMG-BIN"):
        make_page(tmp_path, f"c/{step}/2.png", "c", page="c/OCR-D-GT/2.xml")
    path = tmp_path / "c/OCR-D-GT/2.xml"
    path.write_text(path.read_text().replace('imageFilename="2.png"', 'imageFilename="OCR-D-IMG/2.png"'))
    listed, _ = list_all(tmp_path)
    assert [(line.uri.removeprefix(f"{tmp_path}/"), line.text) for line in listed] == [
        ("a/1.png#xml=page/1.xml&line=l1", "a"),
        ("b/1.png#xml=page/1.xml&line=l1", "b"),
        ("c/OCR-D-IMG/2.png#xml=../OCR-D-GT/2.xml&line=l1", "c"),
        ("c/OCR-D-IMG-BIN/2.png", None),
    ]
    (tmp_path / "b/1.png").unlink()
    (tmp_path / "a/page/1.xml").unlink()
    listed, tally = list_all(tmp_path)
    assert [line.problem for line in listed if "/a/1.png" in line.uri] == ["no_page_file"]
    assert "b/page/1.xml" in " ".join(label.uri for label in tally.unused_labels)


def test_of_several_page_files_the_one_in_the_images_folder_counts(tmp_path):
    make_page(tmp_path, "a/1.png", "near", alto="a/1.xml")
    make_page(tmp_path, "b/1.png", "stray", alto="b/1.xml")
    (tmp_path / "b/1.png").unlink()
    listed, tally = list_all(tmp_path)
    assert [line.text for line in listed] == ["near"]
    (unused,) = tally.unused_labels
    assert "a/1.xml is nearer to the image that it names" in unused.detail


def test_names_in_another_unicode_form_or_case_are_the_same(tmp_path):
    image = make_page(tmp_path, "u\u0308ber.JPG", "text", page="xml/x.xml")
    path = tmp_path / "xml/x.xml"
    path.write_text(path.read_text().replace(image.name, "\u00fcber.jpg"))
    assert [line.text for line in list_all(tmp_path)[0]] == ["text"]


def test_lines_with_ids_that_are_no_names_are_all_listed(tmp_path):
    lines = [
        LineOnPage(Image.new("L", (90, 20), 90), line_id, line_id)
        for line_id in ("line 1", "line-0001", "line 3", "line-0003")
    ]
    boxes = draw_page(lines, tmp_path / "1.png")
    write_alto(tmp_path / "1.xml", tmp_path / "1.png", lines, boxes)
    listed, _ = list_all(tmp_path)
    assert [line.text for line in listed] == ["line 1", "line-0001", "line 3", "line-0003"]
    assert len({line.uri for line in listed}) == 4


def test_a_page_file_that_is_a_link_out_of_the_collection_is_not_read(tmp_path):
    make_page(tmp_path / "secret", "1.png", "secret", alto="1.xml")
    make_page(tmp_path / "lines", "1.png", "text")
    (tmp_path / "lines/1.xml").symlink_to(tmp_path / "secret/1.xml")
    ((page,), _) = list_all(tmp_path / "lines")
    assert page.problem == "damaged_page_file"
    assert "a link that leads out of the folder" in page.detail


def test_what_is_wrong_with_a_page_is_said_once_and_others_are_listed(tmp_path):
    make_page(tmp_path, "1-good.png", "text", alto="1-good.xml")
    make_page(tmp_path, "2-alone.png", "text")
    make_page(tmp_path, "3-damaged.png", "text", alto="3-damaged.xml")
    content = (tmp_path / "3-damaged.xml").read_text()
    (tmp_path / "3-damaged.xml").write_text(content[: len(content) // 2])
    make_page(tmp_path, "4-twice.png", "text", alto="alto/4-twice.xml", page="page/4-twice.xml")
    make_page(tmp_path, "5-untranscribed.png", None, "text", alto="5-untranscribed.xml")
    make_page(tmp_path, "6-empty.png", "", alto="6-empty.xml")
    (tmp_path / "mets.xml").write_text("<mets/>")
    (tmp_path / "alone.xml").write_text(content.replace("3-damaged", "gone"))
    listed, tally = list_all(tmp_path)
    assert [(line.uri.removeprefix(f"{tmp_path}/"), line.problem) for line in listed] == [
        ("1-good.png#line=l1", None),
        ("2-alone.png", "no_page_file"),
        ("3-damaged.png", "damaged_page_file"),
        ("4-twice.png", "several_page_files"),
        ("5-untranscribed.png#line=l1", "no_label"),
        ("5-untranscribed.png#line=l2", None),
        ("6-empty.png#line=l1", "empty_label"),
    ]
    assert "alto/4-twice.xml and" in listed[3].detail
    assert [(label.reason, Path(label.uri).name) for label in tally.unused_labels] == [("no_image", "alone.xml")]
    assert tally.passed_over[".xml"] == 1  # mets.xml


def test_lines_of_other_types_are_passed_over(tmp_path):
    lines = [
        *make_lines("kept", types=("DefaultLine",)),
        LineOnPage(Image.new("L", (90, 20), 90), "number", "n1", ("NumberingZone",)),
        LineOnPage(Image.new("L", (90, 20), 90), "title", "t1", ("HeadingLine:title",)),
    ]
    boxes = draw_page(lines, tmp_path / "1.png")
    write_alto(tmp_path / "1.xml", tmp_path / "1.png", lines, boxes)
    listed, tally = list_all(tmp_path, PageRules(("DefaultLine", "HeadingLine:title")))
    assert [line.text for line in listed] == ["kept", "title"]
    assert tally.passed_over["line of another type"] == 1
    ((line,), _) = list_all(tmp_path, PageRules(("Marginalia",)))
    assert (line.uri, line.problem) == (f"{tmp_path}/1.png", "no_lines")
    assert "has 3 lines, none of type Marginalia" in line.detail


def test_a_line_is_read_anew_if_its_page_file_changes(tmp_path):
    make_page(tmp_path, "1.png", "one", alto="1.xml")
    (before,), _ = list_all(tmp_path)
    content, status = (tmp_path / "1.xml").read_text(), (tmp_path / "1.xml").stat()
    (tmp_path / "1.xml").write_text(f"{content}\n")  # and its time set to what it was, as archives do
    os.utime(tmp_path / "1.xml", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert list_all(tmp_path)[0][0].size_bytes == before.size_bytes + 1
    (tmp_path / "1.xml").write_text(content)
    os.utime(tmp_path / "1.xml", ns=(status.st_atime_ns, status.st_mtime_ns))
    status = (tmp_path / "1.xml").stat()
    os.utime(tmp_path / "1.xml", ns=(status.st_atime_ns, status.st_mtime_ns + 10**10))
    (after,), _ = list_all(tmp_path)
    assert after.uri == before.uri
    assert after.modified_us == before.modified_us + 10**7


def test_single_images_are_pages_with_the_page_files_named_like_them(tmp_path):
    image = make_page(tmp_path, "1.png", "one", alto="1.xml")
    assert [line.text for line in list_all(image)[0]] == ["one"]


def test_pages_in_an_object_store_are_listed_as_local_ones_are(tmp_path):
    make_page(tmp_path, "img/1.png", "one", "two", page="xml/first.xml")
    store = fsspec.filesystem("memory")
    for path in ("img/1.png", "xml/first.xml"):
        store.pipe(f"/pages/{path}", (tmp_path / path).read_bytes())
    listed, _ = list_all("memory:///pages")
    assert [(line.uri, line.text) for line in listed] == [
        ("memory:///pages/img/1.png#xml=../xml/first.xml&line=l1", "one"),
        ("memory:///pages/img/1.png#xml=../xml/first.xml&line=l2", "two"),
    ]
    store.rm("/pages", recursive=True)


@pytest.mark.parametrize("kind", KINDS)
def test_pages_in_an_archive_are_listed_and_cut_as_those_in_a_folder_are(tmp_path, kind):
    (tmp_path / "in").mkdir()
    make_page(tmp_path / "in", "img/1.png", "one", "two", page="xml/first.xml")
    make_page(tmp_path / "in", "img/2.png", "three", alto="img/2.xml")
    files = {
        str(path.relative_to(tmp_path / "in")): path.read_bytes()
        for path in sorted((tmp_path / "in").rglob("*"))
        if path.is_file()
    }
    archive = put_archive(tmp_path, kind, files)
    unpacked, _ = list_all(tmp_path / "in")
    packed, tally = list_all(archive)
    assert [line.uri.removeprefix(f"{archive}!") for line in packed] == [
        line.uri.removeprefix(f"{tmp_path}/in") for line in unpacked
    ]
    assert [line.text for line in packed] == ["one", "two", "three"]
    assert tally.passed_over[".xml"] == 0
    for line, other in zip(packed, unpacked, strict=True):
        cut, same = (read_referenced_line(each, None, 32, ImageLimits()) for each in (line, other))
        assert np.array_equal(cut.pixels, same.pixels)


def test_each_line_is_split_by_itself_if_that_is_asked_for(tmp_path):
    make_page(tmp_path, "1.png", "one", "two", alto="1.xml")
    first, second = list_all(tmp_path, labels=LabelRules("pages", split_by="image"))[0]
    assert first.split_key != second.split_key


def test_memory_does_not_grow_with_the_lines_of_all_pages(tmp_path):
    """A line has some fifty points, and a collection millions of lines."""
    image = make_page(tmp_path, "000.png", "x", page="000.xml")
    content = (tmp_path / "000.xml").read_text()
    points = " ".join(f"{number % 100},{number}" for number in range(300))
    line = f'<TextLine id="LINE"><Coords points="{points}"/></TextLine>'
    lines = "".join(line.replace("LINE", f"m{number}") for number in range(40))
    for number in range(60):
        (tmp_path / f"{number:03d}.png").write_bytes(image.read_bytes())
        text = content.replace("000.png", f"{number:03d}.png").replace("</TextRegion>", f"{lines}</TextRegion>")
        (tmp_path / f"{number:03d}.xml").write_text(text)
    tracemalloc.start()
    try:
        count = sum(1 for _ in list_page_lines(str(tmp_path), RULES))
        assert tracemalloc.get_traced_memory()[1] < 40 << 20  # those of all pages take 170 MB
    finally:
        tracemalloc.stop()
    assert count == 60 * 41
