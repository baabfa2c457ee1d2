"""The choice of where the labels of a collection come from, or the refusal to guess."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Sequence

from components.archives.parquet import holds_images
from components.archives.paths import find_member_path, may_be_table
from components.listing.boundaries import Boundaries
from components.listing.boxes_beside import refuse_boxes
from components.listing.collection import COMPANION_SUFFIXES, Tally, list_images
from components.listing.equal_tables import choose_among_tables
from components.listing.file_names import explain_names
from components.listing.files import is_file, list_names
from components.listing.image_sizes import find_image_size
from components.listing.joining import read_label_rows
from components.listing.label_files import LabelFile, find_label_file, find_size
from components.listing.labels import LabelRules, quote_text
from components.listing.line_places import name_kind
from components.listing.listing import ListingSummary, read_paths
from components.listing.references import (
    get_folder,
    location_to_uri,
    strip_suffix,
    strip_variant,
    uri_to_path,
)
from components.listing.roots import Places, find_folders
from components.listing.table_formats import LABEL_TABLE_SUFFIXES, READ_WHOLE, TABLE_SUFFIXES
from components.listing.table_paths import ROWS_LOOKED_AT, find_path_rule, has_file
from components.listing.tables import TableColumns, read_label_table
from components.processes import map_in_threads
from tfrecords import DataError, StoreError, storage

LABEL_SOURCES = ("auto", "filename", "sidecar")
_IMAGES_LOOKED_AT = 500
_NAMES_LOOKED_AT = 200_000
_OTHERS_LOOKED_AT = 20
_FOLDERS_LOOKED_AT = 100
_MOST_BYTES_READ_WHOLE = 20_000_000  # of a file that may be anything; with --label_source it may be larger
_WAY_TO_TABLE = (
    "put them in a .gt.txt file beside each image, or in a .csv, .tsv or .jsonl table with the columns path and text, "
    "and name the table with --label_source"
)
_THREADS = 16  # for an object store, which is asked about each file by itself


def choose_labels(rules: LabelRules, roots: Iterable[str], places: Places | None = None) -> tuple[LabelRules, str]:
    """Resolves `auto` by looking at the first images, and at the tables in the folders and beside them.

    Args:
        rules: with `source` as asked for; `auto` is replaced.
        places: of the roots of the collection.

    Returns:
        The rules, and a sentence that says why, empty if there are no images.

    Raises:
        DataError: if labels could come from more than one place.
    """
    roots = list(roots)
    if rules.source != "auto":
        return rules, f"labels come from {rules}, as --{'pages' if rules.source == 'pages' else 'label_source'} says"
    from_names = dataclasses.replace(rules, source="filename")
    if rules.pattern != LabelRules.pattern:
        return from_names, f"labels come from {from_names}, as --label_pattern says"
    places = Places.from_roots(roots) if places is None else places
    images, with_sidecar, in_tables = _count_first_images(roots, from_names, places)
    if not images:
        return from_names, ""
    search = _search_all_tables(roots, rules, below=not with_sidecar)
    from_tables = dataclasses.replace(rules, source="table", tables=search.tables)
    _refuse_unclear_tables(from_tables, search, images, with_sidecar, in_tables)
    ignored = "".join(f"; {reason}" for reason in search.reasons)
    if search.tables:
        rows = "its rows" if len(search.tables) == 1 else "their rows"
        return from_tables, f"labels come from {from_tables}: {rows} name images that are there{ignored}"
    from_sidecars = dataclasses.replace(rules, source="sidecar")
    if with_sidecar:
        refuse_boxes(roots, from_sidecars, places)
    if with_sidecar == images:
        whence = from_sidecars if in_tables < images else "the rows that hold the images"
        return from_sidecars, f"labels come from {whence}: all of the first {images} have one{ignored}"
    if with_sidecar:
        raise _explain_several_places(with_sidecar, images, f"the first {images}")
    if in_tables == images:
        raise DataError(
            "the images lie in tables, no column of which is known to hold their texts: name it with --text_column, or "
            "name a table of their labels with --label_source"
        )
    if search.unusable:
        raise DataError(
            f"a table lies among the images, but cannot be used: {'; '.join(search.reasons)}; name it with "
            f"--label_source={search.unusable[0]}, and its columns with --path_column and --text_column, or say that "
            "labels are the file names with --label_source=filename"
        )
    return from_names, (
        f"labels come from {from_names}: none of the first {images} images has a text file beside it, "
        f"and no table names them{ignored}"
    )


def _count_first_images(roots: Sequence[str], from_names: LabelRules, places: Places) -> tuple[int, int, int]:
    """Counts the first images, up to a limit, those that have a text file beside them, and those in tables.

    Args:
        from_names: rules that take labels from names, with which text files are counted without being read.
    """
    tally = Tally()
    listed = itertools.chain.from_iterable(list_images(root, from_names, tally, places) for root in roots)
    readable = (reference for reference in listed if reference.problem != "unreadable_folder")
    first = list(itertools.islice(readable, _IMAGES_LOOKED_AT))
    members = (find_member_path(uri_to_path(reference.uri)) for reference in first)
    in_tables = sum(member is not None and may_be_table(member.archive) for member in members)
    return len(first), tally.with_sidecar, in_tables


def _refuse_unclear_tables(
    from_tables: LabelRules, search: _TableSearch, images: int, with_sidecar: int, in_tables: int
) -> None:
    """Raises an error if columns are named but no table has them, or if labels could come from two places."""
    columns = from_tables.columns
    text = None if in_tables else columns.text  # a column of these tables
    flags = {"path_column": columns.path, "text_column": text, "split_by": columns.group}
    asked = " ".join(f"--{flag}={name}" for flag, name in flags.items() if name is not None)
    if asked and not search.tables:
        raise DataError(
            f"{asked}: no label table that names the images was found in their folder or the one above; "
            f"{'; '.join(search.reasons) or 'there is no table at all'}; name the table with --label_source"
        )
    if search.tables and with_sidecar:
        raise DataError(
            f"{with_sidecar} of the first {images} images have a text file beside them, and {from_tables} names "
            f"images too: say where the labels are with --label_source=sidecar or --label_source={search.tables[0]}"
        )
    if search.difference is not None:
        raise DataError(
            f"{from_tables} could both hold the labels, and are not alike ({search.difference}): say which with "
            f"--label_source={search.tables[0]}, or name both, separated by a comma"
        )


def check_choice(rules: LabelRules, listing: ListingSummary, files: Sequence[str], roots: Sequence[str]) -> None:
    """Checks, when all images are listed, that what `auto` chose by the first ones is right for all.

    Args:
        files: of the listing.
        roots: of the collection.

    Raises:
        DataError: if labels were taken from the file names, but some images have a text file
            beside them, tables lie in folders where `auto` did not look, another file mentions
            many of the images, or the names do not look like labels.
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
    paths = list(read_paths(files, max(1, math.ceil(listing.images / _NAMES_LOOKED_AT))))
    if (found := find_label_file(paths, find_folders(roots))) is not None:
        raise _explain_label_file(found)
    if (why := explain_names(paths, listing.images, find_image_size)) is not None:
        raise _explain_names(paths, why)


def _explain_label_file(found: LabelFile) -> DataError:
    path = location_to_uri(found.path)
    if found.of_page:
        return DataError(
            f"{path} is {name_kind(found.path)}: if the images are pages, whose lines and texts such files give, say "
            "--pages; if they are lines and their names the labels, say --label_source=filename"
        )
    if found.files:
        what = (
            f"{found.files:,} files in {location_to_uri(get_folder(found.path))} are named like images, such as {path}"
        )
    else:
        what = f"{path} mentions {found.mentioned:,} of {found.looked_for:,} images that were looked for in it"
    way = f"if the labels are in there, {_WAY_TO_TABLE}"
    if not found.files and found.path.lower().endswith(LABEL_TABLE_SUFFIXES):
        problem = _find_problem(found.path)
        way = problem or f"if the labels are in there, name it with --label_source={path}"
    return DataError(f"{what}: {way}; if labels are the file names, say --label_source=filename")


def _find_problem(table: str) -> str | None:
    """Finds out why a label table cannot be read; None if its first row can."""
    try:
        next(read_label_table(table, TableColumns()), None)
    except DataError as error:
        return str(error)
    return None


def _explain_names(paths: Sequence[str], why: str) -> DataError:
    examples = [os.path.basename(path) for path in paths[:: max(1, len(paths) // 3)][:3]]
    folders = {get_folder(path).rpartition("/")[2]: None for path in paths}
    classes = ""
    if len(folders) > 1:
        classes = (
            f"if the names of the folders are, such as {quote_text(next(iter(folders)))}, say "
            "--label_pattern={label}/{name}; "
        )
    return DataError(
        f"the file names, such as {', '.join(map(quote_text, examples))}, do not look like labels: {why}. If they are "
        f"the labels, say --label_source=filename; {classes}if the labels are elsewhere, {_WAY_TO_TABLE}"
    )


def _explain_several_places(with_sidecar: int, images: int, which: str) -> DataError:
    return DataError(
        f"{with_sidecar} of {which} images have a text file beside them and the other "
        f"{images - with_sidecar} have none: say where the labels are with --label_source=sidecar (images without "
        "one are rejected) or --label_source=filename"
    )


@dataclasses.dataclass(frozen=True)
class _TableSearch:
    """The tables that were found beside images.

    Attributes:
        tables: those that name images.
        unusable: other tables that lie in the images' own folders.
        reasons: distinct reasons why other tables are not used.
        difference: why it is not clear which of several tables of one folder to take; None if it is.
    """

    tables: tuple[str, ...]
    unusable: list[str]
    reasons: list[str]
    difference: str | None


def _search_all_tables(roots: Sequence[str], rules: LabelRules, *, below: bool) -> _TableSearch:
    """Searches the folders of all roots, and the folders above them, for label tables.

    Args:
        below: whether to search, if there is none, also the folders below the roots: each for a table of its own
            images, and then for one of others.
    """
    folders = find_folders(roots)
    searched = [_search_tables(folder, rules, (folder, folder.rpartition("/")[0])) for folder in folders]
    found = [(folder, named) for folder, (named, _) in zip(folders, searched, strict=True) if named]
    if below and not found:
        inner = {folder: _list_folders_below(folder) for folder in folders}
        own = ((inside, _search_tables(inside, rules, (inside,))[0]) for part in inner.values() for inside in part)
        others = ((folder, _search_tables(folder, rules, part)[0]) for folder, part in inner.items())
        found = [(folder, named) for folder, named in own if named]
        found = found or [(folder, named) for folder, named in others if named]
    choices = [choose_among_tables(named, folder, rules) for folder, named in found]
    tables = tuple(dict.fromkeys(table for choice in choices for table in choice.tables))
    reasons = [choice.why for choice in choices if choice.why]
    return _TableSearch(
        tables=tables,
        unusable=[table for _, others in searched for table in others if table.rpartition("/")[0] in folders],
        reasons=list(dict.fromkeys([*reasons, *(reason for _, others in searched for reason in others.values())])),
        difference=next((choice.difference for choice in choices if choice.difference), None),
    )


def _list_folders_below(folder: str) -> list[str]:
    """Lists the visible folders in a local folder, and those in them, as far as they are looked at."""
    if storage.is_remote(folder):
        return []
    inside: list[str] = []
    for above, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        inside += (storage.join(above, name) for name in names)
        if above != folder:
            names.clear()
        if len(inside) > _FOLDERS_LOOKED_AT:
            break
    return inside[:_FOLDERS_LOOKED_AT]


def _search_tables(folder: str, rules: LabelRules, places: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Finds the tables in some places that name images in a folder.

    Returns:
        These tables, and for each other one the reason why it cannot be used.
    """
    tables: list[str] = []
    others: dict[str, str] = {}
    for place in places:
        for name in _list_tables(place):
            table = storage.join(place, name)
            try:
                if Boundaries().leaves_folders(table):
                    raise DataError(f"{location_to_uri(table)} is a link that leads out of its folder")
                if _names_images(table, folder, rules):
                    tables.append(table)
                elif place == folder and name.lower().endswith(TABLE_SUFFIXES):
                    others[table] = f"{location_to_uri(table)} names no image in its folder"
            except StoreError:
                raise
            except DataError as error:
                if name.lower().endswith(TABLE_SUFFIXES):
                    others[table] = str(error)
    return tables, others


def _list_tables(folder: str) -> list[str]:
    try:
        names = list_names(folder)
    except OSError:  # the one above may belong to another person
        return []
    tables = [name for name in names if name.lower().endswith(TABLE_SUFFIXES)]
    images = {strip_variant(name): name for name in names if not name.lower().endswith(COMPANION_SUFFIXES)}
    others = [name for name in names if name.lower().endswith(LABEL_TABLE_SUFFIXES) and name not in tables]
    others.sort(key=may_be_table)  # of which there may be many, all with images
    beside = ((name, images.get(strip_suffix(name).split(".")[0])) for name in others)
    of_no_image = (name for name, of in beside if of is None or _is_plain_folder(folder, of))
    tables += [
        name
        for name in itertools.islice(of_no_image, _OTHERS_LOOKED_AT)
        if not may_be_table(name) or not holds_images(storage.join(folder, name))
        if not name.lower().endswith(READ_WHOLE) or find_size(storage.join(folder, name)) <= _MOST_BYTES_READ_WHOLE
    ]
    return [
        name
        for name in tables
        if not name.startswith(".") and (storage.is_remote(folder) or is_file(storage.join(folder, name)))
    ]


def _is_plain_folder(folder: str, name: str) -> bool:
    """Tells whether a local folder holds a folder of a name without suffix, such as `words`, which is no image then."""
    return not storage.is_remote(folder) and strip_suffix(name) == name and os.path.isdir(storage.join(folder, name))


def _names_images(table: str, folder: str, rules: LabelRules) -> bool:
    """Checks whether one of the first rows of a table names an image at or below a folder.

    Raises:
        DataError: if the table or many of its rows cannot be read, or its paths could lead to several folders.
    """
    asked = dataclasses.replace(rules, source="table", tables=(table,))
    inside = storage.resolve_path(folder).rstrip("/") + "/"
    paths = (
        path
        for row in itertools.islice(read_label_rows(0, asked), ROWS_LOOKED_AT)
        if row.problem is None
        and (path := uri_to_path(row.uri)).startswith(inside)
        and not path.lower().endswith(COMPANION_SUFFIXES)
    )
    if not storage.is_remote(folder):
        return any(map(has_file, paths)) or _has_path_rule(table, folder, rules)
    distinct = list(dict.fromkeys(paths))
    sample = distinct[:: math.ceil(len(distinct) / _IMAGES_LOOKED_AT) or 1]  # each costs a request
    there = any(map_in_threads(has_file, sample, _THREADS, ahead=_THREADS))
    return there or _has_path_rule(table, folder, rules)


def _has_path_rule(table: str, folder: str, rules: LabelRules) -> bool:
    """Tells whether a table's paths lead to images of a folder by another way than from its own folder.

    Raises:
        DataError: if they do not, and rows that cannot be read may be the reason.
    """
    if find_path_rule(table, rules.columns, [folder], in_search=True) is not None:
        return True
    rows = list(itertools.islice(read_label_table(table, rules.columns), ROWS_LOOKED_AT))
    damaged = [row for row in rows if row.problem is not None]
    if damaged:
        raise DataError(
            f"{location_to_uri(table)} names no image in {location_to_uri(folder)} in a row that can be read; "
            f"{len(damaged):,} of {len(rows):,} rows cannot, such as {damaged[0].place}: {damaged[0].problem}"
        )
    return False
