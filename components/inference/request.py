"""The request of an inference job, and the summary of one finished shard."""

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
"""Left by a job that tried again what could not be read before, and still could not read it."""
STARTED_NAME = "_started.json"
"""Holds the time when the first attempt at a run began, while the run is under way."""
SUMMARIES_NAME = "_summaries"
"""Folder with one file for each finished shard, while a run is under way."""


@dataclasses.dataclass(frozen=True)
class InferenceRequest:
    """Everything that decides how a collection is recognised, and where the results go.

    Attributes:
        run_id: short digest of the inputs, the model and the options.
        folder: where files are written until the run is committed.
        destination: the run's folder among the predictions.
        rejects_folder, rejects_destination: the same for the rejects.
        counts: what is known of the listed images before any is read: all but `read` and `rejects`.
        shards: over how many shards they are spread.
        model_folder, model_id, height: the committed model, and the height of its lines.
        vertical: whether images are turned for the model, since their text runs from top to bottom.
        limits: which images are refused.
        max_reject_fraction: the share of images that may be left out.
        inputs: digest of the images.
        scored_at: time of the run, UTC; shards that a stopped command finished keep its time.
        processes: how many processes a worker may occupy.
        engine: scores batches; one of `components.recogniser.engines.ENGINES`.
        min_confidence: a row with less is marked for review.
        target_error: the share of wrong texts that is promised of the rows that are not; None if none is.
        error_factor: by which expected symbol errors are multiplied; None if the model's evaluation does not say.
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
    target_error: float | None = None
    error_factor: float | None = None
    decoding: Decoding = dataclasses.field(default_factory=Decoding)
    inputs: str = ""
    vertical: bool = False

    @property
    def images(self) -> int:
        """Number of images to recognise."""
        return self.counts.to_read

    @property
    def limits_of_lines(self) -> dict[str, int]:
        """The limits that decide whether an image can be read at all."""
        return describe_limits(self.limits, self.height, self.vertical)

    def reader(self, engine: str | None = None) -> RecogniserSpec:
        """Specifies the recogniser that was asked for, or the same with another engine."""
        return RecogniserSpec(self.model_folder, engine or self.engine, decoding=self.decoding)


def describe_limits(limits: ImageLimits, height: int, vertical: bool = False) -> dict[str, int]:
    """Describes for a manifest what decides whether an image can be read at all."""
    turned = {"vertical": 1} if vertical else {}
    return {**limits.describe(), "height": height, "decoder_version": _DECODER_VERSION, **turned}


@dataclasses.dataclass(frozen=True)
class RecognisedShard:
    """Summary of one finished shard: what became of its images.

    Attributes:
        index: which shard.
        inputs: digest of the shard's references.
        matched: how many there were; equals `rows` plus the rejects.
        rows, bytes, sha256: of the Parquet file of predictions; 0 rows, no file.
        rejects: images left out, by reason.
        confidence_sum: over the rows.
        needs_review: rows with less confidence than was asked for.
        confidence_histogram: rows by confidence, in `CONFIDENCE_BINS` bins of equal width.
        least_confident: confidence, URI and text of the `LEAST_CONFIDENT` least confident rows, by these.
        figures: how the shard was recognised: `engine`, `why` it was chosen, `model_load_s`, `batches`, `scoring_s`
            (the sum of the seconds that scoring and decoding each batch took), `slowest_batch_s`, `seconds` (of the
            shard).
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
