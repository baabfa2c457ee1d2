"""Page files of a collection: finding and reading them, and the image to which each belongs."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from components.archives.paths import is_archive
from components.layout import (
    PageFile,
    PageFileError,
    looks_like_box_file,
    looks_like_page_file,
    parse_box_file,
    parse_page_file,
)
from components.listing.collection import read_size_and_time
from components.listing.contents import fold_name
from components.listing.line_places import BOX_FILE_SUFFIX, PAGE_FILE_SUFFIX, is_box_file
from components.listing.references import get_folder, join_path, read_regular_file, strip_suffix
from components.listing.roots import Places
from components.listing.walking import walk_root
from components.processes import map_in_threads
from tfrecords import storage

MAX_PAGE_FILE_BYTES = 20_000_000
"""A larger page file is refused; usual ones have some hundred kilobytes."""
_BEGINNING = 4096  # bytes
_MARK = "gt_"  # before the name of the image, in the name of its file of boxes
THREADS, AHEAD = 16, 64
"""At a time, of files in an object store: how many are read, and how many are held."""


class FoundPageFile(NamedTuple):
    """A page file that was found. Its lines are read when they are listed, since all of them would take much memory.

    Attributes:
        size_bytes, modified_us: as of an image.
        image_name: as written in it; empty if there is none, or the file is damaged.
        problem: what is wrong with it; empty if it can be read.
    """

    path: str
    size_bytes: int
    modified_us: int
    image_name: str = ""
    problem: str = ""


def holds_files(root: str, places: Places) -> bool:
    """Tells whether a root of a collection is a folder or an archive, and no file of its own."""
    return places.is_folder(root) or is_archive(root)


def find_page_files(root: str, places: Places, images: Mapping[str, object]) -> Iterator[FoundPageFile]:
    """Finds the page files at or below a root; of a single image, the one beside it.

    Args:
        root: absolute path or URL of a folder or one file.
        places: of all roots of the collection.
        images: those in the root, by path.
    """
    found = _list_folder(root, places) if holds_files(root, places) else _list_beside(images)

    def read(file: tuple[str, int, int]) -> FoundPageFile | None:
        return _read(*file, places)

    remote = storage.is_remote(root)
    files = map_in_threads(read, found, THREADS, ahead=AHEAD) if remote else map(read, found)
    return (file for file in files if file is not None)


def read_page_file(path: str, index_folder: str | None = None) -> PageFile:
    """Reads a page file.

    Args:
        path: path or URL.
        index_folder: where indexes of archives are kept.

    Raises:
        PageFileError: if it is damaged or too large.
        OSError: if it cannot be read.
    """
    return parse_content(path, read_page_file_content(path, index_folder))


def parse_content(path: str, content: bytes) -> PageFile:
    """Parses the content of a page file, which its suffix tells from a file of boxes.

    Raises:
        PageFileError: if it is damaged.
    """
    return parse_box_file(content) if is_box_file(path) else parse_page_file(content)


def read_page_file_content(path: str, index_folder: str | None = None) -> bytes:
    """Reads the bytes of a page file.

    Raises:
        PageFileError: if it is too large.
        OSError: if it cannot be read.
    """
    content = read_regular_file(path, MAX_PAGE_FILE_BYTES + 1, index_folder)
    _check_bytes(content)
    return content


def _check_bytes(content: bytes) -> None:
    if len(content) > MAX_PAGE_FILE_BYTES:
        raise PageFileError(f"it has more than {MAX_PAGE_FILE_BYTES:,} bytes")


def explain_problem(error: OSError | PageFileError) -> str:
    """Explains why a page file cannot be read."""
    if isinstance(error, PageFileError):
        return str(error)
    return f"it cannot be read ({error.strerror or error})"


def is_page_file(path: str) -> bool:
    """Checks whether a file begins as a page file; no file that cannot be read is one."""
    try:
        return _looks_like_one(path, read_regular_file(path, _BEGINNING))
    except OSError:
        return False


def _looks_like_one(path: str, content: bytes) -> bool:
    return looks_like_box_file(content) if is_box_file(path) else looks_like_page_file(content)


def find_page_file_beside(images: Iterable[str]) -> str | None:
    """Finds a page file beside some local images that is named like one of them; None if there is none."""
    beside = _list_beside({image: None for image in images if not storage.is_remote(image)})
    return next((path for path, _, _ in beside if is_page_file(path)), None)


def find_box_file_beside(image: str) -> str | None:
    """Finds the file of boxes beside an image that is named like it; None if there is none."""
    path = join_path(get_folder(image), f"{strip_suffix(image.rpartition('/')[2])}{BOX_FILE_SUFFIX}")
    return path if is_page_file(path) else None


def _list_folder(root: str, places: Places) -> Iterator[tuple[str, int, int]]:
    root = storage.canonicalise(root) if storage.is_remote(root) else root
    for folder in walk_root(root, places, collections.Counter(), single=not places.is_folder(root)):
        for file in folder.files:
            if file.problem is None and file.name.lower().endswith((PAGE_FILE_SUFFIX, BOX_FILE_SUFFIX)):
                yield join_path(folder.path, file.name), file.size_bytes, file.modified_us


def _list_beside(images: Mapping[str, object]) -> Iterator[tuple[str, int, int]]:
    for image in images:
        stem = strip_suffix(image.rpartition("/")[2])
        for name in (f"{stem}{PAGE_FILE_SUFFIX}", f"{stem}{BOX_FILE_SUFFIX}", f"{_MARK}{stem}{BOX_FILE_SUFFIX}"):
            path = join_path(get_folder(image), name)
            try:
                yield path, *read_size_and_time(path)
            except OSError:
                continue


def _read(path: str, size: int, modified_us: int, places: Places) -> FoundPageFile | None:
    """Reads a file; returns None if it is no page file."""
    if not storage.is_remote(path) and places.boundaries.leaves_folders(path):
        problem = "it is a link that leads out of the folder: put the file itself there"
        return FoundPageFile(path, size, modified_us, problem=problem)
    try:
        content = read_regular_file(path, MAX_PAGE_FILE_BYTES + 1, places.index_folder)
        if not _looks_like_one(path, content):
            return None
        _check_bytes(content)
        return FoundPageFile(path, size, modified_us, parse_content(path, content).image_name or "")
    except (OSError, PageFileError) as error:
        return FoundPageFile(path, size, modified_us, problem=explain_problem(error))


class ImageFinder:
    """The search for the image of a page file, among all images of a root.

    Args:
        images: paths or URLs.
    """

    def __init__(self, images: Mapping[str, object]) -> None:
        self._named: dict[str, list[str]] = collections.defaultdict(list)
        self._folders = set(map(get_folder, images))
        for path in images:
            name = fold_name(path.rpartition("/")[2])
            for known in {name, strip_suffix(name)}:
                self._named[known].append(path)

    def find(self, file: FoundPageFile) -> tuple[str, int] | None:
        """Finds the image to which a page file belongs, and how far away it is; None if there is none, or no telling.

        That is the image that the file names, with its folders if these tell several apart, or else the one that is
        named like the file; before that name, a file of boxes may have `gt_`. It lies in the folder of the file, or, if
        there is no image in that, at most one folder's name is another. An image that the file contradicts is taken
        from its own folder alone, since programs write names of other machines.

        Returns:
            Path of the image, and the distance: 0 in the folder of the file.
        """
        own = fold_name(strip_suffix(file.path.rpartition("/")[2]))
        written = fold_name(file.image_name).replace("\\", "/")
        folders, _, name = written.rpartition("/")
        farthest = 0 if get_folder(file.path) in self._folders else 1
        for wanted in dict.fromkeys((name, strip_suffix(name))):
            if wanted and (found := self._choose(wanted, folders, file.path, farthest)):
                return found
        for wanted in dict.fromkeys((own, own.removeprefix(_MARK) if is_box_file(file.path) else own)):
            if found := self._choose(wanted, "", file.path, 0 if name else farthest):
                return found
        return None

    def _choose(self, name: str, folders: str, page_file: str, farthest: int) -> tuple[str, int] | None:
        ranked = []
        for path in self._named.get(name, ()):
            distance = _measure_distance(get_folder(page_file), get_folder(path))
            if distance <= farthest:
                ranked.append((distance != 0, -_count_common(folders, fold_name(get_folder(path))), distance, path))
        best = [entry for entry in ranked if entry[:2] == min(ranked)[:2]]
        return (best[0][3], best[0][2]) if len(best) == 1 else None


def _measure_distance(folder: str, other: str) -> int:
    """Counts the folders' names in which the ways to two folders differ: changed, left out or put in."""
    return Levenshtein.distance(folder.split("/"), other.split("/"))


def _count_common(folders: str, others: str) -> int:
    """Counts the names that two ways have in common, from the last one."""
    count = 0
    for folder, other in zip(reversed(folders.split("/")), reversed(others.split("/")), strict=False):
        if folder != other:
            break
        count += 1
    return count
