"""The walk through a root of a collection: its folders in sorted order, each with its files.

Local folders are walked here, because a glob library misses names with brackets, broken links and names that are not
UTF-8.
"""

from __future__ import annotations

import collections
import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

from components.listing.boundaries import Boundaries
from components.listing.references import location_to_uri
from components.listing.roots import Places
from tfrecords import storage

log = logging.getLogger(__name__)


class File(NamedTuple):
    """A file in a folder.

    Attributes:
        modified_us: microseconds since 1970 UTC of its last change.
        problem: why it is not to be read, or None.
    """

    name: str
    size_bytes: int
    modified_us: int
    problem: str | None = None


class Folder(NamedTuple):
    """A folder with its visible files, or with the error for which it cannot be listed.

    Attributes:
        hidden: number of hidden files and folders in it.
    """

    path: str
    files: list[File]
    hidden: int = 0
    error: OSError | None = None


def walk_root(root: str, places: Places, passed_over: collections.Counter[str], *, single: bool) -> Iterator[Folder]:
    """Yields the folders at or below a root, in sorted order; a folder to which several links lead comes once.

    Args:
        root: absolute path or canonical URL of a folder or one file.
        places: of all roots of the collection.
        single: whether it is one file.
        passed_over: counts links that are not followed as `link`, and the empty objects with which tools of an object
            store mark folders as `folder`.
    """
    if storage.is_remote(root):
        yield from _walk_remote(root, single, passed_over)
    else:
        yield from _walk_local(root, places, passed_over)


def _walk_local(root: str, places: Places, passed_over: collections.Counter[str]) -> Iterator[Folder]:
    if not os.path.isdir(root):
        yield Folder(os.path.dirname(root), [_describe_local_file(root, os.path.islink(root), places.boundaries)])
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
            is_folder = leads_to_folder(entry)
            if entry.is_symlink() and places.boundaries.links in ("none", "files" if is_folder else "none"):
                passed_over["link"] += 1
            elif not is_folder:
                files.append(_describe_local_file(entry.path, entry.is_symlink(), places.boundaries))
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


def _describe_local_file(path: str, is_link: bool, boundaries: Boundaries) -> File:
    if is_link and (closed := boundaries.find_closed_folder(path)):
        return File(os.path.basename(path), 0, 0, f"it is a link that leads into {closed}, where no image is read")
    try:
        status = os.stat(path)
    except OSError:
        try:
            status = os.lstat(path)  # a broken link is listed, and rejected when it is read
        except OSError:
            return File(os.path.basename(path), 0, 0)  # so is a file that is gone, or has too long a path
    return File(os.path.basename(path), status.st_size, status.st_mtime_ns // 1000)


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
