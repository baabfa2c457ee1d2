"""Finding out where the labels of a collection are, or saying that it cannot be known."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable

from components.listing.collection import COMPANION_SUFFIXES, Tally, list_images
from components.listing.joining import read_label_rows
from components.listing.labels import LabelRules
from components.listing.listing import ListingSummary
from components.listing.references import location_to_uri, uri_to_path
from components.listing.roots import Places
from components.listing.table_formats import TABLE_SUFFIXES
from components.processes import map_in_threads
from tfrecords import DataError, StoreError, storage

LABEL_SOURCES = ("auto", "filename", "sidecar")
_LOOKED_AT = 500
_ROWS_LOOKED_AT = 100_000
_THREADS = 16  # for an object store, which is asked for each file by itself


def choose_labels(rules: LabelRules, roots: Iterable[str]) -> tuple[LabelRules, str]:
    """Resolves `auto` by looking at the first images, and at the tables in the folders and beside them.

    Args:
        rules: with `source` as asked for; `auto` is replaced.

    Returns:
        The rules, and a sentence that says why, empty if there are no images.

    Raises:
        DataError: if labels could come from more than one place.
    """
    roots = list(roots)
    if rules.source != "auto":
        return rules, f"labels come from {rules}, as --label_source says"
    if rules.pattern != LabelRules.pattern:
        return dataclasses.replace(rules, source="filename"), "labels come from the file names, as --label_pattern says"
    tally = Tally()
    as_names = dataclasses.replace(rules, source="filename")  # counts text files without reading them
    listed = itertools.chain.from_iterable(list_images(root, as_names, tally) for root in roots)
    readable = (reference for reference in listed if reference.problem != "unreadable_folder")
    images = sum(1 for _ in itertools.islice(readable, _LOOKED_AT))
    with_sidecar = tally.with_sidecar
    if not images:
        return dataclasses.replace(rules, source="filename"), ""
    folders = _folders_of(roots)
    searched = [_search_tables(folder, rules) for folder in folders]
    tables = tuple(dict.fromkeys(table for found, _ in searched for table in found))
    others = list(dict.fromkeys(why for _, whys in searched for why in whys.values()))
    inside = [table for _, whys in searched for table in whys if table.rpartition("/")[0] in folders]
    from_tables = dataclasses.replace(rules, source="table", tables=tables)
    columns = {"path_column": rules.columns.path, "text_column": rules.columns.text, "split_by": rules.columns.group}
    asked = " ".join(f"--{flag}={name}" for flag, name in columns.items() if name is not None)
    if asked and not tables:
        raise DataError(
            f"{asked}: no label table that names the images was found in their folder or the one above; "
            f"{'; '.join(others) or 'there is no table at all'}; name the table with --label_source"
        )
    if tables and with_sidecar:
        raise DataError(
            f"{with_sidecar} of the first {images} images have a text file beside them, and {from_tables} names "
            f"images too: say where the labels are with --label_source=sidecar or --label_source={tables[0]}"
        )
    if any(len(found) > 1 for found, _ in searched):
        raise DataError(
            f"{from_tables} could both hold the labels: say which with --label_source={tables[0]}, or name both, "
            "separated by a comma"
        )
    ignored = "".join(f"; {why}" for why in others)
    if tables:
        return from_tables, f"labels come from {from_tables}: its rows name images that are there{ignored}"
    if with_sidecar == images:
        chosen = dataclasses.replace(rules, source="sidecar")
        return chosen, f"labels come from {chosen}: all of the first {images} have one{ignored}"
    if with_sidecar:
        raise _explain_several_places(with_sidecar, images, f"the first {images}")
    if inside:
        raise DataError(
            f"a table lies among the images, but cannot be used: {'; '.join(others)}; name it with "
            f"--label_source={inside[0]}, and its columns with --path_column and --text_column, or say that labels "
            "are the file names with --label_source=filename"
        )
    chosen = dataclasses.replace(rules, source="filename")
    return chosen, (
        f"labels come from {chosen}: none of the first {images} images has a text file beside it, "
        f"and no table names them{ignored}"
    )


def check_choice(rules: LabelRules, listing: ListingSummary) -> None:
    """Makes sure, when all images are listed, that what `auto` chose by the first ones is right for all.

    Raises:
        DataError: if labels were taken from the file names, but some images have a text file
            beside them, or tables lie in folders where `auto` did not look.
    """
    if rules.source != "filename" or rules.pattern != LabelRules.pattern:
        return
    if listing.with_sidecar:
        raise _explain_several_places(listing.with_sidecar, listing.images, f"{listing.images}")
    tables = sum(listing.passed_over.get(suffix, 0) for suffix in TABLE_SUFFIXES)
    if tables:
        raise DataError(
            f"{tables} {', '.join(TABLE_SUFFIXES)} files lie in folders below: if the labels are in there, "
            "name the tables with --label_source, separated by commas; if they are the file names, say "
            "--label_source=filename"
        )


def _explain_several_places(with_sidecar: int, images: int, which: str) -> DataError:
    return DataError(
        f"{with_sidecar} of {which} images have a text file beside them and the other "
        f"{images - with_sidecar} have none: say where the labels are with --label_source=sidecar (images without "
        "one are rejected) or --label_source=filename"
    )


def _folders_of(roots: Iterable[str]) -> list[str]:
    places = Places.from_roots(list(roots))
    return list(dict.fromkeys(root if places.is_folder(root) else root.rpartition("/")[0] for root in roots))


def _search_tables(folder: str, rules: LabelRules) -> tuple[list[str], dict[str, str]]:
    """The tables in a folder, and in the one above it, that name images in that folder, and why others do not."""
    tables: list[str] = []
    others: dict[str, str] = {}
    for place in (folder, folder.rpartition("/")[0]):
        for name in _tables_in(place):
            table = storage.join(place, name)
            try:
                if _names_images(table, folder, rules):
                    tables.append(table)
                elif place == folder:
                    others[table] = f"{location_to_uri(table)} names no image in its folder"
            except StoreError:
                raise
            except DataError as error:
                others[table] = str(error)
    return tables, others


def _tables_in(folder: str) -> list[str]:
    try:
        names = storage.list_names(folder)
    except OSError:  # the one above may be another person's
        return []
    return [
        name
        for name in names
        if name.lower().endswith(TABLE_SUFFIXES)
        and not name.startswith(".")
        and (storage.is_remote(folder) or os.path.isfile(storage.join(folder, name)))
    ]


def _names_images(table: str, folder: str, rules: LabelRules) -> bool:
    asked = dataclasses.replace(rules, source="table", tables=(table,))
    inside = storage.resolve_path(folder).rstrip("/") + "/"
    paths = (
        path
        for row in itertools.islice(read_label_rows(0, asked), _ROWS_LOOKED_AT)
        if row.problem is None
        and (path := uri_to_path(row.uri)).startswith(inside)
        and not path.lower().endswith(COMPANION_SUFFIXES)
    )
    if not storage.is_remote(folder):
        return any(map(storage.is_file, paths))
    named = list(dict.fromkeys(paths))
    spread = named[:: math.ceil(len(named) / _LOOKED_AT) or 1]  # a request for each
    return any(map_in_threads(storage.is_file, spread, _THREADS, ahead=_THREADS))
