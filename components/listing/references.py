"""What a listed image is, and how local names become text and names again."""

from __future__ import annotations

import datetime
import functools
import os
import posixpath
import re
import stat
import urllib.parse
from typing import NamedTuple

from tfrecords import storage

# What OCR training tools put between a line's name and its suffix, for the same line prepared in another way.
_VARIANTS = (".bin", ".nrm", ".dew", ".raw")
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,3}\Z")


class ImageReference(NamedTuple):
    """One image that was listed, and its label where labels were asked for.

    Attributes:
        uri: URL, or local path as `path_to_uri` writes it.
        key: path from the folder that was named, that folder's own name included; decides
            the shard, so that a collection can be moved as a whole.
        size_bytes, modified_us: bytes, and microseconds since 1970 UTC; with the URI, its identity.
        text: the label in its `normalise_text` form, or None.
        problem, detail: why the image cannot be used, as a reason of the rejects and in words, or None.
        group: what is kept together on one side of a split; None: the image by itself.
    """

    uri: str
    key: str
    size_bytes: int
    modified_us: int
    text: str | None = None
    problem: str | None = None
    detail: str | None = None
    group: str | None = None

    @property
    def modified(self) -> datetime.datetime:
        """Time of the last change, UTC."""
        return datetime.datetime.fromtimestamp(self.modified_us / 1e6, datetime.UTC)

    @property
    def split_key(self) -> str:
        """What decides the split: the group where there is one, else the key of the line."""
        return strip_variant(self.key) if self.group is None else self.group

    def rejected(self, problem: str, detail: str) -> ImageReference:
        """The same image, which cannot be used."""
        return self._replace(problem=problem, detail=detail)


def strip_suffix(name: str) -> str:
    """A file name without its suffix: a point, a letter, and at most three more letters or digits."""
    return _SUFFIX.sub("", name)


def strip_variant(name: str) -> str:
    """The line that a file name shows, without suffix: `line` of `line.png`, `line.bin.png` and `line.nrm.png`."""
    stem = strip_suffix(name)
    return stem[:-4] if stem.endswith(_VARIANTS) else stem


def path_to_uri(path: str) -> str:
    """A local path as text: itself, with `%` and bytes that are not UTF-8 percent-encoded."""
    if "%" not in path and path.isascii():
        return path
    return re.sub("[%\udc80-\udcff]", lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match[0])), path)


def uri_to_path(uri: str) -> str:
    """The path or URL that a URI names; the inverse of `path_to_uri` for local paths."""
    if storage.is_remote(uri) or "%" not in uri:
        return uri
    return os.fsdecode(urllib.parse.unquote_to_bytes(uri.encode("utf-8", "surrogateescape")))


def location_to_uri(path: str) -> str:
    """The URI of a local path or a URL."""
    return path if storage.is_remote(path) else path_to_uri(path)


def get_folder(path: str) -> str:
    """The folder that a file lies in."""
    return path.rpartition("/")[0] if storage.is_remote(path) else os.path.dirname(path)


def join_path(folder: str, name: str) -> str:
    """A file in a folder; in an object store a folder's name may end in a slash, or be one."""
    return f"{folder}/{name}" if storage.is_remote(folder) else storage.join(folder, name)


def resolve_path(folder: str, named: str) -> str:
    """The image that a table in a folder names, relative to that folder if it is not absolute."""
    if storage.is_remote(named) or named.startswith("/"):
        return named
    if storage.is_remote(folder):
        scheme, _, rest = folder.partition("://")
        return f"{scheme}://{posixpath.normpath(posixpath.join(rest, named))}"
    return os.path.join(folder, named)


@functools.lru_cache(maxsize=4096)
def resolve_folder(folder: str) -> str:
    """A local folder without links and detours."""
    return os.path.realpath(folder)


def read_image(uri: str) -> bytes:
    """The bytes of a listed image; raises an `OSError` if it cannot be read."""
    return read_regular_file(uri_to_path(uri))


def read_regular_file(path: str, at_most: int = -1) -> bytes:
    """The bytes of a file, or its first ones; raises an `OSError` for a pipe or a device, which never end."""
    if storage.is_remote(path):
        return storage.read_bytes(path, None if at_most < 0 else at_most)
    # O_NONBLOCK: a pipe that nobody writes to would keep open() waiting.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path_to_uri(path)} is not a regular file")
        with open(descriptor, "rb", closefd=False, buffering=0 if at_most < 0 else -1) as file:
            return file.read(at_most)
    finally:
        os.close(descriptor)
