"""Beam wiring of the listing jobs, and of the reading of listings in other jobs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

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
from components.listing.name_matching import make_name_key
from components.listing.page_lines import PageRules
from components.listing.path_tables import PathTables
from components.listing.references import ImageReference
from components.listing.roots import Places
from components.listing.shard_keys import get_order
from components.listing.table_paths import NameRule, PathRule
from components.transforms import GatherOnce, pack_blocks, unpack_blocks
from tfrecords import SplitFractions, choose_shard, storage


class ListCollection(beam.PTransform):
    """The listing of folders and of tables of paths in listing files.

    Input:  `(roots, destination)`: folders, files or tables, and the listing file to write.
    Output: the merged `ListingSummary`, once; it is also written as JSON to `summary_path`.
    """

    def __init__(
        self,
        summary_path: str,
        labels: LabelRules | None,
        fractions: SplitFractions | None,
        places: Places | None = None,
        tables: PathTables | None = None,
        pages: PageRules | None = None,
    ):
        super().__init__()
        self._summary_path = summary_path
        self._write = functools.partial(
            write_listing, labels=labels, fractions=fractions, places=places, tables=tables, pages=pages
        )

    def expand(self, roots):
        return (
            roots
            | "ListFolders" >> beam.MapTuple(self._write)
            | "CommitListing" >> GatherOnce(functools.partial(_commit_listing, summary_path=self._summary_path))
        )


class ListOnce(beam.PTransform):
    """The merging of listing files of folders and of tables, after which each image is listed once.

    A hash of its place decides in which new file an image is compared with others.

    Input:  `("folders", path)` or `("table", path)` of every listing file.
    Output: the merged `ListingSummary`, once; it is also written as JSON to `summary_path`.
    """

    def __init__(self, summary_path: str, destinations: list[str], fractions: SplitFractions | None):
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
    """The joining of listing files and label tables, which gives listing files with labels.

    A hash of the image's place, or of its name where a table names images by that, decides in which new file an image
    and its row meet.

    Input:  `("listing", path)` of every listing file and `("table", number)` of every table of `rules`, whose
            paths lead where `path_rules` say.
    Output: the merged `ListingSummary`, once; it is also written as JSON to `summary_path`.
    """

    def __init__(
        self,
        summary_path: str,
        destinations: list[str],
        rules: LabelRules,
        fractions: SplitFractions | None,
        path_rules: Sequence[PathRule | NameRule | None] = (),
    ):
        super().__init__()
        self._summary_path = summary_path
        self._destinations = destinations
        self._rules = rules
        self._path_rules = path_rules
        self._by_name = any(isinstance(rule, NameRule) for rule in path_rules)
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

        def choose_place(uri: str) -> int:
            return choose_shard(make_name_key(uri) if self._by_name else normalise_for_join(uri), count)

        if kind == "table":
            path_rule = self._path_rules[source] if self._path_rules else None
            blocks = pack_blocks(read_label_rows(source, self._rules, path_rule), lambda row: choose_place(row.uri))
        else:
            blocks = pack_blocks(read_listing(source), lambda image: choose_place(locate_for_join(image)))
        for place, block in blocks:
            yield place, (kind, block)

    def _join(self, place: int, tagged: Iterable[tuple[str, bytes]]) -> ListingSummary:
        tagged = list(tagged)
        images = unpack_blocks((block for kind, block in tagged if kind == "listing"), ImageReference)
        rows = unpack_blocks((block for kind, block in tagged if kind == "table"), LabelRow)
        return join_labels(images, rows, self._destinations[place], self._rules, self._fractions)


class GroupByShard(beam.PTransform):
    """The grouping of references in listing files by shard.

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
            | "References" >> beam.MapTuple(lambda shard, blocks: (shard, sort_to_read(blocks)))
        )

    def _read(self, listing: str) -> Iterator[tuple[Any, bytes]]:
        return pack_blocks(read_listing(listing), self._shard_of)


def _commit_listing(summaries: Iterable[ListingSummary], summary_path: str) -> ListingSummary:
    merged = merge_listings(summaries)
    storage.write_json(summary_path, dataclasses.asdict(merged))
    return merged


def sort_to_read(blocks: Iterable[bytes]) -> list[ImageReference]:
    """Unpacks the references of one shard, which `pack_blocks` packed, in the order in which they are read."""
    return sorted(unpack_blocks(blocks, ImageReference), key=get_order)
