"""Label tables that say the same of the same images: there is nothing to choose between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from components.listing.collection import list_images
from components.listing.joining import locate_for_join, normalise_for_join, normalise_row, read_label_rows
from components.listing.labels import LabelRules, quote_text
from components.listing.name_matching import NameIndex
from components.listing.references import location_to_uri, uri_to_path
from components.listing.split_names import SPLIT_COLUMNS, choose_split_tables
from components.listing.table_paths import NameRule, find_path_rule, has_file
from components.listing.tables import read_label_table
from tfrecords import DataError, storage

_ROWS_COMPARED = 1_000_000
_Labels = dict[str, frozenset[tuple[str, str]]]


@dataclasses.dataclass(frozen=True)
class TableChoice:
    """The tables to take of several that name images of one folder.

    Attributes:
        tables: to take; all of them if it is not clear which.
        why: what is said about that, empty if there is nothing to say.
        difference: why there is something to choose, with an image; None if there is not.
    """

    tables: tuple[str, ...]
    why: str = ""
    difference: str | None = None


def choose_among_tables(tables: Sequence[str], folder: str, rules: LabelRules) -> TableChoice:
    """Chooses among tables that name images of a folder: one for each split, or one of several that say the same.

    Of tables that give the same label for every image, the first by its name is taken, before all one with a column of
    splits, and else those that are named like splits. What names fewer images than the others is not taken.

    Raises:
        DataError: if a table cannot be read.
    """
    of_splits = choose_split_tables(tables)
    if len(tables) < 2 or len(of_splits) == len(tables):
        return TableChoice(tuple(tables))
    labels = {table: _read_labels(table, folder, rules) for table in tables}
    if any(found is None for found in labels.values()):
        return TableChoice(tuple(tables), difference="they have too many rows to compare")
    ranked = sorted(tables, key=lambda table: (not _has_splits(table, rules), table.rpartition("/")[2], table))
    whole: dict[str, tuple[str, frozenset[tuple[str, str]]]] = {}
    for table in ranked:
        for uri, said in (labels[table] or {}).items():
            other, before = whole.setdefault(uri, (table, said))
            if said != before and has_file(uri_to_path(uri)):
                return TableChoice(
                    tuple(tables),
                    difference=f"{uri} is {_describe(before)} in {location_to_uri(other)} and {_describe(said)} in "
                    f"{location_to_uri(table)}",
                )
    difference = None
    # Tables for each split say more than one of all images, but not more than one with a column of splits.
    single = [(table,) for table in ranked]
    for taken in [of_splits] if of_splits and not _has_splits(ranked[0], rules) else single:
        lacking = (uri for uri in whole if not any(uri in (labels[table] or {}) for table in taken))
        if (lack := next((uri for uri in lacking if has_file(uri_to_path(uri))), None)) is None:
            rest = [location_to_uri(other) for other in ranked if other not in taken]
            says = "say" if len(rest) > 1 else "says"
            return TableChoice(tuple(taken), f"{' and '.join(rest)} {says} the same of every image")
        names = " and ".join(map(location_to_uri, taken))
        difference = difference or f"{lack} is in {location_to_uri(whole[lack][0])} and not in {names}"
    return TableChoice(tuple(tables), difference=difference)


def _read_labels(table: str, folder: str, rules: LabelRules) -> _Labels | None:
    """Reads the labels of a table by the URIs of images at or below a folder; None if it has too many rows."""
    asked = dataclasses.replace(rules, source="table", tables=(table,))
    inside = storage.resolve_path(folder).rstrip("/") + "/"
    labels: dict[str, set[tuple[str, str]]] = {}
    path_rule = find_path_rule(table, rules.columns, [folder], in_search=True)
    index = NameIndex(map(locate_for_join, list_images(folder)) if isinstance(path_rule, NameRule) else ())
    for row in read_label_rows(0, asked, path_rule):
        if row.row >= _ROWS_COMPARED:
            return None
        uri = row.uri if row.least_folders is None else index.match(row.uri, row.least_folders).uri or ""
        if row.problem is None and uri_to_path(uri).startswith(inside):
            labels.setdefault(normalise_for_join(uri), set()).add(normalise_row(row, rules))
    return {uri: frozenset(said) for uri, said in labels.items()}


def _describe(said: frozenset[tuple[str, str]]) -> str:
    return " and ".join(quote_text(f"{text} ({group})" if group else text) for text, group in sorted(said))


def _has_splits(table: str, rules: LabelRules) -> bool:
    """Tells whether a table has a column with one of the usual names of splits, whatever is in it."""
    for column in SPLIT_COLUMNS:
        try:
            next(read_label_table(table, dataclasses.replace(rules.columns, group=column)), None)
            return True
        except DataError:
            continue
    return False
