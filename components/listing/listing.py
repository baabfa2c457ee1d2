"""Listing files: what one job found, in Parquet, for the next one to read; and joining labels from tables."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import os
import pickle
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import pyarrow
import pyarrow.parquet

from components.listing.collection import Places, Tally, list_images
from components.listing.labels import LabelRules, add_label, quote_text
from components.listing.path_tables import PathTables, list_table
from components.listing.references import (
    ImageReference,
    get_folder,
    location_to_uri,
    resolve_folder,
    resolve_path,
    uri_to_path,
)
from components.listing.tables import is_review_table, read_label_table
from components.rejects import Reject
from tfrecords import DataError, SplitFractions, choose_split, normalise_text, storage

LISTING_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("key", pyarrow.string(), nullable=False),
        pyarrow.field("size_bytes", pyarrow.int64(), nullable=False),
        pyarrow.field("modified_us", pyarrow.int64(), nullable=False),
        pyarrow.field("text", pyarrow.string()),
        pyarrow.field("problem", pyarrow.string()),
        pyarrow.field("detail", pyarrow.string()),
        pyarrow.field("group", pyarrow.string()),
    ]
)
_UNUSED_SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in ("uri", "reason", "detail")])
_ROWS_AT_A_TIME = 2_000
_EXAMPLES = 3

_Row = TypeVar("_Row", bound=tuple)


@dataclasses.dataclass(frozen=True)
class ListingSummary:
    """What one listing file holds.

    Attributes:
        path: of the listing file; its unused labels are in `unused_path`, if there are any.
        images: how many images were listed.
        splits: images by split.
        symbols: occurrences of each symbol in the labels.
        with_sidecar: images that have a text file beside them.
        passed_over: files that do not count as images, by suffix.
        unused_labels: labels that no image got, by reason.
        digest: SHA-256 over every row, hexadecimal.
        problems: images that cannot be used, by reason.
        examples: the first of these images and labels, in words.
        repeats: rows of tables of paths that name an image which is listed already.
    """

    path: str
    images: int
    splits: dict[str, int]
    symbols: dict[str, int]
    with_sidecar: int
    passed_over: dict[str, int]
    unused_labels: dict[str, int]
    digest: str
    problems: dict[str, int] = dataclasses.field(default_factory=dict)
    examples: list[str] = dataclasses.field(default_factory=list)
    repeats: int = 0

    @property
    def unused_path(self) -> str:
        """The file of the labels that no image got."""
        return _name_unused_labels(self.path)


class LabelRow(NamedTuple):
    """A row of a label table on its way to its image: `uri` is where the image has to be."""

    uri: str
    text: str
    group: str | None
    table: int
    row: int
    place: str
    problem: str | None


def write_listing(
    roots: Sequence[str],
    destination: str,
    labels: LabelRules | None,
    fractions: SplitFractions,
    places: Places | None = None,
    tables: PathTables | None = None,
) -> ListingSummary:
    """Lists some roots into one Parquet file; memory grows with the names in the largest folder, local ones at least.

    Args:
        roots: URIs, since an engine carries no names that are not UTF-8.
        places: of all roots of the collection; without it these are all.
        tables: which roots are tables of paths; their rows are listed, repeats and all.

    Raises:
        DataError: if a root cannot be listed.
    """
    tally = Tally()
    paths = [uri_to_path(root) for root in roots]
    places = Places.of(paths) if places is None else places
    tables = PathTables() if tables is None else tables

    def references() -> Iterator[ImageReference]:
        for path in paths:
            if path in tables.paths:
                yield from list_table(path, tables.column, places, tables.labels)
            else:
                yield from list_images(path, labels, tally, places)

    return write_listing_file(references(), tally, destination, fractions)


def merge_listings(summaries: Iterable[ListingSummary]) -> ListingSummary:
    """All listing files as one: `path` is empty, the digest covers the files' digests in sorted order."""
    ordered = sorted(summaries, key=lambda summary: summary.path)

    def total(counts: str) -> dict[str, int]:
        return _sort_counts(sum((collections.Counter(getattr(s, counts)) for s in ordered), collections.Counter()))

    digest = hashlib.sha256("".join(summary.digest for summary in ordered).encode())
    return ListingSummary(
        path="",
        images=sum(summary.images for summary in ordered),
        splits=total("splits"),
        symbols=total("symbols"),
        with_sidecar=sum(summary.with_sidecar for summary in ordered),
        passed_over=total("passed_over"),
        unused_labels=total("unused_labels"),
        problems=total("problems"),
        examples=[example for summary in ordered for example in summary.examples][:_EXAMPLES],
        repeats=sum(summary.repeats for summary in ordered),
        digest=digest.hexdigest(),
    )


def read_listing(path: str) -> Iterator[ImageReference]:
    """The references in a listing file, in its order."""
    with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as listing:
        for batch in listing.iter_batches(_ROWS_AT_A_TIME):
            yield from map(ImageReference, *(column.to_pylist() for column in batch.columns))


def read_unused_labels(listing: str) -> Iterator[Reject]:
    """The labels that no image got, of a listing file, in its order."""
    path = _name_unused_labels(listing)
    if not storage.exists(path):
        return
    with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as unused:
        for batch in unused.iter_batches(_ROWS_AT_A_TIME):
            yield from (Reject(**row) for row in batch.to_pylist())


def pack_blocks(items: Iterable[_Row], key_of: Callable[[_Row], Any]) -> Iterator[tuple[Any, bytes]]:
    """Rows with equal keys together, of two thousand at a time, packed for `unpack_blocks`.

    An engine asks its price in time for every element, and in memory, where it shuffles, for
    every byte.
    """
    items = iter(items)
    while some := list(itertools.islice(items, _ROWS_AT_A_TIME)):
        block: dict[Any, list[tuple]] = collections.defaultdict(list)
        for item in some:
            block[key_of(item)].append(tuple(item))
        for key, rows in block.items():
            yield key, zlib.compress(pickle.dumps(rows, pickle.HIGHEST_PROTOCOL), 1)


def unpack_blocks(blocks: Iterable[bytes], kind: Callable[..., _Row]) -> Iterator[_Row]:
    """The rows of `pack_blocks`."""
    for block in blocks:
        yield from itertools.starmap(kind, pickle.loads(zlib.decompress(block)))


def read_label_rows(table: int, rules: LabelRules) -> Iterator[LabelRow]:
    """The rows of one of the tables that `rules` names.

    Raises:
        DataError: if the table cannot be read.
    """
    path = rules.tables[table]
    table_uri = location_to_uri(path)
    folder = get_folder(path)
    path_named = _resolve_reviewed_path if is_review_table(path) else resolve_path
    for number, row in enumerate(read_label_table(path, rules.columns)):
        uri, problem = table_uri, row.problem
        if row.path is not None and problem is None:
            try:
                uri = _resolve_uri(path_named(folder, row.path))
                f"{uri}{row.group}".encode()
            except ValueError as error:  # a NUL byte, or half a surrogate pair
                uri, problem = table_uri, f"its path or group is no text: {error}"
            except DataError as error:
                uri, problem = table_uri, str(error)
        yield LabelRow(uri, row.text or "", row.group, table, number, row.place, problem)


def identify_image(reference: ImageReference) -> str:
    """What two listed images have in common if they are one: the place, or the row of a table that names none."""
    return reference.detail or "" if reference.problem == "damaged_row" else locate_for_join(reference)


def list_once(
    listed: Iterable[ImageReference], named: Iterable[ImageReference], destination: str, fractions: SplitFractions
) -> ListingSummary:
    """The images of folders and those that tables name, to a listing file in which each image is once.

    Of several names of one image, that of a folder's listing counts, or else its real one, or the first.

    Args:
        listed: from folders, all of which are kept.
        named: from tables; those that are listed already are counted as `repeats`.
    """
    images = list(listed)
    found = set(map(identify_image, images))
    repeats = 0
    for image in sorted(named, key=_rank_name):
        if (place := identify_image(image)) in found:
            repeats += 1
        else:
            found.add(place)
            images.append(image)
    images.sort(key=lambda image: (image.key, image.uri))
    return dataclasses.replace(write_references(images, destination, fractions), repeats=repeats)


def _rank_name(reference: ImageReference) -> tuple[bool, str, int, str]:
    """The real name of an image first; of the rows that name what is not there the first, with the shortest detail."""
    detail = reference.detail or ""
    return reference.uri != identify_image(reference), reference.uri, len(detail), detail


def write_references(
    references: Iterable[ImageReference], destination: str, fractions: SplitFractions
) -> ListingSummary:
    """References that were listed before, to a listing file of their own, in the order given."""
    return write_listing_file(references, Tally(), destination, fractions)


def locate_for_join(reference: ImageReference) -> str:
    """What has to be equal, but for Unicode normalisation, to a row's `normalise_for_join` of its `uri`."""
    return _resolve_uri(uri_to_path(reference.uri))


def normalise_for_join(uri: str) -> str:
    """A URI without the difference of composed and decomposed letters: tables and disks write them differently."""
    return unicodedata.normalize("NFC", uri)


def join_labels(
    references: Iterable[ImageReference],
    rows: Iterable[LabelRow],
    destination: str,
    rules: LabelRules,
    fractions: SplitFractions,
) -> ListingSummary:
    """Images and the rows of tables with the same joining keys, to a listing file with labels.

    An image gets the row that names it; two rows that say the same are one. Rows without an
    image, and damaged ones, become unused labels.
    """
    images = sorted(references, key=lambda reference: (reference.key, reference.uri))
    by_uri: dict[str, list[int]] = collections.defaultdict(list)  # several, where links lead to one image
    for position, reference in enumerate(images):
        by_uri[locate_for_join(reference)].append(position)
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for uri in by_uri:
        alike[normalise_for_join(uri)].append(uri)
    found: dict[int, list[LabelRow]] = collections.defaultdict(list)
    tally = Tally()
    for row in sorted(rows, key=lambda row: (row.table, row.row)):
        candidates = [row.uri] if row.uri in by_uri else alike.get(normalise_for_join(row.uri), [])
        if row.problem is not None:
            tally.unused_labels.append(Reject(row.uri, "damaged_row", f"{row.place}: {row.problem}"))
        elif len(candidates) == 1:
            for position in by_uri[candidates[0]]:
                found[position].append(row)
        else:
            why = (
                _explain_missing_image(row.uri) if not candidates else "several images have this name, composed or not"
            )
            tally.unused_labels.append(Reject(row.uri, "no_image", f"{row.place}: {why}"))
    labelled = (_apply_rows(reference, found[position], rules) for position, reference in enumerate(images))
    return write_listing_file(labelled, tally, destination, fractions)


def _apply_rows(reference: ImageReference, rows: Sequence[LabelRow], rules: LabelRules) -> ImageReference:
    if reference.problem is not None:
        return reference
    if not rows:
        return reference.rejected("no_label", f"no row of {rules} that can be read names it")
    first = rows[0]
    for row in rows[1:]:
        if _normalise_row(row) != _normalise_row(first):
            return reference.rejected(
                "conflicting_labels",
                f"{first.place} says {_describe_row(first)}, {row.place} says {_describe_row(row)}: leave one of them",
            )
    if rules.columns.group is not None:
        if not (first.group or "").strip():
            return reference.rejected(
                "no_group", f"{first.place} has nothing in the column of --split_by={rules.columns.group}"
            )
        reference = reference._replace(group=normalise_text(first.group or ""))
    return add_label(reference, first.text, rules.max_label_length)


def _normalise_row(row: LabelRow) -> tuple[str, str]:
    return normalise_text(row.text), normalise_text(row.group or "")


def _describe_row(row: LabelRow) -> str:
    return quote_text(row.text) if row.group is None else f"{quote_text(row.text)} of group {quote_text(row.group)}"


def _explain_missing_image(uri: str) -> str:
    if not storage.is_remote(uri) and os.path.isfile(uri_to_path(uri)):
        return "the image that it names is not among those of --images"
    return "there is no such image"


def _resolve_reviewed_path(folder: str, named: str) -> str:
    """The image that a review table names: by its path, or, where there is none, as a `uri` of the predictions."""
    path = resolve_path(folder, named)
    if "%" in named and not storage.is_remote(path) and not os.path.lexists(path):
        other = resolve_path(folder, uri_to_path(named))
        if os.path.lexists(other):
            return other
    return path


def _resolve_uri(path: str) -> str:
    """The URI of a path whose folder is written without links and detours."""
    if storage.is_remote(path):
        return storage.canonicalise(path)
    folder, name = os.path.split(path)
    return location_to_uri(os.path.join(resolve_folder(folder), name))


def write_listing_file(
    references: Iterable[ImageReference], tally: Tally, destination: str, fractions: SplitFractions
) -> ListingSummary:
    digest = hashlib.sha256()
    splits: collections.Counter[str] = collections.Counter()
    symbols: collections.Counter[str] = collections.Counter()
    problems: collections.Counter[str] = collections.Counter()
    examples: list[str] = []
    with storage.open_atomically(destination) as file, pyarrow.parquet.ParquetWriter(file, LISTING_SCHEMA) as writer:
        rows: list[ImageReference] = []

        def flush() -> None:
            digest.update(repr([tuple(row) for row in rows]).encode())
            splits.update(choose_split(row.split_key, fractions) for row in rows)
            symbols.update("".join(row.text for row in rows if row.text))
            problems.update(row.problem for row in rows if row.problem)
            if not examples:
                examples.extend(f"{row.uri}: {row.detail}" for row in rows if row.problem)
                del examples[1:]
            columns = zip(*rows, strict=True) if rows else [[] for _ in LISTING_SCHEMA]
            writer.write_table(
                pyarrow.table(
                    [pyarrow.array(column, field.type) for column, field in zip(columns, LISTING_SCHEMA, strict=True)],
                    schema=LISTING_SCHEMA,
                )
            )
            rows.clear()

        for reference in references:
            rows.append(reference)
            if len(rows) == _ROWS_AT_A_TIME:
                flush()
        flush()
    unused = sorted(tally.unused_labels, key=lambda label: (label.uri, label.detail))
    examples += [f"{label.uri}: {label.detail}" for label in unused[:1]]
    if unused:
        digest.update(repr(unused).encode())
        table = pyarrow.Table.from_pylist([dataclasses.asdict(label) for label in unused], _UNUSED_SCHEMA)
        storage.write_parquet(_name_unused_labels(destination), table)
    else:
        storage.remove_file(_name_unused_labels(destination))  # of an attempt before
    return ListingSummary(
        path=destination,
        images=splits.total(),
        splits=_sort_counts(splits),
        symbols=_sort_counts(symbols),
        with_sidecar=tally.with_sidecar,
        passed_over=_sort_counts(tally.passed_over),
        unused_labels=_sort_counts(collections.Counter(label.reason for label in unused)),
        problems=_sort_counts(problems),
        examples=examples,
        digest=digest.hexdigest(),
    )


def _name_unused_labels(listing: str) -> str:
    return f"{listing.removesuffix('.parquet')}.unused.parquet"


def _sort_counts(counts: collections.Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items()) if count}
