"""Beam wiring of the inference job."""

from __future__ import annotations

import functools

import apache_beam as beam
from apache_beam.utils.shared import Shared

from components.inference.handler import LineModelHandler
from components.inference.predictions import InferenceRequest, ReadSummary, commit_run, read_shard
from components.listing import ImageReference
from components.listing.transforms import GatherOnce, GroupByShard
from tfrecords import shard_index


class ReadCollection(beam.PTransform):
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
            | "ReadShard" >> beam.ParDo(_ReadShard(self._request))
            | "CommitRun" >> GatherOnce(functools.partial(commit_run, request=self._request))
        )

    def _shard_of(self, reference: ImageReference) -> int:
        return shard_index(reference.key, self._request.shards)


class ModelDoFn(beam.DoFn):
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


class _ReadShard(ModelDoFn):
    def __init__(self, request: InferenceRequest):
        super().__init__(LineModelHandler(request.model_folder))
        self._request = request

    def process(self, element: tuple[int, list[ImageReference]]):
        summary: ReadSummary = read_shard(*element, self._request, self.read)
        for counter, count in (
            ("images-matched", summary.matched),
            ("images-read", summary.rows),
            ("images-rejected", sum(summary.rejects.values())),
            ("bytes-written", summary.bytes),
        ):
            beam.metrics.Metrics.counter("infer", counter).inc(count)
        yield summary
