"""The review table: what is written into it comes back, by way of editors too."""

import csv
import os
import pathlib

import pytest

from components.listing import LabelRules, PathTables, list_table, path_to_uri, write_listing
from components.listing.joining import join_labels, read_label_rows
from components.listing.listing import read_listing
from components.listing.tables import TableColumns, read_label_table, read_reviewed_table
from components.review.table import ReviewRow, format_table
from tests.components.listing.files import write_spreadsheet
from tfrecords import SplitFractions, normalise_text

TEXTS = (
    *("=1+2", "+49 30", "-12", "@SUM(A1)", "007", "3-4", "1E5", "MAR1", "TRUE", "'tis", '"quoted"', "a,b;c\td"),
    *("'=1", "", "ﬁn ſ é", "שלום", '=HYPERLINK("http://x";"y")'),
)


def put(path: pathlib.Path, rows: list[tuple[str, str]], dataset_id: str = "0123456789ab") -> str:
    """A review table of `(uri, text)`."""
    split = [ReviewRow(uri, text, 0.5, text, ["other"], "r1", "123e45678901", dataset_id).split() for uri, text in rows]
    path.write_bytes(format_table(split).encode())
    return str(path)


def texts(table: str) -> list[str]:
    return [normalise_text(row.text or "") for row in read_label_table(table, TableColumns())]


def test_every_text_comes_back_as_it_was_read(tmp_path):
    table = put(tmp_path / "review.csv", [("/a.png", text) for text in TEXTS])
    assert texts(table) == [normalise_text(text) for text in TEXTS if text]


def test_no_cell_of_text_begins_with_what_a_spreadsheet_computes(tmp_path):
    table = put(tmp_path / "review.csv", [("/a.png", text) for text in TEXTS])
    content = pathlib.Path(table).read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(content.decode("utf-8-sig").splitlines(keepends=True)))
    assert len(rows) == len(TEXTS)
    for row, text in zip(rows, TEXTS, strict=True):
        assert row["text"] == row["read"] == ("\t" + text if text else "")
        assert row["model_id"] == "\t123e45678901"
        assert float(row["confidence"]) == 0.5


@pytest.mark.parametrize(
    ("encoding", "delimiter"), [("utf-8", ","), ("utf-8-sig", ";"), ("utf-8-sig", "\t"), ("utf-8", ";")]
)
def test_it_is_understood_as_an_editor_saves_it(tmp_path, encoding, delimiter):
    table = put(tmp_path / "review.csv", [(f"/{n}.png", text) for n, text in enumerate(TEXTS)])
    with open(table, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(table, "w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0])[::-1], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    assert texts(table) == [normalise_text(text) for text in TEXTS if text]
    found = read_reviewed_table(table, TableColumns())
    assert found is not None
    assert (found.datasets, found.rows, found.left_out) == (("0123456789ab",), len(TEXTS) - 1, 1)


def test_it_is_understood_if_a_person_saves_it_as_a_spreadsheet(tmp_path):
    table = put(tmp_path / "review.csv", [(f"/{n}.png", text) for n, text in enumerate(TEXTS)])
    with open(table, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    saved = write_spreadsheet(f"{tmp_path}/review.xlsx", review=rows)
    assert texts(saved) == [normalise_text(text) for text in TEXTS if text]
    found = read_reviewed_table(saved, TableColumns())
    assert found is not None
    assert (found.datasets, found.rows, found.left_out) == (("0123456789ab",), len(TEXTS) - 1, 1)


def test_another_table_is_no_review_and_keeps_its_empty_rows(tmp_path):
    for header in ("path,text,dataset", "path,text,model_id,run_id", "path,text"):
        table = tmp_path / "labels.csv"
        table.write_text(f"{header}\n" + "\n".join(f"{n}.png" + "," * header.count(",") for n in range(3)) + "\n")
        assert read_reviewed_table(str(table), TableColumns()) is None
        assert texts(str(table)) == ["", "", ""]


NAMES = (
    *("plain.png", "50%.png", "50%25.png", "a%20b.png", "a b.png", "é,;.png", "line\nbreak.png", ' quoted" .png '),
    *("=1+2.png", os.fsdecode(b"\xff\xe9.png"), os.fsdecode(b"%FF \xff.png"), "\ttab.png", "no\u00a0break "),
)


def test_any_local_name_leads_back_to_its_image(tmp_path):
    folder = tmp_path / "all images"
    folder.mkdir()
    paths = [str(folder / name) for name in NAMES]
    for path in paths:
        pathlib.Path(path).write_bytes(b"image")
    uris = [path_to_uri(path) for path in paths]
    table = put(tmp_path / "review.csv", [(uri, f"text {n}") for n, uri in enumerate(uris)])
    assert [reference.uri for reference in list_table(table, labels=TableColumns())] == uris

    rules, fractions = LabelRules("table", tables=(table,)), SplitFractions()
    listing, joined = str(tmp_path / "listing.parquet"), str(tmp_path / "joined.parquet")
    write_listing([table], listing, rules, fractions, tables=PathTables((table,), labels=TableColumns()))
    summary = join_labels(read_listing(listing), read_label_rows(0, rules), joined, rules, fractions)
    assert {reference.uri: reference.text for reference in read_listing(joined)} == {
        uri: f"text {n}" for n, uri in enumerate(uris)
    }
    assert summary.unused_labels == {}


def test_a_url_is_written_as_it_is(tmp_path):
    uris = ["gs://bucket/a%20b/=c.png", "gs://bucket/é d.png"]
    table = put(tmp_path / "review.csv", [(uri, "x") for uri in uris])
    assert [row.path for row in read_label_table(table, TableColumns())] == uris
    assert [row.uri for row in read_label_rows(0, LabelRules("table", tables=(table,)))] == uris
