"""A sample of the images that were recognised, the same one for the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from components.listing import ImageReference
from tfrecords import DataError, read_uris, storage

_COLUMNS = ["uri", "size_bytes", "modified"]


def sample_recognised_images(files: Sequence[str], count: int, *, without: Iterable[str] = ()) -> list[ImageReference]:
    """Draws a sample of the images in committed predictions, by digests of their URIs.

    Memory does not grow with the predictions. An image that was recognised several times is drawn at most once, with
    its identity in the last of `files` that has it.

    Args:
        files: Parquet files of predictions, the oldest first.
        count: images, at most.
        without: TFRecord files, whose images are left out.

    Returns:
        The images, by URI.

    Raises:
        DataError: if a file is damaged.
    """
    left_out = [batch for path in without for batch in read_uris(path)]
    excluded = pyarrow.chunked_array(left_out, pyarrow.string()).combine_chunks()
    kept: pyarrow.Table | None = None
    for table in _read_tables(files):
        table = table.filter(pyarrow.compute.invert(pyarrow.compute.is_in(table["uri"], value_set=excluded)))
        digests = _digest(table["uri"].to_pylist())
        if kept is not None and kept.num_rows >= count:
            inside = digests <= kept["digest"][-1].as_py()
            table, digests = table.filter(pyarrow.array(inside)), digests[inside]
        if not len(digests):
            continue
        table = table.append_column("digest", pyarrow.array(digests))
        kept = _keep_lowest(table if kept is None else pyarrow.concat_tables([kept, table]), count)
    if kept is None:
        return []
    rows = kept.sort_by("uri").to_pylist()
    return [ImageReference(row["uri"], "", row["size_bytes"], round(row["modified"].timestamp() * 1e6)) for row in rows]


def _read_tables(files: Sequence[str]) -> Iterator[pyarrow.Table]:
    """Reads the identities of the images in predictions, a part of a file at a time."""
    for path in files:
        try:
            with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(columns=_COLUMNS):
                    yield pyarrow.Table.from_batches([batch])
        except pyarrow.ArrowInvalid as error:
            raise DataError(
                f"{path} is damaged ({error}): run the infer step, which sets it aside and reads its images again"
            ) from None


def _digest(uris: Sequence[str]) -> np.ndarray:
    """Digests URIs; returns uint64 [rows]."""
    blake2b = hashlib.blake2b
    joined = b"".join(blake2b(uri.encode(errors="surrogateescape"), digest_size=8).digest() for uri in uris)
    return np.frombuffer(joined, np.uint64)


def _keep_lowest(table: pyarrow.Table, count: int) -> pyarrow.Table:
    """Keeps the last row of each image, and of these the ones with the lowest digests, in their order."""
    digests = table["digest"].to_numpy()
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    last = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.zeros(0, bool)
    return table.take(order[last][:count])
