"""What tests of label tables of every format read: rows, pairs, and the one sentence of a refusal."""

from __future__ import annotations

import os

import pytest

from components.listing.table_rows import TableRow
from components.listing.tables import TableColumns, read_label_table
from tfrecords import DataError


def rows(table: str, **columns: str) -> list[TableRow]:
    """Every row of a label table."""
    return list(read_label_table(table, TableColumns(**columns)))


def pairs(table: str, **columns: str) -> list[tuple[str | None, str | None]]:
    """Path and text of each row, none of which may be damaged."""
    read = rows(table, **columns)
    assert [row.problem for row in read] == [None] * len(read)
    return [(row.path, row.text) for row in read]


def refusal(table: str, **columns: str) -> str:
    """The one sentence of the error."""
    with pytest.raises(DataError) as error:
        rows(table, **columns)
    message = str(error.value)
    assert "\n" not in message
    assert os.path.basename(table) in message
    return message
