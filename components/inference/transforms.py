"""Beam wiring of the inference job."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.utils.shared import Shared

from components.inference.handler import LineModelHandler
from components.inference.merging import MergedFile, MergedSummary, MergeRequest, commit_merge, write_merged_file
from components.inference.predictions import (
    InferenceRequest,
    RecognisedShard,
    commit_run,
    recognise_record_shard,
    recognise_shard,
)
from components.inference.unread import SkipRule, UnreadSummary, keep_unread, list_identities, merge_unread
from components.listing import ImageReference
from components.listing.transforms import GatherOnce, GroupByShard
from tfrecords import ShardEntry, SplitFractions, choose_shard, storage


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
        return choose_shard(reference.key, self._request.shards)


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


class FindUnread(beam.PTransform):
    """Listing files, and files of committed runs, to listing files of the images that are to be read.

    Images meet where a digest of their identity sends them.

    Input:  a `Source` of every listing file, and of every file of predictions and rejects that counts.
    Output: the merged `UnreadSummary`, once; it is also written as JSON to `summary_path`.
    """

    def __init__(self, summary_path: str, destinations: list[str], read: SkipRule, fractions: SplitFractions):
        super().__init__()
        self._summary_path = summary_path
        self._destinations = destinations
        self._read = read
        self._fractions = fractions

    def expand(self, sources):
        return (
            sources
            | "ReadIdentities" >> beam.FlatMap(list_identities, places=len(self._destinations), read=self._read)
            | "GroupByPlace" >> beam.GroupByKey()
            | "KeepUnread" >> beam.MapTuple(self._keep)
            | "CommitUnread" >> GatherOnce(functools.partial(_commit_unread, summary_path=self._summary_path))
        )

    def _keep(self, place: int, blocks: Iterable[tuple[str, bytes, bytes]]) -> UnreadSummary:
        return keep_unread(blocks, self._destinations[place], self._fractions)


def _commit_unread(summaries: Iterable[UnreadSummary], summary_path: str) -> UnreadSummary:
    merged = merge_unread(summaries)
    storage.write_json(summary_path, dataclasses.asdict(merged))
    return merged


class MergeRuns(beam.PTransform):
    """Files of committed runs to runs that hold the rows of several.

    Input:  `(number, MergedFile)`: each file to write, and for which of the requests.
    Output: None, once, when all new runs are committed, and the runs removed that were merged.
    """

    def __init__(self, requests: Sequence[MergeRequest]):
        super().__init__()
        self._requests = requests

    def expand(self, files):
        return (
            files
            | "MergeFiles" >> beam.MapTuple(self._write)
            | "CommitMerges" >> GatherOnce(functools.partial(_commit_merges, requests=self._requests))
        )

    def _write(self, number: int, file: MergedFile) -> tuple[int, MergedSummary]:
        return number, write_merged_file(file, self._requests[number])


def _commit_merges(summaries: Iterable[tuple[int, MergedSummary]], requests: Sequence[MergeRequest]) -> None:
    written = list(summaries)
    for number, request in enumerate(requests):
        commit_merge([summary for of, summary in written if of == number], request)


class RecogniserDoFn(beam.DoFn):
    """A DoFn with a model that is loaded once in each worker process, whatever the number of threads."""

    def __init__(self, handler: LineModelHandler):
        self._handler = handler
        self._shared = Shared()

    def setup(self):
        """Loads the model, or finds it loaded."""
        self._model = self._shared.acquire(self._handler.load_model)

    def read(self, lines):
        """The readings of one batch of lines, in order."""
        return self._handler.run_inference(lines, self._model)

    @property
    def about_model(self) -> dict[str, Any]:
        """What reads, for a shard's figures."""
        engine = self._model.engine
        return {"engine": engine.name, "why": engine.why, "model_load_s": self._model.load_s}


class _Recognise(RecogniserDoFn):
    def __init__(self, request: InferenceRequest):
        super().__init__(LineModelHandler(request.model_folder, request.engine, decoding=request.decoding))
        self._request = request

    def count(self, summary: RecognisedShard) -> RecognisedShard:
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
        yield self.count(recognise_shard(*element, self._request, self.read, self.about_model))


class _RecogniseRecordShard(_Recognise):
    def __init__(self, request: InferenceRequest, dataset_folder: str, made_at: datetime.datetime):
        super().__init__(request)
        self._dataset_folder = dataset_folder
        self._made_at = made_at

    def process(self, element: tuple[int, ShardEntry]):
        where = (self._dataset_folder, self._made_at)
        yield self.count(recognise_record_shard(*element, *where, self._request, self.read, self.about_model))
