"""Which images a collection holds: roots, walking, and what counts as an image.

Local folders are walked here and not by a glob library: names with brackets, broken links
and names that are not UTF-8 are all found. Every file that is not hidden and not a companion
(`.txt`, tables, …) counts as an image until its bytes say otherwise, so none is lost silently.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from components.listing.labels import LabelRules, SidecarFolder, read_label_from_name, read_label_from_sidecar
from components.listing.references import ImageReference, join_path, location_to_uri, strip_variant
from components.listing.table_formats import TABLE_SUFFIXES
from components.processes import map_in_threads
from components.rejects import Reject
from tfrecords import DataError, storage

COMPANION_SUFFIXES = (
    *(".txt", ".csv", ".tsv", ".jsonl", ".json", ".xml", ".md", ".html", ".yaml", ".yml", ".log", ".ini", ".db"),
)
_FILES_AT_A_TIME = 10_000
_THREADS, _AHEAD = 32, 256  # for an object store, which is asked for each file by itself


@dataclasses.dataclass
class Tally:
    """What was found beside the images.

    Attributes:
        passed_over: files that do not count as images, by suffix, and `hidden` ones; in an object store also the
            empty ones, named like a `folder`, by which its tools mark folders.
        with_sidecar: images that have a text file beside them.
        unused_labels: text files whose image is not there, if labels come from them.
    """

    passed_over: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    with_sidecar: int = 0
    unused_labels: list[Reject] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the roots of a collection lie, so that each image is listed once and has a key of its own.

    Attributes:
        folders: real paths of the local folders among the roots.
        depth: how many names of its root's path, from the right, the key of an image begins with: one, or as many
            as tell the roots apart.
        remote: URLs of the folders among the roots.
    """

    folders: tuple[str, ...]
    depth: int
    remote: tuple[str, ...] = ()

    @classmethod
    def of(cls, roots: Sequence[str]) -> Places:
        """The places of all roots of a collection."""
        folders = tuple(os.path.realpath(root) for root in roots if os.path.isdir(root))
        urls = [root for root in roots if storage.is_remote(root)]
        is_folder = map_in_threads(storage.is_folder, urls, _THREADS, ahead=_AHEAD)
        remote = tuple(url for url, inside in zip(urls, is_folder, strict=True) if inside)
        named = {tuple(_named_folder(root, root in remote or os.path.isdir(root)).split("/")) for root in roots}
        longest = max(map(len, named), default=1)
        depths = (depth for depth in range(1, longest) if len({parts[-depth:] for parts in named}) == len(named))
        return cls(folders, next(depths, longest), remote)

    def is_folder(self, root: str) -> bool:
        """Whether a root of the collection is a folder."""
        return root in self.remote if storage.is_remote(root) else os.path.isdir(root)

    def parent_of(self, folder: str) -> str:
        """What the path of an image has before its key begins, for a folder that is a root, or holds one."""
        return "/".join(folder.split("/")[: -self.depth]) + "/"

    def reach(self, folder: str) -> bool:
        """Whether a local folder, given by its real path, is listed without a link being followed."""
        return any(
            folder == root or (folder.startswith(f"{root}/") and "/." not in folder[len(root) :])
            for root in self.folders
        )


class _File(NamedTuple):
    name: str
    size_bytes: int
    modified_us: int


class _Folder(NamedTuple):
    path: str
    files: list[_File]
    hidden: int = 0
    error: OSError | None = None


def find_roots(patterns: str, *, flag: str) -> list[str]:
    """The folders and files that a comma-separated list of folders, files and globs names.

    Returns:
        Absolute paths or URLs, sorted, none inside another and none twice, by way of links either.

    Raises:
        DataError: naming `flag` and the pattern that matches nothing.
    """
    return _outermost({match for _, match in _matches(patterns, flag)})


def find_roots_and_tables(patterns: str, *, flag: str) -> tuple[list[str], list[str]]:
    """Like `find_roots`, but apart from the tables of paths that the list names.

    A file is a table if the name or the glob that matches it ends with one of `TABLE_SUFFIXES`.

    Returns:
        The roots, and the absolute paths or URLs of the tables, sorted, none twice.

    Raises:
        DataError: naming `flag` and the pattern that matches nothing, or a table that is not there.
    """
    roots: set[str] = set()
    tables: set[str] = set()
    for pattern, match in _matches(patterns, flag):
        is_table = pattern.lower().endswith(TABLE_SUFFIXES) and not storage.is_folder(match)
        (tables if is_table else roots).add(match)
    for table in sorted(tables):
        if not storage.is_file(table):
            raise DataError(f"{flag}: the table {location_to_uri(table)} is not a file: correct its path")
    return _outermost(roots), sorted(_by_real_path(tables).values())


def group_roots(roots: Sequence[str], places: Places) -> list[list[str]]:
    """Roots in groups that are listed together: each folder alone, single files by the ten thousand."""
    folders: list[list[str]] = []
    files: list[str] = []
    for root in roots:
        if places.is_folder(root):
            folders.append([root])
        else:
            files.append(root)
    return folders + [files[start : start + _FILES_AT_A_TIME] for start in range(0, len(files), _FILES_AT_A_TIME)]


def list_images(
    root: str, labels: LabelRules | None = None, tally: Tally | None = None, places: Places | None = None
) -> Iterator[ImageReference]:
    """Every image at or below a root, in sorted order, with its label if rules for labels are given.

    Args:
        root: absolute path or URL of a folder or one file.
        labels: where labels are; those of a table are joined later, see `join_labels`.
        tally: to be filled with what is found beside the images.
        places: of all roots of the collection; without it this root is the only one.

    Raises:
        DataError: if the root cannot be listed. A folder below it that cannot be listed comes
            as one reference with a problem.
    """
    tally = Tally() if tally is None else tally
    places = Places.of([root]) if places is None else places
    single = not places.is_folder(root)
    remote = storage.is_remote(root)
    if remote:
        root = storage.canonicalise(root)
        folders = _walk_remote(root, single, tally)
    else:
        folders = _walk_local(root, places)
    named = _named_folder(root, not single)
    parent = places.parent_of(named)
    for folder in folders:
        group = None
        if labels and labels.split_by == "folder":
            below = folder.path.removeprefix(named).strip("/").partition("/")[0]
            group = location_to_uri(f"{named}/{below}".rstrip("/").removeprefix(parent))
        if folder.error is not None:
            if folder.path == root:
                raise DataError(
                    f"cannot list the folder {root!r} ({folder.error.strerror}): give it read access or leave it out"
                )
            yield ImageReference(
                f"{location_to_uri(folder.path)}/",
                f"{location_to_uri(folder.path.removeprefix(parent))}/",
                *(0, 0, None, "unreadable_folder"),
                f"the folder cannot be listed ({folder.error.strerror}), and whatever images are in it are unknown",
                group,
            )
            continue
        tally.passed_over["hidden"] += folder.hidden
        sidecars = None
        if labels is not None and labels.source != "table":
            sidecars = SidecarFolder(folder.path, _names_beside(folder) if single else [f.name for f in folder.files])
        images = _images_in(folder, parent, group, sidecars, tally)
        if labels is None or sidecars is None:
            yield from (reference for reference, _, _ in images)
        elif labels.source == "filename":
            yield from (read_label_from_name(reference, name, labels) for reference, name, _ in images)
        else:
            read = functools.partial(_label_beside, labels=labels)
            yield from map_in_threads(read, images, _THREADS, ahead=_AHEAD) if remote else map(read, images)
            if not single:
                tally.unused_labels += sidecars.unused()


def _images_in(
    folder: _Folder, parent: str, group: str | None, sidecars: SidecarFolder | None, tally: Tally
) -> Iterator[tuple[ImageReference, str, str | None]]:
    """The images of a folder, each with its name and the text file beside it."""
    for name, size, modified_us in folder.files:
        if name.lower().endswith(COMPANION_SUFFIXES):
            tally.passed_over[os.path.splitext(name)[1].lower()] += 1
            continue
        path = join_path(folder.path, name) if folder.path else name
        reference = ImageReference(
            location_to_uri(path), location_to_uri(path.removeprefix(parent)), size, modified_us, group=group
        )
        sidecar = sidecars.of(name) if sidecars else None
        tally.with_sidecar += sidecar is not None
        yield reference, name, sidecar


def _label_beside(image: tuple[ImageReference, str, str | None], labels: LabelRules) -> ImageReference:
    reference, _, sidecar = image
    return read_label_from_sidecar(reference, sidecar, labels)


def _walk_local(root: str, places: Places) -> Iterator[_Folder]:
    """Folders in sorted order, each with its files; links are followed unless they lead to what is listed anyway."""
    if not os.path.isdir(root):
        yield _Folder(os.path.dirname(root), [_local_file(root)])
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
            yield _Folder(path, [], error=error)
            continue
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        is_folder = [_leads_to_folder(entry) for entry in visible]
        followed = [
            entry.path
            for entry, inside in zip(visible, is_folder, strict=True)
            if inside and not (entry.is_symlink() and places.reach(os.path.realpath(entry.path)))
        ]
        files = [_local_file(entry.path) for entry, inside in zip(visible, is_folder, strict=True) if not inside]
        waiting += reversed(followed)
        yield _Folder(path, files, hidden=len(entries) - len(visible))


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _local_file(path: str) -> _File:
    try:
        status = os.stat(path)
    except OSError:
        try:
            status = os.lstat(path)  # a broken link is listed, and rejected when it is read
        except OSError:
            return _File(os.path.basename(path), 0, 0)  # so is what is gone, or has too long a path
    return _File(os.path.basename(path), status.st_size, status.st_mtime_ns // 1000)


def _walk_remote(root: str, single: bool, tally: Tally) -> Iterator[_Folder]:
    folders: dict[str, list[_File]] = collections.defaultdict(list)
    hidden: collections.Counter[str] = collections.Counter()
    for file in [_remote_file(root)] if single else storage.find_files(root):
        folder, _, name = file.url.rpartition("/")
        if "/." in file.url.removeprefix(root):
            hidden[folder] += 1
        elif not name and not file.size:
            tally.passed_over["folder"] += 1
        else:
            folders[folder].append(_File(name, file.size, round(file.modified * 1e6)))
    for folder in sorted(folders.keys() | hidden.keys()):
        yield _Folder(folder, folders.get(folder, []), hidden[folder])


def _remote_file(url: str) -> storage.StoredFile:
    try:
        return storage.describe_file(url)
    except FileNotFoundError:
        return storage.StoredFile(url, 0, 0)  # gone meanwhile: listed, and rejected when it is read


def read_size_and_time(path: str) -> tuple[int, int]:
    """Bytes, and microseconds since 1970, of one file, as the listing of its folder has them.

    Raises:
        OSError: if it is not there; an `IsADirectoryError` if it is a folder.
    """
    if storage.is_remote(path):
        try:
            file = storage.describe_file(path)
        except FileNotFoundError:
            if storage.is_folder(path):
                raise IsADirectoryError(path) from None
            raise
        return file.size, round(file.modified * 1e6)
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(path)
    return status.st_size, status.st_mtime_ns // 1000


def _names_beside(folder: _Folder) -> list[str]:
    """The names in the folder of a single file, read once for all files in it; of a remote one those like its own."""
    if storage.is_remote(folder.path):
        return [name for file in folder.files for name in storage.list_names(folder.path, strip_variant(file.name))]
    return _names_in(folder.path, os.stat(folder.path).st_mtime_ns)


def _matches(patterns: str, flag: str) -> Iterator[tuple[str, str]]:
    """Each pattern of a comma-separated list, with each absolute path or URL that it matches."""
    named = False
    whole = os.path.lexists(os.path.expanduser(patterns))  # a comma may be a part of a name
    for pattern in [patterns] if whole else [part.strip() for part in patterns.split(",")]:
        if not pattern:
            continue
        if storage.is_remote(pattern):
            matches = _remote_matches(pattern, flag)
        else:
            pattern = os.path.abspath(os.path.expanduser(pattern))
            matches = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
        if not matches:
            raise DataError(f"{flag}: nothing matches {pattern!r}; give a folder, a file or a glob that exists")
        named = True
        yield from ((pattern, match.rstrip("/") or "/") for match in matches)
    if not named:
        raise DataError(f"{flag} names no folder: give one, several separated by commas, or a glob")


def _by_real_path(found: set[str]) -> dict[str, str]:
    """One name for each real path: of several names of one folder, its real one, or else the first."""
    real = {root: _real_path(root) for root in found}
    return {real[root]: root for root in sorted(found, key=lambda root: (root != real[root], root), reverse=True)}


def _outermost(found: set[str]) -> list[str]:
    """Roots, sorted, none inside another and none twice."""
    first = _by_real_path(found)
    return sorted(root for path, root in first.items() if first.keys().isdisjoint(_folders_above(path)))


def _real_path(root: str) -> str:
    """A root whose folder is written without links; what a link to a file leads to is another image."""
    if storage.is_remote(root):
        return root
    if os.path.isdir(root):
        return os.path.realpath(root)
    return os.path.join(os.path.realpath(os.path.dirname(root)), os.path.basename(root))


def _named_folder(root: str, is_folder: bool) -> str:
    """The folder that a root is, or that a root which is a file lies in."""
    root = storage.canonicalise(root) if storage.is_remote(root) else root
    return root.rstrip("/") if is_folder else root.rpartition("/")[0]


def _folders_above(path: str) -> Iterator[str]:
    """Every folder that a path lies in, the root folder `/` included."""
    while "/" in path.rstrip("/"):
        path = path.rstrip("/").rpartition("/")[0]
        yield path or "/"


@functools.lru_cache(maxsize=4)
def _names_in(folder: str, _changed: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not _leads_to_folder(entry)]


def _remote_matches(pattern: str, flag: str) -> list[str]:
    try:
        if storage.exists(pattern):
            return [storage.canonicalise(pattern)]
        matches = storage.glob(pattern)
        if not matches:
            storage.require_bucket(pattern, flag)
        return matches
    except OSError as error:
        raise DataError(f"{flag}: cannot list {pattern}: {error.strerror or error}") from None
