"""Tar files, plain or compressed by gzip or zstd: their members, and the bytes of one."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow

from components.archives.files import (
    LONGEST_READ,
    ArchiveChangedError,
    ArchiveError,
    ArchiveFile,
    ArrowFile,
    check_growth,
    explain_damage,
)
from components.archives.members import Extent, Member, make_member

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPED_AT_A_TIME = 256 << 10


class UnpackedFile:
    """Unpacked content of a compressed archive, as a file that is read forwards.

    Args:
        path: path or URL.
        size: bytes of the archive.
        magic: its first bytes.

    Raises:
        ArchiveError: from each call, if the archive is damaged, or unpacks to far more than images do.
        OSError: likewise, if it cannot be read.
    """

    def __init__(self, path: str, size: int, magic: bytes):
        file: Any = ArchiveFile(path, size, longest_read=64 << 20)
        if magic.startswith(GZIP):
            self._file: Any = gzip.GzipFile(fileobj=file, mode="rb")
        else:
            self._file = pyarrow.CompressedInputStream(ArrowFile(file), "zstd")
        self._size = size
        self._position = 0

    def read(self, length: int) -> bytes:
        """Reads the next bytes; fewer at the end."""
        if length > LONGEST_READ:
            raise ArchiveError(f"it has a header of {length:,} bytes")
        return self.read_content(length)

    def read_content(self, length: int) -> bytes:
        """Reads the next bytes, however many."""
        parts = []
        while length > 0:
            with explain_damage():
                part = self._file.read(min(length, _SKIPPED_AT_A_TIME))
            if not part:
                break
            parts.append(part)
            length -= len(part)
            self._position += len(part)
            check_growth(self._size, self._position)
        return b"".join(parts)

    def seek(self, offset: int) -> int:
        """Skips what lies before a position, and returns where that ended.

        Raises:
            ValueError: for a position that was passed already.
        """
        if offset < self._position:
            raise ValueError(f"position {offset} lies before {self._position}")
        while self._position < offset and self.read_content(min(offset - self._position, _SKIPPED_AT_A_TIME)):
            pass
        return self._position

    def tell(self) -> int:
        """Returns the position."""
        return self._position


def list_tar(path: str, size: int, magic: bytes) -> Iterator[Member]:
    """Lists the members of a tar file, in its order, without folders.

    Args:
        path: path or URL.
        size: bytes of the archive.
        magic: its first bytes.

    Raises:
        ArchiveError: if it is damaged, once all members before the damage were yielded.
        OSError: if it cannot be read.
    """
    compressed = magic.startswith((GZIP, ZSTD))
    file: Any = UnpackedFile(path, size, magic) if compressed else ArchiveFile(path, size)
    before = -1
    with explain_damage(), tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
        while (entry := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # would keep all of them
            if entry.offset_data <= before or entry.size < 0:
                raise ArchiveError(f"it is damaged: a member has {entry.size:,} bytes")
            before = entry.offset_data
            if not entry.isdir():
                yield _make_member(entry, compressed)


def _make_member(entry: tarfile.TarInfo, compressed: bool) -> Member:
    problem = None
    if entry.islnk() or entry.issym():
        problem = "it is a link, which is not followed in an archive: pack the file itself"
    elif not entry.isreg() or entry.issparse():
        problem = "it is no regular file"
    header = entry.offset_data - tarfile.BLOCKSIZE
    extent = Extent(entry.offset_data, None) if compressed else Extent(header, tarfile.BLOCKSIZE + entry.size)
    return make_member(entry.name, entry.size, extent, problem)


def read_tar_member(content: bytes, size: int) -> bytes:
    """Reads a member from the bytes of its extent.

    Raises:
        ArchiveChangedError: if these are not those of a member of this size.
    """
    try:
        entry = tarfile.TarInfo.frombuf(content[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ArchiveChangedError(f"no member begins here ({error})") from None
    data = content[tarfile.BLOCKSIZE :]
    if len(data) != size or entry.size not in (size, 0):  # a size in an extended header leaves 0 here
        raise ArchiveChangedError(f"a member of {entry.size} bytes lies here, not one of {size}")
    return data
