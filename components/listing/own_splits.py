"""The splits that a collection brings: in the names of its folders or tables, or in a column of its tables."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence

from components.archives.parquet import holds_images
from components.archives.paths import is_packed, make_folder
from components.listing.boundaries import Boundaries
from components.listing.labels import LabelRules, quote_text
from components.listing.listing import ListingSummary, read_listing
from components.listing.references import location_to_uri
from components.listing.roots import Places, find_root_folder
from components.listing.split_names import SPLIT_COLUMNS, find_table_splits, has_own_splits, name_split
from components.listing.tables import is_review_table, read_label_table
from tfrecords import SPLITS, DataError, SplitFractions, StoreError, storage

_FOLDERS_ASKED = 20  # of an object store, each for a request
_NAMED = 6


def choose_splits(
    rules: LabelRules, roots: Sequence[str], boundaries: Boundaries | None = None
) -> tuple[LabelRules, str]:
    """Resolves `auto`: the splits that the collection gives count, or else each image, or page, by itself.

    Args:
        rules: whose label source is chosen already; `split_by` is replaced where it is `auto`, `given`, or the name of
            a column that holds nothing but splits.
        roots: of the images.
        boundaries: where links may lead.

    Returns:
        The rules, and a sentence that says what gives the splits, empty if nothing does.

    Raises:
        DataError: if they are to be given, but nothing gives them, or two columns do.
    """
    own = rules.split_by in ("auto", "given")
    if not own and rules.columns.group is None:
        return rules, ""
    column = _find_column(rules) if own else _check_group(rules)
    if not own and column is None:
        return rules, ""
    given = "; --split_by=image mixes them"
    if column is not None:
        what = f"the column {column!r} of {rules} gives the splits"
    elif rules.tables and find_table_splits(rules.tables)[0] is not None:
        what = f"the names of {rules} give the splits"
    elif folders := _describe_folders(roots, boundaries, asked=rules.split_by == "given"):
        what = f"the folders {folders} give the splits"
    elif rules.split_by == "auto":
        return dataclasses.replace(rules, split_by="page" if rules.source == "pages" else "image"), ""
    else:
        raise DataError(
            f"--split_by=given: no folder of the images is named train, val, test or alike, and no table has a column "
            f"such as {SPLIT_COLUMNS[0]} with such values, or is named like that; leave the flag out, and a hash "
            "chooses each image's split"
        )
    columns = dataclasses.replace(rules.columns, group=column)
    return dataclasses.replace(rules, split_by="given", columns=columns), what + (
        given if rules.split_by == "auto" else ""
    )


def hold_out(
    given: Mapping[str, int], fractions: SplitFractions
) -> tuple[SplitFractions, dict[str, int], Iterator[str]]:
    """Determines what has to be held out of the training images where the collection gives no validation or no test.

    Args:
        given: images by the split that they are given.
        fractions: as they would be for a collection without splits.

    Returns:
        The shares of the images given for training that are for validation and for test; about how many images each
        split has; and sentences about this.

    Raises:
        DataError: if no image is given for training.
    """
    trained = given.get("train", 0)
    if not trained:
        raise DataError(
            f"the collection gives splits, but no image for training ({dict(given)}): name the folders train, val "
            "and test, or say --split_by=image"
        )
    shares = {
        split: 0.0 if given.get(split) else fraction
        for split, fraction in (("validation", fractions.validation), ("test", fractions.test))
    }
    counts = {split: given.get(split, 0) + round(trained * share) for split, share in shares.items()}
    counts["train"] = trained - sum(round(trained * share) for share in shares.values())
    said = (
        f"the collection gives no {split} split: {share:.0%} of its images for training are held out for it"
        for split, share in shares.items()
        if share
    )
    return SplitFractions(**shares), counts, said


def refuse_images_without_split(listing: ListingSummary, files: Sequence[str]) -> None:
    """Raises an error if some images of a collection with splits have none: `auto` cannot tell what is meant.

    Args:
        files: of the listing.
    """
    if count := listing.problems.get("no_split", 0):
        images = itertools.chain.from_iterable(map(read_listing, files))
        first = next(image for image in images if image.problem == "no_split")
        raise DataError(
            f"the collection gives splits, but none to {count:,} of {listing.images:,} images, such as {first.uri} "
            f"({first.detail}): leave these out with --split_by=given, or have all images mixed with --split_by=image"
        )


def _find_column(rules: LabelRules) -> str | None:
    """Finds the column that has the split of each image in all tables of some rules; None if there is none.

    Raises:
        DataError: if there are several.
    """
    tables = [table for table in rules.tables if not is_review_table(table)]
    if not tables or len(tables) < len(rules.tables):
        return None
    asked = rules.split_by == "given"
    found = []
    for column in SPLIT_COLUMNS:
        values = _read_values(tables, rules, column)
        splits = {split for value in values if (split := name_split(value)) is not None}
        if has_own_splits(splits) or (asked and splits):
            found.append(column)
    if len(found) > 1:
        raise DataError(
            f"{rules} has several columns that could hold the splits, {' and '.join(map(quote_text, found))}: rename "
            "all but one, or say --split_by=image"
        )
    return found[0] if found else None


def _check_group(rules: LabelRules) -> str | None:
    """Returns the column that `--split_by` names if all its values are splits; else None."""
    column = rules.columns.group or ""
    splits = set(map(name_split, _read_values(rules.tables, rules, column)))
    return column if None not in splits and has_own_splits(splits) else None


def _read_values(tables: Sequence[str], rules: LabelRules, column: str) -> set[str]:
    """Reads the values of a column that all tables have; none if one lacks it or cannot be read."""
    columns = dataclasses.replace(rules.columns, group=column)
    try:
        return {row.group for table in tables for row in read_label_table(table, columns) if row.group}
    except StoreError:
        raise
    except DataError:  # which the joining of labels tells, if it is more than a missing column
        return set()


def _describe_folders(roots: Sequence[str], boundaries: Boundaries | None, *, asked: bool) -> str:
    """Describes the folders that give the splits, the training ones first; empty if none do.

    Args:
        asked: whether splits are asked for, so that a single one is enough.
    """
    by_folder = dict(_find_folders(roots, boundaries))
    if not (has_own_splits(by_folder.values()) or (asked and by_folder)):
        return ""
    folders = sorted(by_folder, key=lambda folder: (SPLITS.index(by_folder[folder]), folder))
    return ", ".join([f"{folder}/" for folder in folders[:_NAMED]] + ["…"] * (len(folders) > _NAMED))


def _find_folders(roots: Sequence[str], boundaries: Boundaries | None) -> Iterator[tuple[str, str]]:
    """Yields the folders and archives, by their names in the keys of images, that tell one split, with that split."""
    if not roots:
        return
    places = Places.from_roots(roots, boundaries)
    for root in roots:
        is_folder = places.is_folder(root)
        folder = find_root_folder(root, is_folder)
        parent = places.get_key_parent(folder)
        below = _list_two_levels(folder) if is_folder else [make_folder(root)] if is_packed(root) else []
        for path in (folder, *below):
            name = path.removeprefix(parent)
            told_here = path == folder or name_split(name.rpartition("/")[2]) is not None
            if told_here and len(splits := places.find_splits(name)) == 1:
                yield location_to_uri(name if places.several else name.partition("/")[2]), splits.pop()


def _list_two_levels(root: str) -> Iterator[str]:
    """Lists the visible folders in a folder, and those in them; of an object store, only as far as is needed."""
    first = _list_folders(root)
    yield from first
    if storage.is_remote(root):
        told = has_own_splits(name_split(folder.rpartition("/")[2]) for folder in first)
        first = [] if told else first[:_FOLDERS_ASKED]
    for folder in first:
        yield from _list_folders(folder)


def _list_folders(folder: str) -> list[str]:
    if storage.is_remote(folder):
        return [storage.join(folder, name) for name in storage.list_folders(folder) if name[0] != "."]
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
            folders = [entry.path for entry in visible if entry.is_dir()]
            return sorted([*folders, *(make_folder(entry.path) for entry in visible if _is_collection(entry))])
    except OSError:  # which the listing tells
        return []


def _is_collection(entry: os.DirEntry[str]) -> bool:
    """Tells whether a file is an archive, or a table that holds images; a Parquet file may be one of labels."""
    if is_packed(entry.name, sure=True):
        return True
    return is_packed(entry.name) and name_split(entry.name) is not None and holds_images(entry.path)
