"""Spreadsheets: the first sheet of an .xlsx file with a path and a text in each row."""

from __future__ import annotations

import functools
import io
import itertools
import operator
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from components.listing.columns import WantedColumn, find_columns
from components.listing.table_rows import TableRow, make_row, pick_texts
from tfrecords import DataError

MAX_BYTES = 50_000_000
"""Most bytes of a spreadsheet."""

_MAX_UNPACKED_BYTES = 500_000_000
_MAX_CELLS = 20_000_000
_TITLES = 10
_FEW_COLUMNS = 10  # where cells do not say in which column they stand
_BYTES_AT_A_TIME = 1_000_000
_CELL = re.compile(rb"""[\s:]r\s*=\s*["']\s*([A-Za-z]{0,7})([0-9]{1,12})""")
_LONGEST_CELL = 60
_DIGITS = 15  # which a cell with a number holds

_Rows = Iterator[tuple[int, list[Any]]]
"""Rows with a cell in them, each with its number from 1."""


def read_spreadsheet_rows(file: IO[bytes], table: str, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the rows of the first sheet that has the columns wanted.

    Raises:
        DataError: if the file is too large, damaged or locked, or no sheet has the columns.
    """
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
            yield from _read_rows(itertools.chain(first[place + 1 :], rows), sheet, names, indices)
            return
    if failures:
        raise max(failures, key=operator.itemgetter(0, 1))[2]
    raise DataError(f"the table {table} is empty: write a row for each image")


def _is_bounded(content: bytes, table: str) -> bool:
    """Tells whether the parts of a spreadsheet are small, and its cells lie close together.

    The library holds every cell up to the last one, even if a sheet has but two.
    """
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
        raise DataError(f"{table} is no .xlsx file, or a locked or damaged one: save it again, or as .csv") from None
    return max(column, _FEW_COLUMNS) * row <= _MAX_CELLS


def _read_sheets(content: bytes, table: str) -> Iterator[tuple[str, _Rows]]:
    """Yields the name and the rows of each sheet that is not empty."""
    import python_calamine  # only here, because few collections have spreadsheets

    try:
        with python_calamine.load_workbook(io.BytesIO(content)) as workbook:
            for name in workbook.sheet_names:
                sheet = workbook.get_sheet_by_name(name)
                if sheet.start is not None:
                    rows = enumerate(sheet.iter_rows(), 1)
                    yield name, ((number, cells) for number, cells in rows if any(cell != "" for cell in cells))
    except python_calamine.CalamineError as error:
        raise DataError(f"{table} is no .xlsx file that can be read ({error}): save it again, or as .csv") from None


def _read_rows(rows: _Rows, sheet: str, names: Sequence[str], indices: Sequence[int]) -> Iterator[TableRow]:
    keys = [names[index] for index in indices]
    for number, cells in rows:
        place = f"row {number} of {sheet}"
        value = {key: _plain(cells[index]) for key, index in zip(keys, indices, strict=True)}
        texts, problem = pick_texts(value, keys, integers=True)
        yield make_row(place, *texts) if problem is None else TableRow(place, None, None, None, problem)


def _plain(cell: Any) -> Any:
    """Returns a whole number as such: every number in a cell is a floating-point number."""
    whole = isinstance(cell, float) and cell.is_integer() and abs(cell) < 10**_DIGITS
    return int(cell) if whole else cell
