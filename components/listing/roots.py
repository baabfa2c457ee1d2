"""The roots of a collection: the folders, files and tables that a flag names, each once and none inside another."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence

from components.archives.paths import is_packed, make_folder
from components.listing.boundaries import Boundaries
from components.listing.references import location_to_uri
from components.listing.split_names import find_folder_splits
from components.listing.table_formats import TABLE_SUFFIXES
from components.processes import map_in_threads, split_into_groups
from tfrecords import DataError, storage

_FILES_AT_A_TIME = 10_000
_ARCHIVES_AT_A_TIME = 8
_THREADS, _AHEAD = 32, 256  # for an object store, which is asked about each file by itself


@dataclasses.dataclass(frozen=True)
class Places:
    """The places of a collection's roots, so that each image is listed once and has a key of its own.

    Attributes:
        folders: real paths of the local folders among the roots.
        depth: number of names, from the right, of its root's path with which the key of an image begins: one, or
            as many as tell the roots apart.
        remote: URLs of the folders among the roots.
        several: whether the roots are, or lie in, more than one folder.
        boundaries: where links and rows of tables may lead.
        index_folder: where indexes of archives are kept; None to keep none.
    """

    folders: tuple[str, ...]
    depth: int
    remote: tuple[str, ...] = ()
    boundaries: Boundaries = dataclasses.field(default_factory=Boundaries)
    several: bool = False
    index_folder: str | None = None

    @classmethod
    def from_roots(
        cls, roots: Sequence[str], boundaries: Boundaries | None = None, index_folder: str | None = None
    ) -> Places:
        """Looks up where all roots of a collection lie."""
        folders = tuple(os.path.realpath(root) for root in roots if os.path.isdir(root))
        urls = [root for root in roots if storage.is_remote(root)]
        is_folder = map_in_threads(storage.is_folder, urls, _THREADS, ahead=_AHEAD)
        remote = tuple(url for url, inside in zip(urls, is_folder, strict=True) if inside)
        paths = {tuple(find_root_folder(root, root in remote or os.path.isdir(root)).split("/")) for root in roots}
        longest = max(map(len, paths), default=1)
        depths = (depth for depth in range(1, longest) if len({parts[-depth:] for parts in paths}) == len(paths))
        local = (root for root in roots if not storage.is_remote(root))
        inside = tuple(os.path.realpath(root if os.path.isdir(root) else os.path.dirname(root)) for root in local)
        boundaries = dataclasses.replace(boundaries or Boundaries(), inside=tuple(dict.fromkeys(inside)))
        return cls(folders, next(depths, longest), remote, boundaries, len(paths) > 1, index_folder)

    def is_folder(self, root: str) -> bool:
        """Checks whether a root of the collection is a folder."""
        return root in self.remote if storage.is_remote(root) else os.path.isdir(root)

    def get_key_parent(self, folder: str) -> str:
        """Returns the part of an image's path before its key, for a folder that is a root, or holds one."""
        return "/".join(folder.split("/")[: -self.depth]) + "/"

    def find_splits(self, folder: str) -> set[str]:
        """Finds the splits that the names on the way to a folder tell, given without the parent of its keys.

        The names of the roots themselves count only where there are several: they are told apart by them.
        """
        names = folder.split("/")
        return find_folder_splits(names, self.depth) if self.several else find_folder_splits(names[self.depth :], 0)

    def reaches(self, folder: str) -> bool:
        """Checks whether a local folder, given by its real path, is listed without following a link."""
        return any(
            folder == root or (folder.startswith(f"{root}/") and "/." not in folder[len(root) :])
            for root in self.folders
        )


def find_roots(patterns: str, *, flag: str) -> list[str]:
    """Finds the folders and files that a comma-separated list of folders, files and globs names.

    Returns:
        Absolute paths or URLs, sorted, none inside another and none twice, not even by way of links.

    Raises:
        DataError: naming `flag` and the pattern that matches nothing.
    """
    return _keep_outermost({match for _, match in _match_patterns(patterns, flag)})


def find_roots_and_tables(patterns: str, *, flag: str) -> tuple[list[str], list[str]]:
    """Finds roots as `find_roots` does, apart from the tables of paths that the list names.

    A file is a table if the name or the glob that matches it ends with one of `TABLE_SUFFIXES`.

    Returns:
        The roots, and the absolute paths or URLs of the tables, sorted, none twice.

    Raises:
        DataError: naming `flag` and the pattern that matches nothing, or a table that is not there.
    """
    roots: set[str] = set()
    tables: set[str] = set()
    for pattern, match in _match_patterns(patterns, flag):
        is_table = pattern.lower().endswith(TABLE_SUFFIXES) and not storage.is_folder(match)
        (tables if is_table else roots).add(match)
    for table in sorted(tables):
        if not storage.is_file(table):
            raise DataError(f"{flag}: the table {location_to_uri(table)} is not a file: correct its path")
    return _keep_outermost(roots), sorted(_name_real_paths(tables).values())


def find_tables(patterns: str) -> list[str]:
    """Finds the label tables that a comma-separated list of paths, URLs and globs names, each once.

    A glob that matches nothing stays as it is, for the error about it.

    Returns:
        Absolute paths or URLs, those of one glob sorted.
    """
    tables: dict[str, None] = {}
    whole = os.path.isfile(os.path.expanduser(patterns))  # a comma may be a part of a name
    for pattern in [patterns] if whole else patterns.split(","):
        pattern = pattern.strip()
        if not storage.is_remote(pattern):
            pattern = os.path.abspath(os.path.expanduser(pattern))
        matches: list[str] = []
        if glob.has_magic(pattern) and not storage.is_file(pattern):
            found = storage.glob(pattern) if storage.is_remote(pattern) else glob.glob(pattern, recursive=True)
            matches = sorted(filter(storage.is_file, found))
        tables.update(dict.fromkeys(matches or [pattern]))
    return list(tables)


def group_roots(roots: Sequence[str], places: Places) -> list[list[str]]:
    """Groups roots that are listed together: each folder alone, a few archives, single files by the ten thousand."""
    folders = [[root] for root in roots if places.is_folder(root)]
    single = [root for root in roots if not places.is_folder(root)]
    archives = split_into_groups(_ARCHIVES_AT_A_TIME, filter(is_packed, single))
    files = split_into_groups(_FILES_AT_A_TIME, (root for root in single if not is_packed(root)))
    return [*folders, *archives, *files]


def find_folders(roots: Sequence[str]) -> list[str]:
    """Finds the folders in which the images of some roots lie, or below which they do; an archive is one."""
    places = Places.from_roots(roots)
    return list(dict.fromkeys(_find_folder(root, places) for root in roots))


def _find_folder(root: str, places: Places) -> str:
    if places.is_folder(root):
        return root
    return make_folder(root) if is_packed(root) else root.rpartition("/")[0]


def _match_patterns(patterns: str, flag: str) -> Iterator[tuple[str, str]]:
    """Yields each pattern of a comma-separated list with each absolute path or URL that it matches."""
    empty = True
    whole = os.path.lexists(os.path.expanduser(patterns))  # a comma may be a part of a name
    for pattern in [patterns] if whole else [part.strip() for part in patterns.split(",")]:
        if not pattern:
            continue
        if storage.is_remote(pattern):
            matches = _match_remote_pattern(pattern, flag)
        else:
            pattern = os.path.abspath(os.path.expanduser(pattern))
            matches = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
        if not matches:
            raise DataError(f"{flag}: nothing matches {pattern!r}; give a folder, a file or a glob that exists")
        empty = False
        yield from ((pattern, match.rstrip("/") or "/") for match in matches)
    if empty:
        raise DataError(f"{flag} names no folder: give one, several separated by commas, or a glob")


def _name_real_paths(matches: set[str]) -> dict[str, str]:
    """Chooses one name for each real path: of several names of one folder, its real one, or else the first."""
    real = {match: _resolve_folder_of(match) for match in matches}
    return {
        real[match]: match for match in sorted(matches, key=lambda match: (match != real[match], match), reverse=True)
    }


def _keep_outermost(matches: set[str]) -> list[str]:
    """Drops what lies inside another match, or is named twice; returns the rest, sorted."""
    names = _name_real_paths(matches)
    return sorted(root for path, root in names.items() if names.keys().isdisjoint(_list_folders_above(path)))


def _resolve_folder_of(root: str) -> str:
    """Writes a root's folder without links; a link to a file stays, for it is an image of its own."""
    if storage.is_remote(root):
        return root
    if os.path.isdir(root):
        return os.path.realpath(root)
    return os.path.join(os.path.realpath(os.path.dirname(root)), os.path.basename(root))


def find_root_folder(root: str, is_folder: bool) -> str:
    """Returns the folder that a root is, or in which it lies if it is a file."""
    root = storage.canonicalise(root) if storage.is_remote(root) else root
    return root.rstrip("/") if is_folder else root.rpartition("/")[0]


def _list_folders_above(path: str) -> Iterator[str]:
    """Yields every folder in which a path lies, the root folder `/` included."""
    while "/" in path.rstrip("/"):
        path = path.rstrip("/").rpartition("/")[0]
        yield path or "/"


def _match_remote_pattern(pattern: str, flag: str) -> list[str]:
    try:
        if storage.exists(pattern):
            return [storage.canonicalise(pattern)]
        matches = storage.glob(pattern)
        if not matches:
            storage.require_bucket(pattern, flag)
        return matches
    except OSError as error:
        raise DataError(f"{flag}: cannot list {pattern}: {error.strerror or error}") from None
