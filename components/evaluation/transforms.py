"""Beam wiring of the evaluation job."""

from __future__ import annotations

import functools

import apache_beam as beam

from components.evaluation.evaluate import EvaluationRequest, commit_evaluation, recognise_test_shard
from components.recogniser.handler import LineModelHandler, RecogniserDoFn
from components.transforms import GatherOnce
from tfrecords import ShardEntry


class EvaluateModel(beam.PTransform):
    """The evaluation of a model on the test shards of a dataset.

    Input:  `ShardEntry` of each TFRecord file of the test split.
    Output: None, once, when the evaluation is written. A shard passes on the pixels of only a few
            lines, which may be shown.
    """

    def __init__(self, request: EvaluationRequest, handler: LineModelHandler):
        super().__init__()
        self._request = request
        self._handler = handler

    def expand(self, shards):
        return (
            shards
            | "ReadTestShard" >> beam.ParDo(_RecogniseTestShard(self._handler, self._request))
            | "CommitEvaluation" >> GatherOnce(functools.partial(commit_evaluation, request=self._request))
        )


class _RecogniseTestShard(RecogniserDoFn):
    """The step that recognises one shard; the model stays loaded between shards."""

    def __init__(self, handler: LineModelHandler, request: EvaluationRequest):
        super().__init__(handler)
        self._request = request

    def process(self, element: ShardEntry):
        readings = recognise_test_shard(element, self._request, self.recognise)
        beam.metrics.Metrics.counter("evaluate", "lines-read").inc(readings.rows)
        beam.metrics.Metrics.counter("evaluate", "bytes-written").inc(readings.bytes)
        yield readings
