"""Spreadsheets: the first sheet of an .xlsx, .xls or .ods file with a path and a text in each row."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import operator
import os
import pickle
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from typing import IO, Any, NamedTuple

from components.listing import spreadsheet_process
from components.listing.columns import WantedColumn, find_columns, looks_like_header
from components.listing.table_formats import read_numbers
from components.listing.table_rows import TableRow, make_row, pick_texts
from components.listing.text_lists import find_columns_of_cells
from tfrecords import DataError

SPREADSHEET_SUFFIXES = (".xlsx", ".xls", ".ods")
MAX_BYTES = 50_000_000
"""Most bytes of a spreadsheet."""
MAX_MEMORY = 3_000_000_000
"""Most bytes of memory that the process which reads a spreadsheet may take."""

_MAX_SECONDS = 300  # of processor time
_MAX_UNPACKED_BYTES = 500_000_000
_MAX_CELLS = 20_000_000
_TITLES = 10
_ROWS_LOOKED_AT = 200
_FEW_COLUMNS = 10  # where cells do not say in which column they stand
_BYTES_AT_A_TIME = 1_000_000
_CELL = re.compile(rb"""[\s:]r\s*=\s*["']\s*([A-Za-z]{0,7})([0-9]{1,12})""")
_LONGEST_CELL = 60
_DIGITS = 15  # which a cell with a number holds

_Row = tuple[int, list[Any]]
"""Number from 1, and cells: at least one of them is not empty."""


class _Sheet(NamedTuple):
    """A sheet that has the columns wanted.

    Attributes:
        name: with that of the file, for messages.
        rows: with the images.
        names: of all columns; None if there is no header.
        indices: of the columns wanted.
    """

    name: str
    rows: Iterator[_Row]
    names: list[str] | None
    indices: Sequence[int]


def read_spreadsheet_rows(file: IO[bytes], table: str, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the rows of the first sheet that has the columns wanted.

    Without a header that names them, the first sheet is read in which one column holds names of images.

    Raises:
        DataError: if the file is too large, damaged or locked, or no sheet has the columns.
    """
    with contextlib.closing(_find_sheets(file, table, wanted)) as sheets:
        for sheet in sheets:
            yield from _read_rows(sheet)
            return


def describe_sheet(file: IO[bytes], table: str, wanted: Sequence[WantedColumn]) -> str | None:
    """Describes how a spreadsheet without a header is read; None if it has one.

    Raises:
        DataError: as `read_spreadsheet_rows` does.
    """
    with contextlib.closing(_find_sheets(file, table, wanted)) as sheets:
        sheet = next(sheets)
        if sheet.names is not None:
            return None
        path, text = (index + 1 for index in sheet.indices[:2])
        return f"has no header: column {path} is read as the path, and column {text} as the text"


def _find_sheets(file: IO[bytes], table: str, wanted: Sequence[WantedColumn]) -> Generator[_Sheet]:
    """Yields the sheet that has the columns wanted; it can be read until the next one is asked for."""
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES or not _is_bounded(content, table):
        raise DataError(
            f"{table} is too large for a spreadsheet, which is read as a whole (at most {MAX_BYTES:,} bytes, "
            f"{_MAX_UNPACKED_BYTES:,} unpacked, and {_MAX_CELLS:,} cells): save it as .csv"
        )
    failures = []
    for name, rows in _read_sheets(content, table):
        sheet = f"sheet {name!r} of {table}"
        first = list(itertools.islice(rows, _TITLES))
        for place, (_, cells) in enumerate(first):  # a title may stand above the header
            names = [str(cell) for cell in cells]
            try:
                indices = find_columns(names, wanted, sheet, "first row")
            except DataError as error:
                failures.append((len(names), -place, error))
                continue
            yield _Sheet(sheet, itertools.chain(first[place + 1 :], rows), names, indices)
            return
    if not failures:
        raise DataError(f"the table {table} is empty: write a row for each image")
    numbers = read_numbers(wanted) if len(wanted) > 1 else None
    if numbers is not None:
        for name, rows in _read_sheets(content, table):
            sheet = f"sheet {name!r} of {table}"
            first = list(itertools.islice(rows, _ROWS_LOOKED_AT))
            if (unnamed := _find_unnamed_columns(first, wanted, numbers, sheet)) is not None:
                yield _Sheet(sheet, itertools.chain(first, rows), None, unnamed)
                return
    raise max(failures, key=operator.itemgetter(0, 1))[2]


def _find_unnamed_columns(
    rows: Sequence[_Row], wanted: Sequence[WantedColumn], numbers: Sequence[int | None], sheet: str
) -> Sequence[int] | None:
    """Finds the columns wanted in a sheet without a header; None if it is no list of images.

    Args:
        numbers: of the columns wanted, as `read_numbers` reads them.

    Raises:
        DataError: if several columns could hold the text.
    """
    texts = [[str(_plain(cell)) for cell in cells] for _, cells in rows]
    return None if looks_like_header(texts[0], wanted) else find_columns_of_cells(texts, numbers, sheet)


def _is_bounded(content: bytes, table: str) -> bool:
    """Tells whether the parts of a packed spreadsheet are small, and its cells lie close together.

    The library holds every cell up to the last one, even if a sheet has but two.
    """
    if not content.startswith(b"PK"):
        return True
    size, column, row = 0, 0, 0
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                end = b""
                with archive.open(member) as part:
                    while piece := part.read(_BYTES_AT_A_TIME):
                        size += len(piece)
                        if size > _MAX_UNPACKED_BYTES:
                            return False
                        for letters, digits in _CELL.findall(end + piece):
                            column = max(
                                column, functools.reduce(lambda sum, letter: 26 * sum + letter % 32, letters, 0)
                            )
                            row = max(row, int(digits))
                        end = piece[-_LONGEST_CELL:]
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError):
        raise _explain_damage(table, "is damaged or locked") from None
    return max(column, _FEW_COLUMNS) * row <= _MAX_CELLS


def _read_sheets(content: bytes, table: str) -> Iterator[tuple[str, Iterator[_Row]]]:
    """Yields the name and the rows of each sheet that is not empty; the rows before the next sheet is asked for."""
    command = [sys.executable, "-P", spreadsheet_process.__file__, str(MAX_MEMORY), str(_MAX_SECONDS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask = functools.partial(_ask, process.stdin, process.stdout, table)
        try:
            name = ask(len(content).to_bytes(spreadsheet_process.LENGTH_BYTES, "big") + content)
            while name is not None:
                yield (
                    name,
                    itertools.chain.from_iterable(iter(functools.partial(ask, spreadsheet_process.MORE_ROWS), [])),
                )
                name = ask(spreadsheet_process.NEXT_SHEET)
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def _ask(questions: IO[bytes], answers: IO[bytes], table: str, question: bytes) -> Any:
    """Asks the process; raises a `DataError` if it could not read the spreadsheet, or ended before."""
    try:
        questions.write(question)
        questions.flush()
        answer = pickle.load(answers)
    except (BrokenPipeError, EOFError, pickle.UnpicklingError):
        problem = f"takes more than {MAX_MEMORY:,} bytes of memory or {_MAX_SECONDS} seconds"
        raise _explain_damage(table, f"{problem}, or is damaged") from None
    if isinstance(answer, Exception):
        raise _explain_damage(table, f"cannot be read ({answer})")
    return answer


def _explain_damage(table: str, problem: str) -> DataError:
    suffix = os.path.splitext(table)[1].lower()
    return DataError(f"{table} is no {suffix} file, or one that {problem}: save it again, or as .csv")


def _read_rows(sheet: _Sheet) -> Iterator[TableRow]:
    keys = [f"column {index + 1}" if sheet.names is None else sheet.names[index] for index in sheet.indices]
    for number, cells in sheet.rows:
        place = f"row {number} of {sheet.name}"
        value = {key: _plain(cells[index]) for key, index in zip(keys, sheet.indices, strict=True)}
        texts, problem = pick_texts(value, keys, integers=True)
        yield make_row(place, *texts) if problem is None else TableRow(place, None, None, None, problem)


def _plain(cell: Any) -> Any:
    """Returns a whole number as such: every number in a cell is a floating-point number."""
    whole = isinstance(cell, float) and cell.is_integer() and abs(cell) < 10**_DIGITS
    return int(cell) if whole else cell
