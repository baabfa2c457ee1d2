"""The few calls by which this package uses any file system of fsspec."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple


class StoredFile(NamedTuple):
    """A file as an object store describes it.

    Attributes:
        url: whose last part may be empty, or hold anything.
        size: in bytes.
        modified: seconds since 1970 UTC, when this content was stored; a later change of what is kept about the file,
            such as its owner, does not count.
    """

    url: str
    size: int
    modified: float


class Version(NamedTuple):
    """One version of an object.

    Attributes:
        generation: the store's name for this version; no other has the same.
        age_s: seconds since it was written, by the store's own clock, to the second.
        content: all of it.
    """

    generation: str
    age_s: float
    content: bytes


NO_VERSION = "0"
"""Generation of an object that does not exist."""


class FileSystem:
    """A file system of fsspec; its calls raise what fsspec raises, which `open_store` translates."""

    def __init__(self, fs: Any):
        self.fs = fs

    def read(self, url: str, at_most: int | None) -> bytes:
        """Reads the content of a file, or its first bytes."""
        return self.fs.cat_file(url, end=at_most)

    def read_range(self, url: str, start: int, length: int) -> bytes:
        """Reads bytes from a place in a file; fewer where the file ends before."""
        return self.fs.cat_file(url, start=start, end=start + length)

    def describe(self, url: str) -> StoredFile:
        """Asks for the description of a file; raises `FileNotFoundError` or `IsADirectoryError`."""
        info = self.fs.info(url)
        if info["type"] == "directory":
            raise IsADirectoryError(url)
        return make_stored_file(url, info)

    def is_file(self, url: str) -> bool:
        """Tells whether a file exists."""
        try:
            self.describe(url)
        except (FileNotFoundError, IsADirectoryError):
            return False
        return True

    def list_files(self, folder: str) -> Iterator[StoredFile]:
        """Lists every file below a folder, sorted by URL."""
        for path, info in sorted(self.fs.find(folder, detail=True).items()):
            yield make_stored_file(self.fs.unstrip_protocol(path), info)

    def list_names(self, folder: str, _prefix: str) -> Iterable[str]:
        """Lists at least those names directly inside a folder that begin so; those of folders may end with a slash."""
        above = self.fs._strip_protocol(folder).rstrip("/") + "/"
        return [entry.removeprefix(above) for entry in self.fs.ls(folder, detail=False, refresh=True)]

    def list_folders(self, folder: str) -> list[str]:
        """Lists the names of folders directly inside a folder, at least those that one request tells."""
        entries = self.fs.ls(folder, detail=True, refresh=True)
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory"]

    def glob(self, pattern: str) -> list[str]:
        """Finds the URLs that match a pattern."""
        return [self.fs.unstrip_protocol(match) for match in self.fs.glob(pattern)]

    def is_folder(self, url: str) -> bool:
        """Tells whether a folder exists."""
        return self.fs.isdir(url)

    def has_bucket(self, _url: str) -> bool:
        """Tells whether the bucket exists; a store without buckets always says yes."""
        return True

    def upload(self, local: str, url: str) -> None:
        """Uploads a local file, whole or not at all."""
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
    """Makes a `StoredFile` from what fsspec, or the JSON API of GCS, says of a file."""
    modified = info.get("mtime") or info.get("timeCreated") or info.get("created")
    if isinstance(modified, str):
        modified = datetime.datetime.fromisoformat(modified)
    seconds = modified.timestamp() if isinstance(modified, datetime.datetime) else float(modified or 0)
    return StoredFile(url, int(info.get("size") or 0), seconds)


def compute_crc32c(content: bytes) -> str:
    """Computes the CRC-32C of some bytes as GCS writes it: base64 of its four bytes, the highest first."""
    import google_crc32c

    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def split_url(url: str) -> tuple[str, str]:
    """Splits a URL into its bucket and the name of the object, which may be empty."""
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def make_prefix(folder: str) -> str:
    """Returns what the names of all objects in a folder begin with."""
    key = split_url(folder)[1].rstrip("/")
    return f"{key}/" if key else ""
