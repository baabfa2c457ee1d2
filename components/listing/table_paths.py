"""The places to which the paths in a label table lead, where they do not lead from the table's own folder.

Tables come with bare file names although they lie in the folder above, or were written on Windows, with
backslashes and the folders of another machine.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from components.archives.lookup import list_members
from components.archives.paths import is_archive, make_folder, split_folder
from components.listing.collection import COMPANION_SUFFIXES
from components.listing.contents import fold_name
from components.listing.files import is_file
from components.listing.name_matching import make_name_key
from components.listing.references import get_folder, location_to_uri, path_to_uri, resolve_folder, resolve_path
from components.listing.split_names import name_split, name_table_split
from components.listing.tables import TableColumns, is_review_table, read_label_table
from tfrecords import DataError, storage

ROWS_LOOKED_AT = 100_000
_PATHS_LOOKED_AT = 60
_PATHS_LOOKED_AT_REMOTELY = 8
_FOLDERS_LOOKED_AT = 100
_LEAST_SHARE = 0.5
_IMAGES_LOOKED_AT = 20_000
_LEAST_SHARE_OF_NAMES = 0.05


@dataclasses.dataclass(frozen=True)
class PathRule:
    """A rule by which a table's paths lead to images.

    Attributes:
        folder: from which they lead.
        prefix: what is dropped from their beginning, with forward slashes.
    """

    folder: str
    prefix: str = ""

    def resolve(self, named: str) -> str:
        """Resolves a path of the table: as it stands or, if there is no such file, with the slashes of Windows turned.

        Where no file has the name, one counts that differs from it in nothing but Unicode form and case.
        """
        if storage.is_remote(self.folder):
            return resolve_path(self.folder, named.removeprefix(self.prefix))
        for path in dict.fromkeys([named, _turn_slashes(named)]):
            if path.startswith(self.prefix):
                path = path.removeprefix(self.prefix)
                found = find_file(resolve_path(self.folder, path))
                if found is not None:
                    return found
        return resolve_path(self.folder, _turn_slashes(named).removeprefix(self.prefix))


@dataclasses.dataclass(frozen=True)
class NameRule:
    """The rule that a table's paths lead to images by their ends, or by their names alone; see `NameIndex`.

    Attributes:
        folder: of the table: what is a file from there is no other image.
    """

    folder: str

    def locate(self, named: str) -> tuple[str, int | None]:
        """Locates what a path of the table names.

        Returns:
            Path or URL and None, if it is a file, or a URL; else the path with forward slashes, and the number of
            folders that it has at least in common with its image.
        """
        path = _turn_slashes(named)
        if storage.is_remote(named):
            return resolve_path(self.folder, named), None
        if storage.is_remote(self.folder):
            return path, 1  # whether it is another file would cost a request
        if "/" in path and is_file(here := resolve_path(self.folder, named)):
            return here, None
        return path, 0


def find_path_rule(
    table: str, columns: TableColumns, roots: Sequence[str], *, in_search: bool = False
) -> PathRule | NameRule | None:
    """Finds the rule by which the paths in a label table lead to images; None if no rule is needed, or none fits.

    If one path leads to an image from the table's own folder, no rule is needed. A rule has to fit half of the paths.
    Folders at the beginning of a path are dropped only if one is left; a path without folders may be
    that of an image in a root or in a folder beside the table. In an object store only the latter is tried, in roots.
    Where no such rule fits, names that the images have lead to them, if there are a few of them.

    Args:
        table: path or URL.
        roots: folders of the images.
        in_search: whether the table is only one of those that may hold labels. In an object store names are not looked
            at then, since the images would be listed again for each table.

    Raises:
        DataError: if the table cannot be read, or the paths could lead from several folders to different images.
    """
    if is_review_table(table):
        return None
    rows = itertools.islice(read_label_table(table, columns), ROWS_LOOKED_AT)
    paths = [row.path for row in rows if row.path and not storage.is_remote(row.path)]
    own = get_folder(table)
    sample = paths[:: max(1, len(paths) // _PATHS_LOOKED_AT)][:_PATHS_LOOKED_AT]
    asked, above = paths, list(dict.fromkeys([own, get_folder(own), *roots, *map(get_folder, roots)]))
    if storage.is_remote(own):  # where each look costs a request
        asked = sample = [path for path in sample if "/" not in path][:_PATHS_LOOKED_AT_REMOTELY]
        above = []
    if any(_is_inside(path, roots) and has_file(path) for path in (resolve_path(own, path) for path in asked)):
        return None
    sample = [path for path in sample if not has_file(resolve_path(own, path))]  # another image
    counts: collections.Counter[PathRule] = collections.Counter()
    bare = [path for path in sample if "/" not in _turn_slashes(path)]
    for folder in _list_folders_near(own, roots) if bare else ():
        counts[PathRule(folder)] += sum(_is_image(resolve_path(folder, path)) for path in bare)
    for path in sample:
        found = ((folder, _find_prefix(_turn_slashes(path), folder, roots)) for folder in above)
        counts.update([PathRule(folder, prefix) for folder, prefix in found if prefix is not None][:1])
    fitting = [rule for rule, count in counts.most_common() if count >= max(1, _LEAST_SHARE * len(sample))]
    if len(fitting) > 1 and (split := name_table_split(table)) is not None:  # test.csv has the images of test/
        fitting = [rule for rule in fitting if name_split(rule.folder.rpartition("/")[2]) == split] or fitting
    if len(fitting) > 1:
        folders = " or ".join(location_to_uri(rule.folder) for rule in fitting[:2])
        raise DataError(
            f"the paths in {location_to_uri(table)} could be those of images in {folders}: write them relative to the "
            "folder of the table"
        )
    if fitting and (fitting[0].prefix or _reaches(fitting[0].folder, roots)):
        return fitting[0]
    if storage.is_remote(own):
        some = paths[:: max(1, len(paths) // _PATHS_LOOKED_AT_REMOTELY)][:_PATHS_LOOKED_AT_REMOTELY]
        sample = [] if in_search or any(has_file(resolve_path(own, path)) for path in some) else some
    return NameRule(own) if sample and _share_names(paths, roots) else None


def _share_names(paths: Iterable[str], roots: Iterable[str]) -> bool:
    """Tells whether some of the paths have names of images in some folders."""
    named = {make_name_key(path_to_uri(_turn_slashes(path))) for path in paths}
    images = itertools.chain.from_iterable(map(_list_image_names, roots))
    keys = set(itertools.islice(images, _IMAGES_LOOKED_AT))
    return len(named & keys) >= max(1, _LEAST_SHARE_OF_NAMES * min(len(named), len(keys)))


def _list_image_names(root: str) -> Iterator[str]:
    """Yields the keys of the images in a folder and below it."""
    if (inside := split_folder(root)) is not None:
        paths = _list_members(inside.archive)
    elif storage.is_remote(root):
        paths = (file.url for file in storage.find_files(root))
    else:
        paths = (f"{folder}/{name}" for folder, _, names in os.walk(root) for name in names)
    for path in paths:
        name = path.rpartition("/")[2]
        if is_archive(name) and not name.startswith("."):
            yield from _list_image_names(make_folder(path))
        elif name and not name.startswith(".") and not name.lower().endswith(COMPANION_SUFFIXES):
            yield make_name_key(location_to_uri(path))


def _list_members(archive: str) -> Iterator[str]:
    """Yields the paths of the members of an archive; none if it cannot be read."""
    try:
        yield from (f"{make_folder(archive)}/{name}" for name in list_members(archive))
    except OSError:
        return


def has_file(path: str) -> bool:
    """Tells whether a path or URL, in some Unicode form, is a file."""
    forms = dict.fromkeys([path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path)])
    return any(map(is_file, forms))


def find_file(path: str) -> str | None:
    """Finds a file by its path or URL; a local one also in another Unicode form or case, if only one is like that."""
    if is_file(path):
        return path
    if storage.is_remote(path):
        return None
    folder, name = os.path.split(path)
    actual = _list_by_folded_name(folder).get(fold_name(name))
    return os.path.join(folder, actual) if actual else None


def _is_image(path: str) -> bool:
    return not path.lower().endswith(COMPANION_SUFFIXES) and find_file(path) is not None


def _is_inside(path: str, roots: Iterable[str]) -> bool:
    """Tells whether a path lies below one of the roots."""
    folder = get_folder(path)
    folder = storage.canonicalise(folder) if storage.is_remote(folder) else resolve_folder(folder)
    return any(f"{folder}/".startswith(f"{storage.resolve_path(root).rstrip('/')}/") for root in roots)


def _reaches(folder: str, roots: Sequence[str]) -> bool:
    """Tells whether a folder is a root, or lies below or above one."""
    here = storage.resolve_path(folder).rstrip("/")
    others = [storage.resolve_path(root).rstrip("/") for root in roots]
    return any(f"{here}/".startswith(f"{other}/") or f"{other}/".startswith(f"{here}/") for other in others)


def _find_prefix(path: str, folder: str, roots: Sequence[str]) -> str | None:
    """Finds the folders that a path has to lose to lead from a folder to an image; None if there are none."""
    parts = path.split("/")
    for dropped in range(len(parts) - 1):
        rest = "/".join(parts[dropped:])
        path_here = resolve_path(folder, rest)
        if rest and not rest.startswith("/") and _is_inside(path_here, roots) and _is_image(path_here):
            return path.removesuffix(rest)
    return None


def _turn_slashes(path: str) -> str:
    return path.replace("\\", "/") if "\\" in path else path


def _list_folders_near(own: str, roots: Iterable[str]) -> list[str]:
    """Lists a table's own folder, the roots, and the folders in its own."""
    near = [own, *roots]
    if not storage.is_remote(own):
        try:
            with os.scandir(own) as entries:
                near += [entry.path for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        except OSError:
            pass
    return list({storage.resolve_path(folder): folder for folder in near[:_FOLDERS_LOOKED_AT]}.values())


@functools.lru_cache(maxsize=256)
def _list_by_folded_name(folder: str) -> dict[str, str]:
    """Lists the files of a folder by their names in NFC and without case, if no two have one such name."""
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    counts = collections.Counter(map(fold_name, names))
    return {folded: name for name in names if counts[folded := fold_name(name)] == 1}
