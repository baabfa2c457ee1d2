"""Beam wiring of the ingest job."""

from __future__ import annotations

import functools

import apache_beam as beam

from components.ingest.dataset import (
    IngestRequest,
    ShardSummary,
    commit_dataset,
    describe_written_shard,
    settle,
    write_training_shard,
)
from components.listing import ImageReference
from components.listing.transforms import GatherOnce, GroupByShard
from tfrecords import SplitFractions, shard_index, split_of


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
            | GroupByShard(self._shard_of)
            | "WriteTrainingShard" >> beam.MapTuple(self._write)
            | "ReadBack" >> beam.FlatMap(functools.partial(describe_written_shard, request=self._request))
            | "GroupByPlace" >> beam.GroupByKey()
            | "Settle" >> beam.MapTuple(functools.partial(settle, request=self._request))
            | "CommitDataset" >> GatherOnce(functools.partial(commit_dataset, request=self._request))
        )

    def _shard_of(self, reference: ImageReference) -> tuple[str, int]:
        split = split_of(reference.split_key, self._fractions)
        return split, shard_index(reference.key, self._request.shards[split])

    def _write(self, shard: tuple[str, int], references: list[ImageReference]) -> ShardSummary:
        summary = write_training_shard(shard, references, self._request)
        for counter, count in (
            ("images-matched", summary.matched),
            ("examples-written", summary.examples),
            ("images-rejected", sum(summary.rejects.values())),
            ("bytes-written", summary.bytes),
        ):
            beam.metrics.Metrics.counter("ingest", counter).inc(count)
        return summary
