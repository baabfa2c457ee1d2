"""Any file system of fsspec, by a few calls."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple


class StoredFile(NamedTuple):
    """What an object store says of a file.

    Attributes:
        url: whose last part may be empty, or hold anything.
        size: in bytes.
        modified: seconds since 1970 UTC, when this content was stored: what is written about a file later, such as
            its owner, is no change of it.
    """

    url: str
    size: int
    modified: float


class Version(NamedTuple):
    """An object as it is at one time.

    Attributes:
        generation: the store's name for this version; no other has the same.
        age_s: seconds since it was written, by the store's own clock, to the second.
        content: all of it.
    """

    generation: str
    age_s: float
    content: bytes


NO_VERSION = "0"
"""The generation of an object that is not there."""


class FileSystem:
    """Any file system of fsspec, by a few calls that raise what it raises; told by `open_store`."""

    def __init__(self, fs: Any):
        self.fs = fs

    def read(self, url: str, at_most: int | None) -> bytes:
        """The content of a file, or its first bytes."""
        return self.fs.cat_file(url, end=at_most)

    def information(self, url: str) -> StoredFile:
        """What is said of a file; raises `FileNotFoundError` or `IsADirectoryError`."""
        info = self.fs.info(url)
        if info["type"] == "directory":
            raise IsADirectoryError(url)
        return make_stored_file(url, info)

    def is_file(self, url: str) -> bool:
        """Whether there is a file."""
        try:
            self.information(url)
        except (FileNotFoundError, IsADirectoryError):
            return False
        return True

    def files(self, folder: str) -> Iterator[StoredFile]:
        """Every file below a folder, sorted by URL."""
        for path, info in sorted(self.fs.find(folder, detail=True).items()):
            yield make_stored_file(self.fs.unstrip_protocol(path), info)

    def names(self, folder: str, _prefix: str) -> Iterable[str]:
        """At least those names directly inside a folder that begin so; of folders perhaps with a slash."""
        above = self.fs._strip_protocol(folder).rstrip("/") + "/"
        return [entry.removeprefix(above) for entry in self.fs.ls(folder, detail=False, refresh=True)]

    def glob(self, pattern: str) -> list[str]:
        """The URLs that match a pattern."""
        return [self.fs.unstrip_protocol(match) for match in self.fs.glob(pattern)]

    def is_folder(self, url: str) -> bool:
        """Whether there is a folder."""
        return self.fs.isdir(url)

    def has_bucket(self, _url: str) -> bool:
        """Whether there is the bucket; what has no buckets has each."""
        return True

    def upload(self, local: str, url: str) -> None:
        """Makes a local file appear, whole or not at all."""
        self.fs.put_file(local, url)

    def copy(self, source: str, destination: str) -> None:
        """Copies a file within the store."""
        self.fs.cp_file(source, destination)

    def remove(self, url: str) -> None:
        """Deletes a file."""
        self.fs.rm_file(url)

    def remove_empty_folder(self, url: str) -> None:
        """Deletes a folder in which there are no files."""
        self.fs.rm(url, recursive=True)


def make_stored_file(url: str, info: Mapping[str, Any]) -> StoredFile:
    modified = info.get("mtime") or info.get("timeCreated") or info.get("created")
    if isinstance(modified, str):
        modified = datetime.datetime.fromisoformat(modified)
    seconds = modified.timestamp() if isinstance(modified, datetime.datetime) else float(modified or 0)
    return StoredFile(url, int(info.get("size") or 0), seconds)


def compute_crc32c(content: bytes) -> str:
    import google_crc32c

    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def split_url(url: str) -> tuple[str, str]:
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def make_prefix(folder: str) -> str:
    """What the names of all objects in a folder begin with."""
    key = split_url(folder)[1].rstrip("/")
    return f"{key}/" if key else ""
