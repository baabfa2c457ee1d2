"""The index of a split: where each line lies in the committed shards, with its width and label.

The shards are read once to build it. Then lines are read in place, in any order. The index is a folder of plain arrays
that are memory-mapped, so that a process keeps next to nothing of them, and processes of one machine share them:

| file | content, little-endian |
|---|---|
| `places` | one row of `_PLACE` for each line |
| `widths` | int32 [lines], pixels |
| `offsets` | int64 [lines + 1]; the label of line `i` is `labels[offsets[i]:offsets[i + 1]]` |
| `labels` | int32, the symbol ids of all labels one after the other |
| `index.json` | the shards, and the number of lines up to the end of each; written last |
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute

from tfrecords import (
    DataError,
    DatasetManifest,
    ShardEntry,
    examples_to_record_batch,
    read_records,
    storage,
    write_records,
)
from tfrecords.manifest import suggest_remedy
from tfrecords.shards import RECORD_FRAME, compute_masked_crc
from tfrecords.stored_blocks import StoredBlocks, find_stored_blocks, read_stored

_VERSION = 1
_NAME = "index.json"
_PLACE = np.dtype(
    [
        ("position", "<i8"),  # of the record's first byte in the shard's file
        ("size", "<u4"),  # bytes of the record
        ("image_start", "<u4"),  # of the PNG inside the record
        ("image_size", "<u4"),
        ("room", "<u2"),  # bytes from the position to the end of its stored block
    ]
)
_ARRAYS = {"places": _PLACE, "widths": np.dtype("<i4"), "offsets": np.dtype("<i8"), "labels": np.dtype("<i4")}
_RECORDS_AT_A_TIME, _BYTES_AT_A_TIME = 1000, 8 << 20
_OPEN_FILES = 200  # of a split
_POLL_S = 0.2


@dataclasses.dataclass(frozen=True)
class LineIndex:
    """The lines of a split, in the order of its shards.

    Attributes:
        folder: of the dataset.
        paths: of the shards' files, local.
        ends: int64 [shards], number of lines up to the end of each.
        places, widths, offsets, labels: as the module says, memory-mapped.
        open_shard: opens a file, or returns one of the last that were opened.
        failures: errors of reading, for those whose threads' own errors do not come through as they are.
    """

    folder: str
    paths: tuple[str, ...]
    ends: np.ndarray
    places: np.ndarray
    widths: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    open_shard: Callable[[str], _OpenFile] = dataclasses.field(
        default_factory=lambda: functools.lru_cache(_OPEN_FILES)(_OpenFile)
    )
    failures: list[DataError] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.widths)

    def read_records(self, lines: Sequence[int] | np.ndarray) -> list[bytes]:
        """Reads the serialised examples of some lines, and compares each with its checksum.

        Raises:
            DataError: if a file is missing, or changed since the index was built.
        """
        return [record for record, _, _ in self._read(lines)]

    def read_images(self, lines: Sequence[int] | np.ndarray) -> list[bytes]:
        """Reads the PNG bytes of some lines; raises as `read_records` does."""
        return [record[start : start + size] for record, start, size in self._read(lines)]

    def _read(self, lines: Sequence[int] | np.ndarray) -> Iterator[tuple[bytes, int, int]]:
        """Yields records, and where the image of each begins in it and how long it is."""
        numbers = np.asarray(lines, np.int64)
        shards = np.searchsorted(self.ends, numbers, side="right").tolist()
        for shard, (position, size, start, length, room) in zip(shards, self.places[numbers].tolist(), strict=True):
            path = self.paths[shard]
            try:
                body = read_stored(self.open_shard(path).descriptor, position, room, size + RECORD_FRAME[1])
            except OSError as error:
                raise self._fail(f"{path} cannot be read ({error.strerror})") from None
            record = body[:size]
            if body[size:] != compute_masked_crc(record):
                raise self._fail(f"{path} has changed since the training read it first")
            yield record, start, length

    def _fail(self, sentence: str) -> DataError:
        error = DataError(f"{sentence}: {suggest_remedy(self.folder, 'ingest')}")
        self.failures.append(error)
        return error


class _OpenFile:
    """A file that is open for reading until nobody uses it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was not opened
            os.close(self.descriptor)


def open_line_index(
    folder: str, manifest: DatasetManifest, split: str, index_folder: str, report_alive: Callable[[], None]
) -> LineIndex:
    """Opens the index of a split, and builds it first unless it is there.

    One process builds it; others of the same machine that ask for it meanwhile wait.

    Args:
        folder: of a committed dataset, local.
        index_folder: local; for the indices of the dataset's splits.
        report_alive: is called again and again while it is built, or waited for.

    Raises:
        DataError: if a shard is missing, damaged or not what the manifest says, or the index cannot be written.
    """
    own = os.path.join(index_folder, split)
    shards = manifest.shards_of(split)
    try:
        os.makedirs(own, exist_ok=True)
        with open(os.path.join(own, ".lock"), "ab") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    report_alive()
                    time.sleep(_POLL_S)
            described = _read_description(own)
            if described is None or described["shards"] != _describe_shards(folder, shards):
                described = _build(folder, shards, own, report_alive)
            return _open(folder, own, described)
    except OSError as error:
        raise DataError(
            f"the index of the {split} lines cannot be written to {own}: {error.strerror or error}; correct that and "
            "run the same command to resume"
        ) from error


def _describe_shards(folder: str, shards: Iterable[ShardEntry]) -> list[list[Any]] | None:
    """Describes what the index depends on; returns None if a shard is missing."""
    described = []
    for shard in shards:
        try:
            found = os.stat(storage.join(folder, shard.name))
        except FileNotFoundError:
            return None
        described.append([shard.name, shard.sha256, found.st_size, found.st_mtime_ns])
    return described


def _read_description(own: str) -> dict[str, Any] | None:
    """Reads `index.json`; returns None if the index is not there, of another version or not whole."""
    try:
        described = storage.read_json(os.path.join(own, _NAME))
        lines = described["ends"][-1] if described["ends"] else 0
        sizes = {"places": lines, "widths": lines, "offsets": lines + 1, "labels": described["symbols"]}
        whole = all(os.path.getsize(os.path.join(own, name)) == n * _ARRAYS[name].itemsize for name, n in sizes.items())
        there = all(os.path.exists(os.path.join(own, name)) for name in described["unpacked"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return described if whole and there and described["version"] == _VERSION else None


def _open(folder: str, own: str, described: dict[str, Any]) -> LineIndex:
    places, widths, offsets, labels = (_map_array(os.path.join(own, name), kind) for name, kind in _ARRAYS.items())
    paths = tuple(
        os.path.join(own, name) if name in described["unpacked"] else storage.join(folder, name)
        for name, *_ in described["shards"]
    )
    return LineIndex(folder, paths, np.array(described["ends"], np.int64), places, widths, offsets, labels)


def _map_array(path: str, kind: np.dtype) -> np.ndarray:
    if not os.path.getsize(path):  # nothing cannot be mapped
        return np.empty(0, kind)
    return np.memmap(path, kind, "r").view(np.ndarray)


def _build(folder: str, shards: Sequence[ShardEntry], own: str, report_alive: Callable[[], None]) -> dict[str, Any]:
    """Builds the index of some shards; returns its description, as `index.json` has it."""
    ends: list[int] = []
    unpacked: list[str] = []
    lines = symbols = 0
    described = _describe_shards(folder, shards)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=storage.TEMPORARY_PREFIX, dir=own))
        files = {name: stack.enter_context(open(os.path.join(scratch, name), "wb")) for name in _ARRAYS}
        files["offsets"].write(np.zeros(1, _ARRAYS["offsets"]).tobytes())
        for shard in shards:
            path = storage.join(folder, shard.name)
            _check_checksum(folder, path, shard)
            blocks = find_stored_blocks(path)
            if blocks is None:  # another program wrote it
                path = os.path.join(scratch, shard.name)
                write_records(path, read_records(storage.join(folder, shard.name)))
                blocks = find_stored_blocks(path)
                assert blocks is not None
                unpacked.append(shard.name)
            for places, widths, lengths, labels in _index_records(path, blocks):
                offsets = symbols + np.cumsum(lengths, dtype=_ARRAYS["offsets"])
                arrays = {"places": places, "widths": widths, "offsets": offsets, "labels": labels}
                for name, array in arrays.items():
                    files[name].write(array.astype(_ARRAYS[name], copy=False).tobytes())
                lines, symbols = lines + len(places), symbols + len(labels)
                report_alive()
            ends.append(lines)
        for file in files.values():
            file.flush()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(own, _NAME))
        for name in (*_ARRAYS, *unpacked):
            os.replace(os.path.join(scratch, name), os.path.join(own, name))
    content = {"version": _VERSION, "shards": described, "ends": ends, "symbols": symbols, "unpacked": unpacked}
    storage.write_json(os.path.join(own, _NAME), content)
    return content


def _check_checksum(folder: str, path: str, shard: ShardEntry) -> None:
    try:
        digest = storage.compute_checksum(path)
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing, but the manifest beside it names it: {suggest_remedy(folder, 'ingest')}"
        ) from None
    if digest != shard.sha256:
        raise DataError(
            f"{path} has checksum {digest[:12]}, the manifest says {shard.sha256[:12]}: "
            f"{suggest_remedy(folder, 'ingest')}"
        )


def _index_records(path: str, blocks: StoredBlocks) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields places, widths, label lengths and the labels one after the other, of some records of a shard at a time.

    Raises:
        DataError: if a record is damaged, or no example of a line.
    """
    read = 0  # bytes of the content
    done = 0
    for records in _group_records(read_records(path)):
        try:
            batch = examples_to_record_batch(records)
        except ValueError as error:
            raise DataError(f"one of the records {done} to {done + len(records) - 1} of {path} is {error}") from None
        column = {name: batch.column(i).flatten() for i, name in enumerate(batch.schema.names)}
        for name, values in column.items():
            if name != "label" and len(values) != len(records):
                raise DataError(
                    f"one of the records {done} to {done + len(records) - 1} of {path} has not one value of {name}"
                )
        if pyarrow.compute.sum(column["label_length"]).as_py() != len(column["label"]):
            raise DataError(
                f"one of the records {done} to {done + len(records) - 1} of {path} has a label of another length than "
                "its label_length"
            )
        sizes = np.fromiter(map(len, records), np.int64, len(records))
        framed = sizes + sum(RECORD_FRAME)
        offsets = read + np.cumsum(framed) - framed + RECORD_FRAME[0]
        places = np.empty(len(records), _PLACE)
        places["position"], places["room"] = blocks.locate(offsets)
        places["size"] = sizes
        images = column["image"].to_pylist()
        places["image_start"] = [record.find(image) for record, image in zip(records, images, strict=True)]
        places["image_size"] = pyarrow.compute.binary_length(column["image"]).to_numpy(zero_copy_only=False)
        yield places, *(column[name].to_numpy() for name in ("width", "label_length", "label"))
        read += int(framed.sum())
        done += len(records)


def _group_records(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Groups records by number and bytes, so that long ones do not fill the memory."""
    group: list[bytes] = []
    size = 0
    for record in records:
        group.append(record)
        size += len(record)
        if len(group) == _RECORDS_AT_A_TIME or size >= _BYTES_AT_A_TIME:
            yield group
            group, size = [], 0
    if group:
        yield group
