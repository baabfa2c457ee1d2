"""Reading of one member by its path."""

from __future__ import annotations

import errno
import functools
import os

from components.archives.contents import find_in_index, list_archive, load_index
from components.archives.files import ArchiveError
from components.archives.members import Member
from components.archives.paths import MemberPath
from components.archives.reading import WantedMember, read_members
from tfrecords import storage


def read_member(path: MemberPath, at_most: int = -1, index_folder: str | None = None) -> bytes:
    """Reads a member of an archive, which is found by its name.

    Args:
        at_most: bytes that it may have; -1 for any number.
        index_folder: where indexes of archives are kept; without one the archive is looked through.

    Raises:
        FileNotFoundError: if the archive is not there, or has no such member.
        OSError: if it cannot be read for another reason.
    """
    member, _ = find_member(path, index_folder)
    if member.extent is None:
        raise OSError(errno.EINVAL, member.problem, path.name)
    if 0 <= at_most < member.size:
        raise OSError(errno.EFBIG, f"it has {member.size:,} bytes, more than the {at_most:,} that are read", path.name)
    content = next(read_members(path.archive, [WantedMember(member.extent, member.size)]))
    if isinstance(content, ArchiveError):
        raise OSError(errno.EIO, str(content), path.name)
    return content


def find_member(path: MemberPath, index_folder: str | None = None) -> tuple[Member, int]:
    """Finds a member of an archive by its name.

    Returns:
        The member, and the microseconds since 1970 UTC of the last change of its archive.

    Raises:
        FileNotFoundError: if the archive is not there, or has no such member.
        OSError: if it cannot be read for another reason.
    """
    size, modified_us = _describe_archive(path.archive)
    index = None if index_folder is None else load_index(path.archive, size, modified_us, index_folder)
    if index is not None:
        member = find_in_index(index, path.name)
    else:
        member = _list_by_name(path.archive, size, modified_us).get(path.name)
    if member is None:
        raise FileNotFoundError(errno.ENOENT, f"{path.archive} has no such member", path.name)
    return member, modified_us


def list_members(archive: str) -> list[str]:
    """Lists the names of the members of an archive, sorted.

    Raises:
        OSError: if it cannot be read.
    """
    return list(_list_by_name(archive, *_describe_archive(archive)))


def _describe_archive(path: str) -> tuple[int, int]:
    """Returns the bytes of an archive, and the microseconds since 1970 UTC of its last change."""
    if storage.is_remote(path):
        file = storage.describe_file(path)
        return file.size, round(file.modified * 1e6)
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns // 1000


@functools.lru_cache(maxsize=2)
def _list_by_name(archive: str, size: int, modified_us: int) -> dict[str, Member]:
    return {member.name: member for member in list_archive(archive, size, modified_us).members}
