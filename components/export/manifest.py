"""The record of an export: what was written from which readings, and the manifest, which is written last."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pyarrow
import pyarrow.parquet

from tfrecords import DataError, storage

MANIFEST_NAME, REJECTS_NAME, INDEX_FOLDER = "_manifest.json", "_rejects.parquet", "_index"
_SCHEMA_VERSION = 1
_INDEX_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("file", pyarrow.string(), nullable=False),
        pyarrow.field("inputs", pyarrow.string(), nullable=False),
        pyarrow.field("exported", pyarrow.int64(), nullable=False),
        pyarrow.field("passed_over", pyarrow.int64(), nullable=False),
        pyarrow.field("rejected", pyarrow.int64(), nullable=False),
    ]
)


@dataclasses.dataclass(frozen=True)
class IndexEntry:
    """The record of one exported file, or of a page that is passed over.

    Attributes:
        inputs: digest of the readings in it.
        exported: how many readings are in it.
        passed_over: how many are not, since the format has no place for them.
        rejected: how many could not be exported.
    """

    inputs: str
    exported: int
    passed_over: int = 0
    rejected: int = 0


class ExportIndex:
    """The record of the files of one part of an export, by their paths below the folder of the format.

    Args:
        folder: of the format.
        part: its number.
    """

    def __init__(self, folder: str, part: int):
        self._path = storage.join(folder, INDEX_FOLDER, f"{part:03d}.parquet")
        try:
            with storage.open_to_read(self._path) as file:
                rows = pyarrow.parquet.read_table(file).select(_INDEX_SCHEMA.names).to_pylist()
        except FileNotFoundError:
            rows = []
        except (pyarrow.ArrowException, KeyError):  # it was damaged: its files are compared with their readings again
            rows = []
        self.entries: dict[str, IndexEntry] = {row.pop("file"): IndexEntry(**row) for row in rows}
        self._written = dict(self.entries)

    def write(self) -> None:
        """Writes the record, unless it is as it was."""
        if self.entries == self._written:
            return
        rows = [{"file": name, **dataclasses.asdict(entry)} for name, entry in sorted(self.entries.items())]
        storage.write_parquet(self._path, pyarrow.Table.from_pylist(rows, _INDEX_SCHEMA))
        self._written = dict(self.entries)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportManifest:
    """The manifest of an export, as it was when the last one ended.

    Attributes:
        format: one of `FORMATS`.
        exported_at: ISO 8601, UTC.
        runs: IDs of the runs of predictions.
        readings: how many were considered: exported, rejected and passed over.
        exported: readings that are in files.
        rejects: readings that could not be exported, by reason.
        passed_over: readings for which the format has no place.
        files: that hold the exported readings.
    """

    format: str
    exported_at: str
    runs: tuple[str, ...]
    readings: int
    exported: int
    rejects: Mapping[str, int]
    passed_over: int
    files: int
    schema_version: int = _SCHEMA_VERSION

    def write(self, folder: str) -> None:
        """Writes the manifest into the folder of the format."""
        storage.write_json(storage.join(folder, MANIFEST_NAME), dataclasses.asdict(self))

    def says_the_same(self, other: ExportManifest | None) -> bool:
        """Tells whether another manifest differs in the time alone."""
        return other is not None and dataclasses.replace(other, exported_at=self.exported_at) == self

    @classmethod
    def read(cls, folder: str) -> ExportManifest | None:
        """Reads the manifest in the folder of a format; None if there is none.

        Raises:
            DataError: if it is damaged, or of a newer version of this program.
        """
        path = storage.join(folder, MANIFEST_NAME)
        try:
            content: dict[str, Any] = storage.read_json(path)
        except FileNotFoundError:
            return None
        try:
            if content["schema_version"] > _SCHEMA_VERSION:
                raise DataError(f"{path} was written by a newer version of this program: install that one")
            return cls(**{**content, "runs": tuple(content["runs"])})
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"{path} was damaged ({type(error).__name__}: {error}): delete it and run again") from None
