"""Listing files, in Parquet: one job writes what it found, and the next one reads it."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import pyarrow
import pyarrow.parquet

from components.listing.collection import Tally, list_images
from components.listing.labels import LabelRules
from components.listing.page_lines import PageRules, list_page_lines
from components.listing.path_tables import PathTables, list_table
from components.listing.references import ImageReference, uri_to_path
from components.listing.roots import Places
from components.rejects import Reject
from tfrecords import SplitFractions, storage

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
        pyarrow.field("split", pyarrow.string()),
        pyarrow.field("offset", pyarrow.int64()),
        pyarrow.field("length", pyarrow.int64()),
    ]
)
_UNUSED_SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in ("uri", "reason", "detail")])
_ROWS_AT_A_TIME = 2_000
_EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class ListingSummary:
    """A summary of one listing file, or of several together.

    Attributes:
        path: of the listing file; its unused labels are in `unused_path`, if there are any.
        images: number of images listed.
        splits: images by split; none of images that are listed to be recognised.
        symbols: occurrences of each symbol in the labels.
        with_sidecar: images that have a text file beside them.
        passed_over: files that do not count as images, by suffix.
        unused_labels: labels that belong to no image, by reason.
        digest: SHA-256 over every row, hexadecimal.
        problems: images that cannot be used, by reason.
        examples: the first of these images and labels, in words.
        repeats: rows of tables of paths whose image is listed already.
        copies: images that are copies by their names, and have the labels of their originals.
        matched: rows of label tables that have an image, by how they lead to it.
        left_out: images that a label table says are to be left out; they are not in the file.
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
    copies: int = 0
    matched: dict[str, int] = dataclasses.field(default_factory=dict)
    left_out: int = 0

    @property
    def unused_path(self) -> str:
        """File of the labels that belong to no image."""
        return _name_unused_labels(self.path)


def write_listing(
    roots: Sequence[str],
    destination: str,
    labels: LabelRules | None,
    fractions: SplitFractions | None,
    places: Places | None = None,
    tables: PathTables | None = None,
    pages: PageRules | None = None,
) -> ListingSummary:
    """Lists some roots into one Parquet file.

    For local folders, memory grows with the number of names in the largest folder.

    Args:
        roots: URIs, because an engine carries no names that are not UTF-8.
        fractions: of the splits; None if the images are listed to be recognised.
        places: of all roots of the collection; without it these are all.
        tables: the roots that are tables of paths; all their rows are listed, repeats too.
        pages: if the images are pages, which of their lines are listed in their places.

    Raises:
        DataError: if a root cannot be listed.
    """
    tally = Tally()
    paths = [uri_to_path(root) for root in roots]
    places = Places.from_roots(paths) if places is None else places
    tables = PathTables() if tables is None else tables

    def list_all() -> Iterator[ImageReference]:
        for path in paths:
            if path in tables.paths:
                yield from list_table(path, tables.column, places, tables.labels)
            elif pages is not None:
                yield from list_page_lines(path, pages, labels, tally, places)
            else:
                yield from list_images(path, labels, tally, places)

    return write_listing_file(list_all(), tally, destination, fractions)


def merge_listings(summaries: Iterable[ListingSummary]) -> ListingSummary:
    """Merges the summaries of all listing files; `path` is empty, the digest covers theirs in the order of paths."""
    ordered = sorted(summaries, key=lambda summary: summary.path)

    def sum_counts(counts: str) -> dict[str, int]:
        return _sort_counts(sum((collections.Counter(getattr(s, counts)) for s in ordered), collections.Counter()))

    digest = hashlib.sha256("".join(summary.digest for summary in ordered).encode())
    return ListingSummary(
        path="",
        images=sum(summary.images for summary in ordered),
        splits=sum_counts("splits"),
        symbols=sum_counts("symbols"),
        with_sidecar=sum(summary.with_sidecar for summary in ordered),
        passed_over=sum_counts("passed_over"),
        unused_labels=sum_counts("unused_labels"),
        problems=sum_counts("problems"),
        examples=[example for summary in ordered for example in summary.examples][:_EXAMPLES],
        repeats=sum(summary.repeats for summary in ordered),
        copies=sum(summary.copies for summary in ordered),
        matched=sum_counts("matched"),
        left_out=sum(summary.left_out for summary in ordered),
        digest=digest.hexdigest(),
    )


def read_listing(path: str) -> Iterator[ImageReference]:
    """Reads the references in a listing file, in its order."""
    with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as listing:
        for batch in listing.iter_batches(_ROWS_AT_A_TIME):
            yield from map(ImageReference, *(column.to_pylist() for column in batch.columns))


def read_paths(listings: Iterable[str], every: int = 1) -> Iterator[str]:
    """Reads the path or URL of every n-th image in listing files, without folders that cannot be listed."""
    for listing in listings:
        with storage.open_to_read(listing) as file, pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(_ROWS_AT_A_TIME * every, columns=["uri"]):
                uris = batch.column(0)[::every].to_pylist()
                yield from (uri_to_path(uri) for uri in uris if not uri.endswith("/"))


def read_unused_labels(listing: str) -> Iterator[Reject]:
    """Reads the labels of a listing file that belong to no image, in its order."""
    path = _name_unused_labels(listing)
    if not storage.exists(path):
        return
    with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as unused:
        for batch in unused.iter_batches(_ROWS_AT_A_TIME):
            yield from (Reject(**row) for row in batch.to_pylist())


def explain_unused_labels(listings: Iterable[str]) -> str:
    """Explains for each reason how many labels of listing files belong to no image, with the first as an example."""
    counts: collections.Counter[str] = collections.Counter()
    first: dict[str, str] = {}
    for listing in listings:
        for label in read_unused_labels(listing):
            counts[label.reason] += 1
            first.setdefault(label.reason, label.detail)
    return "; ".join(f"{count} {reason}, such as {first[reason]}" for reason, count in sorted(counts.items()))


def write_references(
    references: Iterable[ImageReference], destination: str, fractions: SplitFractions | None
) -> ListingSummary:
    """Writes references that were listed before to a listing file of their own, in the order given."""
    return write_listing_file(references, Tally(), destination, fractions)


def write_listing_file(
    references: Iterable[ImageReference], tally: Tally, destination: str, fractions: SplitFractions | None
) -> ListingSummary:
    """Writes references to a listing file, and the unused labels of a tally to the file beside it."""
    images = 0
    digest = hashlib.sha256()
    splits: collections.Counter[str] = collections.Counter()
    symbols: collections.Counter[str] = collections.Counter()
    problems: collections.Counter[str] = collections.Counter()
    examples: list[str] = []
    with storage.open_atomically(destination) as file, pyarrow.parquet.ParquetWriter(file, LISTING_SCHEMA) as writer:
        rows: list[ImageReference] = []

        def flush() -> None:
            nonlocal images
            digest.update(repr([row.inputs for row in rows]).encode())
            images += len(rows)
            if fractions is not None:
                splits.update(row.choose_split(fractions) for row in rows)
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
        storage.remove_file(_name_unused_labels(destination))  # left by an earlier attempt
    return ListingSummary(
        path=destination,
        images=images,
        splits=_sort_counts(splits),
        symbols=_sort_counts(symbols),
        with_sidecar=tally.with_sidecar,
        copies=tally.copies,
        matched=_sort_counts(tally.matched),
        left_out=tally.left_out,
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
