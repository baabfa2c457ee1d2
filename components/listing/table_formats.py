"""The file formats of tables: CSV, TSV and JSON lines, with their delimiters, quotes and headers."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import operator
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from components.listing.columns import WantedColumn, find_columns, suggest_header
from components.listing.references import IMAGE_SUFFIXES
from tfrecords import DataError, storage

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
LABEL_TABLE_SUFFIXES = (*TABLE_SUFFIXES, ".txt")
"""Suffixes of label tables; a `.txt` file is read like a `.tsv` one."""
_MAX_LINE_BYTES = 1_000_000
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_BYTE_ORDER_MARK = "\ufeff"
_CARRIAGE_RETURN = "a carriage return stands inside the line: lines must end with a line feed"
_JSON_KINDS = {
    bool: "true or false",
    dict: "an object",
    float: "a floating-point number",
    int: "an integer",
    list: "a list",
    type(None): "null",
}


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One row of a table; a damaged one has only `place` and `problem`.

    Attributes:
        place: table, and line at which the row begins, counted from 1 as in an editor.
        path: as the table writes it, without white space around it.
        text: the label, not normalised; empty if the cell is empty; None in a table without texts.
        group: without white space around it; None in a table without groups.
        problem: the reason why the row cannot be used, or None.
    """

    place: str
    path: str | None
    text: str | None
    group: str | None
    problem: str | None


class _LineTooLongError(Exception):
    """An error about a line with more than `_MAX_LINE_BYTES` bytes, which was skipped."""


class TableLines:
    """The lines of a file as text, with their ends; reading continues after a line that is too long.

    Attributes:
        number: of the line read last, from 1.
        table: the file's name, for messages.
    """

    def __init__(self, file: Any, table: str) -> None:
        self._file = io.BufferedReader(file, 1 << 20)
        self.table = table
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_MAX_LINE_BYTES + 2)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > _MAX_LINE_BYTES and len(line.rstrip(b"\r\n")) > _MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = self._file.readline(_MAX_LINE_BYTES)
            raise _LineTooLongError(f"the line has more than {_MAX_LINE_BYTES:,} bytes")
        try:
            return line.decode().removeprefix(_BYTE_ORDER_MARK)  # joined files have one at each file's start
        except UnicodeDecodeError as error:
            raise self.explain_encoding(f"byte 0x{line[error.start]:02X}") from None

    def explain_encoding(self, problem: str) -> DataError:
        """Makes the error for a table that is not UTF-8."""
        return DataError(
            f"line {self.number} of {self.table} is not UTF-8 ({problem}): save the table as UTF-8, "
            "which Excel calls 'CSV UTF-8'"
        )

    def restart(self) -> None:
        """Starts again with the first line."""
        self._file.seek(0)
        self.number = 0


def _read_whole_lines(lines: TableLines) -> Iterator[tuple[str, str | None]]:
    """Yields lines that are not blank, without their ends, each with its problem or None."""
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except _LineTooLongError as error:
            yield "", str(error)
        else:
            if line.strip():
                yield line.rstrip("\r\n"), None


# Tables with delimiters

_Record = tuple[int, list[str], str | None]
"""Number of the first line, cells, and the problem or None."""


class _Header(NamedTuple):
    """The form of a table.

    Attributes:
        records: rows after the header.
        delimiter: between cells.
        names: of all columns, or None if there is no header.
        width: number of cells in a row.
        indices: of the columns wanted.
    """

    records: Iterator[_Record]
    delimiter: str
    names: list[str] | None
    width: int
    indices: list[int]


def read_delimited_rows(table: str, lines: TableLines, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the rows of a CSV or TSV table.

    Raises:
        DataError: while reading, if no row can be trusted.
    """
    header = find_header(table, lines, wanted)
    last_index = max(header.indices)
    delimiter_name = _DELIMITERS.get(header.delimiter, repr(header.delimiter))
    likely = "text" if len(wanted) > 1 else "path"
    for line, cells, problem in header.records:
        place = f"row {line} of {lines.table}"
        if problem is None:
            if len(cells) > header.width:
                problem = (
                    f"it has {len(cells)} cells instead of {header.width}: perhaps a {likely} has a {delimiter_name} "
                    "and is not quoted"
                )
            elif len(cells) <= last_index:
                problem = f"it has only {len(cells)} of {header.width} cells"
            elif cells == header.names:
                problem = "it repeats the header"
            else:
                yield _parse_row(place, *(cells[index] for index in header.indices))
                continue
        yield TableRow(place, None, None, None, problem)


def _parse_row(place: str, path: str, text: str | None = None, group: str | None = None) -> TableRow:
    path = path.strip()
    if not path:
        return TableRow(place, None, None, None, "no path")
    if group is not None:
        group = group.strip()
    if "\0" in path or "\0" in (text or ""):
        return TableRow(place, None, None, None, "it has a NUL byte")
    return TableRow(place, path, text, group, None)


def find_header(table: str, lines: TableLines, wanted: Sequence[WantedColumn]) -> _Header:
    """Finds out how a table is written: its delimiter, its columns, and its header.

    A table without a header is read if it has one or two columns, of which one names files that are there, or images.

    Raises:
        DataError: if no delimiter gives a header with the columns wanted.
    """
    suffix = os.path.splitext(table)[1].lower()
    first, problem = next(_read_whole_lines(lines), ("", None))
    if "\0" in first:
        raise lines.explain_encoding("it has a NUL byte, as UTF-16 has")
    if problem:
        raise DataError(f"line {lines.number} of {lines.table} is no header ({problem}): {suggest_header(wanted)}")
    # Excel's own mark of the delimiter, on a line before the header.
    mark = re.fullmatch(r'"?sep=([^"\s]|\t)"?', first, re.IGNORECASE) if suffix == ".csv" else None
    delimiters: Iterable[str] = [mark[1]] if mark else _DELIMITERS
    quoted = True
    if suffix in (".tsv", ".txt"):
        delimiters = ["\t"]
        quoted = all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in first.split("\t"))

    def read_records(delimiter: str) -> Iterator[_Record]:
        lines.restart()
        records = _read_quoted_records(lines, delimiter) if quoted else _read_tab_records(lines)
        return itertools.islice(records, 1 if mark else 0, None)

    failures: list[tuple[int, DataError]] = []
    for delimiter in delimiters:
        records = read_records(delimiter)
        cells: list[str] = []
        try:
            line, cells, problem = next(records, (0, [], None))
            if not line:
                raise DataError(f"the table {lines.table} is empty: {suggest_header(wanted)}")
            if problem:
                raise DataError(f"line {line} of {lines.table} is no header ({problem}): {suggest_header(wanted)}")
            indices = find_columns(cells, wanted, lines.table, "first line")
            return _Header(records, delimiter, cells, len(cells), indices)
        except DataError as error:
            failures.append((-1 if len(cells) == 1 else len(cells), error))  # one cell: certainly another delimiter
        if all(column.given is None for column in wanted) and len(wanted) <= len(cells) <= 2:
            named = [cell.lower().endswith(IMAGE_SUFFIXES) and len(cells) == 2 for cell in map(str.strip, cells)]
            files = [index for index, cell in enumerate(cells) if named[index] or _is_file_beside(table, cell.strip())]
            if len(files) == 1:
                indices = [files[0], 1 - files[0]][: len(wanted)]
                return _Header(read_records(delimiter), delimiter, None, len(cells), indices)
    raise max(failures, key=operator.itemgetter(0))[1]


def _read_quoted_records(lines: TableLines, delimiter: str) -> Iterator[_Record]:
    # A space before a quotation mark is skipped: it would make the mark a part of the text.
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        line = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (_LineTooLongError, csv.Error) as error:
            if "new-line character" in str(error):
                yield line, [], _CARRIAGE_RETURN
            elif lines.number == line and isinstance(error, _LineTooLongError):
                yield line, [], str(error)
            elif lines.number == line and "field larger" in str(error):
                yield line, [], f"a cell has more than {csv.field_size_limit():,} symbols"
            else:
                raise DataError(
                    f"row {line} of {lines.table} has a quotation mark that is not closed, or not doubled inside a "
                    f"quoted cell ({error}): correct that row"
                ) from None
        else:
            if "".join(cells).strip():
                yield line, cells, None


def _read_tab_records(lines: TableLines) -> Iterator[_Record]:
    for line, problem in _read_whole_lines(lines):
        if problem is None and "\r" in line:
            problem = _CARRIAGE_RETURN
        cells = line.split("\t")
        yield lines.number, [_unquote(cell) for cell in cells] if '"' in line else cells, problem


def _unquote(cell: str) -> str:
    """Removes the quotation marks that a writer of quoted cells added; any other cell stays as it is."""
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        inside = cell[1:-1]
        if '"' in inside and '"' not in inside.replace('""', ""):
            return inside.replace('""', '"')
    return cell


def _is_file_beside(table: str, path: str) -> bool:
    """Checks whether a path, relative to the table's folder, or a URL is a file."""
    if not storage.is_remote(path):
        path = os.path.join(os.path.dirname(table), path)
    try:
        return storage.is_file(path)
    except DataError:
        return False


# Tables of JSON objects


def read_json_rows(lines: TableLines, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the rows of a table with one JSON object a line.

    Raises:
        DataError: while reading, if no line is a JSON object, or the first one lacks a column.
    """
    keys: list[str] | None = None
    for line, problem in _read_whole_lines(lines):
        place = f"row {lines.number} of {lines.table}"
        value: dict[str, Any] = {}
        if problem is None:
            value, problem = _parse_json_object(line)
        if problem is None:
            if keys is None:
                names = list(value)
                keys = [names[index] for index in find_columns(names, wanted, lines.table, "first object")]
            texts, problem = _pick_json_texts(value, keys)
            if problem is None:
                yield _parse_row(place, *texts)
                continue
        yield TableRow(place, None, None, None, problem)
    if keys is None and lines.number:
        raise DataError(
            f"no line of {lines.table} is a JSON object: write one object a line, without line breaks in it"
        )


def _parse_json_object(line: str) -> tuple[dict[str, Any], str | None]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return {}, f"it is not valid JSON ({error.msg} at symbol {error.colno})"
    except (ValueError, RecursionError) as error:
        return {}, f"it is not valid JSON ({error})"
    return (value, None) if isinstance(value, dict) else ({}, "it is not a JSON object")


def _pick_json_texts(value: dict[str, Any], keys: Sequence[str]) -> tuple[list[str], str | None]:
    """Returns the texts under the keys of path, text and group, or the problem."""
    texts = []
    for index, key in enumerate(keys):
        if key not in value:
            return [], f"it has no {key!r}"
        text = value[key]
        if type(text) is int and index:
            text = str(text)
        if not isinstance(text, str):
            return [], f"{key!r} is {_JSON_KINDS[type(text)]}: write it as a string"
        if re.search("[\ud800-\udfff]", text):
            return [], f"{key!r} has half a surrogate pair"
        texts.append(text)
    return texts, None
