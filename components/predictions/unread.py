"""Unread images: an anti-join of listed images and committed runs, over digests of the images' identities.

An image counts as new when its path, size or modification time changes.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from components.listing import ImageReference, ListingSummary, merge_listings, write_references
from components.listing.listing import LISTING_SCHEMA
from tfrecords import DataError, storage

_DIGEST_BYTES = 16
_ROWS_AT_A_TIME = 30_000  # memory, against the price of small blocks
RETRIED = ("unreadable", "unreadable_folder", "damaged_row")
"""Reasons of rejects that may be gone by the next night."""
DONE, REREAD, RETRY, DAMAGED = "done", "reread", "retry", "damaged"


class Source(NamedTuple):
    """A file that lists images.

    Attributes:
        kind: `listing`, `predictions` or `rejects`.
        path: of the Parquet file.
    """

    kind: str
    path: str


@dataclasses.dataclass(frozen=True)
class SkipRule:
    """Rule for the rows that make an image count as read.

    Attributes:
        model_id: every row of this model counts.
        reread_below: a row of another model counts, too, if its confidence is not below this.
    """

    model_id: str
    reread_below: float


@dataclasses.dataclass(frozen=True)
class UnreadSummary:
    """Counts of the listed images that met in one place.

    Attributes:
        listing: the images to read.
        skipped: images that earlier runs have read, or rejected for good.
        reread: images to read again because another model read them with too little confidence.
        retried: images to read again because earlier runs could not read them.
        damaged: files of earlier runs that cannot be read; their images count as new.
    """

    listing: ListingSummary
    skipped: int
    reread: int
    retried: int
    damaged: list[str] = dataclasses.field(default_factory=list)


def list_identities(source: Source, places: int, read: SkipRule) -> Iterator[tuple[int, tuple[str, bytes, bytes]]]:
    """Lists the images in a file, by the place where equal ones meet.

    Yields:
        `(place, (kind, digests, rows))`. The kind is `listing`, or what is to be done with the image: `done`, `reread`
        or `retry`. The digests have 16 bytes an image, one after the other. The rows are those of the listing in
        Arrow's format, compressed, or nothing. A file of an earlier run that cannot be read yields only
        `(0, ("damaged", b"", its path))`.

    Raises:
        DataError: if a disk or a store fails while such a file is read, which may pass.
    """
    return (
        _read_identities(source, places, read)
        if source.kind == "listing"
        else _list_identities_of_run(source, places, read)
    )


def _list_identities_of_run(
    source: Source, places: int, read: SkipRule
) -> Iterator[tuple[int, tuple[str, bytes, bytes]]]:
    found: list[tuple[int, tuple[str, bytes, bytes]]] = []
    try:
        found += _read_identities(source, places, read)  # a whole file or nothing; it has 16 bytes an image
    except FileNotFoundError:
        if source.kind != "rejects":  # these may be pruned meanwhile
            raise
    except (pyarrow.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None) is not None:  # a disk's fault, which may pass; pyarrow's own have no number
            raise DataError(f"{source.path} cannot be read: {error.strerror}: run the same command again") from None
        found = [(0, (DAMAGED, b"", source.path.encode(errors="surrogateescape")))]
    yield from found


def _read_identities(source: Source, places: int, read: SkipRule) -> Iterator[tuple[int, tuple[str, bytes, bytes]]]:
    with storage.open_to_read(source.path) as file, pyarrow.parquet.ParquetFile(file) as parquet:
        columns = None if source.kind == "listing" else _choose_columns(source.kind, parquet.schema_arrow.names)
        if columns == []:
            return
        for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=columns):
            digests = _digest_rows(batch)
            place = (digests.view(np.uint64)[::2] % places).astype(np.int64)
            kinds = _classify_rows(source.kind, batch, read)
            for kind in dict.fromkeys(kinds.tolist()):
                of_kind = np.flatnonzero(kinds == kind)
                order = of_kind[np.argsort(place[of_kind], kind="stable")]
                bounds = np.searchsorted(place[order], np.arange(places + 1))
                for number in np.flatnonzero(np.diff(bounds)):
                    some = order[bounds[number] : bounds[number + 1]]
                    rows = _pack(batch.take(pyarrow.array(some))) if kind == "listing" else b""
                    yield int(number), (kind, digests[some].tobytes(), rows)


def keep_unread(blocks: Iterable[tuple[str, bytes, bytes]], destination: str) -> UnreadSummary:
    """Writes the listed images that met in one place, less those that are done, to a listing file."""
    met: dict[str, list[bytes]] = collections.defaultdict(list)
    listed: list[tuple[bytes, bytes]] = []
    damaged: list[str] = []
    for kind, digests, rows in blocks:
        if kind == DAMAGED:
            damaged.append(rows.decode(errors="surrogateescape"))
        elif kind == "listing":
            listed.append((digests, rows))
        else:
            met[kind].append(digests)
    seen = {kind: _make_digest_array(b"".join(met[kind])) for kind in (DONE, REREAD, RETRY)}
    counts: collections.Counter[str] = collections.Counter()
    unread: list[ImageReference] = []
    for digests, rows in listed:
        keys = _make_digest_array(digests)
        is_in = {
            kind: pyarrow.compute.is_in(keys, value_set=values).to_numpy(zero_copy_only=False)
            for kind, values in seen.items()
        }
        left = ~is_in[DONE]
        counts["skipped"] += int(len(left) - left.sum())
        counts["reread"] += int((left & is_in[REREAD]).sum())
        counts["retried"] += int((left & ~is_in[REREAD] & is_in[RETRY]).sum())
        if left.any():
            with pyarrow.ipc.open_stream(rows) as stream:
                table = stream.read_all().filter(pyarrow.array(left))
            unread += map(ImageReference, *(column.to_pylist() for column in table.columns))
    unread.sort(key=lambda reference: (reference.key, reference.uri))
    listing = write_references(unread, destination, None)
    return UnreadSummary(listing, counts["skipped"], counts["reread"], counts["retried"], sorted(damaged))


def merge_unread(summaries: Iterable[UnreadSummary]) -> UnreadSummary:
    """Adds up the summaries of all places."""
    parts = list(summaries)
    return UnreadSummary(
        merge_listings([part.listing for part in parts]),
        sum(part.skipped for part in parts),
        sum(part.reread for part in parts),
        sum(part.retried for part in parts),
        sorted(path for part in parts for path in part.damaged),
    )


def _choose_columns(kind: str, present: list[str]) -> list[str]:
    """Chooses the columns to read; none of an older file of rejects, which lacks the images' sizes and times."""
    wanted = ["uri", "size_bytes", "modified", *(("model_id", "confidence") if kind == "predictions" else ("reason",))]
    return wanted if set(wanted) <= set(present) else []


def _digest_rows(batch: pyarrow.RecordBatch) -> np.ndarray:
    """Digests the identity of each row; returns S16 [rows], from which alone the places are taken."""
    modified = batch.column("modified_us" if "modified_us" in batch.schema.names else "modified")
    if pyarrow.types.is_timestamp(modified.type):
        modified = modified.cast(pyarrow.int64())
    numbers = (column.cast(pyarrow.string()).fill_null("") for column in (batch.column("size_bytes"), modified))
    names = pyarrow.compute.binary_join_element_wise(batch.column("uri"), *numbers, "\n")
    blake2b = hashlib.blake2b
    joined = b"".join(
        blake2b(name, digest_size=_DIGEST_BYTES).digest() for name in names.cast(pyarrow.binary()).to_pylist()
    )
    return np.frombuffer(joined, f"S{_DIGEST_BYTES}")


def _classify_rows(kind: str, batch: pyarrow.RecordBatch, read: SkipRule) -> np.ndarray:
    if kind == "listing":
        return np.full(batch.num_rows, "listing")
    if kind == "rejects":
        retried = pyarrow.compute.is_in(batch.column("reason"), value_set=pyarrow.array(RETRIED))
        return np.where(retried.to_numpy(zero_copy_only=False), RETRY, DONE)
    same = pyarrow.compute.equal(batch.column("model_id"), read.model_id).to_numpy(zero_copy_only=False)
    confident = batch.column("confidence").to_numpy() >= np.float32(read.reread_below)
    return np.where(same | confident, DONE, REREAD)


def _pack(batch: pyarrow.RecordBatch) -> bytes:
    sink = pyarrow.BufferOutputStream()
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.ipc.new_stream(sink, LISTING_SCHEMA, options=options) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _make_digest_array(digests: bytes) -> Any:
    buffers = [None, pyarrow.py_buffer(digests)]
    return pyarrow.Array.from_buffers(pyarrow.binary(_DIGEST_BYTES), len(digests) // _DIGEST_BYTES, buffers)
