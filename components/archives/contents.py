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

from components.archives.columns import ImageColumns
from components.archives.files import ArchiveError, read_range
from components.archives.members import Extent, Member, check_members, keep_last
from components.archives.paths import may_be_table
from components.archives.reading import MAGIC_BYTES, WantedMember, read_members
from components.archives.rows import NoImagesError, list_rows
from components.archives.tables import open_table
from components.archives.tar import list_tar
from components.archives.zip import MAGICS, list_zip
from tfrecords import storage

TEXT_SUFFIX = ".txt"
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
        columns: of a table that holds images.
        holds_images: whether it is an archive at all, or a table that holds images; other tables have no members.
    """

    members: list[Member]
    problem: str | None
    columns: ImageColumns | None = None
    holds_images: bool = True


def list_archive(
    path: str, size: int, modified_us: int, index_folder: str | None = None, text_column: str | None = None
) -> ArchiveContent:
    """Lists the members of an archive; opens it only if no index of this very archive is there.

    Args:
        path: path or URL.
        size: bytes of the archive.
        modified_us: microseconds since 1970 UTC of its last change.
        index_folder: where indexes are kept; None to keep none.
        text_column: of a table that holds images, the column with the texts; None for one of the usual names.

    Raises:
        OSError: if the archive cannot be read.
    """
    text_column = text_column if may_be_table(path) else None
    about = _describe(path, size, modified_us)
    index = None if index_folder is None else _name_index(path, index_folder, text_column)
    if index is not None and (read := _read_index(index, about)) is not None:
        return ArchiveContent(list(_make_members(read.table)), read.problem, read.columns, read.holds_images)
    content = _scan_table(path, size, text_column) if may_be_table(path) else _scan(path, size)
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
    return None if read is None else read.table


def find_in_index(index: pyarrow.Table, name: str) -> Member | None:
    """Finds a member in the index of an archive by its name."""
    return next(_make_members(index.filter(pyarrow.compute.equal(index["name"], name))), None)


def _describe(path: str, size: int, modified_us: int) -> dict[str, Any]:
    """Describes an archive, to tell whether an index is its own."""
    return {"format": _FORMAT, "path": path, "size": size, "modified_us": modified_us}


def _name_index(path: str, index_folder: str, text_column: str | None = None) -> str:
    name = path if text_column is None else f"{path}\0{text_column}"
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
    return storage.join(index_folder, f"{digest}.parquet")


def _scan_table(path: str, size: int, text_column: str | None) -> ArchiveContent:
    members: list[Member] = []
    columns = None
    try:
        _check_size(path, size)
        table = open_table(path, size, text_column)
        columns = table.columns
        for member in list_rows(table):
            members.append(member)
    except NoImagesError:
        return ArchiveContent([], None, holds_images=False)
    except ArchiveError as error:
        return ArchiveContent(members, str(error), columns)
    return ArchiveContent(members, None, columns)


def _check_size(path: str, size: int) -> None:
    if not size and not storage.get_size(path):  # which raises an error where nothing is
        raise ArchiveError("it has 0 bytes")


def _scan(path: str, size: int) -> ArchiveContent:
    problems: list[str] = []

    def list_members() -> Iterator[Member]:
        try:
            _check_size(path, size)
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
        if member.extent is not None and member.size <= _MOST_TEXT and member.name.lower().endswith(TEXT_SUFFIX)
    ]
    small.sort(key=lambda pair: pair[0].extent.offset)
    for (_, place), content in zip(small, read_members(path, [wanted for wanted, _ in small]), strict=True):
        if isinstance(content, bytes):
            members[place] = members[place]._replace(text=content)
    return members


def _write_index(path: str, content: ArchiveContent, about: dict[str, Any]) -> None:
    found = {"problem": content.problem, "columns": content.columns, "holds_images": content.holds_images}
    described = json.dumps({**about, **found}, sort_keys=True).encode()
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


class _Index(NamedTuple):
    """The index of an archive: its members as a table, and the other fields of an `ArchiveContent`."""

    table: pyarrow.Table
    problem: str | None
    columns: ImageColumns | None
    holds_images: bool


def _read_index(path: str, about: dict[str, Any]) -> _Index | None:
    """Reads an index; returns None if there is none of this archive, or it is damaged."""
    try:
        with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as index:
            said = json.loads((index.schema_arrow.metadata or {}).get(_ABOUT, b"{}"))
            problem = said.pop("problem", None)
            columns, holds_images = said.pop("columns", None), said.pop("holds_images", True)
            if said != about:
                return None
            return _Index(index.read(), problem, columns and ImageColumns(*columns), holds_images)
    except (FileNotFoundError, pyarrow.ArrowException, ValueError, TypeError):
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
