"""The manifest of a committed dataset: a folder without one does not exist for any reader."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfrecords import storage
from tfrecords.charset import Charset, CharsetError
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
    """What a committed dataset is.

    Attributes:
        dataset_id: short digest of the inputs and options that it was made from.
        height: pixels of every image.
        time_stride: pixels of width per time step that labels were checked against.
        charset_sha256: digest of `charset.txt`.
        matched: images that were listed; equals the examples plus the rejects.
        rejects: images left out, by reason.
        unused_labels: labels that no image got, by reason; `unused_labels.parquet` lists them.
        shards: every TFRecord file, by split and number.
        other_files: bytes of the charset, the statistics and the samples, by name.
        reject_files: every Parquet file of rejects, by split and number.
        warnings: sentences for the person who trains on it.
        created_at: ISO 8601, UTC.
        schema_version: of this manifest and of the examples.
        added_to: the ID of the dataset to which images were added, if it was made so.
        kept: examples of that dataset which no new image replaced; they are among the matched.
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

    def examples(self, split: str) -> int:
        """How many examples a split holds."""
        return sum(shard.examples for shard in self.shards if shard.split == split)

    @property
    def counts(self) -> dict[str, int]:
        """Examples by split."""
        return {split: self.examples(split) for split in SPLITS}

    def shards_of(self, split: str) -> list[ShardEntry]:
        """The files of a split, sorted by name."""
        return [shard for shard in self.shards if shard.split == split]

    def write(self, folder: str) -> None:
        """Commits the dataset in `folder`."""
        storage.write_json(storage.join(folder, MANIFEST_NAME), dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: str) -> DatasetManifest:
        """The manifest of the dataset in `folder`.

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
        """The dataset's charset, checked against the manifest.

        Raises:
            DataError: if `charset.txt` is not the one that the examples were encoded with.
        """
        return read_charset(folder, self.charset_sha256, step="ingest")


def read_pointer(path: str) -> str | None:
    """Returns the ID in a file such as `models/ACCEPTED`, or None if there is no such file or nothing in it."""
    try:
        return storage.read_bytes(path).decode().strip() or None
    except FileNotFoundError:
        return None


def suggest_remedy(folder: str, step: str) -> str:
    """What to do about a committed folder that was damaged: a step leaves alone what it finds committed."""
    return f"delete {folder} and run the {step} step again"


def read_manifest(folder: str, schema_version: int, *, step: str, oldest: int | None = None) -> dict[str, Any]:
    """The fields of the manifest of a dataset or a model, of this schema version or of one from `oldest` on.

    Raises:
        FileNotFoundError: if nothing was committed in `folder`.
        DataError: if it was damaged or written by another version; `step` is the one that makes it.
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


def read_charset(folder: str, sha256: str, *, step: str) -> Charset:
    """The charset of a dataset or a model, checked against its manifest.

    Raises:
        DataError: if `charset.txt` is missing or not the one that was committed.
    """
    path = storage.join(folder, CHARSET_NAME)
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
    return charset
