"""References to listed images, and the conversion of local names to text and back."""

from __future__ import annotations

import datetime
import functools
import os
import posixpath
import re
import sys
import urllib.parse
from typing import NamedTuple

from components.archives.files import IrregularFileError, open_regular_file
from components.archives.lookup import read_member
from components.archives.paths import find_member_path
from tfrecords import DataError, SplitFractions, choose_split, storage

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k", ".jpx"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".avif", ".heic"),
)
# OCR training tools put these between a line's name and its suffix, for the same line prepared in another way.
_VARIANTS = (".bin", ".nrm", ".dew", ".raw")
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,3}\Z")
_LOCAL_URL = re.compile("file:(?://(?:localhost)?(?=/)|(?=/[^/]))", re.IGNORECASE)
_NAMES_ARE_UTF8 = sys.getfilesystemencoding() == "utf-8"
_SHOWN = 80  # symbols of a row's path that is refused


class ImageReference(NamedTuple):
    """One image that was listed, and its label where labels were asked for.

    Attributes:
        uri: URL, or local path as `path_to_uri` writes it.
        key: path from the folder that was named, that folder's own name included. It decides the shard, so a
            collection can be moved as a whole.
        size_bytes, modified_us: bytes, and microseconds since 1970 UTC; with the URI, its identity.
        text: the label in its `normalise_text` form, or None.
        problem, detail: the reason why the image cannot be used, as the rejects name it and in words, or None.
        group: name shared by images that stay together in a split; None for an image by itself.
        split: that the collection gives the image; None if the program chooses.
        offset, length: of a member of an archive, the place of its bytes there, see `components.archives.Extent`.
    """

    uri: str
    key: str
    size_bytes: int
    modified_us: int
    text: str | None = None
    problem: str | None = None
    detail: str | None = None
    group: str | None = None
    split: str | None = None
    offset: int | None = None
    length: int | None = None

    @property
    def modified(self) -> datetime.datetime:
        """Modification time, UTC."""
        return datetime.datetime.fromtimestamp(self.modified_us / 1e6, datetime.UTC)

    @property
    def split_key(self) -> str:
        """Key that decides the split: the group if there is one, else the key of the line."""
        return strip_variant(self.key) if self.group is None else self.group

    @property
    def inputs(self) -> tuple:
        """The fields that a digest covers: without a split that is not given, and without the place in an archive."""
        return self[:9] if self.split is not None else self[:8]

    def choose_split(self, fractions: SplitFractions) -> str:
        """Chooses the image's split: the given one, but of those given for training some may be held out."""
        if self.split is not None and self.split != "train":
            return self.split
        return choose_split(self.split_key, fractions)

    def reject(self, problem: str, detail: str) -> ImageReference:
        """Returns the same image with the reason why it cannot be used."""
        return self._replace(problem=problem, detail=detail)


def strip_suffix(name: str) -> str:
    """Strips a file name's suffix: a point, a letter, and at most three more letters or digits."""
    return _SUFFIX.sub("", name)


def strip_variant(name: str) -> str:
    """Strips suffix and variant off a file name: `line.png`, `line.bin.png` and `line.nrm.png` become `line`."""
    stem = strip_suffix(name)
    return stem[:-4] if stem.endswith(_VARIANTS) else stem


def path_to_uri(path: str) -> str:
    """Writes a local path as text: `%` and bytes that are not UTF-8 are percent-encoded, the rest stays.

    The text does not depend on the encoding that Python takes for names of files.
    """
    if "%" not in path and path.isascii():
        return path
    if not _NAMES_ARE_UTF8:
        path = os.fsencode(path).decode("utf-8", "surrogateescape")
    return re.sub(
        "[%\udc80-\udcff]",
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")),
        path,
    )


def uri_to_path(uri: str) -> str:
    """Returns the path or URL that a URI names; for local paths the inverse of `path_to_uri`."""
    if storage.is_remote(uri) or ("%" not in uri and (_NAMES_ARE_UTF8 or uri.isascii())):
        return uri
    return os.fsdecode(urllib.parse.unquote_to_bytes(uri.encode("utf-8", "surrogateescape")))


def location_to_uri(path: str) -> str:
    """Returns the URI of a local path or a URL."""
    return path if storage.is_remote(path) else path_to_uri(path)


def get_folder(path: str) -> str:
    """Returns the folder in which a file lies."""
    return path.rpartition("/")[0] if storage.is_remote(path) else os.path.dirname(path)


def join_path(folder: str, name: str) -> str:
    """Joins a folder and a name; in an object store a folder's name may end in a slash, or be one."""
    return f"{folder}/{name}" if storage.is_remote(folder) else storage.join(folder, name)


def resolve_path(folder: str, named: str) -> str:
    """Resolves a path in a table of a folder; it is relative to that folder unless it is absolute.

    A table is data of others: a row opens nothing but local files, `gs://` and the bucket that the table lies in.

    Raises:
        DataError: for a URL of anything else.
    """
    scheme, is_url, rest = named.partition("://")
    if local := _LOCAL_URL.match(named):
        named = f"/{named[local.end() :].lstrip('/')}"
        return named if "%" not in named or os.path.lexists(named) else uri_to_path(named)
    if is_url and scheme.lower() in ("gs", "gcs"):
        return f"gs://{rest}"
    if is_url and scheme == folder.partition("://")[0]:
        bucket = storage.get_bucket(storage.canonicalise(folder))
        if storage.canonicalise(named).startswith(f"{bucket}/"):
            return named
    if is_url:
        raise DataError(f"{named[:_SHOWN]!r} is no local path and no gs:// URL: a table cannot name anything else")
    if named.startswith("/"):
        return f"/{named.lstrip('/')}"  # of two slashes POSIX keeps both
    if storage.is_remote(folder):
        scheme, _, rest = folder.partition("://")
        return f"{scheme}://{posixpath.normpath(posixpath.join(rest, named))}"
    return os.path.join(folder, named)


@functools.lru_cache(maxsize=4096)
def resolve_folder(folder: str) -> str:
    """Writes a local folder without links and detours."""
    return os.path.realpath(folder)


def read_image(uri: str, at_most: int = -1) -> bytes:
    """Reads the bytes of a listed image, or its first ones.

    Raises:
        OSError: if it cannot be read.
    """
    return read_regular_file(uri_to_path(uri), at_most)


def read_regular_file(path: str, at_most: int = -1, index_folder: str | None = None) -> bytes:
    """Reads a file, or its first bytes; a member of an archive is read whole, or not at all.

    Args:
        path: local path or URL.
        at_most: bytes; -1 for all.
        index_folder: where indexes of archives are kept; without one an archive is looked through for a member.

    Raises:
        OSError: if it cannot be read, or is a pipe or a device, which never end.
    """
    if (member := find_member_path(path)) is not None:
        return read_member(member, at_most, index_folder)
    if storage.is_remote(path):
        return storage.read_bytes(path, None if at_most < 0 else at_most)
    try:
        with open_regular_file(path, buffered=at_most >= 0) as file:
            return file.read(at_most)
    except IrregularFileError:
        raise OSError(f"{path_to_uri(path)} is not a regular file") from None
