"""Folders of an object store, which knows only objects: what is one step locally is many requests there."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
from collections.abc import Callable, Iterable

from tfrecords.storage.filesystem import StoredFile
from tfrecords.storage.object_store import canonicalise, open_store

_THREADS = 16  # each file is a request by itself


def list_below(folder: str) -> dict[str, StoredFile]:
    """Lists the files below a folder, by their names in it; none if it does not exist."""
    above = f"{canonicalise(folder).rstrip('/')}/"
    with contextlib.suppress(FileNotFoundError), open_store(folder) as store:
        return {file.url.removeprefix(above): file for file in store.list_files(folder)}
    return {}


def remove_object(url: str) -> None:
    """Deletes a file if it exists."""
    with contextlib.suppress(FileNotFoundError), open_store(url, changing=True) as store:
        store.remove(url)


def remove_below(folder: str) -> None:
    """Deletes a folder and what is in it, if it exists: its manifest first, without which the rest does not count."""
    urls = [file.url for file in list_below(folder).values()]
    _for_each(remove_object, filter(_is_manifest, urls))
    _for_each(remove_object, (url for url in urls if not _is_manifest(url)))
    with contextlib.suppress(FileNotFoundError), open_store(folder, changing=True) as store:
        store.remove_empty_folder(folder)


def move_below(source: str, destination: str) -> None:
    """Moves a finished folder, file by file, replacing what lies at the destination.

    The files are copied, the manifest last; then the source is deleted, its manifest first. So two attempts at one
    move do no harm to each other: an attempt that finds part of the source gone looks for the manifest at the
    destination, which says that the other attempt moved everything. Without a manifest nothing says so.

    Raises:
        FileNotFoundError: if part of the source, or all of it, is gone and no manifest is at the destination.
    """
    files = list_below(source)
    manifests = [name for name in files if _is_manifest(name)]
    parts = [name for name in files if not _is_manifest(name)]
    present = list_below(destination)
    # What is older than everything that is moved was there before. What is newer may come from another attempt, which
    # removes the source already: then the list of the source is not complete.
    oldest = min((files[name].modified for name in parts), default=0.0)
    stale = [file.url for name, file in present.items() if name not in files and file.modified < oldest]

    def copy(name: str) -> None:
        url = files[name].url
        with open_store(url, changing=True) as store:
            store.copy(url, f"{destination.rstrip('/')}/{name}")

    try:
        if not files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        _for_each(copy, parts)
        _for_each(remove_object, stale)
        _for_each(copy, manifests)
    except FileNotFoundError:
        if not any(map(_is_manifest, list_below(destination))):
            raise FileNotFoundError(
                errno.ENOENT, f"it cannot be moved to {destination}, since some of it is gone: run again", source
            ) from None
    remove_below(source)


def _is_manifest(name: str) -> bool:
    return name.endswith("manifest.json")


def _for_each(function: Callable[[str], None], urls: Iterable[str]) -> None:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(function, urls):
            pass
