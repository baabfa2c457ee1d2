"""Beam wiring of the inference job."""

from __future__ import annotations

import datetime
import functools

import apache_beam as beam

from components.inference.commit import commit_run
from components.inference.request import InferenceRequest, RecognisedShard
from components.inference.shards import recognise_record_shard, recognise_shard
from components.listing import ImageReference
from components.listing.shard_keys import get_shard_key
from components.listing.transforms import GroupByShard
from components.recogniser.handler import LineModelHandler, RecogniserDoFn
from components.transforms import GatherOnce
from tfrecords import ShardEntry, choose_shard


class RecogniseCollection(beam.PTransform):
    """Listing files to one committed run of predictions.

    Input:  paths of listing files.
    Output: None, once, when the run is committed or refused.
    """

    def __init__(self, request: InferenceRequest):
        super().__init__()
        self._request = request

    def expand(self, listings):
        return (
            listings
            | GroupByShard(self._shard_of)
            | "ReadShard" >> beam.ParDo(_RecogniseShard(self._request))
            | "CommitRun" >> GatherOnce(functools.partial(commit_run, request=self._request))
        )

    def _shard_of(self, reference: ImageReference) -> int:
        return choose_shard(get_shard_key(reference), self._request.shards)


class RecogniseDataset(beam.PTransform):
    """TFRecord files of a dataset to one committed run of predictions.

    Input:  `(index, ShardEntry)` of each file.
    Output: None, once, when the run is committed or refused.
    """

    def __init__(self, request: InferenceRequest, dataset_folder: str, made_at: datetime.datetime):
        super().__init__()
        self._request = request
        self._dataset_folder = dataset_folder
        self._made_at = made_at

    def expand(self, shards):
        return (
            shards
            | "ReadRecords" >> beam.ParDo(_RecogniseRecordShard(self._request, self._dataset_folder, self._made_at))
            | "CommitRun" >> GatherOnce(functools.partial(commit_run, request=self._request))
        )


class _Recognise(RecogniserDoFn):
    def __init__(self, request: InferenceRequest):
        super().__init__(LineModelHandler(request.model_folder, request.engine, decoding=request.decoding))
        self._request = request

    def count_images(self, summary: RecognisedShard) -> RecognisedShard:
        for counter, number in (
            ("images-matched", summary.matched),
            ("images-read", summary.rows),
            ("images-rejected", sum(summary.rejects.values())),
            ("bytes-written", summary.bytes),
        ):
            beam.metrics.Metrics.counter("infer", counter).inc(number)
        return summary


class _RecogniseShard(_Recognise):
    def process(self, element: tuple[int, list[ImageReference]]):
        yield self.count_images(recognise_shard(*element, self._request, self.recognise, self.about_model))


class _RecogniseRecordShard(_Recognise):
    def __init__(self, request: InferenceRequest, dataset_folder: str, made_at: datetime.datetime):
        super().__init__(request)
        self._dataset_folder = dataset_folder
        self._made_at = made_at

    def process(self, element: tuple[int, ShardEntry]):
        where = (self._dataset_folder, self._made_at)
        yield self.count_images(
            recognise_record_shard(*element, *where, self._request, self.recognise, self.about_model)
        )
