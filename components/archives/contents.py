"""The content of an archive: its members, kept in an index so that an archive that did not change is not opened."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from components.archives.files import ArchiveError, read_range
from components.archives.members import Extent, Member, check_members, keep_last
from components.archives.reading import MAGIC_BYTES, WantedMember, read_members
from components.archives.tar import list_tar
from components.archives.zip import MAGICS, list_zip
from tfrecords import storage

_TEXT_SUFFIX = ".txt"
_MOST_TEXT = 64 << 10  # bytes of a text file that the index holds
_FORMAT = 1
_ABOUT = b"archive"
_ROWS_AT_A_TIME = 10_000
_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("name", pyarrow.string(), nullable=False),
        pyarrow.field("size", pyarrow.int64(), nullable=False),
        pyarrow.field("offset", pyarrow.int64()),
        pyarrow.field("length", pyarrow.int64()),
        pyarrow.field("problem", pyarrow.string()),
        pyarrow.field("text", pyarrow.binary()),
    ]
)


class ArchiveContent(NamedTuple):
    """The content of an archive.

    Attributes:
        members: files in it, sorted by name, each name once.
        problem: why there may be more that are not known; None if these are all.
    """

    members: list[Member]
    problem: str | None


def list_archive(path: str, size: int, modified_us: int, index_folder: str | None = None) -> ArchiveContent:
    """Lists the members of an archive; opens it only if no index of this very archive is there.

    Args:
        path: path or URL.
        size: bytes of the archive.
        modified_us: microseconds since 1970 UTC of its last change.
        index_folder: where indexes are kept; None to keep none.

    Raises:
        OSError: if the archive cannot be read.
    """
    about = _describe(path, size, modified_us)
    index = None if index_folder is None else _name_index(path, index_folder)
    if index is not None and (read := _read_index(index, about)) is not None:
        table, problem = read
        return ArchiveContent(list(_make_members(table)), problem)
    content = _scan(path, size)
    if index is not None:
        _write_index(index, content, about)
    return content


@functools.lru_cache(maxsize=16)
def load_index(path: str, size: int, modified_us: int, index_folder: str) -> pyarrow.Table | None:
    """Loads the index of an archive as a table, to find members by their names; None if there is none of this archive.

    Args:
        path, size, modified_us, index_folder: as `list_archive` has them.
    """
    read = _read_index(_name_index(path, index_folder), _describe(path, size, modified_us))
    return None if read is None else read[0]


def find_in_index(index: pyarrow.Table, name: str) -> Member | None:
    """Finds a member in the index of an archive by its name."""
    return next(_make_members(index.filter(pyarrow.compute.equal(index["name"], name))), None)


def _describe(path: str, size: int, modified_us: int) -> dict[str, Any]:
    """Describes an archive, to tell whether an index is its own."""
    return {"format": _FORMAT, "path": path, "size": size, "modified_us": modified_us}


def _name_index(path: str, index_folder: str) -> str:
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:32]
    return storage.join(index_folder, f"{digest}.parquet")


def _scan(path: str, size: int) -> ArchiveContent:
    problems: list[str] = []

    def list_members() -> Iterator[Member]:
        try:
            if not size and not storage.get_size(path):  # which raises an error where nothing is
                raise ArchiveError("it has 0 bytes")
            magic = read_range(path, 0, min(size, MAGIC_BYTES))
            yield from list_zip(path, size) if magic.startswith(MAGICS) else list_tar(path, size, magic)
        except ArchiveError as error:
            problems.append(str(error))

    try:
        members = keep_last(check_members(list_members(), size))
    except ArchiveError as error:
        members = []
        problems.append(str(error))
    return ArchiveContent(_add_texts(path, members), problems[0] if problems else None)


def _add_texts(path: str, members: list[Member]) -> list[Member]:
    """Adds the content of small text files, which may be labels, read in the order of their places."""
    small = [
        (WantedMember(member.extent, member.size), place)
        for place, member in enumerate(members)
        if member.extent is not None and member.size <= _MOST_TEXT and member.name.lower().endswith(_TEXT_SUFFIX)
    ]
    small.sort(key=lambda pair: pair[0].extent.offset)
    for (_, place), content in zip(small, read_members(path, [wanted for wanted, _ in small]), strict=True):
        if isinstance(content, bytes):
            members[place] = members[place]._replace(text=content)
    return members


def _write_index(path: str, content: ArchiveContent, about: dict[str, Any]) -> None:
    described = json.dumps({**about, "problem": content.problem}, sort_keys=True).encode()
    rows = [
        {
            "name": member.name,
            "size": member.size,
            "offset": member.extent and member.extent.offset,
            "length": member.extent and member.extent.length,
            "problem": member.problem,
            "text": member.text,
        }
        for member in content.members
    ]
    storage.write_parquet(path, pyarrow.Table.from_pylist(rows, _SCHEMA.with_metadata({_ABOUT: described})))


def _read_index(path: str, about: dict[str, Any]) -> tuple[pyarrow.Table, str | None] | None:
    """Reads an index, and the archive's problem; returns None if there is none of this archive, or it is damaged."""
    try:
        with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as index:
            said = json.loads((index.schema_arrow.metadata or {}).get(_ABOUT, b"{}"))
            problem = said.pop("problem", None)
            return (index.read(), problem) if said == about else None
    except (FileNotFoundError, pyarrow.ArrowException, ValueError):
        return None
    except OSError as error:
        if error.errno is not None:  # pyarrow's own have no number
            raise
        return None


def _make_members(index: pyarrow.Table) -> Iterator[Member]:
    for batch in index.to_batches(_ROWS_AT_A_TIME):
        columns = (column.to_pylist() for column in batch.columns)
        for name, size, offset, length, problem, text in zip(*columns, strict=True):
            yield Member(name, size, None if offset is None else Extent(offset, length), problem, text)
