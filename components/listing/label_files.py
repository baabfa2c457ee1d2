"""Files that may hold the labels of images: those that mention many of the images, or are named like them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from components.archives.paths import is_packed
from components.listing import files
from components.listing.contents import Content, fold_name, read_content
from components.listing.line_places import PAGE_FILE_SUFFIX, is_box_file
from components.listing.page_files import is_page_file
from components.listing.references import IMAGE_SUFFIXES, get_folder, strip_suffix
from tfrecords import StoreError, storage

_NAMES_LOOKED_FOR = 500
_PLACES = 40
_FOLDERS_BESIDE = 20
_FOLDERS_BELOW = 5  # of the folders of images: Transkribus puts page files into one below each
_ENTRIES = 20_000  # of a folder beside the images
_FILES_OF_A_SUFFIX = 5
_FILES = 200
_LEAST_SHARE = 0.1
_LEAST = 3
_LEAST_SHARE_OF_STEMS = 0.5  # a word may stand in a text that is no list of labels
_BETWEEN = re.compile(r"[\s\x00-\x1f\"'`,;|<>()\[\]{}=&?#:*]+")


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """A file, or files named like the images, that may hold labels.

    Attributes:
        path: of the file, or of the first of several.
        mentioned: images that it mentions, of those `looked_for`.
        files: number of files, each named like an image; 0 for one file that mentions images.
        of_page: whether it is a page file: ALTO, PAGE or boxes.
    """

    path: str
    mentioned: int
    looked_for: int
    files: int = 0
    of_page: bool = False


def find_label_file(images: Sequence[str], folders: Sequence[str]) -> LabelFile | None:
    """Finds the file that speaks of most images, if there is one that may hold their labels.

    Looks in the folders of the images and above them, up to the folder above a root, and in folders beside. A file
    counts by its content, whatever its name: one that mentions a tenth of the images, or that has lines
    which begin like half of their names without suffixes. A list of names alone holds no labels.

    Args:
        images: paths or URLs of images, from all over the collection.
        folders: of the roots of the collection.
    """
    sample = images[:: math.ceil(len(images) / _NAMES_LOOKED_FOR) or 1]
    inside = {get_folder(image) for image in images}
    places = _list_places({get_folder(image) for image in sample}, folders)
    searches = [_Search(place, sample, inside) for place in places]
    beside = (folder for place in [*map(_get_above, folders), *folders] for folder in _list_beside(place, inside))
    twins = (twin for folder in sorted({get_folder(image) for image in sample}) for twin in _list_twins(folder))
    below = (folder for place in sorted(inside)[:_FOLDERS_BELOW] for folder in _list_beside(place, inside))
    searches += [_Search(folder, sample, inside, below=False) for folder in dict.fromkeys([*beside, *below, *twins])]
    allowed = iter(range(_FILES))
    found = [file for search in searches for file in search.find(allowed)]
    return max(found, key=lambda file: file.mentioned / file.looked_for, default=None)


class _Search:
    """The search in one folder for files about the images below it.

    Args:
        place: path or URL of the folder.
        images: some from all over the collection.
        inside: every folder in which images lie.
        below: whether the images lie below this folder; otherwise all of them count, by their names with suffixes.
    """

    def __init__(self, place: str, images: Sequence[str], inside: set[str], *, below: bool = True):
        self._place = place
        self._inside = inside
        self._below = below
        mine = [image for image in images if not below or image.startswith(f"{place.rstrip('/')}/")]
        names = {fold_name(os.fsencode(image.rpartition("/")[2]).decode("utf-8", "replace")) for image in mine}
        self._names = names
        self._stems = {strip_suffix(name) for name in names}
        self._elsewhere: dict[str, bool] = {}

    def find(self, allowed: Iterator[int]) -> Iterator[LabelFile]:
        """Yields the files in this folder that may hold labels; takes one of `allowed` for each file that it reads."""
        if (page_file := self._find_page_file()) is not None:
            yield LabelFile(page_file, 1, 1, of_page=True)
        if len(self._names) < _LEAST:
            return
        by_suffix: dict[str, list[str]] = defaultdict(list)
        for name in _list_files(self._place):
            by_suffix[os.path.splitext(name)[1].lower()].append(name)
        for names in by_suffix.values():
            alike = list(filter(self._is_named_like_image, names))
            if len(alike) >= self._count_needed(1):
                stems = {stem for name in alike for stem in _list_stems(fold_name(name))} & self._stems
                if len(stems) >= self._count_needed(1) and self._is_text(alike[0]):
                    yield LabelFile(storage.join(self._place, alike[0]), len(stems), len(self._stems), len(alike))
                    continue
            for name in self._choose_largest(names):
                if next(allowed, None) is None:
                    return
                path = storage.join(self._place, name)
                if (content := read_content(path)) is not None and (mentioned := self._count_mentioned(content)):
                    yield LabelFile(path, mentioned, len(self._names))

    def _find_page_file(self) -> str | None:
        """Finds an ALTO or PAGE file, or a file of boxes named like an image, among the first with their suffixes."""
        listed = _list_files(self._place)
        names = (name for name in listed if name.lower().endswith(PAGE_FILE_SUFFIX))
        texts = (name for name in listed if is_box_file(name) and self._is_named_like_image(name))
        for some in (names, texts):
            for name in itertools.islice(some, _FILES_OF_A_SUFFIX):
                if is_page_file(path := storage.join(self._place, name)):
                    return path
        return None

    def _is_named_like_image(self, name: str) -> bool:
        return not self._stems.isdisjoint(_list_stems(fold_name(name)))

    def _is_text(self, name: str) -> bool:
        content = read_content(storage.join(self._place, name))
        return content is not None and not content.binary

    def _choose_largest(self, names: list[str]) -> list[str]:
        if len(names) <= _FILES_OF_A_SUFFIX or storage.is_remote(self._place):
            return names[:_FILES_OF_A_SUFFIX]
        sizes = {name: find_size(storage.join(self._place, name)) for name in names[: 100 * _FILES_OF_A_SUFFIX]}
        return sorted(sizes, key=lambda name: -sizes[name])[:_FILES_OF_A_SUFFIX]

    def _count_needed(self, share_read: float, least_share: float = _LEAST_SHARE) -> float:
        return max(_LEAST, least_share * len(self._names) * share_read)

    def _count_mentioned(self, content: Content) -> int:
        """Counts the images that a file mentions; 0 if these are too few, or if it is a list of names alone."""
        if content.binary:
            text = fold_name(content.text)
            named = {name for name in self._names if "." in name and name in text}
            return len(named) if len(named) >= self._count_needed(content.share) else 0
        words = self._split_words(content.text)
        named = self._names & words
        if odd := [name for name in self._names - named if _BETWEEN.search(name)]:
            text = fold_name(content.text)
            named |= {name for name in odd if name in text}
        if len(named) >= self._count_needed(content.share) and not _is_list(content.text):
            return len(named)
        if not self._below:
            return 0
        begun = self._stems & (words | {strip_suffix(word) for word in words})
        if len(begun) >= self._count_needed(content.share, _LEAST_SHARE_OF_STEMS) and not _is_list(content.text):
            return len(begun)
        return 0

    def _split_words(self, text: str) -> set[str]:
        """Splits a text to its words, and paths to their last names, unless they lead to other images that exist."""
        words = set()
        for path in set(_BETWEEN.split(text)):
            folder, _, name = path.replace("\\", "/").rpartition("/")
            if not folder or not self._leads_elsewhere(folder):
                words.add(fold_name(name))
        return words

    def _leads_elsewhere(self, folder: str) -> bool:
        if folder not in self._elsewhere:
            path = folder if folder.startswith("/") else os.path.join(self._place, folder)
            real = os.path.realpath(path) if not storage.is_remote(path) and os.path.isdir(path) else ""
            self._elsewhere[folder] = bool(real) and not any(
                f"{real}/".startswith(f"{inside}/") or f"{inside}/".startswith(f"{real}/")
                for inside in map(os.path.realpath, itertools.islice(self._inside, _PLACES))
            )
        return self._elsewhere[folder]


def _is_list(text: str) -> bool:
    """Checks whether hardly a line of a text has more than one word, as in a list of files."""
    lines = [line.strip().strip("[],\"'") for line in itertools.islice(text.splitlines(), 2_000)]
    lines = [line for line in lines if line]
    return len(lines) > 1 and sum(bool(re.search(r"[\s,;|\"]", line)) for line in lines) < 0.05 * len(lines)


def _list_stems(name: str) -> list[str]:
    """Lists what a file's name without suffixes may be of an image's: `gt_a.xml`, `a_gt.txt` and `a.gt.txt` are `a`."""
    stem = os.path.splitext(name)[0]
    return [stem, os.path.splitext(stem)[0], stem.partition("_")[2], stem.rpartition("_")[0]]


def _list_places(folders: Iterable[str], roots: Sequence[str]) -> list[str]:
    """Lists folders of images and those above them, up to the folder above a root, from the top."""
    places = dict.fromkeys(above for root in roots for above in (_get_above(root), root.rstrip("/")) if above)
    for folder in sorted(folders):
        while folder and folder not in places and any(folder.startswith(f"{root.rstrip('/')}/") for root in roots):
            places[folder] = None
            folder = get_folder(folder)
    return list(places)[:_PLACES]


def _get_above(root: str) -> str:
    root = root.rstrip("/")
    above = root.rpartition("/")[0]
    return above if not storage.is_remote(root) or "://" in above else ""


def _list_beside(place: str, inside: set[str]) -> list[str]:
    """Lists folders in a folder that hold no images, such as `annotations` beside `images`, and folders in these."""
    if not place or storage.is_remote(place) or _is_workspace(place):
        return []
    found: list[str] = []
    for folder in _list_folders(place)[:_FOLDERS_BESIDE]:
        parts = [folder, *_list_folders(folder)[:_FOLDERS_BESIDE]]
        holds_images = any(f"{other}/".startswith(f"{folder}/") for other in inside) or any(map(_has_images, parts))
        if not holds_images and not _is_workspace(folder):
            found += parts
    return found


def _list_twins(folder: str) -> list[str]:
    """Lists the folder that has `labels` where a folder of images has `images`, as programs for detection expect it."""
    before, images, after = f"{folder}/".rpartition("/images/")
    twin = f"{before}/labels/{after}".rstrip("/")
    return [twin] if images and not storage.is_remote(folder) and os.path.isdir(twin) else []


def _list_folders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.path
                for entry in itertools.islice(entries, _ENTRIES)
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _is_workspace(folder: str) -> bool:
    """Checks whether a folder is a workspace, whose records and tables mention images that were read before."""
    found = [os.path.isdir(f"{folder}/{name}") for name in ("unfinished", "runs", "datasets")]
    return found[0] or all(found[1:])


def _has_images(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in itertools.islice(entries, _ENTRIES))
    except OSError:
        return False


def _list_files(folder: str) -> list[str]:
    """Lists files in a folder that are named neither like images nor like archives, which are listed themselves."""
    try:
        if storage.is_remote(folder):
            names = storage.list_names(folder)
        else:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if not entry.is_dir())
    except StoreError:
        raise
    except OSError:  # the one above may belong to another person
        return []
    visible = (name for name in names if not name.startswith("."))
    return [name for name in visible if not name.lower().endswith(IMAGE_SUFFIXES) and not is_packed(name, sure=True)]


def find_size(path: str) -> int:
    """Finds the size of a file in bytes; 0 if it cannot be told."""
    try:
        return files.find_size(path) or 0
    except OSError:
        return 0
