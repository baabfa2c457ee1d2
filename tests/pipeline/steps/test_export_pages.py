"""The export of lines of pages by the command: ALTO, PAGE and hOCR files, and text in the order of the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from components.layout import find_cut, parse_page_file
from components.listing.line_places import name_lines
from components.listing.page_lines import PageRules, list_page_lines
from pipeline.exits import EXIT_DONE
from tests.commands import make_workspace, run_command
from tests.pipeline.steps.test_export import export, list_states, read_files, read_manifest
from tests.readings import write_run
from tests.rendered_pages import LineOnPage, draw_page, write_alto, write_page_xml

LINES = 12  # of a page, so that l10 is not after l1 in the order of the file


@pytest.fixture
def pages(tmp_path) -> Path:
    """A page with ALTO, of half its image's size, and one with PAGE in another folder; lines of 100x30 pixels."""
    folder = tmp_path / "pages"
    lines = [LineOnPage(Image.new("L", (100, 30), 200), "alt" if i else None, f"l{i}") for i in range(LINES)]
    for number in range(2):
        page = folder / "img" / f"{number}.png"
        boxes = draw_page(lines, page)
        if number == 0:
            write_alto(folder / "img" / "0.xml", page, lines, boxes, scale=0.5)
        else:
            write_page_xml(folder / "xml" / "p1.xml", page, lines, boxes)
    return folder


def make_rows(pages: Path, ending: str = "", words: bool = True) -> list[dict]:
    """A reading of every line: two words, of which the places are known, the second one at the right end."""
    rows = []
    for reference in list_page_lines(str(pages), PageRules()):
        text = f"{reference.uri.rpartition('=')[2]}{ending}"
        found = [
            {"text": "ab", "confidence": 0.25, "start": 0, "end": 30},
            {"text": text, "confidence": 0.75, "start": 40, "end": 100},
        ]
        rows.append({"uri": reference.uri, "text": f"ab {text}", "words": found if words else None})
    return rows


@pytest.fixture
def workspace(pages, tmp_path) -> Path:
    write_run(tmp_path / "work", make_rows(pages))
    return tmp_path / "work"


def find_file(workspace: Path, name: str) -> Path:
    """The one exported file of a name."""
    (path,) = (path for path in (workspace / "export").rglob(name) if path.is_file())
    return path


def read_rejects(workspace: Path, name: str) -> list[dict]:
    path = workspace / "export" / name / "_rejects.parquet"
    return pyarrow.parquet.read_table(path).to_pylist() if path.exists() else []


@pytest.mark.parametrize(("name", "file"), [("alto", "img/0.xml"), ("page", "xml/p1.xml")])
def test_copies_of_page_files_have_the_recognised_texts_and_are_read_again(workspace, pages, name, file, capsys):
    before = {path: path.read_bytes() for path in pages.rglob("*") if path.is_file()}
    assert export(workspace, name) == EXIT_DONE
    said = capsys.readouterr().out
    assert f"1 file written, 0 unchanged: {LINES} readings as {name}, {LINES} passed over" in said
    assert {path: path.read_bytes() for path in pages.rglob("*") if path.is_file()} == before
    (relative, content), *others = read_files(workspace, name).items()
    assert (relative, others) == (f"{str(pages).lstrip('/')}/{file}", [])
    old, new = parse_page_file((pages / file).read_bytes()), parse_page_file(content)
    assert [line.text for line in new.lines] == [f"ab l{number}" for number in range(LINES)]
    for line, other in zip(old.lines, new.lines, strict=True):
        assert (line.line_id, line.box, line.polygon, line.types) == (
            other.line_id,
            other.box,
            other.polygon,
            other.types,
        )
    if name == "alto":  # half the size of the image
        strings = [e for e in ElementTree.fromstring(content).iter() if e.tag.endswith("String")]
        left, top, right, bottom = old.lines[0].box
        assert strings[0].attrib == {
            "CONTENT": "ab",
            "HPOS": f"{left:g}",
            "VPOS": f"{top:g}",
            "WIDTH": "15",
            "HEIGHT": "15",
            "WC": "0.25",
        }
        assert int(strings[1].get("HPOS")) + int(strings[1].get("WIDTH")) == right
        assert b'<OCRProcessing ID="recognition-b0bb1e5c0de5">' in content
    else:
        points = re.findall(rb'<Word id="[^"]*"><Coords points="([^"]*)"', content)
        left, top, right, bottom = map(int, old.lines[0].box)
        expected = f"{left},{top} {left + 30},{top} {left + 30},{bottom} {left},{bottom}"
        assert points[0].decode() == expected
        assert content.count(b'<TextEquiv conf="0.875">') == LINES
        assert b'<MetadataItem type="processingStep"' not in content  # the file has no metadata to put it in


def test_places_that_are_not_known_are_not_guessed(pages, tmp_path):
    """Of an older run, of words that are not the text, and of an image that is not the one that was read."""
    rows = make_rows(pages)
    rows[0]["words"] = None
    rows[1]["words"][0]["text"] = "other"
    rows[2]["width"] = 99
    rows[3]["words"][1]["end"] = 101
    write_run(tmp_path / "work", rows)
    assert export(tmp_path / "work", "alto") == EXIT_DONE
    root = ElementTree.fromstring(find_file(tmp_path / "work", "0.xml").read_bytes())
    lines = {e.get("ID"): [c.get("CONTENT") for c in e] for e in root.iter() if e.tag.endswith("TextLine")}
    for row in rows[:4]:
        assert lines[row["uri"].rpartition("=")[2]] == [row["text"]]
    assert sum(len(strings) == 3 for strings in lines.values()) == LINES - 4
    write_run(tmp_path / "old", make_rows(pages, words=False), places=False)
    for name in ("alto", "page", "hocr"):
        assert export(tmp_path / "old", name) == EXIT_DONE
    assert b"<Word" not in find_file(tmp_path / "old", "p1.xml").read_bytes()
    assert b'class="ocrx_word"' not in find_file(tmp_path / "old", "1.hocr").read_bytes()


@pytest.mark.parametrize(("width", "is_known"), [(100, True), (99, False)])
def test_hocr_of_a_page_in_millimetres_is_in_pixels_or_without_places(pages, tmp_path, width, is_known):
    """The size of the image is known where a line cut from it has the size that was read."""
    page_file = pages / "img" / "0.xml"
    page_file.write_text(page_file.read_text(encoding="utf-8").replace("pixel<", "mm10<"), encoding="utf-8")
    write_run(tmp_path / "work", [{**row, "width": width} for row in make_rows(pages)])
    assert export(tmp_path / "work", "hocr") == EXIT_DONE
    content = find_file(tmp_path / "work", "0.hocr").read_text(encoding="utf-8")
    left, top, right, bottom = (2 * side for side in parse_page_file(page_file.read_bytes()).lines[0].box)
    assert content.count(f"bbox {left:g} {top:g} {right:g} {bottom:g};") == is_known
    assert ("bbox" in content) == is_known


def test_hocr_has_a_file_for_each_page_and_one_for_each_folder_of_lines(workspace, pages, tmp_path):
    lines = tmp_path / "lines"
    lines.mkdir()
    words = [{"text": "A&B", "confidence": 0.5, "start": 1, "end": 20}]
    rows = [
        {"uri": f"{lines}/a.png", "text": "A&B", "words": words, "width": 50},
        {"uri": f"{lines}/b.png", "text": "zwei Worte", "confidence": 0.5},
        {"uri": f"{lines}/c.png", "text": "A&B", "words": words, "width": 29},  # may run from top to bottom
    ]
    write_run(workspace, rows, night=1)
    assert export(workspace, "hocr") == EXIT_DONE
    assert [Path(path).name for path in read_files(workspace, "hocr")] == ["lines.hocr", "0.hocr", "1.hocr"]
    root = ElementTree.fromstring(find_file(workspace, "0.hocr").read_bytes())
    (page,) = (e for e in root.iter() if e.get("class") == "ocr_page")
    image = pages / "img" / "0.png"
    width, height = Image.open(image).size
    assert page.get("title") == f'image "{image}"; bbox 0 0 {width} {height}; ppageno 0'
    assert ["".join(line.itertext()) for line in page] == [f"ab l{number}" for number in range(LINES)]
    left, top, right, bottom = (
        2 * side for side in parse_page_file((pages / "img" / "0.xml").read_bytes()).lines[0].box
    )
    assert page[0].get("title") == f"bbox {left:g} {top:g} {right:g} {bottom:g}; x_wconf 88"
    assert page[0][0].get("title") == f"bbox {left:g} {top:g} {left + 30:g} {bottom:g}; x_wconf 25"
    folder = ElementTree.fromstring(find_file(workspace, "lines.hocr").read_bytes())
    titles = [e.get("title") for e in folder.iter() if e.get("class", "").startswith("ocr")]
    assert titles == [
        f'image "{lines}/a.png"; bbox 0 0 50 30; ppageno 0',
        "bbox 0 0 50 30; x_wconf 88",
        "bbox 1 0 20 30; x_wconf 50",
        f'image "{lines}/b.png"; bbox 0 0 100 30; ppageno 1',
        "bbox 0 0 100 30; x_wconf 50",
        f'image "{lines}/c.png"; bbox 0 0 29 30; ppageno 2',
        "bbox 0 0 29 30; x_wconf 88",
    ]
    assert [e.text for e in folder.iter() if e.get("class") in ("ocrx_word", "ocr_line")] == [
        None,
        "A&B",
        "zwei Worte",
        "A&B",
    ]


def test_text_of_a_page_stands_in_the_order_of_its_file(workspace):
    assert export(workspace, "txt") == EXIT_DONE
    for number in range(2):
        expected = "".join(f"ab l{line}\n" for line in range(LINES))
        assert find_file(workspace, f"{number}.txt").read_text() == expected


@pytest.mark.parametrize("name", ["alto", "page", "hocr"])
def test_only_pages_with_a_newer_reading_are_written_again(workspace, pages, name, capsys):
    assert export(workspace, name) == EXIT_DONE
    before = list_states(workspace)
    assert export(workspace, name) == EXIT_DONE
    assert list_states(workspace) == before
    assert "nothing new to export" in capsys.readouterr().out
    uri = make_rows(pages)[-1 if name == "page" else 0]["uri"]
    write_run(workspace, [{"uri": uri, "text": "ganz neu"}], night=1)
    assert export(workspace, name) == EXIT_DONE
    assert f"1 file written, {int(name == 'hocr')} unchanged" in capsys.readouterr().out
    changed = [path for path, state in list_states(workspace).items() if before.get(path) != state]
    (file,) = (path for path in changed if "/_" not in path)
    content = Path(file).read_text()
    assert content.count("ganz neu") == 1
    assert content.count(">ab<" if name != "alto" else '"ab"') == LINES - 1


def change_page(pages: Path) -> None:
    path = pages / "xml" / "p1.xml"
    path.write_text(path.read_text().replace("alt", "anders"))


def remove_line(pages: Path) -> None:
    """Removes a line, as if the file had never had it: its size and time are what they were."""
    path = pages / "xml" / "p1.xml"
    time = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace('id="l3"', 'id="x3"'))
    os.utime(path, ns=(time, time))


def damage_page(pages: Path) -> None:
    path = pages / "xml" / "p1.xml"
    time, content = path.stat().st_mtime_ns, path.read_text()
    path.write_text(content.replace("</PcGts>", "<PcGts>>"))
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize(
    ("change", "reason", "count"),
    [
        (lambda pages: (pages / "xml" / "p1.xml").unlink(), "unreadable", LINES),
        (lambda pages: (pages / "img" / "1.png").unlink(), "unreadable", LINES),
        (change_page, "changed_since", LINES),
        (remove_line, "no_lines", 1),
        (damage_page, "damaged_page_file", LINES),
    ],
)
@pytest.mark.parametrize("name", ["page", "hocr", "txt"])
def test_what_cannot_be_exported_is_listed_and_tried_again(
    workspace, pages, tmp_path, change, reason, count, name, capsys
):
    kept = shutil.copytree(pages, tmp_path / "kept")
    change(pages)
    for _ in range(2):
        assert export(workspace, name) == EXIT_DONE
        assert f"{count} rejected ({count} {reason})" in capsys.readouterr().out
        rejects = read_rejects(workspace, name)
        assert [row["reason"] for row in rejects] == [reason] * count
        assert {row["step"] for row in rejects} == {"export"}
        manifest = read_manifest(workspace, name)
        assert manifest["rejects"] == {reason: count}
        assert manifest["exported"] + count + manifest["passed_over"] == manifest["readings"] == 2 * LINES
    shutil.rmtree(pages)
    shutil.copytree(kept, pages)
    assert export(workspace, name) == EXIT_DONE
    assert "none rejected" in capsys.readouterr().out
    assert read_rejects(workspace, name) == []


def test_a_page_that_cannot_be_exported_any_more_keeps_its_last_file(workspace, pages):
    assert export(workspace, "page") == EXIT_DONE
    before = read_files(workspace, "page")
    (pages / "xml" / "p1.xml").unlink()
    assert export(workspace, "page") == EXIT_DONE
    assert read_files(workspace, "page") == before


def test_a_text_that_xml_cannot_hold_is_rejected_and_the_rest_is_written(workspace, pages):
    uri = make_rows(pages)[-1]["uri"]
    write_run(workspace, [{"uri": uri, "text": "a\x0cb"}], night=1)
    for name in ("page", "hocr"):
        assert export(workspace, name) == EXIT_DONE
        assert [(row["uri"], row["reason"]) for row in read_rejects(workspace, name)] == [(uri, "not_in_xml")]
    assert "alt" in find_file(workspace, "p1.xml").read_text()


def test_a_night_with_a_model_is_exported(pages, tiny_model, tmp_path):
    workspace = make_workspace(tmp_path / "night", tiny_model)
    flags = (f"--infer_images={pages}", "--pages", "--steps=infer,export", "--format=alto")
    assert run_command(workspace, *flags) == EXIT_DONE
    manifest = json.loads((workspace / "export" / "alto" / "_manifest.json").read_text())
    assert (manifest["exported"], manifest["passed_over"], manifest["rejects"]) == (LINES, LINES, {})
    names = name_lines(parse_page_file((pages / "img" / "0.xml").read_bytes()))
    assert find_cut(names["l0"], (800, 800)).size == (50, 15)
    assert len(parse_page_file(find_file(workspace, "0.xml").read_bytes()).lines) == LINES
