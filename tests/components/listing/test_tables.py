"""Label tables as csv, pandas, json, Excel and people write them, read from a real disk and by URL."""

import csv
import itertools
import json
import os
import pathlib
import tracemalloc
import uuid

import pandas
import pytest

from components.listing.table_rows import IDENTIFIERS, TableRow
from components.listing.tables import (
    PATH_COLUMNS,
    RARE_PATH_COLUMNS,
    RARE_TEXT_COLUMNS,
    TEXT_COLUMNS,
    TableColumns,
    read_label_table,
    read_path_table,
)
from tests.components.listing.label_rows import pairs, refusal, rows
from tfrecords import DataError, storage

HARD_TEXTS = [
    "plain",
    '"quoted"',
    '"',
    '""',
    'a 5" pipe',
    "comma, semicolon; and 'apostrophe'",
    "日本語 é",
    "  spaces inside  it",
    "NaN",
    "null",
    "007",
    "1.10",
    "=1+1",
    "back\\slash",
    "two\u2028lines",
    "{}",
]


@pytest.fixture
def write(tmp_path):
    """Writes a table and returns its path; text becomes UTF-8, line ends stay as they are."""

    def write_table(content: str | bytes, name: str = "labels.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_table


def lines(read: list[TableRow]) -> list[int]:
    return [int(row.place.split()[1]) for row in read]


def problem(table: str, **columns: str) -> str:
    """What is wrong with the second of three rows; the others are good."""
    before, damaged, after = rows(table, **columns)
    assert before.problem is None
    assert after.problem is None
    assert (damaged.path, damaged.text, damaged.group) == (None, None, None)
    assert damaged.problem
    return damaged.problem


# Rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "path,text\na.png,one two\nb.png,\n"),
        ("labels.tsv", "path\ttext\na.png\tone two\nb.png\t\n"),
        ("labels.jsonl", '{"path": "a.png", "text": "one two"}\n{"path": "b.png", "text": ""}\n'),
        ("LABELS.CSV", "path,text\na.png,one two\nb.png,\n"),
    ],
)
def test_a_table_gives_place_path_and_text_of_each_row(write, name, content):
    table = write(content, name)
    first = 1 if name.endswith("jsonl") else 2
    assert rows(table) == [
        TableRow(f"row {first} of {table}", "a.png", "one two", None, None),
        TableRow(f"row {first + 1} of {table}", "b.png", "", None, None),
    ]


def test_white_space_around_a_path_goes_and_the_text_stays_raw(write):
    assert pairs(write("text\tpath\n a  b \t  c d.png  \n", "labels.tsv")) == [("c d.png", " a  b ")]


def test_the_last_line_needs_no_line_end(write):
    assert pairs(write("path,text\na.png,x")) == [("a.png", "x")]
    assert pairs(write("path\ttext\na.png\tx", "labels.tsv")) == [("a.png", "x")]
    assert pairs(write('{"path": "a.png", "text": "x"}', "labels.jsonl")) == [("a.png", "x")]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r\r\n"])
def test_lines_end_as_on_any_system(write, ending):
    table = write(f"path,text{ending}a.png,x{ending}b.png,y{ending}")
    assert pairs(table) == [("a.png", "x"), ("b.png", "y")]
    assert lines(rows(table)) == [2, 3]
    table = write(f"path\ttext{ending}a.png\tx{ending}", "labels.tsv")
    assert pairs(table) == [("a.png", "x")]
    table = write(f'{{"path": "a.png", "text": "x"}}{ending}', "labels.jsonl")
    assert pairs(table) == [("a.png", "x")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "\n \npath,text\n\na.png,x\n  \n,\nb.png,y\n\n"),
        ("labels.tsv", "\n \npath\ttext\n\na.png\tx\n  \n\t\nb.png\ty\n\n"),
        ("labels.jsonl", '\n \n\n\n{"path": "a.png", "text": "x"}\n  \n\t\n{"path": "b.png", "text": "y"}\n\n'),
    ],
)
def test_blank_lines_and_rows_of_empty_cells_are_skipped_and_counted_as_lines(write, name, content):
    read = rows(write(content, name))
    assert [(row.path, row.text) for row in read] == [("a.png", "x"), ("b.png", "y")]
    assert lines(read) == [5, 8]


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.jsonl"])
def test_a_row_with_an_empty_path_is_damaged(write, name):
    written = [("a.png", "x"), ("  ", "y"), ("c.png", "z")]
    if name == "labels.jsonl":
        content = "".join(json.dumps({"path": path, "text": text}) + "\n" for path, text in written)
    else:
        delimiter = "," if name == "labels.csv" else "\t"
        content = "".join(delimiter.join(row) + "\n" for row in [("path", "text"), *written])
    assert problem(write(content, name)) == "no path"


def test_the_group_is_read_from_the_column_that_is_named(write):
    table = write("path,text,Page No\na.png,x, 12 \nb.png,y,\n")
    assert [row.group for row in rows(table)] == [None, None]
    assert [row.group for row in rows(table, group="page_no")] == ["12", ""]
    table = write('{"path": "a.png", "text": "x", "page": 12}\n', "labels.jsonl")
    assert [row.group for row in rows(table, group="page")] == ["12"]


# Writers


def test_what_the_csv_module_writes_is_read_back(tmp_path):
    texts = [*HARD_TEXTS, "two\nlines", "two\r\nlines", "a\ttab", "carriage\rreturn", "x" * 100_000]
    for delimiter, quoting in itertools.product(",;\t", (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)):
        with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
            writer.writerow(["path", "text"])
            writer.writerows((f"{number},\"'; .png", text) for number, text in enumerate(texts))
        read = pairs(str(tmp_path / "labels.csv"))
        assert [path for path, _ in read] == [f"{number},\"'; .png" for number in range(len(texts))]
        # Labels lose white space at their ends in any case.
        assert [text.lstrip() for _, text in read] == [text.lstrip() for text in texts]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize(("name", "delimiter"), [("labels.csv", ","), ("labels.csv", ";"), ("labels.tsv", "\t")])
def test_what_pandas_writes_is_read_back(tmp_path, name, delimiter, index, quoting):
    frame = pandas.DataFrame({"file_name": [f"{number}.png" for number in range(len(HARD_TEXTS))], "text": HARD_TEXTS})
    frame.to_csv(tmp_path / name, sep=delimiter, index=index, quoting=quoting)
    read = pairs(str(tmp_path / name))
    # '""' is written by pandas as '""""""', which is unmistakable.
    assert [(path, text.lstrip()) for path, text in read] == [
        (path, text.lstrip()) for path, text in frame.itertuples(index=False)
    ]


def test_json_lines_of_pandas_and_of_json_are_read_back(tmp_path):
    written = [(f"{number}.png", text) for number, text in enumerate([*HARD_TEXTS, "two\nlines", "a\ttab"])]
    table = tmp_path / "labels.jsonl"
    pandas.DataFrame(written, columns=["path", "text"]).to_json(table, orient="records", lines=True)
    assert pairs(str(table)) == written
    for ascii_only in (False, True):
        table.write_text(
            "".join(json.dumps({"path": path, "text": text}, ensure_ascii=ascii_only) + "\n" for path, text in written),
            encoding="utf-8",
        )
        assert pairs(str(table)) == written


# Encoding


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "path,text\na.png,é\n"),
        ("labels.csv", '"path","text"\na.png,é\n'),
        ("labels.tsv", "path\ttext\na.png\té\n"),
        ("labels.tsv", '"path"\t"text"\n"a.png"\t"é"\n'),
        ("labels.jsonl", '{"path": "a.png", "text": "é"}\n'),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_table(write, name, content):
    assert pairs(write(content.encode("utf-8-sig"), name)) == [("a.png", "é")]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "path,text\na.png,x\nb.png,é\n"),
        ("labels.tsv", "path\ttext\na.png\tx\nb.png\té\n"),
        ("labels.jsonl", '{"path": "a.png", "text": "x"}\n\n{"path": "b.png", "text": "é"}\n'),
    ],
)
def test_a_table_in_another_encoding_is_refused_with_the_line(write, name, content, encoding):
    table = write(content.encode(encoding), name)
    assert refusal(table) == (
        f"line 3 of {table} is not UTF-8 (byte 0xE9): save the table as UTF-8, which Excel calls 'CSV UTF-8'"
    )


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("name", "delimiter"), [("labels.csv", ","), ("labels.tsv", "\t")])
def test_a_table_in_utf_16_without_a_byte_order_mark_is_refused(write, name, delimiter, encoding):
    content = f"path{delimiter}text\r\na.png{delimiter}x\r\n".encode(encoding)
    message = refusal(write(content, name))
    assert message.startswith("line 1 of ")
    assert "is not UTF-8" in message
    assert "save the table as UTF-8" in message


WIDE = ("utf-16-le", "utf-16-be")


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", 'path,text\r\na.png,"x, ""y"""\r\nü.png,Größe 😀\r\n'),
        ("labels.csv", 'path\ttext\r\na.png\t"x, ""y"""\r\nü.png\tGröße 😀\r\n'),  # Unicode text, renamed
        ("labels.txt", 'path\ttext\r\na.png\t"x, ""y"""\r\nü.png\tGröße 😀'),
        ("labels.tsv", 'path\ttext\na.png\tx, "y"\nü.png\tGröße 😀\n'),
        ("gt.txt", 'a.png\tx, "y"\nü.png\tGröße 😀\n'),
        ("labels.jsonl", '{"path": "a.png", "text": "x, \\"y\\""}\n{"path": "ü.png", "text": "Größe 😀"}\n'),
    ],
)
def test_a_table_in_utf_16_with_a_byte_order_mark_is_read(write, name, content, encoding):
    """Excel writes one as Unicode text."""
    table = write(f"\ufeff{content}".encode(encoding), name)
    assert pairs(table) == [("a.png", 'x, "y"'), ("ü.png", "Größe 😀")]


@pytest.mark.parametrize("encoding", WIDE)
def test_a_large_table_in_utf_16_is_read_with_its_lines_numbered(write, encoding):
    lines = [f"{number}.png\tGröße {number} 😀" for number in range(40_000)]
    table = write("\r\n".join(["\ufeffpath\ttext", *lines]).encode(encoding), "labels.tsv")
    read = rows(table)
    assert (len(read), read[-1].text) == (40_000, "Größe 39999 😀")
    assert read[-1].place == f"row 40001 of {table}"


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda content: content[:-1], 3),
        (lambda content: content + b"\0", 4),
        (lambda content: content[:40] + content[41:], 2),
    ],
    ids=["cut", "longer", "a byte missing"],
)
def test_a_damaged_table_in_utf_16_is_refused_with_the_line(write, encoding, damage, line):
    content = damage(
        "\ufeffpath,text\r\na.png,\U0001f600\U0001f600\U0001f600\U0001f600\r\nb.png,z\r\n".encode(encoding)
    )
    table = write(content, "labels.csv")
    assert refusal(table) == f"line {line} of {table} is damaged UTF-16: save the table as UTF-8"


# Files


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.jsonl"])
def test_a_missing_table_is_refused(tmp_path, name):
    table = str(tmp_path / name)
    assert refusal(table) == f"the table {table} does not exist: correct its path"
    assert "does not exist" in refusal(f"memory://nowhere/{name}")


def test_a_table_that_cannot_be_read_is_refused(tmp_path, write, monkeypatch):
    (tmp_path / "folder.csv").mkdir()
    assert "(Is a directory)" in refusal(str(tmp_path / "folder.csv"))

    def deny(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(storage, "open_to_read", deny)
    assert "(Permission denied): give it read access" in refusal(write("path,text\na.png,x\n"))


def test_a_table_of_another_kind_is_refused(write):
    assert "must end with one of .csv, .tsv, .jsonl" in refusal(write("path,text\na.png,x\n", "labels.doc"))


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.jsonl"])
@pytest.mark.parametrize("content", ["", "\ufeff", "\n\n  \r\n"])
def test_an_empty_table_is_refused(write, name, content):
    message = refusal(write(content, name))
    assert "is empty: begin the table with a header line" in message or "has no rows" in message or "no line" in message


@pytest.mark.parametrize(("name", "header"), [("labels.csv", "path,text"), ("labels.tsv", "path\ttext")])
@pytest.mark.parametrize("ending", ["", "\n", "\r\n\r\n"])
def test_a_table_that_is_only_a_header_is_refused(write, name, header, ending):
    assert "has no rows: write a row for each image" in refusal(write(header + ending, name))


def test_tables_are_read_by_url(write):
    table = f"memory://{uuid.uuid4().hex}/labels.csv"
    storage.write_bytes(table, b"path;text\na.png;x\n")
    assert rows(table) == [TableRow(f"row 2 of {table}", "a.png", "x", None, None)]
    storage.remove_file(table)
    assert pairs("file://" + write("path,text\na.png,x\n")) == [("a.png", "x")]


def test_a_place_is_text_whatever_the_name_of_the_table(tmp_path):
    table = os.path.join(os.fsencode(tmp_path), b"caf\xe9.csv")
    with open(table, "wb") as file:
        file.write(b"path,text\na.png,x\n")
    (row,) = rows(os.fsdecode(table))
    assert row.place.encode() == b"row 2 of " + os.fsencode(tmp_path) + rb"/caf\xe9.csv"


# Columns


@pytest.mark.parametrize("path", PATH_COLUMNS)
@pytest.mark.parametrize("text", TEXT_COLUMNS)
def test_the_usual_names_are_found_in_any_order(write, path, text):
    assert pairs(write(f"other,{text},{path}\no,x,a.png\n")) == [("a.png", "x")]


@pytest.mark.parametrize("path", [*RARE_PATH_COLUMNS, *IDENTIFIERS])
@pytest.mark.parametrize("text", RARE_TEXT_COLUMNS)
def test_rarer_names_count_where_no_usual_one_is_there(write, path, text):
    assert pairs(write(f"other,{text},{path}\no,x,a.png\n")) == [("a.png", "x")]
    assert pairs(write(f"label,{text},file,{path}\nl,x,a.png,7\n")) == [("a.png", "l")]


def test_an_identifier_names_no_image_in_a_table_of_paths(write):
    with pytest.raises(DataError, match="has no path column"):
        list(read_path_table(write("id,scan\n1,a.png\n")))
    assert [row.path for row in read_path_table(write("id,filepath\n1,a.png\n"))] == ["a.png"]


@pytest.mark.parametrize("header", ["File Name,Ground-Truth", "FILE_NAME,GROUND TRUTH", " file-name , ground truth "])
def test_case_spaces_hyphens_and_underscores_in_names_do_not_matter(write, header):
    assert pairs(write(f"{header}\na.png,x\n")) == [("a.png", "x")]
    path, text = header.split(",")
    assert pairs(write(json.dumps({path: "a.png", text: "x"}) + "\n", "labels.jsonl")) == [("a.png", "x")]


def test_of_several_usual_names_of_paths_the_first_of_the_list_is_taken(write):
    assert pairs(write("name,file,text\n1,a.png,x\n")) == [("a.png", "x")]


def test_two_columns_that_could_be_the_text_are_refused_until_one_is_named(write):
    more = "".join(f"{number}.png,stamped,{number}\n" for number in range(50))
    table = write(f"filename,label,Transcription\na.png,printed,x\n{more}")
    with pytest.raises(DataError) as error:
        pairs(table)
    assert str(error.value) == (
        f"{table} has several columns that could hold the text, 'label' and 'Transcription': say which with "
        "--text_column=label or --text_column=Transcription"
    )
    assert pairs(table, text="Transcription")[:1] == [("a.png", "x")]
    with pytest.raises(DataError, match="'text' and 'label'"):
        pairs(write('{"file_name": "a.png", "text": "x", "label": "1"}\n', "labels.jsonl"))


def test_columns_can_be_named(write):
    table = write("path,scan,text,Line Text,LINE_TEXT\np,a.png,t,x,y\n")
    assert pairs(table, path="scan", text="Line Text") == [("a.png", "x")]
    assert pairs(table, path="SCAN", text="LINE_TEXT") == [("a.png", "y")]
    assert pairs(table, text="LINE_TEXT") == [("p", "y")]


def test_a_name_that_fits_two_columns_is_refused(write):
    table = write("path,Line Text,LINE_TEXT\na.png,x,y\n")
    assert "has 2 columns 'line_text': rename all but the one with the text" in refusal(table, text="line-text")
    assert "has 2 columns 'path'" in refusal(write("path,text,Path\na.png,x,b.png\n"))
    assert "has 2 columns 'path'" in refusal(write("path,text,path\na.png,x,b.png\n"), path="path")


@pytest.mark.parametrize(
    ("columns", "flag"),
    [({"path": "scan"}, "--path_column"), ({"text": "scan"}, "--text_column"), ({"group": "scan"}, "--split_by")],
)
def test_a_named_column_that_is_missing_is_refused_with_its_flag(write, columns, flag):
    table = write("path,text,other\na.png,x,o\n")
    assert refusal(table, **columns) == (
        f"{flag}=scan: {table} has no such column; its first line has 'path', 'text', 'other'"
    )
    table = write('{"path": "a.png", "text": "x"}\n', "labels.jsonl")
    assert refusal(table, **columns).endswith("has no such column; its first object has 'path', 'text'")


def test_a_table_without_the_usual_names_is_refused_with_flag_names_and_header(write):
    table = write("path,words of the line\na.png,x\n")
    assert refusal(table) == (
        f"{table} has no text column: its first line has 'path', 'words of the line' and none of "
        f"{', '.join(TEXT_COLUMNS)}; begin the table with a header line such as path,text, or say with "
        "--text_column which it is"
    )
    message = refusal(write("scan\ttext\na.png\tx\n", "labels.tsv"))
    assert "has no path column: its first line has 'scan', 'text'" in message
    assert "--path_column" in message
    assert refusal(write('{"path": "a.png"}\n', "labels.jsonl")).endswith("; say with --text_column which it is")


def test_columns_that_are_named_must_be_there_even_if_the_table_has_no_header(tmp_path, write):
    (tmp_path / "a.png").touch()
    assert pairs(write("a.png,x\n")) == [("a.png", "x")]
    assert "has no path column" in refusal(write("a.png,x\n"), text="words")


def test_path_and_text_cannot_be_the_same_column(write):
    table = write("path,text\na.png,x\n")
    assert "the path and the text would both be column 'text'" in refusal(table, path="text")
    assert "--path_column and --text_column" in refusal(table, path="Text", text="TEXT")


def test_the_columns_of_a_wide_table_are_not_all_told(write):
    message = refusal(write(",".join(f"{number}{'x' * 1000}" for number in range(1000)) + "\n"))
    assert len(message) < 1500


# Tables without a header


@pytest.mark.parametrize(("name", "delimiter"), [("l.csv", ","), ("l.csv", ";"), ("l.csv", "\t"), ("l.tsv", "\t")])
@pytest.mark.parametrize("path_first", [True, False])
def test_without_a_header_the_cell_that_names_a_file_is_the_path(tmp_path, write, name, delimiter, path_first):
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "a.png").touch()
    written = [("lines/a.png", "x"), ("lines/b.png", "y")]
    table = write("".join(delimiter.join(row if path_first else row[::-1]) + "\n" for row in written), name)
    assert pairs(table) == written
    assert lines(rows(table)) == [1, 2]


def test_without_a_header_a_path_may_be_absolute_or_a_url(tmp_path, write):
    (tmp_path / "elsewhere.png").touch()
    table = write(f"{tmp_path}/elsewhere.png,x\n")
    assert pairs(table) == [(f"{tmp_path}/elsewhere.png", "x")]
    folder = f"memory://{uuid.uuid4().hex}"
    storage.write_bytes(f"{folder}/a.png", b"image")
    assert pairs(write(f"x,{folder}/a.png\n")) == [(f"{folder}/a.png", "x")]
    storage.write_bytes(f"{folder}/labels.csv", b"a.png,x\n")
    assert pairs(f"{folder}/labels.csv") == [("a.png", "x")]
    storage.remove_folder(folder)


@pytest.mark.parametrize(
    "line",
    [
        "a,x",
        "a.png,b.png",
        "a.png,x,y",
        "here.png,there.png",
        "here.png,x,y",
        "here.png",
        "folder,x",
        "here.png,x\0",
        "nothing://a,x",
        ",x",
    ],
)
def test_without_a_header_a_first_line_that_is_not_clear_is_refused(tmp_path, write, line):
    (tmp_path / "here.png").touch()
    (tmp_path / "there.png").touch()
    (tmp_path / "folder").mkdir()
    message = refusal(write(line + "\n"))
    assert "begin the table with a header line such as path,text" in message or "NUL" in message


@pytest.mark.parametrize(("name", "line"), [("a.csv", "a.PNG;x"), ("a.csv", "x,no/a.tif"), ("a.txt", "a.jpg\tx, y; z")])
def test_without_a_header_a_cell_that_ends_like_an_image_is_the_path_wherever_that_is(write, name, line):
    ((path, text),) = pairs(write(line + "\n", name))
    assert path in ("a.PNG", "no/a.tif", "a.jpg")
    assert text in ("x", "x, y; z")


def test_a_first_line_with_a_usual_name_as_its_text_is_no_header(tmp_path, write):
    (tmp_path / "a.png").touch()
    assert pairs(write("a.png,text\n")) == [("a.png", "text")]


# Numbers of cells


@pytest.mark.parametrize(
    ("name", "delimiter", "in_words"),
    [("l.csv", ",", "comma"), ("l.csv", ";", "semicolon"), ("l.csv", "\t", "tab"), ("l.tsv", "\t", "tab")],
)
def test_a_row_with_too_many_cells_is_damaged_and_says_why(write, name, delimiter, in_words):
    content = "path,text,page\na.png,x,1\nb.png,not,quoted,1\nc.png,z,1\n".replace(",", delimiter)
    assert problem(write(content, name)) == (
        f"it has 4 cells instead of 3: perhaps a text has a {in_words} and is not quoted"
    )


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_of_two_columns_the_second_may_have_the_delimiter_without_being_quoted(write, delimiter):
    content = 'path,text\na.png,not,quoted, 5" \nb.png,"quoted, once"\nc.png,z,\n'.replace(",", delimiter)
    texts = ['not,quoted, 5"', "quoted, once", "z,"]
    assert [text for _, text in pairs(write(content))] == [text.replace(",", delimiter) for text in texts]
    content = 'path,text\na.png,x\nb.png,"quoted", and not\nc.png,z\n'.replace(",", delimiter)
    assert problem(write(content)) == "a quotation mark is not closed, or not doubled inside a quoted text"
    content = "text,path\nx,a.png\nnot,quoted,b.png\nz,c.png\n".replace(",", delimiter)
    assert problem(write(content)).startswith("it has 3 cells instead of 2")


@pytest.mark.parametrize(("name", "delimiter"), [("labels.csv", ","), ("labels.tsv", "\t")])
def test_a_row_with_too_few_cells_is_damaged_unless_those_needed_are_there(write, name, delimiter):
    content = "path,text,page,note\na.png,x,1,n\nb.png,y\nc.png,z,3\n".replace(",", delimiter)
    assert problem(write(content, name), group="page") == "it has only 2 of 4 cells"
    assert pairs(write(content, name)) == [("a.png", "x"), ("b.png", "y"), ("c.png", "z")]


@pytest.mark.parametrize(("name", "delimiter"), [("labels.csv", ","), ("labels.tsv", "\t")])
def test_a_header_in_the_middle_of_joined_tables_is_a_damaged_row(write, name, delimiter):
    content = "path,text\na.png,x\n\ufeffpath,text\nc.png,z\n".replace(",", delimiter)
    assert problem(write(content, name)) == "it repeats the header"


# Comma-separated values


def test_the_delimiter_is_the_one_that_gives_the_columns_needed(write):
    assert pairs(write("path;text\na.png;1,5\n")) == [("a.png", "1,5")]
    assert pairs(write("path\ttext\na.png\t1,5;\n")) == [("a.png", "1,5;")]
    assert pairs(write("a,b;path;text\no;a.png;x\n")) == [("a.png", "x")]
    assert pairs(write('"path";"text"\n"a.png";"x;y"\n')) == [("a.png", "x;y")]


@pytest.mark.parametrize("mark", ["sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;"])
def test_excels_mark_of_the_delimiter_is_honoured(write, mark):
    table = write(f"{mark}\r\npath;text\r\na.png;x\r\n")
    assert pairs(table) == [("a.png", "x")]
    assert lines(rows(table)) == [3]


def test_excels_mark_may_name_any_delimiter(tmp_path, write):
    assert pairs(write("sep=|\npath|text\na.png|x,y\n")) == [("a.png", "x,y")]
    assert pairs(write("sep=\t\npath\ttext\na.png\tx\n")) == [("a.png", "x")]
    assert "has no path column" in refusal(write("sep=,\npath;text\na.png;x\n"))
    assert "is empty" in refusal(write("sep=;\n"))
    (tmp_path / "a.png").touch()
    table = write("sep=;\na.png;x\n")
    assert pairs(table) == [("a.png", "x")]
    assert lines(rows(table)) == [2]


@pytest.mark.parametrize("mark", ["sep=", "sep= ", 'sep="', "sep=;;"])
def test_a_mark_that_names_no_delimiter_is_no_header(write, mark):
    assert "has no path column" in refusal(write(f"{mark}\npath;text\na.png;x\n"))


def test_quoted_line_ends_count_as_lines(write):
    table = write('path,"text\nof the line",note\na.png,"1\n2\r\n3",\nb.png,x,"\n\n"\nc.png,y,\n')
    assert [(row.path, row.text) for row in rows(table, text="text\nof the line")] == [
        ("a.png", "1\n2\r\n3"),
        ("b.png", "x"),
        ("c.png", "y"),
    ]
    assert lines(rows(table, text="text\nof the line")) == [3, 6, 9]


def test_a_space_before_a_quotation_mark_is_no_part_of_the_text(write):
    assert pairs(write('path, text\na.png, "one, two"\nb.png, x\n')) == [("a.png", "one, two"), ("b.png", "x")]


def test_a_quotation_mark_inside_an_unquoted_cell_is_a_symbol(write):
    assert pairs(write('path,text\na.png,5" pipe\n')) == [("a.png", '5" pipe')]


@pytest.mark.parametrize(
    "end",
    ['"open', '"open\n', '"open\nb.png,x\n', '"open\nb.png,"x"\n', '"a"b\nc.png,x\n', '"open\n' + "b.png,x\n" * 50_000],
    ids=["last line", "last line with its end", "swallows a row", "meets another", "not doubled", "swallows many rows"],
)
def test_a_quotation_mark_that_is_not_closed_is_refused_with_the_line_of_its_row(write, end):
    table = write('path,text\n\na.png,"1\n2"\nb.png,' + end)
    read = read_label_table(table, TableColumns())
    assert next(read).text == "1\n2"
    with pytest.raises(DataError) as error:
        list(read)
    assert str(error.value).startswith(f"row 5 of {table} has a quotation mark that is not closed")
    assert str(error.value).endswith("correct that row")


def test_a_header_with_a_quotation_mark_that_is_not_closed_is_refused(write):
    assert "row 1 of " in refusal(write('path,"text\na.png,x\n'))


# Tab-separated values


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"Wort"', '"Wort"'),
        ('"', '"'),
        ('""', '""'),
        ('"open', '"open'),
        ('5"', '5"'),
        ('"a" and "b"', '"a" and "b"'),
        ('""Wort""', '""Wort""'),
        ('"""Wort"""', '"Wort"'),
        ('"a 5"" pipe"', 'a 5" pipe'),
        ('""""', '"'),
        ('"""', '"""'),
        ('"a"""b"', '"a"""b"'),
        ("'x'", "'x'"),
    ],
)
def test_a_quotation_mark_between_tabs_is_a_symbol_unless_a_writer_doubled_it(write, cell, text):
    table = write(f"path\ttext\na.png\t{cell}\nb.png\ty\n", "labels.tsv")
    assert pairs(table) == [("a.png", text), ("b.png", "y")]


def test_between_tabs_a_path_and_a_name_may_be_quoted_too(write):
    assert pairs(write('"pa""th"\ttext\n"a""1"".png"\tx\n', "labels.tsv"), path='pa"th') == [('a"1".png', "x")]


def test_a_table_whose_whole_header_is_quoted_has_quoted_cells(write):
    table = write('"path"\t"text"\n"a.png"\t"one\ttwo\nthree"\nb.png\t"Wort"\n', "labels.tsv")
    assert pairs(table) == [("a.png", "one\ttwo\nthree"), ("b.png", "Wort")]
    assert lines(rows(table)) == [2, 4]
    assert "row 2 of " in refusal(write('"path"\t"text"\na.png\t"open\nb.png\tx\n', "labels.tsv"))


def test_a_quoted_tab_or_line_end_in_an_unquoted_table_damages_its_rows_alone(write):
    read = rows(write('path\ttext\na.png\t"one\ttwo"\nb.png\tx\nc.png\t"one\ntwo"\nd.png\ty\n', "labels.tsv"))
    assert [row.problem is None for row in read] == [False, True, True, False, True]


def test_commas_in_a_table_with_tabs_are_no_delimiters(write):
    assert "its first line has 'path,text'" in refusal(write("path,text\na.png,x\n", "labels.tsv"))


# JSON lines


@pytest.mark.parametrize("value", ["12", "-5", "0", "123456789012345678901234567890"])
def test_an_integer_is_a_text(write, value):
    assert pairs(write(f'{{"path": "a.png", "text": {value}}}\n', "labels.jsonl")) == [("a.png", value)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"path": "b", "text": 1.10}', "'text' is a floating-point number: write it as a string"),
        ('{"path": "b", "text": 1e3}', "'text' is a floating-point number"),
        ('{"path": "b", "text": NaN}', "'text' is a floating-point number"),
        ('{"path": "b", "text": true}', "'text' is true or false"),
        ('{"path": "b", "text": null}', "'text' is null"),
        ('{"path": "b", "text": ["x"]}', "'text' is a list"),
        ('{"path": "b", "text": {"x": 1}}', "'text' is an object"),
        ('{"path": 12, "text": "x"}', "'path' is an integer"),
        ('{"path": null, "text": "x"}', "'path' is null"),
        ('{"path": "b", "label": "x"}', "it has no 'text'"),
        ('{"text": "x"}', "it has no 'path'"),
        ("{}", "it has no 'path'"),
        ('{"path": "", "text": "x"}', "no path"),
        ('{"path": "b\\u0000", "text": "x"}', "it has a NUL byte"),
        ('{"path": "b", "text": "\\ud83d"}', "'text' has half a surrogate pair"),
        ('{"path": "b", "text": "x"', "it is not valid JSON (Expecting ',' delimiter at symbol 26)"),
        ("{'path': 'b', 'text': 'x'}", "it is not valid JSON"),
        ("path,text", "it is not valid JSON"),
        ("\0", "it is not valid JSON"),
        ('{"path": "b", "text": ' + "1" * 10_000 + "}", "it is not valid JSON"),
        ("[" * 100_000, "it is not valid JSON"),
        ('{"path": "b", "text": ' * 20_000, "it is not valid JSON"),
        ('["b", "x"]', "it is not a JSON object"),
        ("12", "it is not a JSON object"),
    ],
    ids=lambda value: value[:40],
)
def test_a_json_line_that_cannot_be_used_is_a_damaged_row(write, line, reason):
    good = '{"path": "a.png", "text": "x"}\n'
    found = problem(write(f"{good}{line}\n{good}", "labels.jsonl"))
    assert found.startswith(reason)
    assert len(found) < 200


def test_the_names_are_those_of_the_first_json_object(write):
    content = 'oops\n{"FILE": "a.png", "gt": "x"}\n{"gt": "y", "path": "no", "FILE": "b.png"}\n'
    damaged, first, second = rows(write(content, "labels.jsonl"))
    assert "not valid JSON" in damaged.problem
    assert [(row.path, row.text) for row in (first, second)] == [("a.png", "x"), ("b.png", "y")]


@pytest.mark.parametrize(
    "content",
    ['[{"path": "a.png", "text": "x"}]\n', '{\n "path": "a.png",\n "text": "x"\n}\n', "path,text\na.png,x\n"],
    ids=["one list", "indented", "comma-separated values"],
)
def test_a_file_without_a_json_object_in_a_line_is_refused(write, content):
    assert "write one object a line" in refusal(write(content, "labels.jsonl"))


# Hostile tables


@pytest.mark.parametrize(("name", "delimiter"), [("labels.csv", ","), ("labels.tsv", "\t")])
@pytest.mark.parametrize("row", ["b\0.png,x", "b.png,\0", "\0,x"])
def test_a_row_with_a_nul_byte_is_damaged(write, name, delimiter, row):
    content = f"path,text\na.png,x\n{row}\nc.png,z\n".replace(",", delimiter)
    assert problem(write(content, name)) == "it has a NUL byte"


@pytest.mark.parametrize("cell", ["{}", '"{}"'])
def test_a_cell_of_200_000_symbols_is_a_damaged_row(write, cell):
    table = write(f"path,text\na.png,x\nb.png,{cell.format('x' * 200_000)}\nc.png,z\n")
    assert problem(table) == "a cell has more than 131,072 symbols"


def test_a_long_cell_between_tabs_or_in_json_is_read(write):
    text = "x" * 200_000
    assert pairs(write(f"path\ttext\na.png\t{text}\n", "labels.tsv")) == [("a.png", text)]
    assert pairs(write(json.dumps({"path": "a.png", "text": text}) + "\n", "labels.jsonl")) == [("a.png", text)]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "delimiter"), [("labels.csv", ","), ("labels.tsv", "\t"), ("labels.jsonl", "")])
def test_a_line_of_more_than_a_million_bytes_is_a_damaged_row(write, name, delimiter, ending):
    def line(number: int, length: int) -> str:
        start = f'{{"path": "{number}.png", "text": "x", "more": "' if not delimiter else f"{number}.png{delimiter}x"
        end = "" if delimiter else '"}'
        fill = "x" * (length - len(start) - len(end))
        if delimiter:  # many cells, each within the limit of the csv module
            fill = "".join(delimiter + fill[at + 1 : at + 100_000] for at in range(0, len(fill), 100_000))
        return start + fill + end

    lengths = [100, 1_000_000, 1_000_001, 1_000_002, 1_000_003, 3_000_000, 100]
    written = [line(number, length) for number, length in enumerate(lengths)]
    assert [len(part) for part in written] == lengths
    header = [delimiter.join(["path", "text", *["more"] * 30])] if delimiter else []
    read = rows(write("".join(part + ending for part in [*header, *written]), name))
    assert lines(read) == list(range(len(header) + 1, len(header) + len(written) + 1))
    assert [row.path for row in read] == ["0.png", "1.png", None, None, None, None, "6.png"]
    assert {row.problem for row in read} == {None, "the line has more than 1,000,000 bytes"}


@pytest.mark.parametrize(("name", "delimiter"), [("labels.csv", ","), ("labels.tsv", "\t")])
def test_a_first_line_that_does_not_end_is_refused(write, name, delimiter):
    table = write(f"path{delimiter}text{delimiter}" + "x" * 2_000_000, name)
    assert "line 1 of " in refusal(table)
    assert "(the line has more than 1,000,000 bytes)" in refusal(table)


@pytest.mark.parametrize(("name", "delimiter"), [("labels.csv", ","), ("labels.tsv", "\t")])
def test_carriage_returns_alone_end_no_line(write, name, delimiter):
    message = refusal(write("path,text\ra.png,x\rb.png,y\r".replace(",", delimiter), name))
    assert "lines must end with a line feed" in message
    content = "path,text\na.png,x\nb.png,y\ry\nc.png,z\n".replace(",", delimiter)
    assert "a carriage return stands inside the line" in problem(write(content, name))


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.jsonl"])
def test_bytes_of_an_image_are_refused(write, name):
    refusal(write(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", name))
    refusal(write(b"\0" * 5_000_000, name))


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.jsonl"])
def test_any_bytes_give_rows_or_a_clear_error(write, name):
    """Every damage of one place, to a table with quoted cells, ends in rows or a `DataError`."""
    if name == "labels.jsonl":
        content = b'{"path": "a.png", "text": "x"}\r\n{"path": "b.png", "text": "y"}\r\n'
    else:
        delimiter = b"," if name == "labels.csv" else b"\t"
        content = b'path,text\r\na.png,"x ""y"" z"\r\nb.png,"y"\r\n'.replace(b",", delimiter)
    for place, byte in itertools.product(range(len(content)), [b"", b'"', b"\r", b"\n", b"\0", b"\t", b",", b"\xff"]):
        table = write(content[:place] + byte + content[place + 1 :], name)
        try:
            read = rows(table)
        except DataError:
            continue
        assert all((row.path is None) == (row.problem is not None) for row in read)


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.jsonl"])
def test_memory_does_not_grow_with_the_table(tmp_path: pathlib.Path, name):
    table = tmp_path / name
    line = '{"path": "a.png", "text": "' if name == "labels.jsonl" else "a.png," if name == "labels.csv" else "a.png\t"
    end = '"}\n' if name == "labels.jsonl" else "\n"
    with open(table, "w") as file:
        file.write("" if name == "labels.jsonl" else "path,text\n" if name == "labels.csv" else "path\ttext\n")
        file.writelines(line + "x" * 1000 + end for _ in range(10_000))
        file.write(line + "x" * 30_000_000 + end)
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_label_table(str(table), TableColumns()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 10_001
    assert peak < 8_000_000


def test_json_objects_in_the_place_of_texts_are_refused_with_the_way_out(write):
    """As `metadata.jsonl` has them for models that read whole forms."""
    truth = json.dumps({"gt_parse": {"text_sequence": "Rechnung"}})
    table = write(json.dumps({"file_name": "a.png", "ground_truth": truth}) + "\n", "metadata.jsonl")
    assert "its text is a JSON object" in refusal(table)
    assert pairs(write('path,text\na.png,"{x} and {y}"\n')) == [("a.png", "{x} and {y}")]


def test_two_columns_that_could_be_the_text_are_refused_in_a_table_whose_rows_would_do_without_a_header(
    write, tmp_path
):
    names = [f"{number:02d}.png" for number in range(12)]
    for name in names:
        (tmp_path / name).write_bytes(b"image")
    rows_of = [f"{name},{'printed' if number % 2 else 'stamped'},3CT98{number}W\n" for number, name in enumerate(names)]
    for suffix in ("csv", "txt"):
        said = refusal(write("filename,label,transcription\n" + "".join(rows_of), f"labels.{suffix}"))
        assert "has several columns that could hold the text, 'label' and 'transcription'" in said
    assert refusal(write("path,text,text\n" + "".join(rows_of)))


@pytest.mark.parametrize("header", ["filename,width,height", "filename,foo", "foo,text", "image;foo;bar"])
def test_a_header_without_a_column_of_the_path_or_the_text_is_none_of_the_rows(write, tmp_path, header):
    delimiter = ";" if ";" in header else ","
    lines = [header]
    for number in range(12):
        (tmp_path / f"img_{number}.png").write_bytes(b"image")
        lines.append(
            delimiter.join([f"img_{number}.png", *(f"{number}{place}" for place in range(header.count(delimiter)))])
        )
    said = refusal(write("\n".join(lines) + "\n"))
    assert "column: its first line has" in said
    assert "--path_column" in said or "--text_column" in said
