"""Tables of images of every format, by the names of their files."""

from __future__ import annotations

from components.archives.arrow import ArrowImages
from components.archives.lmdb import LmdbImages
from components.archives.parquet import ParquetImages
from components.archives.rows import ImageTable, RowFile
from components.archives.tfrecord import TFRecordImages


def open_table(path: str, size: int, text_column: str | None = None) -> ImageTable:
    """Opens a table of images.

    Args:
        path: path or URL, whose name says the format.
        size: bytes.
        text_column: name of the column with the texts; None for one of the usual names.

    Raises:
        NoImagesError: if it is a Parquet file that holds no images.
        ArchiveError: if it is damaged, or holds no images in another format.
        OSError: if it cannot be read.
    """
    if path.lower().endswith(".parquet"):
        return ParquetImages(path, size, text_column)
    if path.lower().endswith(".arrow"):
        return ArrowImages(path, size, text_column)
    if path.lower().endswith(".mdb"):
        return LmdbImages(path, size)
    return TFRecordImages(path, size, text_column)


def open_rows(path: str, size: int) -> RowFile:
    """Opens the images of a table to be read forwards; raises as `open_table` does."""
    return RowFile(open_table(path, size))
