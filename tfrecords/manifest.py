"""The manifest of a committed dataset; a folder without one counts as not there."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from tfrecords import storage
from tfrecords.charset import Charset, CharsetError
from tfrecords.directions import DIRECTIONS, VISUAL
from tfrecords.errors import DataError
from tfrecords.shards import SPLITS

MANIFEST_NAME = "manifest.json"
CHARSET_NAME = "charset.txt"
STATISTICS_NAME = "statistics.json"
SCHEMA_VERSION = 2


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """One committed file of a dataset.

    Attributes:
        name: file name inside the dataset's folder.
        split: `train`, `validation` or `test`.
        examples: how many TFRecords it holds.
        bytes: its size.
        sha256: of its content, hexadecimal.
    """

    name: str
    split: str
    examples: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class DatasetManifest:
    """The description of a committed dataset.

    Attributes:
        dataset_id: short digest of the inputs and options that it was made from.
        height: pixels of every image.
        time_stride: pixels of width per time step that labels were checked against.
        charset_sha256: digest of `charset.txt`.
        matched: images that were listed: the examples and the rejects together.
        rejects: images left out, by reason.
        unused_labels: labels that belong to no image, by reason; `unused_labels.parquet` lists them.
        shards: every TFRecord file, by split and number.
        other_files: bytes of the charset, the statistics and the samples, by name.
        reject_files: every Parquet file of rejects, by split and number.
        warnings: sentences for the person who trains on it.
        created_at: ISO 8601, UTC.
        schema_version: of this manifest and of the examples.
        added_to: ID of the dataset that this one extends; None if it was made from images alone.
        kept: examples of that dataset that no new image replaced; they are among the matched.
        base_direction: how the symbols of a label stand on its image, one of `tfrecords.directions.DIRECTIONS`.
        vertical: whether the text of the images runs from top to bottom; the lines are turned.
    """

    dataset_id: str
    height: int
    time_stride: int
    charset_sha256: str
    matched: int
    rejects: dict[str, int]
    unused_labels: dict[str, int]
    shards: tuple[ShardEntry, ...]
    reject_files: tuple[str, ...]
    other_files: dict[str, int]
    warnings: tuple[str, ...]
    created_at: str
    schema_version: int = SCHEMA_VERSION
    added_to: str | None = None
    kept: int = 0
    base_direction: str = VISUAL
    vertical: bool = False

    def examples(self, split: str) -> int:
        """Counts the examples of a split."""
        return sum(shard.examples for shard in self.shards if shard.split == split)

    @property
    def counts(self) -> dict[str, int]:
        """Returns the number of examples by split."""
        return {split: self.examples(split) for split in SPLITS}

    def shards_of(self, split: str) -> list[ShardEntry]:
        """Lists the files of a split, sorted by name."""
        return [shard for shard in self.shards if shard.split == split]

    def write(self, folder: str) -> None:
        """Commits the dataset in `folder`."""
        storage.write_json(storage.join(folder, MANIFEST_NAME), dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: str) -> DatasetManifest:
        """Reads the manifest of the dataset in `folder`.

        Raises:
            FileNotFoundError: if nothing was committed there.
            DataError: if it was written by another version.
        """
        content = read_manifest(folder, SCHEMA_VERSION, step="ingest")
        content["shards"] = tuple(ShardEntry(**entry) for entry in content["shards"])
        for name in ("reject_files", "warnings"):
            content[name] = tuple(content[name])
        return cls(**content)

    def read_charset(self, folder: str) -> Charset:
        """Reads the dataset's charset and checks it against the manifest.

        Raises:
            DataError: if `charset.txt` is missing, or is not the one that the examples were encoded with.
        """
        return read_charset(folder, self.charset_sha256, self.base_direction, step="ingest")

    def read_statistics(self, folder: str) -> dict[str, Any]:
        """Reads the dataset's statistics.

        Raises:
            DataError: if `statistics.json` is missing.
        """
        path = storage.join(folder, STATISTICS_NAME)
        try:
            return storage.read_json(path)
        except FileNotFoundError:
            raise DataError(
                f"{path} is missing, but the manifest beside it names it: {suggest_remedy(folder, 'ingest')}"
            ) from None


def read_pointer(path: str) -> str | None:
    """Returns the ID in a file such as `models/ACCEPTED`, or None if there is no such file or nothing in it.

    Raises:
        DataError: if what it holds is no ID.
    """
    try:
        named = storage.read_bytes(path).decode(errors="backslashreplace").strip()
    except FileNotFoundError:
        return None
    if named and not is_id(named):
        raise DataError(f"{path} holds {named[:80]!r}, which is no ID: it was damaged or replaced; delete it")
    return named or None


def is_id(name: str) -> bool:
    """Tells whether a name can be the ID of a dataset, a model or a run: one folder, and none outside its place."""
    return bool(re.fullmatch(r"[^/\\\x00-\x1f]+", name)) and name not in (".", "..")


def suggest_remedy(folder: str, step: str) -> str:
    """Says what to do about a committed folder that was damaged: a step does not touch what is committed."""
    return f"delete {folder} and run the {step} step again"


def read_manifest(folder: str, schema_version: int, *, step: str, oldest: int | None = None) -> dict[str, Any]:
    """Reads the fields of the manifest of a dataset or a model.

    Args:
        schema_version: the version that this program writes.
        step: the step that makes the folder, for the error.
        oldest: the oldest version that can be read; None if only `schema_version` can.

    Raises:
        FileNotFoundError: if nothing was committed in `folder`.
        DataError: if the manifest was damaged or written by another version.
    """
    path = storage.join(folder, MANIFEST_NAME)
    content = storage.read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in range(oldest or schema_version, schema_version + 1):
        newer = isinstance(version, int) and version > schema_version
        update = "install the newer version of it that wrote this, or " if newer else ""
        raise DataError(
            f"{path} has schema version {version}, this program reads {schema_version}: {update}"
            f"{suggest_remedy(folder, step)}"
        )
    return content


def read_charset(folder: str, sha256: str, direction: str, *, step: str) -> Charset:
    """Reads the charset of a dataset or a model and checks it against the manifest.

    Args:
        direction: the base direction that the manifest gives.

    Raises:
        DataError: if `charset.txt` is missing or not the one that was committed, or there is no such direction.
    """
    path = storage.join(folder, CHARSET_NAME)
    if direction not in DIRECTIONS:
        raise DataError(
            f"the manifest in {folder} has the base direction {direction!r}, which must be one of "
            f"{', '.join(DIRECTIONS)}: {suggest_remedy(folder, step)}"
        )
    try:
        charset = Charset.from_file_text(storage.read_bytes(path).decode(), source=path)
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing, but the manifest beside it names it: {suggest_remedy(folder, step)}"
        ) from None
    except (CharsetError, UnicodeDecodeError) as error:
        raise DataError(f"{path} was damaged ({error}): {suggest_remedy(folder, step)}") from None
    if charset.digest != sha256:
        raise DataError(
            f"{path} has digest {charset.digest[:12]}, but the manifest beside it says {sha256[:12]}: "
            f"{suggest_remedy(folder, step)}"
        )
    return dataclasses.replace(charset, direction=direction)
