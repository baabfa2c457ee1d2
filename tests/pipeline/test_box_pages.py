"""Pages with files of boxes, from ingest to export."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import duckdb
import pytest
from PIL import Image

from components.recogniser import load_recogniser
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from tests.commands import make_workspace, run_command
from tests.rendered_pages import LineOnPage, draw_page, write_corners, write_plates
from tests.results import read_dataset, read_texts
from tfrecords import DatasetManifest

LINES_OF_A_PAGE = 8
BOX_FILES = ("img/0.txt", "img/gt_1.txt", "box/2.txt")


@pytest.fixture(scope="module")
def pages(tiny_images, tmp_path_factory) -> Path:
    """Three pages with the 24 tiny images as lines, and a file of boxes for each: two with corners, one with plates."""
    folder = tmp_path_factory.mktemp("pages")
    images = sorted(tiny_images.glob("*.png"))
    for number, name in enumerate(BOX_FILES):
        some = images[number * LINES_OF_A_PAGE : (number + 1) * LINES_OF_A_PAGE]
        lines = [LineOnPage(Image.open(path), path.stem.partition("-")[2], "") for path in some]
        page = folder / "img" / f"{number}.png"
        boxes = draw_page(lines, page)
        if number < 2:
            write_corners(folder / name, lines, boxes)
        else:
            write_plates(folder / name, page, lines, boxes)
    return folder


def name_line(pages: Path, number: int) -> str:
    """The URI of a line by its number in all three pages."""
    page, line = divmod(number, LINES_OF_A_PAGE)
    named = ("0.txt", "gt_1.txt", "../box/2.txt")[page]
    return f"{pages}/img/{page}.png#txt={named}&line={line + 1}"


def test_lines_of_boxes_are_ingested_as_they_would_be_as_images_of_their_own(pages, tiny_images, tmp_path, capsys):
    assert run_command(tmp_path, f"--images={pages}", "--pages", "--steps=ingest", "--test_fraction=0") == EXIT_DONE
    assert "labels come from the ALTO, PAGE and box files, as --pages says" in capsys.readouterr().out
    flags = (f"--images={tiny_images}", "--label_source=sidecar", "--steps=ingest")
    assert run_command(tmp_path / "b", *flags) == EXIT_DONE
    found = {}
    for workspace in (tmp_path, tmp_path / "b"):
        manifest, found[workspace] = read_dataset(workspace)
        assert len(found[workspace]) == 24
        assert manifest.rejects == {}
    for number, image in enumerate(sorted(tiny_images.glob("*.png"))):
        text, pixels = found[tmp_path][name_line(pages, number)]
        expected, as_image = found[tmp_path / "b"][str(image)]
        assert text == expected
        assert (pixels == as_image).all()


def test_a_night_reads_boxes_with_texts_and_without_and_exports_what_has_a_place(
    pages, tiny_images, tiny_dataset, tiny_model, tmp_path, capsys
):
    workspace = make_workspace(tmp_path / "w", tiny_model, dataset=tiny_dataset)
    collection = tmp_path / "collection"
    shutil.copytree(pages, collection)
    box_file = collection / "img" / "0.txt"
    places = [",".join(line.split(",")[:8]) for line in box_file.read_text("utf-8-sig").splitlines()]
    box_file.write_text("\n".join([*places[:-1], f"{places[-1]},###"]))
    night = (f"--infer_images={collection}", "--pages", "--steps=infer")
    assert run_command(workspace, *night) == EXIT_DONE
    images = sorted(tiny_images.glob("*.png"))
    recognised = list(load_recogniser(str(tiny_model)).recognise(images))
    assert read_texts(workspace) == {
        name_line(collection, number): found.text for number, found in enumerate(recognised)
    }
    capsys.readouterr()
    assert run_command(workspace, *night) == EXIT_DONE
    assert "matched=24 skipped=24" in capsys.readouterr().out
    for name in ("txt", "hocr", "csv", "jsonl"):
        assert run_command(workspace, "--steps=export", f"--format={name}") == EXIT_DONE
    (text,) = (workspace / "export" / "txt").rglob("0.txt")
    assert text.read_text() == "".join(f"{found.text}\n" for found in recognised[:LINES_OF_A_PAGE])
    (hocr,) = (workspace / "export" / "hocr").rglob("1.hocr")
    left, top, *_ = (collection / "img" / "gt_1.txt").read_text("utf-8-sig").split(",")
    assert f'title="bbox {left} {top} ' in hocr.read_text()
    assert hocr.read_text().count('class="ocr_line"') == LINES_OF_A_PAGE
    capsys.readouterr()
    for name, kind in (("alto", "an ALTO"), ("page", "a PAGE")):
        assert run_command(workspace, "--steps=export", f"--format={name}") == EXIT_REFUSED
        error = capsys.readouterr().err
        assert f"none of the 24 readings is of a line of {kind} file" in error
        assert "take --format=hocr, txt, csv or jsonl" in error


def test_a_line_of_a_box_is_reviewed_and_its_correction_added(pages, tiny_dataset, tiny_model, tmp_path):
    workspace = make_workspace(tmp_path / "w", tiny_model, dataset=tiny_dataset)
    flags = (f"--infer_images={pages}", "--pages", "--steps=infer,review", "--review_count=20")
    assert run_command(workspace, *flags) == EXIT_DONE
    (table,) = workspace.glob("review/*/review.csv")
    assert table.with_name("review.html").read_text().count("<img src=") == 20
    with open(table, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"].strip() for row in rows} <= {name_line(pages, number) for number in range(24)}
    with open(tmp_path / "corrected.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "text": "1a"} for row in rows)
    corrections = (f"--label_source={tmp_path / 'corrected.csv'}", "--height=32", "--steps=ingest")
    assert run_command(workspace, *corrections) == EXIT_DONE
    folder = workspace / "datasets" / (workspace / "datasets" / "LATEST").read_text().strip()
    manifest = DatasetManifest.read(str(folder))
    assert (sum(manifest.counts.values()), manifest.rejects) == (44, {})


def test_boxes_are_rejects_with_the_reason_where_they_cannot_be_cut(pages, tiny_model, tmp_path):
    workspace = make_workspace(tmp_path / "w", tiny_model)
    collection = tmp_path / "collection"
    shutil.copytree(pages, collection)
    box_file = collection / "img" / "0.txt"
    lines = box_file.read_text("utf-8-sig").splitlines()
    lines[0] = "9000,1,9090,1,9090,9,9000,9,outside"
    lines[1] = "5,5,5,5,5,5,5,5,empty"
    lines[2] = "TOTAL"
    box_file.write_text("\n".join(lines), encoding="utf-8")
    (collection / "img" / "1.png").write_bytes((collection / "img" / "1.png").read_bytes()[:500])
    flags = ("--pages", "--steps=infer", "--max_reject_fraction=1")
    assert run_command(workspace, f"--infer_images={collection}", *flags) == EXIT_DONE
    query = f"select reason, count(*) from read_parquet('{workspace}/rejects/*/*/*.parquet') group by 1"
    assert dict(duckdb.sql(query).fetchall()) == {
        "outside_page": 1,
        "empty_outline": 1,
        "damaged_page_file": 1,
        "truncated": LINES_OF_A_PAGE,
    }
    assert len(read_texts(workspace)) == 24 - 3 - LINES_OF_A_PAGE


@pytest.mark.parametrize("place", ["{}.txt", "gt_{}.txt", "../box/{}.txt", "../gt/gt_img_{}.txt"])
@pytest.mark.parametrize("plates", [False, True])
def test_files_of_boxes_are_no_labels_without_the_flag(place, plates, tiny_images, tmp_path, capsys):
    for number, path in enumerate(sorted(tiny_images.glob("*.png"))[:6]):
        lines = [LineOnPage(Image.open(path), "AB12", "")] * (1 if plates else 2)
        name = f"img_{number}" if "img" in place else f"Xk{number}"
        page = tmp_path / "set" / "images" / f"{name}.png"
        boxes, box_file = draw_page(lines, page), page.parent / place.format(str(number) if "img" in place else name)
        if plates:
            write_plates(box_file, page, lines, boxes)
        else:
            write_corners(box_file, lines, boxes)
    assert run_command(tmp_path / "w", f"--images={tmp_path / 'set' / 'images'}", "--steps=ingest") == EXIT_REFUSED
    error = capsys.readouterr().err
    assert "is a file of boxes: if the images are pages, whose lines and texts such files give, say --pages" in error
    flags = (f"--images={tmp_path / 'set'}", "--pages", "--steps=ingest")
    assert run_command(tmp_path / "w", *flags) == EXIT_DONE


def test_a_night_without_the_flag_warns_if_files_of_boxes_lie_beside_the_images(pages, tiny_model, tmp_path, capsys):
    workspace = make_workspace(tmp_path / "w", tiny_model)
    assert run_command(workspace, f"--infer_images={pages}/img", "--steps=infer", "--alarm_confidence=0") == EXIT_DONE
    assert f"{pages}/img/0.txt is a file of boxes: if the images are pages" in capsys.readouterr().out
