"""Beam wiring of the ingest job."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from components.ingest.addition import OldDataset, OldPlace, read_places
from components.ingest.dataset import (
    IngestRequest,
    ShardSummary,
    commit_dataset,
    copy_training_shard,
    describe_or_find_twins,
    describe_written_shard,
    write_training_shard,
)
from components.listing import ImageReference, read_listing
from components.listing.shard_keys import get_shard_key
from components.listing.transforms import GroupByShard, sort_to_read
from components.transforms import CallPrepared, GatherOnce, pack_blocks, unpack_blocks
from tfrecords import DataError, SplitFractions, choose_shard
from tfrecords.shards import choose_shard_count


class WriteDataset(beam.PTransform):
    """Listing files to one committed dataset.

    Input:  paths of listing files, with labels.
    Output: None, once, when the dataset is committed or refused.
    """

    def __init__(self, request: IngestRequest, fractions: SplitFractions):
        super().__init__()
        self._request = request
        self._fractions = fractions

    def expand(self, listings):
        return (
            listings
            | GroupByShard(functools.partial(_new_shard, request=self._request, fractions=self._fractions))
            | "WriteTrainingShard" >> beam.ParDo(CallPrepared(functools.partial(_write, request=self._request)))
            | "Commit" >> _DescribeAndCommit(self._request)
        )


class AddToDataset(beam.PTransform):
    """Listing files, and the shards of a committed dataset, to one committed dataset of both.

    The images of both meet where a hash of their URI sends them, so that one which is in both
    goes to the old shard that has it.

    Input:  `("listing", path)` of every listing file, with labels, and `("shard", (split, index))` of every shard of
            the old dataset of `request`.
    Output: None, once, when the dataset is committed or refused.
    """

    def __init__(self, request: IngestRequest, old: OldDataset, fractions: SplitFractions):
        super().__init__()
        self._request = request
        self._old = old
        self._fractions = fractions
        self._places = choose_shard_count((request.images + old.examples) // 8)  # larger than shards: only names meet

    def expand(self, sources):
        return (
            sources
            | "ReadSource" >> beam.FlatMapTuple(self._read)
            | "GroupByUri" >> beam.GroupByKey()
            | "Match" >> beam.FlatMapTuple(self._match)
            | "GroupByShard" >> beam.GroupByKey()
            | "WriteTrainingShard" >> beam.ParDo(CallPrepared(self._write))
            | "Commit" >> _DescribeAndCommit(self._request)
        )

    def _read(self, kind: str, source: Any) -> Iterator[tuple[int, tuple[str, Any]]]:
        def place_of(image: ImageReference | OldPlace) -> int:
            return choose_shard(image.uri, self._places)

        if kind == "listing":
            for place, block in pack_blocks(read_listing(source), place_of):
                yield place, ("image", block)
            return
        split, index = source
        yield index % self._places, ("shard", (split, index))  # which is copied, whether an image replaces one of its
        for place, block in pack_blocks(read_places(self._old, split, index), place_of):
            yield place, ("old", block)

    def _match(self, _place: int, tagged: Iterable[tuple[str, Any]]) -> Iterator[tuple[tuple[str, int], bytes]]:
        tagged = list(tagged)
        for kind, shard in tagged:
            if kind == "shard":
                yield shard, b""
        images = unpack_blocks((block for kind, block in tagged if kind == "image"), ImageReference)
        old = unpack_blocks((block for kind, block in tagged if kind == "old"), OldPlace)
        old_shards = {place.uri: (place.split, place.number) for place in old}

        def shard_of(image: ImageReference) -> tuple[str, int]:
            old_shard = old_shards.get(image.uri)
            if old_shard is not None and image.split in ("validation", "test") and image.split != old_shard[0]:
                raise DataError(
                    f"{image.uri} is in the {old_shard[0]} split of dataset {self._old.dataset_id}, but is given the "
                    f"{image.split} split now, and an image stays in its split: make a dataset of all images without "
                    "--add_to, or leave this one out"
                )
            return old_shard or _new_shard(image, self._request, self._fractions)

        yield from pack_blocks(images, shard_of)

    def _write(self, shard: tuple[str, int], blocks: Iterable[bytes]) -> ShardSummary:
        return _write(shard, sort_to_read(filter(None, blocks)), self._request)


class _DescribeAndCommit(beam.PTransform):
    """Summaries of written shards to one committed dataset."""

    def __init__(self, request: IngestRequest):
        super().__init__()
        self._request = request

    def expand(self, summaries):
        return (
            summaries
            | "ReadBack" >> beam.FlatMap(functools.partial(describe_written_shard, request=self._request))
            | "GroupByPlace" >> beam.GroupByKey()
            | "MergeOrFindTwins" >> beam.MapTuple(functools.partial(describe_or_find_twins, request=self._request))
            | "CommitDataset" >> GatherOnce(functools.partial(commit_dataset, request=self._request))
        )


def _new_shard(reference: ImageReference, request: IngestRequest, fractions: SplitFractions) -> tuple[str, int]:
    """Chooses the shard of an image that is in no old one."""
    split = reference.choose_split(fractions)
    old = request.count_old_shards(split)
    return split, old + choose_shard(get_shard_key(reference), request.shards[split] - old)


def _write(shard: tuple[str, int], references: list[ImageReference], request: IngestRequest) -> ShardSummary:
    split, index = shard
    write = copy_training_shard if index < request.count_old_shards(split) else write_training_shard
    summary = write(shard, references, request)
    for counter, count in (
        ("images-matched", summary.matched),
        ("examples-written", summary.examples),
        ("images-rejected", sum(summary.rejects.values())),
        ("bytes-written", summary.bytes),
    ):
        beam.metrics.Metrics.counter("ingest", counter).inc(count)
    return summary
