"""Tables: files with a row for each image, with its path and, in label tables, its text.

Tables come from editors, Excel, pandas and scripts; what these write differently is read alike. One bad
row is reported, and reading continues. A problem that makes all rows doubtful is an error. Memory does
not grow with the number of rows, but for JSON documents and spreadsheets, whose size is bounded.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from typing import IO

from components.archives.columns import RARE_TEXT_COLUMNS, TEXT_COLUMNS
from components.listing.columns import WantedColumn
from components.listing.files import open_to_read
from components.listing.json_tables import read_json_document, read_json_rows
from components.listing.parquet_tables import read_parquet_rows
from components.listing.spreadsheets import SPREADSHEET_SUFFIXES, describe_sheet, read_spreadsheet_rows
from components.listing.table_formats import (
    LABEL_TABLE_SUFFIXES,
    describe_form,
    find_header,
    read_delimited_rows,
)
from components.listing.table_rows import IDENTIFIERS, TableLines, TableRow
from tfrecords import DataError, StoreError

PATH_COLUMNS = ("path", "file_name", "filename", "file", "image", "image_path", "img_path", "img", "uri", "name")
RARE_PATH_COLUMNS = (
    *("image_name", "image_file", "image_filename", "img_name", "img_file", "file_path", "filepath", "fname"),
    *("imagename", "imagefile", "imagepath", "photo"),
)
"""The names that count where none of the others is there."""
REVIEW_COLUMNS = ("dataset", "model_id", "run_id")
"""The columns, beside path and text, by which a review table is known: `components.review.table` writes them."""
_SHOWN = 40  # symbols of a text that is refused
_BLANK = '""'  # in a review table, since a person left out a row without a text


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """Names of the columns of a label table.

    Attributes:
        path, text: None for one of `PATH_COLUMNS` or `TEXT_COLUMNS`.
        group: the column whose value decides the split; None if there are no groups.
    """

    path: str | None = None
    text: str | None = None
    group: str | None = None


def read_label_table(table: str, columns: TableColumns) -> Iterator[TableRow]:
    """Reads every row of a label table, in its order; skips blank rows.

    `.csv` is read strictly; the separator is a comma, a semicolon or a tab, whichever gives the header
    the columns needed. Between tabs, in `.tsv` and `.txt`, a quotation mark is an ordinary symbol, unless it is
    written as `csv` writes one. `docs/labels.md` lists all formats. A row of a review table without a text is
    skipped: a person left that image out. `""` is the empty text there.

    Args:
        table: absolute path or URL.
        columns: matched exactly, or else regardless of case, spaces, hyphens and underscores.

    Raises:
        DataError: while reading, if the table is missing, unreadable, without rows or not UTF-8, lacks
            a column, has a quotation mark that is not closed, or JSON objects in the place of texts.
    """
    reviewed, first = is_review_table(table), True
    for row in read_table(table, _want_columns(columns)):
        text = (row.text or "").strip()
        if first and text:
            first = False
            if _is_json_object(text):
                raise DataError(
                    f"{row.place}: its text is a JSON object, {text[:_SHOWN]!r}, and a label is a line of text: write "
                    "the text itself into the table, or name its column with --text_column"
                )
        if not reviewed or row.problem is not None:
            yield row
        elif text:
            yield dataclasses.replace(row, text="") if text == _BLANK else row


def _is_json_object(text: str) -> bool:
    try:
        return text.startswith("{") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def describe_label_table(table: str, columns: TableColumns) -> str | None:
    """Describes how a label table is read, if it has no header to tell that; None if it has, or cannot be read."""
    suffix = os.path.splitext(table)[1].lower()
    if suffix not in (".csv", ".tsv", ".txt", *SPREADSHEET_SUFFIXES):
        return None
    try:
        with open_to_read(table) as file:
            if suffix in SPREADSHEET_SUFFIXES:
                return describe_sheet(file, table, _want_columns(columns))
            return describe_form(table, TableLines(file, table), _want_columns(columns))
    except StoreError:
        raise
    except (OSError, DataError):
        return None


@dataclasses.dataclass(frozen=True)
class ReviewedTable:
    """A summary of a review table.

    Attributes:
        datasets: the IDs in its dataset column, sorted.
        rows: number of rows with a text.
        left_out: number of rows without one.
    """

    datasets: tuple[str, ...]
    rows: int
    left_out: int


def read_reviewed_table(table: str, columns: TableColumns) -> ReviewedTable | None:
    """Summarises a review table; returns None for another table.

    Raises:
        DataError: as `read_label_table` does.
    """
    if not is_review_table(table):
        return None
    wanted = [
        _want_path_column(columns.path),
        _want_text_column(columns.text),
        WantedColumn("dataset", "", REVIEW_COLUMNS[0], ()),
    ]
    rows = [row for row in read_table(table, wanted) if row.problem is None]
    kept = [row for row in rows if (row.text or "").strip()]
    return ReviewedTable(tuple(sorted({row.group for row in kept if row.group})), len(kept), len(rows) - len(kept))


def is_review_table(table: str) -> bool:
    """Checks whether the header of a table has all columns of a review table; False if it cannot be read.

    A person may have saved one as a spreadsheet.
    """
    suffix = os.path.splitext(table)[1].lower()
    if suffix not in (".csv", ".tsv", *SPREADSHEET_SUFFIXES):
        return False
    wanted = [WantedColumn(name, "", name, ()) for name in REVIEW_COLUMNS]
    try:
        with open_to_read(table) as file:
            if suffix in SPREADSHEET_SUFFIXES:
                next(read_spreadsheet_rows(file, table, wanted), None)
            else:
                find_header(table, TableLines(file, table), wanted)
    except StoreError:
        raise
    except (OSError, DataError):
        return False
    return True


def read_path_table(table: str, path_column: str | None = None) -> Iterator[TableRow]:
    """Reads every row of a table that need not have texts, as `read_label_table` does; `text` and `group` are None.

    Args:
        table: absolute path or URL.
        path_column: None for one of `PATH_COLUMNS`.

    Raises:
        DataError: while reading, as `read_label_table` does.
    """
    return read_table(table, [_want_path_column(path_column)])


def _want_columns(columns: TableColumns) -> list[WantedColumn]:
    wanted = [_want_path_column(columns.path, *IDENTIFIERS), _want_text_column(columns.text)]
    return [*wanted, WantedColumn("group", "--split_by", columns.group, ())] if columns.group is not None else wanted


def _want_path_column(given: str | None, *more: str) -> WantedColumn:
    return WantedColumn("path", "--path_column", given, PATH_COLUMNS, (*RARE_PATH_COLUMNS, *more))


def _want_text_column(given: str | None) -> WantedColumn:
    return WantedColumn("text", "--text_column", given, TEXT_COLUMNS, RARE_TEXT_COLUMNS)


def read_table(table: str, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the rows of a table; the first column wanted is the path, the second the text, the third the group.

    Raises:
        DataError: as `read_label_table` does.
    """
    name = os.fsencode(table).decode("utf-8", "backslashreplace")
    suffix = os.path.splitext(table)[1].lower()
    if suffix not in LABEL_TABLE_SUFFIXES:
        raise DataError(f"{name} is not a table: its name must end with one of {', '.join(LABEL_TABLE_SUFFIXES)}")
    empty = True
    try:
        with open_to_read(table) as file:
            for row in _read_rows(file, table, name, wanted):
                empty = False
                yield row
    except FileNotFoundError:
        raise DataError(f"the table {name} does not exist: correct its path") from None
    except OSError as error:
        raise DataError(f"cannot read the table {name} ({error.strerror or error}): give it read access") from None
    if empty:
        raise DataError(f"the table {name} has no rows: write a row for each image, or leave the table out")


def _read_rows(file: IO[bytes], table: str, name: str, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the rows of a table by the format that its suffix tells."""
    suffix = os.path.splitext(table)[1].lower()
    whole = {".json": read_json_document, ".parquet": read_parquet_rows}
    whole |= dict.fromkeys(SPREADSHEET_SUFFIXES, read_spreadsheet_rows)
    if suffix in whole:
        return whole[suffix](file, name, wanted)
    lines = TableLines(file, name)
    return read_json_rows(lines, wanted) if suffix == ".jsonl" else read_delimited_rows(table, lines, wanted)
