"""Tables with delimiters: CSV, TSV and lists, with their quotes and headers."""

from __future__ import annotations

import contextlib
import csv
import itertools
import operator
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from components.listing.columns import (
    UnclearColumnsError,
    WantedColumn,
    find_columns,
    looks_like_header,
    suggest_header,
)
from components.listing.files import is_file
from components.listing.name_matching import make_name_key
from components.listing.references import IMAGE_SUFFIXES
from components.listing.split_names import SPLIT_COLUMNS
from components.listing.table_rows import (
    CARRIAGE_RETURN,
    LineTooLongError,
    TableLines,
    TableRow,
    make_row,
    read_whole_lines,
)
from components.listing.text_lists import (
    IAM,
    MARKED_WRONG,
    SPLITS,
    ListForm,
    Record,
    find_form_of_names,
    find_list_form,
    read_list_records,
    split_line,
)
from tfrecords import DataError, storage

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
LABEL_TABLE_SUFFIXES = (*TABLE_SUFFIXES, ".txt", ".json", ".xlsx", ".xls", ".ods", ".parquet")
"""Suffixes of label tables."""
READ_WHOLE = (".json", ".xlsx", ".xls", ".ods")
"""Suffixes of those that are read as a whole."""
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_FOLDERS_NEAR = 100
_ENTRIES_LOOKED_AT = 20_000
_DELIMITERS_OF = {".tsv": ["\t"], ".txt": ["\t", ",", ";"]}


class _Header(NamedTuple):
    """The form of a table.

    Attributes:
        records: rows after the header.
        delimiter: between cells.
        names: of all columns, or None if there is no header.
        width: number of cells in a row.
        indices: of the columns wanted.
    """

    records: Iterator[Record]
    delimiter: str
    names: list[str] | None
    width: int
    indices: list[int]


def read_delimited_rows(table: str, lines: TableLines, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the rows of a CSV or TSV table, or of a list without a header.

    In a table of two columns, of which the path is the first, a text may have commas without being quoted.

    Raises:
        DataError: while reading, if no row can be trusted.
    """
    header = find_header(table, lines, wanted)
    last_index = max(header.indices)
    delimiter_name = _DELIMITERS.get(header.delimiter, repr(header.delimiter))
    likely = "text" if len(wanted) > 1 else "path"
    rest_is_text = header.width == 2 and header.indices[:2] == [0, 1] and header.delimiter in ",;"
    for line, cells, problem in header.records:
        place = f"row {line} of {lines.table}"
        if problem == MARKED_WRONG:
            yield TableRow(place, cells[0], None, None, None)
            continue
        if problem is None:
            if len(cells) > header.width and rest_is_text and line == lines.number:
                path, text, problem = split_line(lines.last.rstrip("\r\n"), header.delimiter)
                cells = [path, text]
            if problem is not None:
                pass
            elif len(cells) > header.width:
                problem = (
                    f"it has {len(cells)} cells instead of {header.width}: perhaps a {likely} has a {delimiter_name} "
                    "and is not quoted"
                )
            elif len(cells) <= last_index:
                problem = f"it has only {len(cells)} of {header.width} cells"
            elif cells == header.names:
                problem = "it repeats the header"
            else:
                yield make_row(place, *(cells[index] for index in header.indices))
                continue
        yield TableRow(place, None, None, None, problem)


def describe_form(table: str, lines: TableLines, wanted: Sequence[WantedColumn]) -> str | None:
    """Describes how a table without a header is read; None if it has one.

    Raises:
        DataError: as `find_header` does.
    """
    header = find_header(table, lines, wanted)
    if header.names is not None:
        return None
    if header.delimiter == IAM:
        return "is read as a list of the IAM database"
    delimiter = {**_DELIMITERS, " ": "space"}.get(header.delimiter, repr(header.delimiter))
    if header.width == 2 and header.indices[0] == 0:
        return f"has no header: what stands after the path and a {delimiter} is the text"
    path, text = (index + 1 for index in header.indices[:2])
    return f"has no header: column {path} is read as the path, and column {text} as the text"


def find_header(table: str, lines: TableLines, wanted: Sequence[WantedColumn]) -> _Header:
    """Finds out how a table is written: its delimiter, its columns, and its header.

    A table without a header is read if it is a list whose lines begin with the names of images, or if it has one or two
    columns, of which one names files that are there, or images.

    Raises:
        DataError: if no delimiter gives a header with the columns wanted.
    """
    suffix = os.path.splitext(table)[1].lower()
    first, problem = next(read_whole_lines(lines), ("", None))
    if "\0" in first:
        raise lines.explain_encoding("it has a NUL byte, as UTF-16 has")
    if problem:
        raise DataError(f"line {lines.number} of {lines.table} is no header ({problem}): {suggest_header(wanted)}")
    # Excel's own mark of the delimiter, on a line before the header.
    mark = re.fullmatch(r'"?sep=([^"\s]|\t)"?', first, re.IGNORECASE) if suffix == ".csv" else None
    delimiters = [mark[1]] if mark else _DELIMITERS_OF.get(suffix, list(_DELIMITERS))
    quoted_tabs = suffix == ".csv" or all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in first.split("\t"))

    def read_records(delimiter: str) -> Iterator[Record]:
        lines.restart()
        quoted = delimiter != "\t" or quoted_tabs
        records = _read_quoted_records(lines, delimiter) if quoted else _read_tab_records(lines)
        return itertools.islice(records, 1 if mark else 0, None)

    failures: list[tuple[int, DataError]] = []
    first_cells: dict[str, list[str]] = {}
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
        except UnclearColumnsError:
            raise
        except DataError as error:
            failures.append((-1 if len(cells) == 1 else len(cells), error))  # one cell: certainly another delimiter
            first_cells[delimiter] = cells
    if suffix == ".txt" and len(wanted) == 2 and len(names := first.split()) == 2:
        with contextlib.suppress(DataError):
            if find_columns(names, wanted, lines.table, "first line") == [0, 1]:
                records = read_list_records(lines, ListForm(" ", quoted=False))
                return _Header(itertools.islice(records, 1, None), " ", names, 2, [0, 1])
    if any(looks_like_header(cells, wanted) for cells in first_cells.values()):
        raise max(failures, key=operator.itemgetter(0))[1]
    if mark is None and len(wanted) > 1 and (numbers := read_numbers(wanted)) is not None:
        separators = [*delimiters, *(" " if suffix == ".txt" else "")]
        form = find_list_form(lines, "".join(separators), numbers)
        if form is not None and form.columns is not None:
            return _Header(read_records(form.separator), form.separator, None, form.width, list(form.columns))
        if form is None and len(wanted) == 2 and not any(column.given for column in wanted):
            form = find_form_of_names(lines, "".join(separators), _list_names_near(table))
        if form is not None and len(wanted) == 2:
            records = read_records("\t") if form.separator == "\t" else read_list_records(lines, form)
            return _Header(records, form.separator, None, 2, [0, 1])
    for delimiter, cells in first_cells.items():
        if all(column.given is None for column in wanted) and len(wanted) <= len(cells) <= 2:
            named = [cell.lower().endswith(IMAGE_SUFFIXES) and len(cells) == 2 for cell in map(str.strip, cells)]
            files = [index for index, cell in enumerate(cells) if named[index] or _is_file_beside(table, cell.strip())]
            if len(files) == 1:
                indices = [files[0], 1 - files[0]][: len(wanted)]
                return _Header(read_records(delimiter), delimiter, None, len(cells), indices)
    raise max(failures, key=operator.itemgetter(0))[1]


def read_numbers(wanted: Sequence[WantedColumn]) -> list[int | None] | None:
    """Reads the numbers of columns without names, from 0; None if a flag gives a name, but for that of splits."""
    given = [column.given for column in wanted]
    if given[2:] == [SPLIT_COLUMNS[0]]:
        numbers = read_numbers(wanted[:2])
        return None if numbers is None else [*numbers, SPLITS]
    if any(name is not None and not (name.isdecimal() and int(name)) for name in given):
        return None
    return [None if name is None else int(name) - 1 for name in given]


def _read_quoted_records(lines: TableLines, delimiter: str) -> Iterator[Record]:
    # A space before a quotation mark is skipped: it would make the mark a part of the text.
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        line = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (LineTooLongError, csv.Error) as error:
            if "new-line character" in str(error):
                yield line, [], CARRIAGE_RETURN
            elif lines.number == line and isinstance(error, LineTooLongError):
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


def _read_tab_records(lines: TableLines) -> Iterator[Record]:
    for line, problem in read_whole_lines(lines):
        if problem is None and "\r" in line:
            problem = CARRIAGE_RETURN
        cells = line.split("\t")
        yield lines.number, [_unquote(cell) for cell in cells] if '"' in line else cells, problem


def _unquote(cell: str) -> str:
    """Removes the quotation marks that a writer of quoted cells added; any other cell stays as it is."""
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        inside = cell[1:-1]
        if '"' in inside and '"' not in inside.replace('""', ""):
            return inside.replace('""', '"')
    return cell


def _list_names_near(table: str) -> set[str]:
    """Lists the names of files, without suffixes of images, in a local table's folder and in those directly in it."""
    if storage.is_remote(table):
        return set()
    names: set[str] = set()
    folders = [os.path.dirname(table)]
    for folder in folders:  # which grows by those in the first one
        try:
            with os.scandir(folder) as entries:
                for entry in itertools.islice(entries, _ENTRIES_LOOKED_AT):
                    if entry.name.lower().endswith(IMAGE_SUFFIXES):
                        names.add(make_name_key(entry.name))
                    elif folder == folders[0] and len(folders) <= _FOLDERS_NEAR and entry.is_dir():
                        folders.append(entry.path)
        except OSError:
            continue
    return names


def _is_file_beside(table: str, path: str) -> bool:
    """Checks whether a path, relative to the table's folder, or a URL is a file."""
    if not storage.is_remote(path):
        path = os.path.join(os.path.dirname(table), path)
    try:
        return is_file(path)
    except DataError:
        return False
