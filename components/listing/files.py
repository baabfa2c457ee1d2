"""Files that labels and tables lie in: on a disk, in an object store, or in an archive."""

from __future__ import annotations

import io
from typing import IO

from components.archives.lookup import find_member, list_members, read_member
from components.archives.paths import find_member_path, split_folder
from tfrecords import storage

_LARGEST_MEMBER = 200_000_000  # bytes that are held in memory


def is_file(path: str) -> bool:
    """Tells whether a path, a URL or the path of a member is a file."""
    if (member := find_member_path(path)) is None:
        return storage.is_file(path)
    try:
        return find_member(member)[0].extent is not None
    except OSError:
        return False


def open_to_read(path: str) -> IO[bytes]:
    """Opens a binary file to read; one of an object store or an archive is held in memory.

    Raises:
        OSError: if it cannot be read, or is a member of more than 200 MB.
    """
    if (member := find_member_path(path)) is None:
        return storage.open_to_read(path)
    return io.BytesIO(read_member(member, _LARGEST_MEMBER))


def list_names(folder: str) -> list[str]:
    """Lists the names directly inside a folder, sorted; of an archive those of files alone.

    Raises:
        OSError: if it cannot be listed.
    """
    if (inside := split_folder(folder)) is None:
        return storage.list_names(folder)
    above = f"{inside.name}/" if inside.name else ""
    names = (name.removeprefix(above) for name in list_members(inside.archive) if name.startswith(above))
    return [name for name in names if "/" not in name]


def find_size(path: str) -> int | None:
    """Returns the bytes of a file, or None if it does not exist."""
    if (member := find_member_path(path)) is None:
        return storage.find_size(path)
    try:
        return find_member(member)[0].size
    except FileNotFoundError:
        return None
