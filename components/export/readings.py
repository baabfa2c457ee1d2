"""Readings to export: the newest one of every image or line, from the files of all committed runs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow

from components.predictions.newest import find_newest_rows
from components.predictions.runs import open_predictions

_COLUMNS = (
    *("uri", "text", "confidence", "width", "height", "size_bytes", "modified"),
    *("model_id", "run_id", "scored_at", "needs_review"),
)
_WORDS = "words"  # which older runs have not
_ROWS_AT_A_TIME = 10_000


class ReadWord(NamedTuple):
    """A word of a recognised line.

    Attributes:
        start, end: pixels along the line as it was cut.
    """

    text: str
    confidence: float
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Reading:
    """The newest reading of an image or a line.

    Attributes:
        uri: of the image, or of the line on its page.
        width, height: pixels of the image, or of the line as it was cut.
        size_bytes, modified_us: of the files that it was read from, as a listing has them.
        run_id, scored_us: the run of predictions, and the time, microseconds since 1970 UTC.
        words: None where their places are not known.
    """

    uri: str
    text: str
    confidence: float
    width: int
    height: int
    size_bytes: int
    modified_us: int
    model_id: str
    run_id: str
    scored_us: int
    needs_review: bool
    words: tuple[ReadWord, ...] | None = None

    @property
    def placed_words(self) -> tuple[ReadWord, ...]:
        """The words, if they make up the text and their places are columns of the line; none otherwise.

        On a line that is higher than wide, text may run from top to bottom, and places count in rows.
        """
        words = self.words or ()
        if self.height > self.width or " ".join(word.text for word in words) != self.text:
            return ()
        return words if all(0 <= word.start <= word.end <= self.width for word in words) else ()

    @property
    def identity(self) -> list[Any]:
        """The fields that change whenever another reading takes the place of this one."""
        return [self.uri, self.run_id, self.scored_us, self.size_bytes, self.modified_us]


@dataclasses.dataclass(frozen=True)
class NewestReadings:
    """The newest readings in files of predictions.

    Attributes:
        files: Parquet files, the oldest first.
        masks: bools [rows] for each file, true for the newest reading of its image or line.
    """

    files: tuple[str, ...]
    masks: tuple[np.ndarray, ...]

    @classmethod
    def find(cls, files: Sequence[str]) -> NewestReadings:
        """Finds them; raises a `DataError` if a file is damaged."""
        return cls(tuple(files), tuple(find_newest_rows(files)))

    @property
    def count(self) -> int:
        """Number of readings."""
        return sum(int(mask.sum()) for mask in self.masks)

    def read(self, file: int) -> Iterator[Reading]:
        """Reads the newest readings of one file, in its order, a part of it at a time."""
        for batch in self._read_batches(file):
            yield from _make_readings(batch)

    @contextlib.contextmanager
    def divide(self, get_folder: Callable[[str], str | None]) -> Iterator[Iterator[tuple[int, list[Reading]]]]:
        """Divides the readings by folders into parts that fit in memory, kept in a temporary folder of this machine.

        Args:
            get_folder: from the URI of a reading to the folder with which it stays together; None leaves it out.

        Yields:
            An iterator of the parts: the number of each, which its folders alone decide, and its readings, by URI.
        """
        with tempfile.TemporaryDirectory(prefix="export-") as folder:
            yield self._read_parts(self._write_parts(folder, get_folder))

    def _write_parts(self, folder: str, get_folder: Callable[[str], str | None]) -> dict[int, str]:
        paths: dict[int, str] = {}
        with contextlib.ExitStack() as stack:
            writers: dict[int, Any] = {}
            for file in range(len(self.files)):
                for batch in self._read_batches(file):
                    parts = np.array([_choose_part(get_folder(uri)) for uri in batch.column("uri").to_pylist()])
                    for part in sorted(set(parts.tolist()) - {-1}):
                        if part not in writers:
                            paths[part] = os.path.join(folder, f"{part:03d}.arrow")
                            options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
                            stream = pyarrow.ipc.new_stream(paths[part], batch.schema, options=options)
                            writers[part] = stack.enter_context(stream)
                        writers[part].write_batch(batch.filter(pyarrow.array(parts == part)))
        return paths

    def _read_parts(self, paths: dict[int, str]) -> Iterator[tuple[int, list[Reading]]]:
        for part, path in sorted(paths.items()):
            with pyarrow.ipc.open_stream(path) as stream:
                readings = [reading for batch in stream for reading in _make_readings(batch)]
            yield part, sorted(readings, key=lambda reading: reading.uri)

    def _read_batches(self, file: int) -> Iterator[pyarrow.RecordBatch]:
        """Reads the newest rows of one file, all with the same columns: words that it lacks are null."""
        with open_predictions(self.files[file]) as parquet:
            columns = [name for name in (*_COLUMNS, _WORDS) if name in parquet.schema_arrow.names]
            start = 0
            for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=columns):
                mask = self.masks[file][start : start + batch.num_rows]
                start += batch.num_rows
                if mask.any():
                    yield _select_columns(batch.filter(pyarrow.array(mask)))


_TYPE_OF_WORDS = pyarrow.list_(
    pyarrow.struct(
        [
            ("text", pyarrow.string()),
            ("confidence", pyarrow.float32()),
            ("start", pyarrow.int32()),
            ("end", pyarrow.int32()),
        ]
    )
)


def _select_columns(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    """Selects the fields of readings, with times as microseconds since 1970 UTC."""
    fields = {name: batch.column(name) for name in _COLUMNS}
    for name in ("modified", "scored_at"):
        time = fields.pop(name).cast(pyarrow.timestamp("us", "UTC"))
        fields[f"{name.removesuffix('_at')}_us"] = time.cast(pyarrow.int64())
    words = batch.column(_WORDS) if _WORDS in batch.schema.names else pyarrow.nulls(batch.num_rows)
    return pyarrow.RecordBatch.from_pydict({**fields, _WORDS: words.cast(_TYPE_OF_WORDS)})


def _choose_part(folder: str | None) -> int:
    """Chooses the part of a folder, 0 to 255; -1 for none."""
    return -1 if folder is None else hashlib.blake2b(folder.encode(errors="surrogateescape"), digest_size=1).digest()[0]


def _make_readings(batch: pyarrow.RecordBatch) -> Iterator[Reading]:
    for row in batch.to_pylist():
        if row["words"] is not None:
            row["words"] = tuple(ReadWord(**word) for word in row["words"])
        yield Reading(**row)
