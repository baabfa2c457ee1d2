"""Joins of images and rows of tables: labels for images, and each image listed once."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from components.listing.collection import Tally
from components.listing.labels import LabelRules, add_label, quote_text
from components.listing.line_places import get_page
from components.listing.listing import ListingSummary, write_listing_file, write_references
from components.listing.name_matching import BY_PATH, NameIndex, NameMatch
from components.listing.references import (
    ImageReference,
    get_folder,
    location_to_uri,
    path_to_uri,
    resolve_folder,
    resolve_path,
    uri_to_path,
)
from components.listing.split_names import find_table_splits, name_split
from components.listing.table_paths import NameRule, PathRule
from components.listing.tables import is_review_table, read_label_table
from components.rejects import Reject
from tfrecords import DataError, SplitFractions, normalise_text, storage


class LabelRow(NamedTuple):
    """A row of a label table on its way to its image, which has to be at `uri`, and is left out without a `text`.

    With `least_folders`, `uri` is only the end of the image's, as `NameIndex.match` finds it.
    """

    uri: str
    text: str | None
    group: str | None
    table: int
    row: int
    place: str
    problem: str | None
    least_folders: int | None = None


def read_label_rows(table: int, rules: LabelRules, path_rule: PathRule | NameRule | None = None) -> Iterator[LabelRow]:
    """Reads the rows of one of the tables that `rules` names.

    Args:
        table: number of the table, from 0.
        path_rule: where the table's paths lead; None if they lead from its own folder.

    Raises:
        DataError: if the table cannot be read.
    """
    source = rules.tables[table]
    table_uri = location_to_uri(source)
    folder = get_folder(source)
    resolve = _resolve_reviewed_path if is_review_table(source) else resolve_path
    for number, row in enumerate(read_label_table(source, rules.columns)):
        uri, problem, least = table_uri, row.problem, None
        if row.path is not None and problem is None:
            try:
                if isinstance(path_rule, NameRule):
                    path, least = path_rule.locate(row.path)
                else:
                    path = resolve(folder, row.path) if path_rule is None else path_rule.resolve(row.path)
                uri = _resolve_uri(path) if least is None else path_to_uri(path)
                f"{uri}{row.group}".encode()
            except ValueError as error:  # a NUL byte, or half a surrogate pair
                uri, problem = table_uri, f"its path or group is no text: {error}"
            except DataError as error:
                uri, problem = table_uri, str(error)
        text = row.text if problem is None else ""
        yield LabelRow(uri, text, row.group, table, number, row.place, problem, least)


def identify_image(reference: ImageReference) -> str:
    """Returns what two listings of one image share: its place, or the row of a table that names no image."""
    return reference.detail or "" if reference.problem == "damaged_row" else locate_for_join(reference)


def list_once(
    listed: Iterable[ImageReference],
    named: Iterable[ImageReference],
    destination: str,
    fractions: SplitFractions | None,
) -> ListingSummary:
    """Writes a listing file in which each image of folders and tables is once.

    Of several names of one image, that of a folder's listing counts, or else its real one, or the first.

    Args:
        listed: from folders; all of them are kept.
        named: from tables; those that are listed already are counted as `repeats`.
    """
    images = list(listed)
    seen = set(map(identify_image, images))
    repeats = 0
    for image in sorted(named, key=_rank_name):
        if (place := identify_image(image)) in seen:
            repeats += 1
        else:
            seen.add(place)
            images.append(image)
    images.sort(key=lambda image: (image.key, image.uri))
    return dataclasses.replace(write_references(images, destination, fractions), repeats=repeats)


def _rank_name(reference: ImageReference) -> tuple[bool, str, int, str]:
    """Ranks an image's real name first, then names in order; of rows about one missing file, the shortest detail."""
    detail = reference.detail or ""
    return reference.uri != identify_image(reference), reference.uri, len(detail), detail


def locate_for_join(reference: ImageReference) -> str:
    """Returns the URI that a row's `uri` has to equal, apart from Unicode normalisation (`normalise_for_join`)."""
    return _resolve_uri(uri_to_path(reference.uri))


def normalise_for_join(uri: str) -> str:
    """Composes the letters of a URI, because tables and disks write composed and decomposed ones."""
    return unicodedata.normalize("NFC", uri)


def join_labels(
    references: Iterable[ImageReference],
    rows: Iterable[LabelRow],
    destination: str,
    rules: LabelRules,
    fractions: SplitFractions | None,
) -> ListingSummary:
    """Joins images and the rows of tables with the same keys, and writes a listing file with labels.

    An image gets the row that names it; two equal rows count as one. Rows without an image, and damaged
    rows, become unused labels; so do rows that say that their image is to be left out.
    """
    images = sorted(references, key=lambda reference: (reference.key, reference.uri))
    by_uri: dict[str, list[int]] = collections.defaultdict(list)  # several, where links lead to one image
    for position, reference in enumerate(images):
        by_uri[locate_for_join(reference)].append(position)
    tally = Tally()
    of_image: dict[int, list[LabelRow]] = {}
    left_out: set[int] = set()
    for uri, found in _match_rows(rows, by_uri, tally).items():
        for position in by_uri[uri]:
            of_image[position] = found
        if (wrong := next((row for row in found if row.text is None), None)) is not None:
            left_out.update(by_uri[uri])
            reason = "it is marked as cut out wrongly, so its image is left out"
            tally.unused_labels.append(Reject(uri, "damaged_row", f"{wrong.place}: {reason}"))
    labelled = (
        _apply_rows(reference, of_image.get(position, []), rules)
        for position, reference in enumerate(images)
        if position not in left_out
    )
    tally.left_out = len(left_out)
    return write_listing_file(labelled, tally, destination, fractions)


def _match_rows(rows: Iterable[LabelRow], uris: Collection[str], tally: Tally) -> dict[str, list[LabelRow]]:
    """Matches rows with the URIs of images; what is left of the rows becomes unused labels."""
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for uri in uris:
        alike[normalise_for_join(uri)].append(uri)
    ordered = sorted(rows, key=lambda row: (row.table, row.row))
    index = NameIndex(uris if any(row.least_folders is not None for row in ordered) else ())
    rows_of: dict[str, list[LabelRow]] = collections.defaultdict(list)
    by_name: dict[tuple[int, int], NameMatch] = {}
    for row in ordered:
        if row.problem is not None:
            tally.unused_labels.append(Reject(row.uri, "damaged_row", f"{row.place}: {row.problem}"))
            continue
        if row.least_folders is not None:
            match = index.match(row.uri, row.least_folders)
            by_name[row.table, row.row] = match
            candidates, reason = [match.uri] if match.uri else [], match.how
        else:
            candidates = [row.uri] if row.uri in uris else alike.get(normalise_for_join(row.uri), [])
            reason = "several images have this name, composed or not"
        if len(candidates) == 1:
            rows_of[candidates[0]].append(row)
            tally.matched[BY_PATH] += row.least_folders is None
        else:
            reason = reason if candidates or row.least_folders is not None else _explain_missing_image(row.uri)
            tally.unused_labels.append(Reject(row.uri, "no_image", f"{row.place}: {reason}"))
    if by_name:
        for uri, found in rows_of.items():
            rows_of[uri] = _keep_best(uri, found, by_name, tally)
    return rows_of


def _keep_best(
    uri: str, rows: Sequence[LabelRow], by_name: Mapping[tuple[int, int], NameMatch], tally: Tally
) -> list[LabelRow]:
    """Keeps those rows of each table that have most folders in common with an image; a row with its path has all."""
    folders = [match.folders if (match := by_name.get((row.table, row.row))) else len(uri) for row in rows]
    most: dict[int, int] = {}
    for row, count in zip(rows, folders, strict=True):
        most[row.table] = max(most.get(row.table, 0), count)
    kept = []
    for row, count in zip(rows, folders, strict=True):
        if count < most[row.table]:
            reason = f"another row gives more of the path of {uri}"
            tally.unused_labels.append(Reject(row.uri, "no_image", f"{row.place}: {reason}"))
        else:
            kept.append(row)
            if (match := by_name.get((row.table, row.row))) is not None:
                tally.matched[match.how] += 1
    return kept


def _apply_rows(reference: ImageReference, rows: Sequence[LabelRow], rules: LabelRules) -> ImageReference:
    if reference.problem is not None:
        return reference
    if not rows:
        return reference.reject("no_label", f"no row of {rules} that can be read names it")
    first = rows[0]
    for row in rows[1:]:
        if normalise_row(row, rules) != normalise_row(first, rules):
            return reference.reject(
                "conflicting_labels",
                f"{first.place} says {_describe_row(first)}, {row.place} says {_describe_row(row)}: leave one of them",
            )
    if rules.split_by == "given":
        reference = _add_split(reference, rows, rules)
        if reference.problem is not None:
            return reference
    elif rules.columns.group is not None:
        if not (first.group or "").strip():
            return reference.reject(
                "no_group", f"{first.place} has nothing in the column of --split_by={rules.columns.group}"
            )
        reference = reference._replace(group=normalise_text(first.group or ""))
    return add_label(reference, first.text or "", rules.max_label_length, keep_empty=rules.keep_empty)


_find_table_splits = functools.lru_cache(maxsize=8)(find_table_splits)
"""For each image; the tables are always the same."""


def _add_split(reference: ImageReference, rows: Sequence[LabelRow], rules: LabelRules) -> ImageReference:
    """Adds the split that an image's rows, the names of their tables and its folders tell, if it is one."""
    told = {} if reference.split is None else {reference.split: "its folder"}
    of_table = _find_table_splits(rules.tables)
    for row in rows:
        if (split := of_table[row.table]) is not None:
            told[split] = f"the name of {location_to_uri(rules.tables[row.table])}"
        if value := (row.group or "").strip():
            if (split := name_split(value)) is None:
                return reference.reject("no_split", f"{row.place} has {quote_text(value)} in {rules.columns.group!r}")
            told[split] = row.place
    if len(told) != 1:
        said = " and ".join(f"{place} says {split}" for split, place in told.items())
        return reference.reject("no_split", said or f"neither a folder nor {rows[0].place} tells its split")
    return reference._replace(split=next(iter(told)))


def normalise_row(row: LabelRow, rules: LabelRules) -> tuple[str, str]:
    """Returns what rows have to agree on: the text, and the group if images are split by it."""
    return normalise_text(row.text or ""), "" if rules.split_by == "given" else normalise_text(row.group or "")


def _describe_row(row: LabelRow) -> str:
    text = quote_text(row.text or "")
    return text if row.group is None else f"{text} of group {quote_text(row.group)}"


def _explain_missing_image(uri: str) -> str:
    if not storage.is_remote(uri) and os.path.isfile(uri_to_path(uri)):
        return "the image that it names is not among those of --images"
    return "there is no such image"


def _resolve_reviewed_path(folder: str, named: str) -> str:
    """Resolves a path in a review table; where nothing is there, takes it for a `uri` of the predictions."""
    path = resolve_path(folder, named)
    if "%" in named and not storage.is_remote(path) and not os.path.lexists(get_page(path)):
        other = resolve_path(folder, uri_to_path(named))
        if os.path.lexists(get_page(other)):
            return other
    return path


def _resolve_uri(path: str) -> str:
    """Returns the URI of a path, with its folder written without links and detours."""
    if storage.is_remote(path):
        return storage.canonicalise(path)
    image = get_page(path)
    folder, name = os.path.split(image)
    return location_to_uri(os.path.join(resolve_folder(folder), name) + path[len(image) :])
