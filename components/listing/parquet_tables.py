"""Parquet files with a path and a text in each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow
import pyarrow.parquet

from components.listing.columns import WantedColumn, find_columns
from components.listing.table_rows import TableRow, make_row, pick_texts
from tfrecords import DataError, StoreError

_ROWS_AT_A_TIME = 5_000


def read_parquet_rows(file: IO[bytes], table: str, wanted: Sequence[WantedColumn]) -> Iterator[TableRow]:
    """Reads the rows of a Parquet file, some thousand at a time.

    Raises:
        DataError: if it is damaged, lacks a column, or holds the images themselves.
    """
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            fields = list(parquet.schema_arrow)
            images = [field.name for field in fields if _holds_bytes(field.type)]
            if images and wanted[0].given is None:
                raise DataError(
                    f"{table} holds the images themselves, in the column {images[0]!r}: give it as --images or "
                    "--infer_images; it is no table of labels for other images"
                )
            names = [field.name for field in fields if field.name not in images]
            keys = [names[index] for index in find_columns(names, wanted, table, "schema")]
            number = 0
            for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=keys):
                for value in batch.to_pylist():
                    number += 1
                    place = f"row {number} of {table}"
                    texts, problem = pick_texts(value, keys)
                    yield make_row(place, *texts) if problem is None else TableRow(place, None, None, None, problem)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, StoreError) or getattr(error, "errno", None) is not None:
            raise
        raise DataError(f"{table} is no Parquet file that can be read ({error}): write it again") from None


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    """Tells whether a column holds bytes, as `{bytes, path}` of Hugging Face."""
    if pyarrow.types.is_struct(kind):
        return any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) or pyarrow.types.is_binary_view(kind)
