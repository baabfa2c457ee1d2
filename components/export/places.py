"""Places of exported files: the folders of the collection, below the folder of their format.

    /scans/1912/0007.jpg          export/txt/scans/1912/0007.txt
    gs://archive/1912/0007.jpg    export/txt/gs/archive/1912/0007.txt

A file keeps its place whatever else is read later, since its whole path stands in it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from components.listing.references import path_to_uri, strip_suffix
from tfrecords import storage

_LONGEST_NAME = 240  # bytes, which leaves room for a suffix on every file system
_UNUSABLE = {"": "%", ".": "%2E", "..": "%2E%2E"}


def mirror_path(path: str) -> str:
    """Returns the path below the folder of a format that stands for a path or URL of the collection."""
    if storage.is_remote(path):
        scheme, _, rest = path.partition("://")
        names = [scheme, *rest.split("/")]
    else:
        names = os.path.normpath(path).lstrip("/").split("/")
    return "/".join(map(_make_usable, names))


def _make_usable(name: str) -> str:
    """Makes a name that any file system and any object store takes; usual ones stay as they are."""
    name = _UNUSABLE.get(name, name).replace("\0", "%00")
    encoded = name.encode("utf-8", "surrogateescape")
    try:
        encoded.decode()
    except UnicodeDecodeError:
        name = path_to_uri(name)
        encoded = name.encode()
    if len(encoded) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f"{encoded[: _LONGEST_NAME - 13].decode(errors='ignore')}-{digest}"


def name_files(names: Iterable[str], suffix: str | None) -> dict[str, str]:
    """Names the exported files of the images of one folder: `0007.jpg` becomes `0007.txt`.

    Images whose names differ in the suffix alone keep it: `0007.jpg.txt` and `0007.tif.txt`.

    Args:
        suffix: of the exported files; None if they keep their names.
    """
    names = sorted(set(names))
    if suffix is None:
        return {name: name for name in names}
    stems: dict[str, int] = {}
    for name in names:
        stems[strip_suffix(name)] = stems.get(strip_suffix(name), 0) + 1
    found = {name: strip_suffix(name) for name in names if stems[strip_suffix(name)] == 1}
    taken = set(found.values())
    for name in names:
        if name not in found:
            free = name
            while free in taken:
                free += "_"
            found[name] = free
            taken.add(free)
    return {name: f"{stem}{suffix}" for name, stem in found.items()}
