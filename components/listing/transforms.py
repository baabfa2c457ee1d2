"""Beam wiring of the listing jobs, and of reading listings and gathering summaries in the others."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam

from components.jobs import GatherOnce, pack_blocks, unpack_blocks
from components.listing.collection import Places
from components.listing.joining import (
    LabelRow,
    identify_image,
    join_labels,
    list_once,
    locate_for_join,
    normalise_for_join,
    read_label_rows,
)
from components.listing.labels import LabelRules
from components.listing.listing import ListingSummary, merge_listings, read_listing, write_listing
from components.listing.path_tables import PathTables
from components.listing.references import ImageReference
from tfrecords import SplitFractions, choose_shard, storage


class ListCollection(beam.PTransform):
    """Folders, and tables of paths, to listing files, and their summary at `summary_path`.

    Input:  `(roots, destination)`: folders, files or tables, and the listing file to write.
    Output: the merged `ListingSummary`, once; it is also written as JSON to `summary_path`.
    """

    def __init__(
        self,
        summary_path: str,
        labels: LabelRules | None,
        fractions: SplitFractions,
        places: Places | None = None,
        tables: PathTables | None = None,
    ):
        super().__init__()
        self._summary_path = summary_path
        self._write = functools.partial(write_listing, labels=labels, fractions=fractions, places=places, tables=tables)

    def expand(self, roots):
        return (
            roots
            | "ListFolders" >> beam.MapTuple(self._write)
            | "CommitListing" >> GatherOnce(functools.partial(_commit_listing, summary_path=self._summary_path))
        )


class ListOnce(beam.PTransform):
    """Listing files of folders and of tables to listing files in which each image is once.

    Images meet where a hash of their place sends them.

    Input:  `("folders", path)` or `("table", path)` of every listing file.
    Output: the merged `ListingSummary`, once; it is also written as JSON to `summary_path`.
    """

    def __init__(self, summary_path: str, destinations: list[str], fractions: SplitFractions):
        super().__init__()
        self._summary_path = summary_path
        self._destinations = destinations
        self._fractions = fractions

    def expand(self, listings):
        return (
            listings
            | "ReadListing" >> beam.FlatMapTuple(self._read)
            | "GroupByPlace" >> beam.GroupByKey()
            | "ListOnce" >> beam.MapTuple(self._list_once)
            | "CommitListing" >> GatherOnce(functools.partial(_commit_listing, summary_path=self._summary_path))
        )

    def _read(self, kind: str, listing: str) -> Iterator[tuple[int, tuple[str, bytes]]]:
        count = len(self._destinations)
        for place, block in pack_blocks(
            read_listing(listing), lambda image: choose_shard(identify_image(image), count)
        ):
            yield place, (kind, block)

    def _list_once(self, place: int, tagged: Iterable[tuple[str, bytes]]) -> ListingSummary:
        tagged = list(tagged)
        listed = unpack_blocks((block for kind, block in tagged if kind == "folders"), ImageReference)
        named = unpack_blocks((block for kind, block in tagged if kind == "table"), ImageReference)
        return list_once(listed, named, self._destinations[place], self._fractions)


class JoinTables(beam.PTransform):
    """Listing files without labels, and label tables, to listing files with labels.

    Images and rows meet where a hash of the image's place sends them.

    Input:  `("listing", path)` of every listing file and `("table", number)` of every table of `rules`.
    Output: the merged `ListingSummary`, once; it is also written as JSON to `summary_path`.
    """

    def __init__(self, summary_path: str, destinations: list[str], rules: LabelRules, fractions: SplitFractions):
        super().__init__()
        self._summary_path = summary_path
        self._destinations = destinations
        self._rules = rules
        self._fractions = fractions

    def expand(self, sources):
        return (
            sources
            | "ReadSource" >> beam.FlatMapTuple(self._read)
            | "GroupByPlace" >> beam.GroupByKey()
            | "JoinLabels" >> beam.MapTuple(self._join)
            | "CommitListing" >> GatherOnce(functools.partial(_commit_listing, summary_path=self._summary_path))
        )

    def _read(self, kind: str, source: Any) -> Iterator[tuple[int, tuple[str, bytes]]]:
        count = len(self._destinations)

        def place_of(uri: str) -> int:
            return choose_shard(normalise_for_join(uri), count)

        if kind == "table":
            blocks = pack_blocks(read_label_rows(source, self._rules), lambda row: place_of(row.uri))
        else:
            blocks = pack_blocks(read_listing(source), lambda image: place_of(locate_for_join(image)))
        for place, block in blocks:
            yield place, (kind, block)

    def _join(self, place: int, tagged: Iterable[tuple[str, bytes]]) -> ListingSummary:
        tagged = list(tagged)
        images = unpack_blocks((block for kind, block in tagged if kind == "listing"), ImageReference)
        rows = unpack_blocks((block for kind, block in tagged if kind == "table"), LabelRow)
        return join_labels(images, rows, self._destinations[place], self._rules, self._fractions)


class GroupByShard(beam.PTransform):
    """Listing files to the references of one shard at a time.

    Input:  paths of listing files.
    Output: `(shard, references)`, where `shard = shard_of(reference)`; only paths and
            labels are shuffled, never image bytes.
    """

    def __init__(self, shard_of: Callable[[ImageReference], Any]):
        super().__init__()
        self._shard_of = shard_of

    def expand(self, listings):
        return (
            listings
            | "ReadListing" >> beam.FlatMap(self._read)
            | "GroupByShard" >> beam.GroupByKey()
            | "References" >> beam.MapTuple(lambda shard, blocks: (shard, sort_by_key(blocks)))
        )

    def _read(self, listing: str) -> Iterator[tuple[Any, bytes]]:
        return pack_blocks(read_listing(listing), self._shard_of)


def _commit_listing(summaries: Iterable[ListingSummary], summary_path: str) -> ListingSummary:
    merged = merge_listings(summaries)
    storage.write_json(summary_path, dataclasses.asdict(merged))
    return merged


def sort_by_key(blocks: Iterable[bytes]) -> list[ImageReference]:
    """The references of one shard, which `pack_blocks` packed, sorted by key."""
    return sorted(unpack_blocks(blocks, ImageReference), key=lambda reference: (reference.key, reference.uri))
