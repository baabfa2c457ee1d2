"""What a collection is recognised with, and what becomes of one shard of it."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from components.counts import Counts
from components.ctc.decoders import Decoding
from components.recogniser.model import RecogniserSpec
from tfrecords import ImageLimits

_DECODER_VERSION = 1  # raised when images are read that were rejected before: all rejected ones are then tried again
UNCHANGED_NAME = "unchanged.json"
"""What a job leaves that has tried to read what could not be read before, and could not."""
STARTED_NAME = "_started.json"
"""When the first attempt at a run began, while it is under way."""
SUMMARIES_NAME = "_summaries"
"""Of each finished shard, while a run is under way."""


@dataclasses.dataclass(frozen=True)
class InferenceRequest:
    """What a collection is read with.

    Attributes:
        run_id: short digest of the inputs, the model and the options.
        folder: where files are written until the run is committed.
        destination: the run's folder among the predictions.
        rejects_folder, rejects_destination: the same of what is left out.
        counts: what is known of the listed images before any is read: all but `read` and `rejects`.
        shards: over how many shards they are spread.
        model_folder, model_id, height: the committed model, and the height of its lines.
        limits: which images are refused.
        max_reject_fraction: the share of images that may be left out.
        inputs: digest of what is read.
        scored_at: time of the run, UTC; shards that a stopped run had finished keep that run's.
        processes: how many processes a worker may occupy.
        engine: what scores batches, one of `components.recogniser.engines.ENGINES`.
        min_confidence: a row with less is marked for review.
        decoding: how logits become text.
    """

    run_id: str
    folder: str
    destination: str
    rejects_folder: str
    rejects_destination: str
    counts: Counts
    shards: int
    model_folder: str
    model_id: str
    height: int
    limits: ImageLimits
    max_reject_fraction: float
    scored_at: datetime.datetime
    processes: int = 1
    engine: str = "auto"
    min_confidence: float = 0.0
    decoding: Decoding = dataclasses.field(default_factory=Decoding)
    inputs: str = ""

    @property
    def images(self) -> int:
        """How many images are to be read."""
        return self.counts.to_read

    @property
    def limits_of_lines(self) -> dict[str, int]:
        """What decides whether an image can be read at all."""
        return describe_limits(self.limits, self.height)

    def reader(self, engine: str | None = None) -> RecogniserSpec:
        """What reads lines as asked for, or with another engine."""
        return RecogniserSpec(self.model_folder, engine or self.engine, decoding=self.decoding)


def describe_limits(limits: ImageLimits, height: int) -> dict[str, int]:
    """What decides whether an image can be read at all, as manifests have it."""
    return {**dataclasses.asdict(limits), "height": height, "decoder_version": _DECODER_VERSION}


@dataclasses.dataclass(frozen=True)
class RecognisedShard:
    """What became of the images of one shard.

    Attributes:
        index: which shard.
        inputs: digest of the references that were read.
        matched: how many there were; equals `rows` plus the rejects.
        rows, bytes, sha256: of the Parquet file of predictions; 0 rows, no file.
        rejects: images left out, by reason.
        confidence_sum: over the rows.
        needs_review: rows whose confidence is below the one asked for.
        confidence_histogram: rows by confidence, in `CONFIDENCE_BINS` bins of equal width.
        least_confident: confidence, URI and text of the `LEAST_CONFIDENT` least confident rows, by these.
        figures: how it was read: `engine`, `why` it was chosen, `model_load_s`, `batches`, `scoring_s` (the sum of
            the seconds that each batch took to be scored and decoded), `slowest_batch_s`, `seconds` (of the shard).
    """

    index: int
    inputs: str
    matched: int
    rows: int
    bytes: int
    sha256: str
    rejects: dict[str, int]
    confidence_sum: float
    needs_review: int
    confidence_histogram: list[int]
    least_confident: list[list[Any]]
    figures: dict[str, Any] = dataclasses.field(compare=False)
