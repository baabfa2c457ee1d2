"""The walk through a root of a collection: its folders in sorted order, each with its files.

Local folders are walked here, because a glob library misses names with brackets, broken links and names that are not
UTF-8.
"""

from __future__ import annotations

import collections
import functools
import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from components.archives.columns import ImageColumns
from components.archives.contents import TEXT_SUFFIX, ArchiveContent, list_archive
from components.archives.members import Extent, Member
from components.archives.paths import MARK, is_archive, is_packed, make_folder, may_be_table, strip_archive_suffix
from components.listing.boundaries import Boundaries
from components.listing.references import join_path, location_to_uri
from components.listing.roots import Places
from components.processes import map_in_threads
from tfrecords import storage

log = logging.getLogger(__name__)

_ARCHIVES_AT_A_TIME = 4
_MEMBERS_COMPARED = 5
_OF_MACS = "__MACOSX"  # folder in which a Mac packs what it knows of each file


class File(NamedTuple):
    """A file in a folder.

    Attributes:
        modified_us: microseconds since 1970 UTC of its last change.
        problem: why it is not to be read, or None.
        reason: of the rejects, for the problem.
        extent: the place of a member in its archive.
    """

    name: str
    size_bytes: int
    modified_us: int
    problem: str | None = None
    reason: str = "unreadable"
    extent: Extent | None = None


class Folder(NamedTuple):
    """A folder with its visible files, or with the error for which it cannot be listed.

    Attributes:
        hidden: number of hidden files and folders in it.
        error: why it cannot be listed.
        texts: in an archive, the content of small text files by name.
        packed: whether it lies in an archive.
    """

    path: str
    files: list[File]
    hidden: int = 0
    error: OSError | None = None
    texts: Mapping[str, bytes] = MappingProxyType({})
    packed: bool = False


def walk_root(
    root: str,
    places: Places,
    passed_over: collections.Counter[str],
    *,
    single: bool,
    with_texts: bool = False,
    text_column: str | None = None,
) -> Iterator[Folder]:
    """Yields the folders at or below a root, in sorted order; a folder to which several links lead comes once.

    An archive comes as the folders in it, behind the folder in which it lies. A table that holds images comes as one
    folder: its rows are the files, and their texts are text files beside them.

    Args:
        root: absolute path or canonical URL of a folder or one file.
        places: of all roots of the collection.
        single: whether it is one file.
        passed_over: counts links that are not followed as `link`, and the empty objects with which tools of an object
            store mark folders as `folder`.
        with_texts: whether texts are wanted, so that it matters where a table that holds images has them.
        text_column: of such tables, the column with the texts; None for one of the usual names.
    """
    remote = storage.is_remote(root)
    folders = _walk_remote(root, single, passed_over) if remote else _walk_local(root, places, passed_over)
    for folder in folders:
        packed: list[File] = []
        files: list[File] = []
        for file in folder.files:
            (packed if is_packed(file.name) and file.problem is None else files).append(file)
        if not packed:
            yield folder
            continue
        yield folder._replace(files=files)
        look = functools.partial(_look, folder.path, places.index_folder, text_column)
        contents = map_in_threads(look, packed, _ARCHIVES_AT_A_TIME, ahead=_ARCHIVES_AT_A_TIME)
        for file, content in zip(packed, contents, strict=True):
            if isinstance(content, ArchiveContent) and content.columns is not None:
                _say_columns(join_path(folder.path, file.name), content.columns, places.index_folder, with_texts)
            yield from _walk_archive(folder.path, file, content, passed_over, named=single)


def _walk_local(root: str, places: Places, passed_over: collections.Counter[str]) -> Iterator[Folder]:
    if not os.path.isdir(root):
        folder, name = os.path.split(root)
        yield Folder(folder, [_describe_local_file(root, name, places.boundaries if os.path.islink(root) else None)])
        return
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as scanned:
                entries = sorted((entry for entry in scanned), key=lambda entry: entry.name)
        except OSError as error:
            yield Folder(path, [], error=error)
            continue
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        files, folders = [], []
        for entry in visible:
            is_link, is_folder = entry.is_symlink(), leads_to_folder(entry)
            if is_link and places.boundaries.links in ("none", "files" if is_folder else "none"):
                passed_over["link"] += 1
            elif not is_folder:
                files.append(_describe_local_file(entry.path, entry.name, places.boundaries if is_link else None))
            elif _is_entered(entry, places, passed_over):
                folders.append(entry.path)
        waiting += reversed(folders)
        yield Folder(path, files, hidden=len(entries) - len(visible))


def _is_entered(folder: os.DirEntry[str], places: Places, passed_over: collections.Counter[str]) -> bool:
    """Tells whether a folder is entered: it is not closed, and no link to what is listed anyway."""
    if closed := places.boundaries.find_closed_folder(folder.path):
        log.warning(f"{location_to_uri(folder.path)} leads into {closed}, and is passed over")
        passed_over["link"] += 1
        return False
    return not (folder.is_symlink() and places.reaches(os.path.realpath(folder.path)))


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Tells whether an entry of a folder is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _describe_local_file(path: str, name: str, boundaries: Boundaries | None) -> File:
    """Describes a file of a name, or the one that a link leads to.

    Args:
        boundaries: of a link; None for another file.
    """
    if boundaries is not None and (closed := boundaries.find_closed_folder(path)):
        return File(name, 0, 0, f"it is a link that leads into {closed}, where no image is read")
    try:
        status = os.stat(path)
    except OSError:
        try:
            status = os.lstat(path)  # a broken link is listed, and rejected when it is read
        except OSError:
            return File(name, 0, 0)  # so is a file that is gone, or has too long a path
    return File(name, status.st_size, status.st_mtime_ns // 1000)


def _walk_remote(root: str, single: bool, passed_over: collections.Counter[str]) -> Iterator[Folder]:
    folders: dict[str, list[File]] = collections.defaultdict(list)
    hidden: collections.Counter[str] = collections.Counter()
    for file in [_describe_remote_file(root)] if single else storage.find_files(root):
        folder, _, name = file.url.rpartition("/")
        if "/." in file.url.removeprefix(root):
            hidden[folder] += 1
        elif not name and not file.size:
            passed_over["folder"] += 1
        else:
            folders[folder].append(File(name, file.size, round(file.modified * 1e6)))
    for folder in sorted(folders.keys() | hidden.keys()):
        yield Folder(folder, folders.get(folder, []), hidden[folder])


def _describe_remote_file(url: str) -> storage.StoredFile:
    try:
        return storage.describe_file(url)
    except FileNotFoundError:
        return storage.StoredFile(url, 0, 0)  # gone by now: it is listed, and rejected when it is read


def _look(folder: str, index_folder: str | None, text_column: str | None, file: File) -> ArchiveContent | OSError:
    try:
        path = join_path(folder, file.name)
        return list_archive(path, file.size_bytes, file.modified_us, index_folder, text_column)
    except OSError as error:
        return error


_said: set[tuple[str, ImageColumns, bool]] = set()
"""Of what this process has spoken, by the folder of indexes: a collection may have many tables alike."""


def _say_columns(path: str, columns: ImageColumns, index_folder: str | None, with_texts: bool) -> None:
    """Says which columns of a table are read, once for all tables of a workspace with these."""
    if index_folder is not None:
        if (index_folder, columns, with_texts) in _said:
            return
        _said.add((index_folder, columns, with_texts))
    texts = ""
    if with_texts:
        texts = ", with no column of texts" if columns.text is None else f", with the texts in {columns.text!r}"
    log.info(f"{location_to_uri(path)} holds images: they are in the column {columns.image!r}{texts}")
    if with_texts and columns.unclear is not None:
        log.warning(f"{location_to_uri(path)}: {columns.unclear}")


def _walk_archive(
    folder: str, file: File, content: ArchiveContent | OSError, passed_over: collections.Counter[str], *, named: bool
) -> Iterator[Folder]:
    """Yields the folders in an archive of a folder; what cannot be read of it comes as a file of its name.

    Args:
        named: whether the archive was named, and not found in a folder: then it is read though it lies beside what was
            unpacked from it.
    """
    path = join_path(folder, file.name)
    if isinstance(content, OSError):
        yield Folder(folder, [file._replace(problem=f"it cannot be read: {content.strerror or content}")])
        return
    if not content.holds_images:
        yield Folder(folder, [file])
        return
    if not named and is_archive(path) and _is_unpacked_beside(folder, file.name, content.members):
        log.warning(
            f"{location_to_uri(path)} is passed over: its files lie unpacked beside it. Name the archive itself to "
            "read it"
        )
        passed_over[os.path.splitext(file.name)[1].lower()] += 1
        return
    if content.problem is not None:
        problem = f"{content.problem}; {len(content.members):,} members of it are known"
        yield Folder(folder, [file._replace(problem=problem, reason="damaged_archive")])
    yield from _make_folders(make_folder(path), content.members, file.modified_us)


def _is_unpacked_beside(folder: str, name: str, members: Sequence[Member]) -> bool:
    """Tells whether the first members of an archive lie beside it, or in a folder of its name."""
    first = list(itertools.islice((member for member in members if member.extent is not None), _MEMBERS_COMPARED))
    places = [folder, join_path(folder, strip_archive_suffix(name))]
    for place in places if first else ():
        try:
            if all(storage.find_size(join_path(place, member.name)) == member.size for member in first):
                return True
        except OSError:
            continue
    return False


def _make_folders(archive: str, members: Sequence[Member], modified_us: int) -> Iterator[Folder]:
    """Makes the folders in an archive, in sorted order."""
    folders: dict[str, list[Member]] = collections.defaultdict(list)
    hidden: collections.Counter[str] = collections.Counter()
    for member in members:
        inside, _, name = member.name.rpartition("/")
        if ".." in member.name.split("/"):
            folders[""].append(member)
        elif any(part.startswith(".") or part == _OF_MACS for part in member.name.split("/")):
            hidden[inside] += 1
        else:
            folders[inside].append(member._replace(name=name))
    for inside in sorted(folders.keys() | hidden.keys()):
        found = folders.get(inside, [])
        files = [
            File(member.name, member.size, modified_us, member.problem, "unusable_member", member.extent)
            for member in found
        ]
        texts = {member.name: member.text for member in found if member.text is not None}
        if may_be_table(archive.removesuffix(MARK)):
            texts = {f"{name}{TEXT_SUFFIX}": text for name, text in texts.items()}
            files += (File(name, len(text), modified_us) for name, text in texts.items())
        path = f"{archive}/{inside}" if inside else archive
        yield Folder(path, files, hidden[inside], texts=texts, packed=True)
