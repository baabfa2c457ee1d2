"""The newest reading of every image or line, among the rows of all committed runs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow

from components.predictions.runs import open_predictions

_DIGEST_BYTES = 16
_ROWS_AT_A_TIME = 4_000_000  # in one pass over the predictions; a row takes about 40 bytes


def find_newest_rows(files: Sequence[str], *, rows_at_a_time: int = _ROWS_AT_A_TIME) -> list[np.ndarray]:
    """Finds the rows that hold the newest reading of their image or line; of equally new ones the last.

    The predictions are passed over once for every `rows_at_a_time` rows. Memory grows by one byte a row.

    Args:
        files: Parquet files of committed predictions, the oldest first.

    Returns:
        Bools [rows] for each file.

    Raises:
        DataError: if a file is damaged.
    """
    counts = []
    for path in files:
        with open_predictions(path) as parquet:
            counts.append(parquet.metadata.num_rows)
    if not counts:
        return []
    ends = np.cumsum([0, *counts])
    is_newest = np.zeros(ends[-1], bool)
    passes = max(1, -(-int(ends[-1]) // rows_at_a_time))
    for number in range(passes):
        found = [_read_digests(path, int(start), number, passes) for path, start in zip(files, ends[:-1], strict=True)]
        digests, times, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((places, times, digests["low"], digests["high"]))
        ordered = digests[order]
        last = np.ones(len(order), bool)
        last[:-1] = ordered[1:] != ordered[:-1]
        is_newest[places[order[last]]] = True
    return [is_newest[start:end] for start, end in itertools.pairwise(ends)]


def _read_digests(path: str, start: int, number: int, passes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads the digests of a file's URIs that belong to a pass, with the times and the places of their rows."""
    digests, times, places = [np.zeros(0, [("high", "<u8"), ("low", "<u8")])], [np.zeros(0, np.int64)], []
    places.append(np.zeros(0, np.int64))
    with open_predictions(path) as parquet:
        for batch in parquet.iter_batches(columns=["uri", "scored_at"]):
            joined = b"".join(
                hashlib.blake2b(uri, digest_size=_DIGEST_BYTES).digest()
                for uri in batch.column("uri").cast(pyarrow.binary()).to_pylist()
            )
            found = np.frombuffer(joined, digests[0].dtype)
            wanted = found["low"] % np.uint64(passes) == number
            digests.append(found[wanted])
            times.append(batch.column("scored_at").cast(pyarrow.int64()).to_numpy()[wanted])
            places.append(start + np.flatnonzero(wanted))
            start += batch.num_rows
    return np.concatenate(digests), np.concatenate(times), np.concatenate(places)
