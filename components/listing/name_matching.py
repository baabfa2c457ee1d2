"""Images found by the end of their path, or by their name alone, where a table was written for another place."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import NamedTuple

from components.listing.contents import fold_name
from components.listing.references import IMAGE_SUFFIXES
from components.listing.split_names import name_split

BY_PATH = "by path"
_BY_END = "by the end of the path"
_BY_NAME = "by name alone"
_BY_STEM = "by name without its suffix"
_LEVELS = 2  # folders above an image that may tell its split


class NameMatch(NamedTuple):
    """The image to which a path of a table leads by its name.

    Attributes:
        uri: of the image; None if there is none, or several.
        folders: how many folders above it have the names that the path gives.
        how: in words; of a path that leads to no image, why.
    """

    uri: str | None
    folders: int
    how: str


def make_name_key(uri: str) -> str:
    """Makes the key that an image shares with every path that may name it: its name without image suffix and case."""
    name = fold_name(uri.rstrip("/").rpartition("/")[2])
    return next((name.removesuffix(suffix) for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), name)


class NameIndex:
    """The images of a collection, or those of one shard of its keys, by their names.

    Args:
        uris: as `locate_for_join` writes them.
    """

    def __init__(self, uris: Iterable[str]):
        self._by_key: dict[str, list[str]] = collections.defaultdict(list)
        for uri in uris:
            self._by_key[make_name_key(uri)].append(uri)

    def match(self, named: str, least_folders: int = 0) -> NameMatch:
        """Finds the one image that a path names: the one that has most folders in common with it.

        A name without an image's suffix may be that of an image with one. An image in a folder of another split does
        not count.

        Args:
            named: path, with forward slashes and percent-encoded like a URI.
            least_folders: how many folders have to be in common, if the path has as many.
        """
        *folders, name = [part for part in named.split("/") if part not in ("", ".")] or [""]
        uris = self._by_key.get(make_name_key(name), [])
        fitting = [uri for uri in uris if uri.rpartition("/")[2] == name]
        fitting = fitting or [uri for uri in uris if fold_name(uri.rpartition("/")[2]) == fold_name(name)]
        how = _BY_NAME
        if not fitting and not name.lower().endswith(IMAGE_SUFFIXES):
            fitting, how = uris, _BY_STEM
        if not fitting:
            return NameMatch(None, 0, "there is no image of this name")
        common = {uri: _count_common(folders, uri.split("/")[:-1]) for uri in fitting}
        most = max(common.values())
        best = [uri for uri in fitting if common[uri] == most]
        if len(best) > 1:
            return NameMatch(None, most, f"several images have this name, such as {best[0]} and {best[1]}")
        if most < min(least_folders, len(folders)) or _tell_other_split(folders, best[0].split("/")[:-1]):
            return NameMatch(None, most, f"the image of this name, {best[0]}, lies in another folder")
        return NameMatch(best[0], most, _BY_END if most and how == _BY_NAME else how)


def _count_common(folders: list[str], others: list[str]) -> int:
    """Counts the folders that two paths have in common, from the last one."""
    count = 0
    for folder, other in zip(reversed(folders), reversed(others)):  # noqa: B905
        if fold_name(folder) != fold_name(other):
            break
        count += 1
    return count


def _tell_other_split(folders: list[str], others: list[str]) -> bool:
    here, there = (
        {split for name in names[-_LEVELS:] if (split := name_split(name)) is not None} for names in (folders, others)
    )
    return bool(here and there and here.isdisjoint(there))
