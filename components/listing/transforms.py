"""Beam wiring of the listing job, and of reading listings and gathering summaries in the others."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam

from components.listing.collection import ImageReference, ListingSummary, merge_listings, read_listing, write_listing
from tfrecords import SplitFractions, storage


class ListCollection(beam.PTransform):
    """Folders to listing files, and their summary at `summary_path`.

    Input:  `(roots, destination)`: folders or files, and the listing file to write.
    Output: the merged `ListingSummary`, once; it is also written as JSON to `summary_path`.
    """

    def __init__(self, summary_path: str, label_source: str | None, fractions: SplitFractions):
        super().__init__()
        self._summary_path = summary_path
        self._write = functools.partial(write_listing, label_source=label_source, fractions=fractions)

    def expand(self, roots):
        return roots | "ListFolders" >> beam.MapTuple(self._write) | GatherOnce(self._commit)

    def _commit(self, summaries: Iterable[ListingSummary]) -> ListingSummary:
        merged = merge_listings(summaries)
        storage.write_json(self._summary_path, dataclasses.asdict(merged))
        return merged


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
            | "ReadListing" >> beam.FlatMap(read_listing)
            | "KeyByShard" >> beam.Map(lambda reference: (self._shard_of(reference), dataclasses.astuple(reference)))
            | "GroupByShard" >> beam.GroupByKey()
            | "References"
            >> beam.MapTuple(lambda shard, rows: (shard, sorted((ImageReference(*row) for row in rows), key=_order)))
        )


class GatherOnce(beam.PTransform):
    """Every element at one place: the last step of a job, which commits what the job did."""

    def __init__(self, commit: Callable[[Iterable[Any]], Any]):
        super().__init__()
        self._commit = commit

    def expand(self, summaries):
        return (
            summaries
            | "Together" >> beam.Map(lambda summary: (None, summary))
            | "Gather" >> beam.GroupByKey()
            | "Commit" >> beam.MapTuple(lambda _, gathered: self._commit(gathered))
        )


def _order(reference: ImageReference) -> tuple[str, str]:
    return reference.key, reference.uri
