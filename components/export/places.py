"""Places of exported files: the folders of the collection, below the folder of their format.

    /scans/1912/0007.jpg          export/txt/scans/1912/0007.txt
    gs://archive/1912/0007.jpg    export/txt/gs/archive/1912/0007.txt

A file keeps its place whatever else is read later, since its whole path stands in it.
"""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Mapping

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


def name_files(names: Mapping[str, str], suffix: str | None) -> dict[str, str]:
    """Names the exported files of one folder, no two alike: `0007.jpg` becomes `0007.txt`.

    Images whose names differ in the suffix alone keep it: `0007.jpg.txt` and `0007.tif.txt`.

    Args:
        names: of images or other files, by what they are made from, such as two spellings of one path.
        suffix: of the exported files; None if they keep their names.

    Returns:
        The names of the exported files, by what they are made from.
    """
    shorten = strip_suffix if suffix is not None else str
    stems = collections.Counter(map(shorten, names.values()))
    found = {source: shorten(name) for source, name in names.items() if stems[shorten(name)] == 1}
    taken = set(found.values())
    for source, name in sorted(names.items()):
        if source not in found:
            while name in taken:
                name += "_"
            found[source] = name
            taken.add(name)
    return {source: f"{found[source]}{suffix or ''}" for source in names}
