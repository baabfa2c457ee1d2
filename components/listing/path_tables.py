"""Tables of paths, whose rows name the images to list."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import unicodedata
from collections.abc import Iterator

from components.archives.paths import get_file
from components.listing.boundaries import Boundaries
from components.listing.collection import read_size_and_time
from components.listing.labels import quote_text
from components.listing.line_places import find_line_place, get_page
from components.listing.references import (
    ImageReference,
    get_folder,
    location_to_uri,
    resolve_folder,
    resolve_path,
    uri_to_path,
)
from components.listing.roots import Places
from components.listing.table_rows import TableRow
from components.listing.tables import TableColumns, read_label_table, read_path_table
from components.processes import map_in_threads
from tfrecords import DataError, StoreError, storage

_THREADS, _AHEAD = 32, 256  # for an object store, which is asked about each file by itself


@dataclasses.dataclass(frozen=True)
class PathTables:
    """Tables whose rows name the images of a collection.

    Attributes:
        paths: absolute paths or URLs.
        column: of the image's path; None for one of the usual names.
        labels: the columns of label tables, whose rows without a label name no image; None for other tables.
    """

    paths: tuple[str, ...] = ()
    column: str | None = None
    labels: TableColumns | None = None


def list_table(
    table: str, column: str | None = None, places: Places | None = None, labels: TableColumns | None = None
) -> Iterator[ImageReference]:
    """Lists the image that each row of a table names, in the table's order; memory does not grow with the rows.

    An image has the same URI, size and modification time as in the listing of its folder. Every name
    counts, even that of a companion. A row that names no image comes with a problem: `damaged_row`, or
    `unreadable` if it names a folder or a missing file, or an object store that fails or refuses the credentials.

    Args:
        table: absolute path or URL.
        column: of the path; None for one of the usual names.
        places: of all roots of the collection; without it this table is the only one.
        labels: the columns of a label table, whose rows without a label are skipped.

    Raises:
        DataError: if the table cannot be read.
        StoreError: if most of its rows name an object store that fails or refuses the credentials, or the table lies
            in it.
    """
    table = storage.canonicalise(table) if storage.is_remote(table) else table
    folder = get_folder(table)
    places = Places.from_roots([table]) if places is None else places
    find = functools.partial(_look_up, table, folder, places.get_key_parent(folder), places.boundaries)
    failures: dict[str, StoreError] = {}  # by bucket, which is not asked again: each row would wait a minute

    def look_up(numbered: tuple[int, TableRow]) -> tuple[ImageReference, bool]:
        number, row = numbered
        path = row.path or ""
        bucket = storage.get_bucket(path) if storage.is_remote(path) else ""
        try:
            if bucket in failures:
                raise failures[bucket]
            return find(numbered), False
        except StoreError as error:
            if not bucket:
                raise
            failures[bucket] = error
            uri, detail = location_to_uri(path), f"{row.place}: {error}"
            return ImageReference(uri, f"{uri}:{number}", 0, 0, None, "unreadable", detail), True

    def is_remote(numbered: tuple[int, TableRow]) -> bool:
        return storage.is_remote(folder) or storage.is_remote(numbered[1].path or "")

    rows = enumerate(read_path_table(table, column) if labels is None else read_label_table(table, labels), 1)

    def look_up_all() -> Iterator[tuple[ImageReference, bool]]:
        for remote, part in itertools.groupby(rows, is_remote):
            if remote:
                yield from map_in_threads(look_up, part, _THREADS, ahead=_AHEAD)
            else:
                yield from map(look_up, part)

    count, failed = 0, 0
    for reference, in_lost_store in look_up_all():
        count += 1
        failed += in_lost_store
        yield reference
    if 2 * failed > count:
        raise next(iter(failures.values()))


def _look_up(
    table: str, folder: str, parent: str, boundaries: Boundaries, numbered: tuple[int, TableRow]
) -> ImageReference:
    """Looks up the image that a row of a table in a folder names.

    The key of an image below that folder is that of the folder's listing, which leaves `parent` out.
    Elsewhere the key is the URI, which no other image has.
    """
    number, row = numbered

    def make_key(path: str) -> str:
        return location_to_uri(path.removeprefix(parent) if path.startswith(f"{folder}/") else path)

    try:
        if row.path is None:
            raise DataError(row.problem)
        path = _resolve_row(folder, row.path)
    except (DataError, ValueError) as error:  # a NUL byte, or a URL of another kind
        key = f"{make_key(table)}:{number}"  # of its own, so that many such rows are not all sent to one shard
        return ImageReference(location_to_uri(table), key, 0, 0, None, "damaged_row", f"{row.place}: {error}")
    try:
        path, size, modified_us = _find_file(path, folder, row.path)
        place = find_line_place(path)
        for opened in map(get_file, (path,) if place is None else (place.image, place.page_file)):
            if not storage.is_remote(opened) and (closed := boundaries.find_closed_folder(opened, of_row=True)):
                raise OSError(f"it leads into {closed}, where no image is read")
        group = make_key(place.image) if place is not None else None
        return ImageReference(location_to_uri(path), make_key(path), size, modified_us, group=group)
    except IsADirectoryError:
        problem = ", a folder: name the images in it, or give the folder itself"
    except FileNotFoundError:
        problem = ": there is no such file"
    except OSError as error:
        problem = f": {error.strerror or error}"
    detail = f"{row.place} names {quote_text(row.path)}{problem}"
    return ImageReference(location_to_uri(path), make_key(path), 0, 0, None, "unreadable", detail)


def _find_file(path: str, folder: str, name: str) -> tuple[str, int, int]:
    """Finds the file at a path, which a table in a folder calls by a name.

    If there is none, tries the name with composed and with decomposed letters, and as a `uri` of the
    predictions or the rejects.

    Returns:
        Path or URL, size in bytes, and last change in microseconds since 1970.

    Raises:
        OSError: if none of these files exists.
    """
    try:
        return path, *read_size_and_time(path)
    except FileNotFoundError:
        others = {unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name), uri_to_path(name)}
        for other in sorted(others - {name}):
            try:
                path = _resolve_row(folder, other)
                return path, *read_size_and_time(path)
            except StoreError:
                raise
            except (OSError, ValueError, DataError):  # a NUL byte, or another kind of URL
                continue
        raise


def _resolve_row(folder: str, named: str) -> str:
    """Resolves a path in a table of a folder, without detours; keeps links in the table's own path and in the row.

    Raises:
        DataError: for a URL that nothing installed serves.
    """
    path = resolve_path(folder, named)
    if storage.is_remote(path):
        return storage.canonicalise(path)
    image = get_page(path)
    above, name = os.path.split(image.rstrip("/"))
    if name in ("", ".", ".."):
        return _normalise_folder(path)
    return os.path.join(_normalise_folder(above), name) + path[len(image) :]


@functools.lru_cache(maxsize=4096)
def _normalise_folder(folder: str) -> str:
    """Writes a folder without detours; where a detour goes through a link, without links as well."""
    plain = os.path.normpath(f"/{folder.lstrip('/')}")
    return plain if resolve_folder(plain) == resolve_folder(folder) else resolve_folder(folder)
