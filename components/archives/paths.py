"""The path of a member of an archive: that of the archive, `!/`, and the member's name in it.

    /scans/a.tar!/0007/line1.png        gs://bucket/scans/b.zip!/line2.png

A row of a table that holds images is a member too, named by its number from 0:

    /lines/train-00000.parquet!/00000017

So a member has a path and a URI like a file, and whoever has it finds the member again.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".zip")
MARK = "!"
"""What stands behind an archive's path where it is named as a folder."""
_TABLE = r"(?:\.(?:parquet|arrow|tfrecords?(?:-\d+-of-\d+)?(?:\.gz)?)|(?<![^/])data\.mdb)"
_IS_TABLE = re.compile(rf"{_TABLE}\Z", re.I)
_SUFFIXES_OF_TABLES = (".parquet", ".arrow", ".tfrecord", ".gz", ".mdb")  # or their beginnings, in lower case
_PATH = re.compile(
    rf"(?P<archive>.*?(?:{'|'.join(map(re.escape, _ARCHIVE_SUFFIXES))}|{_TABLE})){MARK}/(?P<name>.+)", re.I | re.S
)


class MemberPath(NamedTuple):
    """The path of a member.

    Attributes:
        archive: path or URL of the archive.
        name: of the member in the archive.
    """

    archive: str
    name: str


def is_archive(path: str) -> bool:
    """Tells whether a file is an archive of files by its name."""
    return path.lower().endswith(_ARCHIVE_SUFFIXES)


def may_be_table(path: str) -> bool:
    """Tells whether a file may be a table whose rows hold images, by its name."""
    suffix = path[path.rfind(".") :].lower()  # which most names do not share: every listed file is asked
    return suffix.startswith(_SUFFIXES_OF_TABLES) and _IS_TABLE.search(path) is not None


def is_packed(path: str, *, sure: bool = False) -> bool:
    """Tells whether a file is an archive, or may be a table whose rows hold images, by its name.

    Args:
        sure: whether a Parquet file, which may also be a table of labels, does not count.
    """
    return is_archive(path) or (may_be_table(path) and not (sure and path.lower().endswith(".parquet")))


def find_member_path(path: str) -> MemberPath | None:
    """Finds the archive and the name in it from a path, URL or key; None if it is not that of a member."""
    if f"{MARK}/" not in path or (match := _PATH.fullmatch(path)) is None:
        return None
    return MemberPath(match["archive"], match["name"])


def get_file(path: str) -> str:
    """Returns the path or URL of the file that is opened for a path: of a member, its archive."""
    member = find_member_path(path)
    return path if member is None else member.archive


def split_folder(path: str) -> MemberPath | None:
    """Splits the path of a folder in an archive; None for another folder. The name of the archive's own is empty."""
    if path.endswith(MARK) and is_packed(path[:-1]) and f"{MARK}/" not in path:
        return MemberPath(path[:-1], "")
    return find_member_path(path)


def make_folder(archive: str) -> str:
    """Makes the path of an archive as a folder."""
    return f"{archive}{MARK}"


def strip_archive_suffix(name: str) -> str:
    """Strips the suffix off an archive's name."""
    longest = max((suffix for suffix in _ARCHIVE_SUFFIXES if name.lower().endswith(suffix)), key=len)
    return name[: -len(longest)]
