"""Members of an archive: their names, sizes and places, with a reason for each that is not read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from components.archives.files import ArchiveError
from components.archives.paths import is_archive

MOST_MEMBERS = 1_000_000


class Extent(NamedTuple):
    """The place of a member in its archive.

    Attributes:
        offset: of its first byte; in a compressed archive, of what it unpacks to.
        length: bytes of the archive that it takes, with the header before it; None in a compressed archive, which is
            unpacked from its beginning.
    """

    offset: int
    length: int | None


class Member(NamedTuple):
    """A member of an archive.

    Attributes:
        name: path in the archive, relative, without detours, except for a member that leads out of it. Bytes that are
            not UTF-8 are percent-encoded.
        size: bytes of the file.
        extent: where it lies; None if it is not read.
        problem: why it is not read, or None.
        text: bytes of a small text file, or None.
    """

    name: str
    size: int
    extent: Extent | None
    problem: str | None = None
    text: bytes | None = None


def keep_last(members: Iterable[Member]) -> list[Member]:
    """Keeps the last of members with equal names, as programs that unpack do, sorted by name.

    Raises:
        ArchiveError: if there are too many.
    """
    kept: dict[str, Member] = {}
    for member in members:
        kept[member.name] = member
        if len(kept) > MOST_MEMBERS:
            raise ArchiveError(f"it has more than {MOST_MEMBERS:,} members: pack them in several archives")
    return [kept[name] for name in sorted(kept)]


def make_member(name: str, size: int, extent: Extent, problem: str | None = None) -> Member:
    """Makes a member from what its archive says, with a problem if it is not to be read.

    Args:
        name: as the archive has it.
        problem: found already.
    """
    name = _escape(name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        problem = "its name leads out of the archive"
    elif is_archive(name):
        problem = problem or "it is an archive within an archive, which is not opened: unpack the outer one"
    return Member("/".join(parts) or "unnamed", size, None if problem else extent, problem)


def _escape(name: str) -> str:
    """Writes the bytes of a name that are not UTF-8 as `%XX`."""
    if name.isascii():
        return name
    return re.sub("[\udc80-\udcff]", lambda match: f"%{ord(match[0]) - 0xDC00:02X}", name)


def check_members(members: Iterable[Member], archive_size: int) -> Iterator[Member]:
    """Yields members; of one that ends behind the end of its archive the rest is missing."""
    for member in members:
        if member.extent and member.extent.length and member.extent.offset + member.extent.length > archive_size:
            member = member._replace(extent=None, problem="the archive ends before it does")
        yield member
