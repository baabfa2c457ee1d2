"""Parquet files whose rows hold images: as Hugging Face writes them, or with a column of bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow
import pyarrow.parquet

from components.archives.columns import ImageColumns, choose_columns
from components.archives.files import ArchiveError, ArchiveFile, ArrowFile, check_growth, explain_damage, read_range
from components.archives.rows import NoImagesError, RowBatch
from tfrecords import StoreError, storage

_MAGIC = b"PAR1"
_BUFFER_BYTES = 1 << 20  # of a column that are read together: never a whole row group, which may have gigabytes


class ParquetImages:
    """A Parquet file whose rows hold images.

    One row is read at a time, which costs some microseconds: a small file may repeat a large value in every row. So
    memory holds a page and a value of each column, which have less than 2 GiB by the format, whatever headers say.

    Args:
        path: path or URL.
        size: bytes.
        text_column: name of the column with the texts; None for one of the usual names.

    Raises:
        NoImagesError: if it holds no images.
        ArchiveError: if it is damaged.
        OSError: if it cannot be read.
    """

    skips = True

    def __init__(self, path: str, size: int, text_column: str | None = None):
        if read_range(path, 0, len(_MAGIC)) != _MAGIC:
            raise NoImagesError("it is no Parquet file")
        self._size = size
        with explain_damage():
            file = ArrowFile(ArchiveFile(path, size, longest_read=max(size, 1)))
            self._file = pyarrow.parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            columns = choose_columns(self._file.schema_arrow, text_column)
        if columns is None:
            raise NoImagesError("no column of it holds images")
        self.columns: ImageColumns = columns
        self._leaves = [f"{columns.image}.bytes" if columns.nested else columns.image]
        self._leaves += [] if columns.text is None else [columns.text]

    def count_rows(self) -> int:
        """Counts the rows, as the file says."""
        return self._file.metadata.num_rows

    def read_batches(self, first: int) -> Iterator[RowBatch]:
        """Yields rows from one on, see `ImageTable`; passes over whole row groups before it."""
        image, text = self.columns.image, self.columns.text
        start = 0
        for number in range(self._file.metadata.num_row_groups):
            with explain_damage():
                rows = self._check_group(number)
                found = 0
                if start + rows > first:
                    for batch in self._file.iter_batches(
                        1, row_groups=[number], columns=self._leaves, use_threads=False
                    ):
                        images = batch.column(image)
                        images = images.flatten()[0] if self.columns.nested else images
                        yield RowBatch(start + found, images, None if text is None else batch.column(text))
                        found += len(batch)
                    if found != rows:
                        raise ArchiveError(f"it is damaged: a row group has {found:,} rows instead of {rows:,}")
            start += rows

    def _check_group(self, number: int) -> int:
        """Checks what the file says of a row group; returns the number of its rows."""
        group = self._file.metadata.row_group(number)
        if group.num_rows < 0:
            raise ArchiveError(f"it is damaged: a row group has {group.num_rows:,} rows")
        # Asked for the metadata of a column, the library ends the process if they are damaged.
        check_growth(self._size, group.total_byte_size)
        return group.num_rows


def holds_images(path: str) -> bool:
    """Tells whether a file is a Parquet file whose rows hold images; False if it cannot be told."""
    try:
        ParquetImages(path, storage.get_size(path))
    except StoreError:
        raise
    except (ArchiveError, OSError):
        return False
    return True
