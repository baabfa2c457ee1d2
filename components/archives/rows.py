"""Tables of images: rows that are members, read forwards, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import pyarrow
import pyarrow.compute

from components.archives.columns import ImageColumns
from components.archives.files import ArchiveChangedError, ArchiveError
from components.archives.members import MOST_MEMBERS, Extent, Member

LONGEST_TEXT = 64 << 10
"""Bytes of a text that are kept: far more than any label has, so that a longer one is refused as too long."""
_MOST_TEXTS = 256 << 20  # bytes of all texts of a table
_TOO_MANY_ROWS = f"it has more than {MOST_MEMBERS:,} rows: write them to several files"
_GAP = 1_000  # rows that are passed over by reading them, sooner than by looking for the next one anew


class NoImagesError(ArchiveError):
    """A table that holds no images."""


class RowBatch(NamedTuple):
    """Rows that follow each other.

    Attributes:
        first: number of the first one, from 0.
        images: binary [rows].
        texts: string, binary or integer [rows]; None if there are none.
        problems: why rows without an image have none, by their numbers, where it is known.
    """

    first: int
    images: pyarrow.Array
    texts: pyarrow.Array | None
    problems: Mapping[int, str] = MappingProxyType({})


class ImageTable(Protocol):
    """A table of images of any format.

    Attributes:
        columns: that are read.
        skips: whether it passes over rows without reading them.
    """

    columns: ImageColumns
    skips: bool

    def count_rows(self) -> int | None:
        """Counts the rows, if the table says how many there are."""

    def read_batches(self, first: int) -> Iterator[RowBatch]:
        """Yields rows from one on, or from one before it.

        Raises:
            ArchiveError: if the table is damaged.
            OSError: if it cannot be read.
        """


def list_rows(table: ImageTable) -> Iterator[Member]:
    """Lists the rows of a table as members, each with its text.

    Raises:
        ArchiveError: if it is damaged, once all rows before the damage were yielded.
        OSError: if it cannot be read.
    """
    if (table.count_rows() or 0) > MOST_MEMBERS:
        raise ArchiveError(_TOO_MANY_ROWS)
    texts_size = 0
    for batch in table.read_batches(0):
        for index, size in enumerate(pyarrow.compute.binary_length(batch.images).to_pylist()):
            text = None if batch.texts is None else _read_text(batch.texts, index)
            texts_size += len(text or b"")
            if texts_size > _MOST_TEXTS:
                raise ArchiveError(f"its texts have more than {_MOST_TEXTS:,} bytes: they are no labels of lines")
            row = batch.first + index
            if row >= MOST_MEMBERS:
                raise ArchiveError(_TOO_MANY_ROWS)
            if size is None:
                problem = batch.problems.get(row, "its row holds no bytes of an image")
                yield Member(f"{row:08d}", 0, None, problem, text)
            else:
                yield Member(f"{row:08d}", size, Extent(row, None), None, text)


class RowFile:
    """The images of a table, read forwards by the numbers of their rows.

    Raises:
        ArchiveError: from each call, if the table is damaged.
        OSError: likewise, if it cannot be read.
    """

    def __init__(self, table: ImageTable):
        self._table = table
        self._batches: Iterator[RowBatch] | None = None
        self._batch: RowBatch | None = None
        self._position = 0

    def tell(self) -> int:
        """Returns the number of the next row."""
        return self._position

    def seek(self, row: int) -> int:
        """Goes on to a row, and returns it, or the number of rows if there are not so many."""
        if self._batches is None or (self._table.skips and row - self._position > _GAP):
            self._batches = self._table.read_batches(row)
            self._batch = None
        while self._batch is None or self._batch.first + len(self._batch.images) <= row:
            if (batch := next(self._batches, None)) is None:
                break
            self._batch = batch
        else:
            self._position = row
            return row
        self._position = 0 if self._batch is None else self._batch.first + len(self._batch.images)
        return self._position

    def read_content(self, size: int) -> bytes:
        """Reads the image of the present row, and goes on to the next one.

        Raises:
            ArchiveChangedError: if it has another size.
        """
        row = self._position
        if self._batch is None or not 0 <= row - self._batch.first < len(self._batch.images):
            raise ArchiveChangedError(f"it has no row {row:,}")
        value = self._batch.images[row - self._batch.first]
        found = value.as_buffer().size if value.is_valid else 0
        if found != size or not value.is_valid:
            raise ArchiveChangedError(f"row {row:,} has an image of {found:,} bytes, not of {size:,}")
        self._position += 1
        return value.as_py()


def _read_text(texts: pyarrow.Array, index: int) -> bytes | None:
    """Reads a text as UTF-8, cut where it is too long for any label; None if there is none."""
    value = texts[index]
    if not value.is_valid:
        return None
    if isinstance(value, pyarrow.BinaryScalar):
        return bytes(value.as_buffer()[:LONGEST_TEXT])
    return str(value.as_py()).encode()
