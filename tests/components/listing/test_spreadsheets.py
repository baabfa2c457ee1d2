"""Spreadsheets of every format: .xlsx, .xls and .ods, without headers, and made to do harm."""

from __future__ import annotations

import random
import resource
import time
import uuid

import pytest

from components.listing import spreadsheets
from components.listing.table_rows import TableRow
from components.listing.tables import TableColumns, describe_label_table, is_review_table
from tests.components.listing.files import (
    make_old_spreadsheet,
    write_old_spreadsheet,
    write_open_document,
    write_spreadsheet,
)
from tests.components.listing.label_rows import pairs, refusal, rows
from tfrecords import DataError, storage

WRITERS = {".xlsx": write_spreadsheet, ".xls": write_old_spreadsheet, ".ods": write_open_document}
HEADER = ["file name", "text"]


@pytest.fixture(params=WRITERS)
def kind(request) -> str:
    return request.param


def write(kind: str, path: object, **sheets: list) -> str:
    return WRITERS[kind](f"{path}{kind}", **sheets)


def test_every_format_gives_the_rows_of_the_first_sheet_with_such_columns(tmp_path, kind):
    lines = [["Lines of the archive"], [], HEADER, ["a.png", "Größe <5>"], [], ["b.png", " x, y "]]
    table = write(
        kind, tmp_path / "labels", Notes=[["path", "remark"]], Lines=lines, More=[["path", "text"], ["c", "d"]]
    )
    assert rows(table) == [
        TableRow(f"row 4 of sheet 'Lines' of {table}", "a.png", "Größe <5>", None, None),
        TableRow(f"row 6 of sheet 'Lines' of {table}", "b.png", " x, y ", None, None),
    ]


def test_a_whole_number_is_a_text_and_another_number_a_damaged_row(tmp_path, kind):
    lines = [HEADER, ["a.png", 12345], ["b.png", 12345.0], ["c.png", "0071"], ["d.png", 12.5], ["e.png", None]]
    table = write(kind, tmp_path / "labels", Lines=lines)
    assert [(row.path, row.text, row.problem) for row in rows(table)] == [
        ("a.png", "12345", None),
        ("b.png", "12345", None),
        ("c.png", "0071", None),
        (None, None, "'text' is a floating-point number: write it as a string"),
        ("e.png", "", None),
    ]


def test_a_sheet_without_a_header_is_read_as_a_list_without_one_is(tmp_path, kind):
    lines = [["a.png", "one"], [], ["sub/b.JPG", "two, three"], ["c.tif", 4]]
    table = write(kind, tmp_path / "labels", Notes=[["remark"], ["x"]], Lines=lines)
    assert pairs(table) == [("a.png", "one"), ("sub/b.JPG", "two, three"), ("c.tif", "4")]
    assert describe_label_table(table, TableColumns()) == (
        "has no header: column 1 is read as the path, and column 2 as the text"
    )
    assert rows(table)[1].place == f"row 3 of sheet 'Lines' of {table}"
    table = write(kind, tmp_path / "more", Lines=[[7, "one", "a.png", "train"], [8, "two", "b.png", "test"]])
    assert pairs(table) == [("a.png", "one"), ("b.png", "two")]
    assert rows(table, group="4")[1].group == "test"
    table = write(kind, tmp_path / "unclear", Lines=[["a.png", "one", "zwei"], ["b.png", "eins", "two"]])
    assert "3 columns without names, and it is not clear which holds the text" in refusal(table)
    assert pairs(table, text="3") == [("a.png", "zwei"), ("b.png", "two")]


def test_a_sheet_of_which_a_column_is_named_wrongly_is_still_refused(tmp_path, kind):
    table = write(kind, tmp_path / "labels", Lines=[["a.png", "one"], ["b.png", "two"]])
    assert "has no path column: its first row has 'a.png', 'one'" in refusal(table, text="words")
    table = write(kind, tmp_path / "other", Lines=[["path", "size"], ["a.png", 3], ["b.png", 4]])
    assert "has no text column" in refusal(table)
    assert "has no path column" in refusal(write(kind, tmp_path / "third", Lines=[["one", "two"], ["three", "four"]]))


def test_a_table_with_a_header_is_not_described(tmp_path, kind):
    table = write(kind, tmp_path / "labels", Lines=[HEADER, ["a.png", "x"]])
    assert describe_label_table(table, TableColumns()) is None


def test_a_review_table_is_known_in_every_format(tmp_path, kind):
    header = ["path", "text", "dataset", "model_id", "run_id"]
    table = write(
        kind, tmp_path / "review", Lines=[header, ["a.png", "x", "d", "m", "r"], ["b.png", None, "d", "m", "r"]]
    )
    assert is_review_table(table)
    assert pairs(table) == [("a.png", "x")]
    assert not is_review_table(write(kind, tmp_path / "labels", Lines=[HEADER, ["a.png", "x"]]))


def test_every_format_is_read_by_url(tmp_path, kind):
    table = write(kind, tmp_path / "labels", Lines=[HEADER, ["a.png", "x"]])
    folder = f"memory://{uuid.uuid4().hex}"
    with open(table, "rb") as file:
        storage.write_bytes(f"{folder}/labels{kind}", file.read())
    assert pairs(f"{folder}/labels{kind}") == [("a.png", "x")]
    storage.remove_folder(folder)


@pytest.mark.parametrize("content", [b"", b"path,text\na.png,x\n", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"])
def test_what_is_no_spreadsheet_is_refused(tmp_path, kind, content):
    (tmp_path / f"labels{kind}").write_bytes(content)
    message = refusal(f"{tmp_path}/labels{kind}")
    assert f"is no {kind} file" in message
    assert "save it again, or as .csv" in message


def test_an_empty_one_is_refused(tmp_path, kind):
    assert "is empty" in refusal(write(kind, tmp_path / "labels", Lines=[]))
    assert "has no rows" in refusal(write(kind, tmp_path / "other", Lines=[HEADER]))


def test_a_damaged_one_gives_rows_or_a_clear_error(tmp_path, kind):
    table = write(kind, tmp_path / "labels", Lines=[HEADER, ["a.png", "x"], ["b.png", 7]])
    with open(table, "rb") as file:
        whole = file.read()
    chance, outcomes = random.Random(1), set()
    for _ in range(25):
        damaged = bytearray(whole)
        for place in (chance.randrange(len(whole)) for _ in range(chance.randint(1, 40))):
            damaged[place] = chance.randrange(256)
        with open(table, "wb") as file:
            file.write(damaged[: chance.choice([len(whole), chance.randrange(len(whole))])])
        try:
            assert all((row.path is None) == (row.problem is not None) for row in rows(table))
            outcomes.add("rows")
        except DataError:
            outcomes.add("refused")
    assert "refused" in outcomes


def make_bombs() -> dict[str, bytes | str]:
    cell = '<table:table-cell table:number-columns-repeated="16384" office:value-type="string"><text:p>x</text:p>'
    row = f'<table:table-row table:number-rows-repeated="1048576">{cell}</table:table-cell></table:table-row>'
    return {
        "far away.xls": make_old_spreadsheet({"Lines": [(0, 0, "path"), (0, 1, "text"), (65535, 65535, "x")]}),
        "repeated.ods": row,
        "repeated many times.ods": row * 100,
    }


@pytest.mark.parametrize("name", ["far away.xls", "repeated.ods", "repeated many times.ods"])
def test_one_that_is_made_to_take_memory_or_time_is_refused(tmp_path, name):
    bomb = make_bombs()[name]
    if isinstance(bomb, str):
        write_open_document(f"{tmp_path}/{name}", Lines=bomb)
    else:
        (tmp_path / name).write_bytes(bomb)
    del bomb
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    message = refusal(f"{tmp_path}/{name}")
    assert "save it" in message
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, spreadsheets.MAX_MEMORY // 1024)


def test_an_ods_file_that_unpacks_to_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch):
    table = write_open_document(f"{tmp_path}/labels.ods", Lines=[HEADER, ["a.png", "x" * 2_000_000]])
    assert len(pairs(table)) == 1
    monkeypatch.setattr(spreadsheets, "_MAX_UNPACKED_BYTES", 1_000_000)
    assert "unpacked, and 20,000,000 cells): save it as .csv" in refusal(table)


def test_a_sheet_with_a_header_counts_more_than_one_without(tmp_path, kind):
    table = write(kind, tmp_path / "labels", Old=[["a.png", "old"], ["b.png", "older"]], Lines=[HEADER, ["a.png", "x"]])
    assert pairs(table) == [("a.png", "x")]
