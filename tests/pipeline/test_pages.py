"""Pages with ALTO and PAGE files, from ingest to corrections."""

from __future__ import annotations

import csv
import os
import re
import shutil
from pathlib import Path

import duckdb
import pytest
from PIL import Image

from components.listing.line_places import LinePlace
from components.page_images import read_line_of_page
from components.recogniser import load_recogniser
from pipeline.exits import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE
from tests.commands import make_workspace, run_command
from tests.rendered_pages import LineOnPage, draw_page, write_alto, write_page_xml
from tests.results import read_dataset, read_texts
from tfrecords import DatasetManifest, ImageLimits, ImageRejected

LINES_OF_A_PAGE = 8


@pytest.fixture(scope="module")
def pages(tiny_images, tmp_path_factory) -> Path:
    """Three pages with the 24 tiny images as lines: one with ALTO beside it, two with PAGE in another folder."""
    folder = tmp_path_factory.mktemp("pages")
    images = sorted(tiny_images.glob("*.png"))
    for number in range(3):
        some = images[number * LINES_OF_A_PAGE : (number + 1) * LINES_OF_A_PAGE]
        lines = [
            LineOnPage(Image.open(path), path.stem.partition("-")[2], f"l{i}", ("main" if i else "head",))
            for i, path in enumerate(some)
        ]
        page = folder / "img" / f"{number}.png"
        boxes = draw_page(lines, page)
        if number == 0:
            write_alto(folder / "img" / "0.xml", page, lines, boxes, scale=2)
        else:
            write_page_xml(folder / "page" / f"p{number}.xml", page, lines, boxes)
    return folder


def name_line(pages: Path, number: int) -> str:
    """The URI of a line by its number in all three pages."""
    page, line = divmod(number, LINES_OF_A_PAGE)
    xml = "" if page == 0 else f"xml=../page/p{page}.xml&"
    return f"{pages}/img/{page}.png#{xml}line=l{line}"


def test_lines_of_pages_are_ingested_as_they_would_be_as_images_of_their_own(pages, tiny_images, tmp_path, capsys):
    assert run_command(tmp_path, f"--images={pages}", "--pages", "--steps=ingest", "--test_fraction=0") == EXIT_DONE
    assert "labels come from the ALTO, PAGE and box files, as --pages says" in capsys.readouterr().out
    assert (
        run_command(tmp_path / "b", f"--images={tiny_images}", "--label_source=sidecar", "--steps=ingest") == EXIT_DONE
    )
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


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_page_that_its_metadata_turn_is_turned_once(pages, tmp_path, orientation):
    """The page file is about the page as a viewer shows it."""
    turned = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    page = Image.open(pages / "img" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = page if turned is None else page.transpose(turned)
    stored.save(tmp_path / "0.png", exif=exif)
    shutil.copy(pages / "img" / "0.xml", tmp_path / "0.xml")
    for number in (0, 3):
        place = LinePlace(str(tmp_path / "0.png"), str(tmp_path / "0.xml"), f"l{number}")
        expected = LinePlace(str(pages / "img" / "0.png"), str(pages / "img" / "0.xml"), f"l{number}")
        lines = [read_line_of_page(each, 32, ImageLimits()).pixels for each in (place, expected)]
        assert (lines[0] == lines[1]).all()


def test_places_in_millimetres_lead_to_the_same_pixels(pages, tmp_path):
    """The size of the page in the same unit tells how many of these are a pixel: here two."""
    content = (pages / "img" / "0.xml").read_text(encoding="utf-8")
    (tmp_path / "0.xml").write_text(content.replace("pixel<", "mm10<"), encoding="utf-8")
    for number in range(LINES_OF_A_PAGE):
        files = [str(folder / "0.xml") for folder in (tmp_path, pages / "img")]
        places = [LinePlace(str(pages / "img" / "0.png"), file, f"l{number}") for file in files]
        lines = [read_line_of_page(place, 32, ImageLimits()).pixels for place in places]
        assert (lines[0] == lines[1]).all()


def test_every_night_reads_the_lines_that_are_new(pages, tiny_images, tiny_dataset, tiny_model, tmp_path, capsys):
    workspace = make_workspace(tmp_path / "w", tiny_model, dataset=tiny_dataset)
    other = make_workspace(tmp_path / "other", tiny_model)
    collection = tmp_path / "collection"
    shutil.copytree(pages, collection)
    night = (f"--infer_images={collection}", "--pages", "--steps=infer")
    assert run_command(workspace, *night) == EXIT_DONE
    assert run_command(other, f"--infer_images={tiny_images}/*.png", "--steps=infer") == EXIT_DONE
    texts, as_images = read_texts(workspace), read_texts(other)
    assert texts == {
        name_line(collection, number): as_images[str(image)]
        for number, image in enumerate(sorted(tiny_images.glob("*.png")))
    }
    capsys.readouterr()
    assert run_command(workspace, *night) == EXIT_DONE
    assert "matched=24 skipped=24" in capsys.readouterr().out
    os.utime(collection / "page" / "p1.xml", (1e9, 2e9))  # corrected by hand: its lines may lie elsewhere
    assert run_command(workspace, *night) == EXIT_DONE
    assert re.search("matched=24 skipped=16 .*rejected=0 read=8", capsys.readouterr().out)


def test_a_line_of_a_page_is_reviewed_and_its_correction_added(pages, tiny_dataset, tiny_model, tmp_path, capsys):
    workspace = make_workspace(tmp_path / "w", tiny_model, dataset=tiny_dataset)
    flags = (f"--infer_images={pages}", "--pages", "--steps=infer,review", "--review_count=20")
    assert run_command(workspace, *flags) == EXIT_DONE
    (table,) = workspace.glob("review/*/review.csv")
    assert table.with_name("review.html").read_text().count("<img src=") == 20
    with open(table, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"].strip() for row in rows} <= {name_line(pages, number) for number in range(24)}
    for row in rows:
        row["text"] = "1a"
    with open(tmp_path / "corrected.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    corrections = (f"--label_source={tmp_path / 'corrected.csv'}", "--height=32", "--steps=ingest")
    assert run_command(workspace, *corrections) == EXIT_DONE
    folder = workspace / "datasets" / (workspace / "datasets" / "LATEST").read_text().strip()
    manifest = DatasetManifest.read(str(folder))
    assert (sum(manifest.counts.values()), manifest.rejects) == (44, {})


def test_pages_that_cannot_be_cut_are_rejects_with_the_reason(pages, tiny_model, tmp_path):
    workspace = make_workspace(tmp_path / "w", tiny_model)
    collection = tmp_path / "collection"
    shutil.copytree(pages, collection)
    page = Image.open(collection / "img" / "1.png")
    page.resize((page.width, page.height * 2)).save(collection / "img" / "1.png")
    (collection / "img" / "2.png").write_bytes((collection / "img" / "2.png").read_bytes()[:500])
    shutil.copy(collection / "img" / "0.png", collection / "img" / "3.png")
    flags = ("--pages", "--steps=infer", "--max_reject_fraction=1")
    assert run_command(workspace, f"--infer_images={collection}", *flags) == EXIT_DONE
    rejects = duckdb.sql(
        f"select reason, uri, detail from read_parquet('{workspace}/rejects/*/*/*.parquet')"
    ).fetchall()
    assert sorted({reason for reason, _, _ in rejects}) == ["no_page_file", "other_size", "truncated"]
    assert len(rejects) == 17
    assert len(read_texts(workspace)) == 8
    assert any(uri == f"{collection}/img/3.png" for _, uri, _ in rejects)
    (report,) = workspace.glob("runs/*.html")
    assert "no_page_file" in report.read_text()


def test_the_types_of_lines_are_chosen_by_a_flag(pages, tmp_path, capsys):
    flags = (f"--images={pages}/img", "--pages", "--steps=ingest", "--test_fraction=0", "--validation_fraction=0")
    assert run_command(tmp_path, *flags, "--line_types=main", "--max_reject_fraction=1") == EXIT_DONE
    (manifest,) = tmp_path.glob("datasets/*/manifest.json")
    read = DatasetManifest.read(str(manifest.parent))
    assert read.counts["train"] == 7
    assert read.rejects == {"no_page_file": 2}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--pages", "--label_source=sidecar", "--steps=ingest"), "leave out --label_source=sidecar"),
        (("--line_types=main", "--steps=ingest"), "--line_types=main is for pages: add --pages"),
        (("--pages", "--infer_images=x.csv", "--steps=infer"), "--infer_images=x.csv has a table"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, said, tmp_path, capsys):
    assert run_command(tmp_path, *flags) == EXIT_USAGE
    assert said in capsys.readouterr().err


def test_a_night_without_the_flag_warns_if_page_files_lie_beside_the_images(pages, tiny_model, tmp_path, capsys):
    workspace = make_workspace(tmp_path / "w", tiny_model)
    assert run_command(workspace, f"--infer_images={pages}/img", "--steps=infer", "--alarm_confidence=0") == EXIT_DONE
    assert f"{pages}/img/0.xml is an ALTO or PAGE file: if the images are pages" in capsys.readouterr().out


def test_pages_without_the_flag_are_refused_with_the_flag_named(pages, tmp_path, capsys):
    assert run_command(tmp_path, f"--images={pages}", "--steps=ingest") == EXIT_REFUSED
    assert "--pages" in capsys.readouterr().err


def test_a_line_of_a_page_is_recognised_from_python_by_its_uri(pages, tiny_images, tiny_model):
    recogniser = load_recogniser(str(tiny_model))
    images = sorted(tiny_images.glob("*.png"))
    for number in (0, 9):
        (by_uri,) = recogniser.recognise([name_line(pages, number)])
        (as_image,) = recogniser.recognise([images[number]])
        assert by_uri.text == as_image.text
    with pytest.raises(ImageRejected, match="has no line 'l99' any more"):
        list(recogniser.recognise([f"{pages}/img/0.png#line=l99"]))


def test_lines_of_few_pages_are_dealt_to_all_splits_with_a_warning_unless_it_is_said_how(pages, tmp_path, capsys):
    flags = (f"--images={pages}", "--pages", "--steps=ingest")
    assert run_command(tmp_path / "a", *flags, "--split_by=page") == EXIT_DONE
    assert "few pages" not in capsys.readouterr().out
    (manifest,) = (tmp_path / "a").glob("datasets/*/manifest.json")
    assert set(DatasetManifest.read(str(manifest.parent)).counts.values()) <= {0, 8, 16, 24}
    assert run_command(tmp_path / "b", *flags, "--validation_fraction=0.3", "--test_fraction=0.3") == EXIT_DONE
    assert "each line is split by itself, and the evaluation will look better" in capsys.readouterr().out
    (manifest,) = (tmp_path / "b").glob("datasets/*/manifest.json")
    counts = DatasetManifest.read(str(manifest.parent)).counts
    assert all(counts.values())
    assert sum(counts.values()) == 24


def test_page_files_in_a_folder_below_the_images_are_noticed_without_the_flag(tiny_images, tmp_path, capsys):
    for number, path in enumerate(sorted(tiny_images.glob("*.png"))[:12]):
        lines = [LineOnPage(Image.open(path), "text", "l1")]
        page = tmp_path / "book" / f"{number}-ab{number}.png"
        write_page_xml(tmp_path / "book" / "page" / f"{page.stem}.xml", page, lines, draw_page(lines, page))
    assert run_command(tmp_path / "w", f"--images={tmp_path / 'book'}", "--steps=ingest") == EXIT_REFUSED
    assert "say --pages" in capsys.readouterr().err
