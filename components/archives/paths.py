"""The path of a member of an archive: that of the archive, `!/`, and the member's name in it.

    /scans/a.tar!/0007/line1.png        gs://bucket/scans/b.zip!/line2.png

So a member has a path and a URI like a file, and whoever has it finds the member again.
"""

from __future__ import annotations

import re
from typing import NamedTuple

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".zip")
MARK = "!"
"""What stands behind an archive's path where it is named as a folder."""
_PATH = re.compile(r"(?P<archive>.*?(?:\.tar|\.tar\.gz|\.tgz|\.tar\.zst|\.tzst|\.zip))!/(?P<name>.+)", re.I | re.S)


class MemberPath(NamedTuple):
    """The path of a member.

    Attributes:
        archive: path or URL of the archive.
        name: of the member in the archive.
    """

    archive: str
    name: str


def is_archive(path: str) -> bool:
    """Tells whether a file is an archive by its name."""
    return path.lower().endswith(ARCHIVE_SUFFIXES)


def find_member_path(path: str) -> MemberPath | None:
    """Finds the archive and the name in it from a path, URL or key; None if it is not that of a member."""
    if f"{MARK}/" not in path or (match := _PATH.fullmatch(path)) is None:
        return None
    return MemberPath(match["archive"], match["name"])


def split_folder(path: str) -> MemberPath | None:
    """Splits the path of a folder in an archive; None for another folder. The name of the archive's own is empty."""
    if path.endswith(MARK) and is_archive(path[:-1]) and f"{MARK}/" not in path:
        return MemberPath(path[:-1], "")
    return find_member_path(path)


def make_folder(archive: str) -> str:
    """Makes the path of an archive as a folder."""
    return f"{archive}{MARK}"


def strip_archive_suffix(name: str) -> str:
    """Strips the suffix off an archive's name."""
    longest = max((suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix)), key=len)
    return name[: -len(longest)]
