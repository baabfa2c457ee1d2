"""Reading of members: those that lie beside each other by one request, those of a compressed archive in one pass."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from components.archives.files import BLOCK_BYTES, ArchiveChangedError, ArchiveError, read_range
from components.archives.members import Extent
from components.archives.paths import may_be_table
from components.archives.rows import RowFile
from components.archives.tables import open_rows
from components.archives.tar import UnpackedFile, read_tar_member
from components.archives.zip import MAGICS, read_zip_member
from tfrecords import storage

MAGIC_BYTES = 4
_LARGEST_GAP = 1 << 20  # bytes between members that are read along with them, sooner than by another request


class WantedMember(NamedTuple):
    """A member to read.

    Attributes:
        extent: where it lies.
        size: bytes of the file.
    """

    extent: Extent
    size: int


def read_members(archive: str, members: Sequence[WantedMember]) -> Iterator[bytes | ArchiveError]:
    """Reads members of one archive; yields the bytes of each, in order, or why there are none.

    Args:
        archive: path or URL.
        members: in the order of their places, so that few requests are enough.

    Raises:
        OSError: if the archive cannot be read.
    """
    for group in group_neighbours(members):
        if group[0].extent.length is None:
            yield from _unpack_members(archive, group)
            continue
        start = group[0].extent.offset
        block = memoryview(read_range(archive, start, _find_end(group) - start))
        for extent, size in group:
            begin = extent.offset - start
            yield _open_member(bytes(block[begin : begin + (extent.length or 0)]), size)


def group_neighbours(members: Sequence[WantedMember]) -> Iterator[list[WantedMember]]:
    """Yields runs of members that one request reads, or one pass over a compressed archive."""
    group: list[WantedMember] = []
    for member in members:
        if group and not _reads_along(group, member):
            yield group
            group = []
        group.append(member)
    if group:
        yield group


def _reads_along(group: Sequence[WantedMember], member: WantedMember) -> bool:
    first, last, (offset, length) = group[0].extent, group[-1].extent, member.extent
    if length is None or last.length is None:
        return length is None and last.length is None and last.offset <= offset
    gap = offset - (last.offset + last.length)
    return 0 <= gap <= _LARGEST_GAP and offset + length - first.offset <= BLOCK_BYTES


def _find_end(group: Sequence[WantedMember]) -> int:
    last = group[-1].extent
    return last.offset + (last.length or 0)


def _open_member(content: bytes, size: int) -> bytes | ArchiveError:
    try:
        return read_zip_member(content, size) if content.startswith(MAGICS[0]) else read_tar_member(content, size)
    except ArchiveError as error:
        return error


class _Stream(NamedTuple):
    """A compressed archive, or a table of images, that is read forwards.

    Attributes:
        identity: path, size and last change of the archive.
    """

    identity: tuple[str, int, int]
    file: UnpackedFile | RowFile


_kept: list[_Stream] = []
"""The stream that was read last, for whoever reads on: whoever takes it out is the only one who has it."""


def _unpack_members(archive: str, members: Sequence[WantedMember]) -> Iterator[bytes | ArchiveError]:
    remote = storage.is_remote(archive)
    size = storage.get_size(archive)
    identity = (archive, size, 0 if remote else os.stat(archive).st_mtime_ns)
    failure: ArchiveError | None = None
    try:
        stream = _take_stream(identity, members[0].extent.offset)
    except ArchiveError as error:
        failure = error
    for extent, length in members:
        if failure is None:
            try:
                content = stream.file.read_content(length) if stream.file.seek(extent.offset) == extent.offset else b""
                yield content if len(content) == length else ArchiveChangedError("it ends before this member does")
            except ArchiveError as error:
                failure = error
        if failure is not None:
            yield failure
    if failure is None:
        _kept[:] = [stream]


def _take_stream(identity: tuple[str, int, int], offset: int) -> _Stream:
    try:
        stream = _kept.pop()
    except IndexError:
        pass
    else:
        if stream.identity == identity and stream.file.tell() <= offset:
            return stream
    path, size, _ = identity
    if may_be_table(path):
        return _Stream(identity, open_rows(path, size))
    return _Stream(identity, UnpackedFile(path, size, read_range(path, 0, min(size, MAGIC_BYTES))))
