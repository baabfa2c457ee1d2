"""Spreadsheets and Parquet files with labels."""

import datetime
import os
import random
import tracemalloc
import uuid
import zipfile
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from components.listing import spreadsheets
from components.listing.table_rows import TableRow
from components.listing.tables import TableColumns, read_label_table
from tests.components.listing.files import write_spreadsheet
from tests.components.listing.label_rows import pairs, refusal, rows
from tfrecords import DataError, storage


def write_parquet(path: str, /, **columns: Any) -> str:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=1_000)
    return path


# Spreadsheets


def test_the_first_sheet_with_such_columns_is_read(tmp_path):
    table = write_spreadsheet(
        f"{tmp_path}/labels.xlsx",
        Notes=[["a note"], ["path", "remark"]],
        Empty=[],
        Lines=[[], [None, "File name", "Words"], [None, "a.png", "Größe <5>"], [], [None, "b.png", " x "]],
        More=[["path", "text"], ["c.png", "no"]],
    )
    assert rows(table) == [
        TableRow(f"row 3 of sheet 'Lines' of {table}", "a.png", "Größe <5>", None, None),
        TableRow(f"row 5 of sheet 'Lines' of {table}", "b.png", " x ", None, None),
    ]


def test_a_title_may_stand_above_the_header(tmp_path):
    title = [["Lines of the archive"], [], ["2026", "A. Smith"]]
    table = write_spreadsheet(f"{tmp_path}/labels.xlsx", Lines=[*title, ["Nr", "file", "text"], [1, "a.png", "x"]])
    assert rows(table) == [TableRow(f"row 5 of sheet 'Lines' of {table}", "a.png", "x", None, None)]
    table = write_spreadsheet(f"{tmp_path}/other.xlsx", Lines=[["a note"], ["file", "size"]], More=[["x"]])
    assert "sheet 'Lines' of " in refusal(table)


def test_a_whole_number_in_a_cell_is_a_text_and_another_number_a_damaged_row(tmp_path):
    table = write_spreadsheet(
        f"{tmp_path}/labels.xlsx",
        Lines=[
            ["image_id", "text"],
            ["a.png", 12],
            [7, "x"],
            ["b.png", 12.5],
            ["c.png", 1e17],
            ["d.png", None],
            [None, "y"],
        ],
    )
    assert [(row.path, row.text, row.problem) for row in rows(table)] == [
        ("a.png", "12", None),
        ("7", "x", None),
        (None, None, "'text' is a floating-point number: write it as a string"),
        (None, None, "'text' is a floating-point number: write it as a string"),
        ("d.png", "", None),
        (None, None, "no path"),
    ]


def test_columns_of_a_spreadsheet_can_be_named(tmp_path):
    table = write_spreadsheet(f"{tmp_path}/labels.xlsx", Lines=[["scan", "line", "page"], ["a.png", "x", 3]])
    assert pairs(table, path="scan", text="line") == [("a.png", "x")]
    assert rows(table, path="scan", text="line", group="page")[0].group == "3"
    assert "sheet 'Lines' of " in refusal(table)
    assert "has no path column: its first row has 'scan', 'line', 'page'" in refusal(table)


def test_a_spreadsheet_without_rows_is_refused(tmp_path):
    assert "has no rows" in refusal(write_spreadsheet(f"{tmp_path}/a.xlsx", Lines=[["path", "text"]]))
    assert "is empty" in refusal(write_spreadsheet(f"{tmp_path}/b.xlsx", Lines=[]))


@pytest.mark.parametrize(
    "content", [b"", b"path,text\na.png,x\n", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 100]
)
def test_what_is_no_spreadsheet_is_refused(tmp_path, content):
    (tmp_path / "labels.xlsx").write_bytes(content)
    assert "is no .xlsx file" in refusal(f"{tmp_path}/labels.xlsx")


def test_a_spreadsheet_that_is_too_large_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    table = write_spreadsheet(f"{tmp_path}/labels.xlsx", Lines=[["path", "text"], ["a.png", "x" * 100_000]])
    assert len(pairs(table)) == 1
    monkeypatch.setattr(spreadsheets, "_MAX_UNPACKED_BYTES", 100_000)
    assert "save it as .csv" in refusal(table)
    monkeypatch.undo()
    monkeypatch.setattr(spreadsheets, "MAX_BYTES", os.path.getsize(table) - 1)
    assert "save it as .csv" in refusal(table)


@pytest.mark.parametrize("place", ["XFD1048576", "A900000000", "ZZZZ9000", "xfd1048576", "4000000000"])
def test_a_spreadsheet_with_a_cell_far_away_is_refused_before_it_takes_memory(tmp_path, place):
    table = write_spreadsheet(f"{tmp_path}/labels.xlsx", Lines=[["path", "text"], ["a.png", "x"]])
    with zipfile.ZipFile(table) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["xl/worksheets/1.xml"] = parts["xl/worksheets/1.xml"].replace(b'r="B2"', f'r="{place}"'.encode())
    with zipfile.ZipFile(table, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    assert "20,000,000 cells): save it as .csv" in refusal(table)


def test_a_damaged_spreadsheet_gives_rows_or_a_clear_error(tmp_path):
    table = write_spreadsheet(f"{tmp_path}/labels.xlsx", Lines=[["path", "text"], ["a.png", "x"], ["b.png", 7]])
    whole = (tmp_path / "labels.xlsx").read_bytes()
    chance = random.Random(1)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in (chance.randrange(len(whole)) for _ in range(chance.randint(1, 4))):
            damaged[place] = chance.randrange(256)
        (tmp_path / "labels.xlsx").write_bytes(damaged[: chance.choice([len(whole), chance.randrange(len(whole))])])
        try:
            assert all((row.path is None) == (row.problem is not None) for row in rows(table))
        except DataError:
            continue


def test_whole_tables_are_read_by_url(tmp_path):
    write_spreadsheet(f"{tmp_path}/l.xlsx", Lines=[["path", "text"], ["a.png", "x"]])
    write_parquet(f"{tmp_path}/l.parquet", path=["a.png"], text=["x"])
    (tmp_path / "l.json").write_text('{"a.png": "x"}')
    folder = f"memory://{uuid.uuid4().hex}"
    for name in ("l.xlsx", "l.parquet", "l.json"):
        storage.write_bytes(f"{folder}/{name}", (tmp_path / name).read_bytes())
        assert pairs(f"{folder}/{name}") == [("a.png", "x")]
    storage.remove_folder(folder)


# Parquet


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())]
)
def test_the_paths_and_texts_of_a_parquet_file_are_read(tmp_path, kind):
    texts = pyarrow.array(["Größe 5", "", "x"], pyarrow.string()).cast(kind)
    table = write_parquet(
        f"{tmp_path}/l.parquet", score=[0.5, 1, 2], file_name=["a.png", "b.png", "c.png"], words=texts
    )
    assert pairs(table) == [("a.png", "Größe 5"), ("b.png", ""), ("c.png", "x")]
    assert rows(table)[2].place == f"row 3 of {table}"
    first = rows(table, path="words", text="file_name")[0]
    assert (first.path, first.text) == ("Größe 5", "a.png")


def test_values_that_are_no_texts_are_damaged_rows(tmp_path):
    table = write_parquet(f"{tmp_path}/l.parquet", id=[1, None], label=[12, 13])
    assert [(row.path, row.text, row.problem) for row in rows(table)] == [
        ("1", "12", None),
        (None, None, "'id' is null: write it as a string"),
    ]
    table = write_parquet(f"{tmp_path}/l.parquet", path=["a.png"], text=[datetime.date(2026, 1, 1)])
    assert rows(table)[0].problem == "'text' is a date: write it as a string"


@pytest.mark.parametrize(
    "images", [[{"bytes": b"\x89PNG", "path": "a.png"}], [b"\x89PNG"]], ids=["bytes and path", "bytes"]
)
def test_a_parquet_file_with_the_images_inside_is_refused(tmp_path, images):
    table = write_parquet(f"{tmp_path}/train-00000-of-00001.parquet", image=images, text=["x"])
    assert "holds the images themselves, in the column 'image': give it as --images" in refusal(table)


def test_a_parquet_file_without_such_columns_or_rows_is_refused(tmp_path):
    assert "has no text column: its schema has 'path', 'size'" in refusal(
        write_parquet(f"{tmp_path}/l.parquet", path=["a.png"], size=[1])
    )
    table = write_parquet(f"{tmp_path}/l.parquet", path=pyarrow.array([], "string"), text=pyarrow.array([], "string"))
    assert "has no rows" in refusal(table)


def test_a_damaged_parquet_file_gives_rows_or_a_clear_error(tmp_path):
    table = write_parquet(f"{tmp_path}/l.parquet", path=["a.png", "b.png"], text=["x", "y"])
    whole = (tmp_path / "l.parquet").read_bytes()
    for content in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2], whole[:20] + whole[40:]):
        (tmp_path / "l.parquet").write_bytes(content)
        assert "is no Parquet file that can be read" in refusal(table)


def test_memory_does_not_grow_with_a_parquet_file(tmp_path):
    count = 100_000
    names = pyarrow.array([f"{number}.png" for number in range(count)])
    table = write_parquet(f"{tmp_path}/l.parquet", path=names, text=names)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_label_table(table, TableColumns())) == count
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
