"""The columns of a table, found by their names: those of the path, the text and the group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from components.archives.columns import normalise_name
from components.listing.references import IMAGE_SUFFIXES
from tfrecords import DataError

_NAME = re.compile(r"[^\W\d_][\w .:/-]*")


class WantedColumn(NamedTuple):
    """A column to look for: by its name, if a flag has `given` one, else by the usual names, else by the rare ones."""

    role: str
    flag: str
    given: str | None
    usual: Sequence[str]
    rare: Sequence[str] = ()


class UnclearColumnsError(DataError):
    """A header with usual names of columns, of which it is not clear which are meant."""


def find_columns(names: list[str], wanted: Sequence[WantedColumn], table: str, where: str) -> list[int]:
    """Finds the indices of the columns wanted among the names of all columns.

    Args:
        where: the part of the table that gives the names, for messages.

    Raises:
        DataError: if one is missing.
        UnclearColumnsError: if it is not clear which is meant.
    """
    indices = [_find_column(names, column, wanted, table, where) for column in wanted]
    if len(indices) > 1 and indices[0] == indices[1] and wanted[0].role == "path":
        raise UnclearColumnsError(
            f"{table}: the path and the text would both be column {names[indices[0]]!r}; "
            "name two columns with --path_column and --text_column"
        )
    return indices


def _find_column(names: list[str], column: WantedColumn, wanted: Sequence[WantedColumn], table: str, where: str) -> int:
    role, flag, given, usual, rare = column
    if given is not None and names.count(given) == 1:
        return names.index(given)
    plain_names = [normalise_name(name) for name in names]
    if usual and not set(usual) & set(plain_names) and set(rare) & set(plain_names):
        usual = rare
    several = [name for name, plain_name in zip(names, plain_names, strict=True) if plain_name in usual]
    if role == "text" and given is None and len({*map(normalise_name, several)}) > 1:
        raise UnclearColumnsError(
            f"{table} has several columns that could hold the text, {' and '.join(map(repr, several))}: say which "
            f"with {flag}={several[0]} or {flag}={several[1]}"
        )
    for plain_name in usual if given is None else [normalise_name(given)]:
        count = plain_names.count(plain_name)
        if count > 1:
            raise UnclearColumnsError(
                f"{table} has {count} columns {plain_name!r}: rename all but the one with the {role}"
            )
        if count:
            return plain_names.index(plain_name)
    present = (", ".join(repr(name[:40]) for name in names[:20]) or "no name") + (", …" if len(names) > 20 else "")
    if given is not None:
        raise DataError(f"{flag}={given}: {table} has no such column; its {where} has {present}")
    advice = f"; {suggest_header(wanted)}, or" if where == "first line" else ";"
    raise DataError(
        f"{table} has no {role} column: its {where} has {present} and none of {', '.join(usual)}"
        f"{advice} say with {flag} which it is"
    )


def looks_like_header(cells: Sequence[str], wanted: Sequence[WantedColumn]) -> bool:
    """Checks whether a line of several cells is a header: all are names, of no image, and one is that of a column."""
    if len(cells) < 2 or not all(map(_NAME.fullmatch, map(str.strip, cells))):
        return False
    if any(cell.strip().lower().endswith(IMAGE_SUFFIXES) for cell in cells):
        return False
    usual = {name for column in wanted[:2] for name in (*column.usual, *column.rare)}
    return not usual.isdisjoint(map(normalise_name, cells))


def suggest_header(wanted: Sequence[WantedColumn]) -> str:
    """Suggests the header line that a table lacks."""
    return f"begin the table with a header line such as {','.join(column.role for column in wanted[:2])}"
