"""Tables of paths: images that are listed because a row names them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import unicodedata
from collections.abc import Iterator

from components.listing.collection import Places, read_size_and_time
from components.listing.labels import quote_text
from components.listing.references import (
    ImageReference,
    get_folder,
    location_to_uri,
    resolve_folder,
    resolve_path,
    uri_to_path,
)
from components.listing.table_formats import TableRow
from components.listing.tables import TableColumns, read_label_table, read_path_table
from components.processes import map_in_threads
from tfrecords import DataError, StoreError, storage

_THREADS, _AHEAD = 32, 256  # for an object store, which is asked for each file by itself


@dataclasses.dataclass(frozen=True)
class PathTables:
    """Tables whose rows name the images of a collection.

    Attributes:
        paths: absolute paths or URLs.
        column: of the image's path; None for one of the usual names.
        labels: the columns, where these are label tables, so that a row which no label is read of names no image.
    """

    paths: tuple[str, ...] = ()
    column: str | None = None
    labels: TableColumns | None = None


def list_table(
    table: str, column: str | None = None, places: Places | None = None, labels: TableColumns | None = None
) -> Iterator[ImageReference]:
    """Every row of a table as the image that it names, in the table's order; memory does not grow with the rows.

    An image has the URI, the size and the time of change that it has in the listing of its
    folder. Every name counts, that of a companion too. A row that names no image comes with a
    problem: `damaged_row`, or `unreadable` where it names a folder or what is not there.

    Args:
        table: absolute path or URL.
        column: of the path; None for one of the usual names.
        places: of all roots of the collection; without it this table is the only one.
        labels: the columns of a label table, whose rows without a label are skipped.

    Raises:
        DataError: if the table cannot be read.
    """
    table = storage.canonicalise(table) if storage.is_remote(table) else table
    folder = get_folder(table)
    places = Places.of([table]) if places is None else places
    look_up = functools.partial(_look_up, table, folder, places.parent_of(folder))

    def is_remote(numbered: tuple[int, TableRow]) -> bool:
        return storage.is_remote(resolve_path(folder, numbered[1].path or ""))

    rows = enumerate(read_path_table(table, column) if labels is None else read_label_table(table, labels), 1)
    for remote, some in itertools.groupby(rows, is_remote):
        if remote:
            yield from map_in_threads(look_up, some, _THREADS, ahead=_AHEAD)
        else:
            yield from map(look_up, some)


def _look_up(table: str, folder: str, parent: str, numbered: tuple[int, TableRow]) -> ImageReference:
    """The image that a row of a table in a folder names, if it is there.

    Below that folder its key is that of the folder's listing, in which `parent` is left out;
    elsewhere it is the URI, which no other image has.
    """
    number, row = numbered

    def key_of(path: str) -> str:
        return location_to_uri(path.removeprefix(parent) if path.startswith(f"{folder}/") else path)

    try:
        if row.path is None:
            raise DataError(row.problem)
        path = _resolve_row(folder, row.path)
    except DataError as error:
        key = f"{key_of(table)}:{number}"  # of its own, so that many such rows are not all sent to one shard
        return ImageReference(location_to_uri(table), key, 0, 0, None, "damaged_row", f"{row.place}: {error}")
    try:
        path, size, modified_us = _find(path, folder, row.path)
        return ImageReference(location_to_uri(path), key_of(path), size, modified_us)
    except IsADirectoryError:
        problem = ", a folder: name the images in it, or give the folder itself"
    except FileNotFoundError:
        problem = ": there is no such file"
    except OSError as error:
        problem = f": {error.strerror or error}"
    detail = f"{row.place} names {quote_text(row.path)}{problem}"
    return ImageReference(location_to_uri(path), key_of(path), 0, 0, None, "unreadable", detail)


def _find(path: str, folder: str, named: str) -> tuple[str, int, int]:
    """The file at a path, which a table in a folder names: its path or URL, its bytes, the time of its last change.

    Where there is none, the name is tried with composed and with decomposed letters, and as
    a `uri` of the predictions or the rejects.

    Raises:
        OSError: if there is none of these.
    """
    try:
        return path, *read_size_and_time(path)
    except FileNotFoundError:
        others = {unicodedata.normalize("NFC", named), unicodedata.normalize("NFD", named), uri_to_path(named)}
        for other in sorted(others - {named}):
            try:
                path = _resolve_row(folder, other)
                return path, *read_size_and_time(path)
            except StoreError:
                raise
            except (OSError, ValueError, DataError):  # a NUL byte, or another kind of URL
                continue
        raise


def _resolve_row(folder: str, named: str) -> str:
    """What a table in a folder names, without detours, but with such links as are in the table's own path or the row.

    Raises:
        DataError: for a URL that nothing installed serves.
    """
    path = resolve_path(folder, named)
    if storage.is_remote(path):
        return storage.canonicalise(path)
    above, name = os.path.split(path.rstrip("/"))
    return _plain(path) if name in ("", ".", "..") else os.path.join(_plain(above), name)


@functools.lru_cache(maxsize=4096)
def _plain(folder: str) -> str:
    plain = os.path.normpath(f"/{folder.lstrip('/')}")
    return plain if resolve_folder(plain) == resolve_folder(folder) else resolve_folder(folder)
