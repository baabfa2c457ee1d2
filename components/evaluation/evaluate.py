"""Reading the held-out images of a dataset with a model, and saying how well it was done."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow

from components.evaluation.metrics import ErrorCounts, expected_calibration_error
from components.inference.handler import Reading
from components.inference.scoring import read_lines
from tfrecords import ShardEntry, decode_png, read_record_batches, storage

EVALUATION_NAME = "evaluation.json"
READINGS_NAME = "test_readings.parquet"
PICTURE_NAME = "predictions.png"

_SHOWN = 16

_READINGS_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("truth", pyarrow.string(), nullable=False),
        pyarrow.field("text", pyarrow.string(), nullable=False),
        pyarrow.field("confidence", pyarrow.float32(), nullable=False),
        pyarrow.field("symbol_errors", pyarrow.int32(), nullable=False),
    ]
)


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """What is evaluated, and where the result goes.

    Attributes:
        dataset_folder, dataset_id: of a committed dataset; its test split is read.
        model_id: of the model that reads.
        examples: how many the test split holds.
        folder: for `evaluation.json`, `test_readings.parquet` and `predictions.png`.
    """

    dataset_folder: str
    dataset_id: str
    model_id: str
    examples: int
    folder: str


@dataclasses.dataclass(frozen=True)
class EvaluatedLine:
    """One test line: what it says, what was read, and its pixels as PNG if it may be shown."""

    uri: str
    truth: str
    text: str
    confidence: float
    png: bytes | None

    @property
    def right(self) -> bool:
        """Whether it was read without any error."""
        return self.truth == self.text


def read_test_shard(
    shard: ShardEntry, request: EvaluationRequest, read: Callable[[Sequence[np.ndarray]], Iterable[Reading]]
) -> list[EvaluatedLine]:
    """Reads one TFRecord file of the test split, sorted by URI.

    Raises:
        DataError: if the file is damaged.
    """
    readings: list[EvaluatedLine] = []
    for batch in read_record_batches(storage.join(request.dataset_folder, shard.name)):
        images, texts, uris = (
            batch.column(batch.schema.get_field_index(name)).flatten().to_pylist() for name in ("image", "text", "uri")
        )
        lines = ((i, decode_png(image)) for i, image in enumerate(images))
        for i, reading in read_lines(lines, read):
            readings.append(
                EvaluatedLine(uris[i].decode(), texts[i].decode(), reading.text, reading.confidence, images[i])
            )
    readings.sort(key=lambda reading: reading.uri)
    shown = {id(reading) for right in (True, False) for reading in [r for r in readings if r.right == right][:_SHOWN]}
    return [reading if id(reading) in shown else dataclasses.replace(reading, png=None) for reading in readings]


def commit_evaluation(shards: Iterable[list[EvaluatedLine]], request: EvaluationRequest) -> None:
    """Writes the figures, every reading, and a picture of 16, at least half of them wrong if so many are."""
    readings = sorted((reading for shard in shards for reading in shard), key=lambda reading: reading.uri)
    if len(readings) != request.examples:
        raise RuntimeError(f"the test split has {request.examples} examples, but {len(readings)} were read")
    errors = [ErrorCounts.of(reading.truth, reading.text) for reading in readings]
    total = sum(errors, ErrorCounts())
    table = pyarrow.table(
        {
            "uri": [reading.uri for reading in readings],
            "truth": [reading.truth for reading in readings],
            "text": [reading.text for reading in readings],
            "confidence": [reading.confidence for reading in readings],
            "symbol_errors": [error.symbol_errors for error in errors],
        },
        schema=_READINGS_SCHEMA,
    )
    storage.write_parquet(storage.join(request.folder, READINGS_NAME), table)
    _write_picture(readings, storage.join(request.folder, PICTURE_NAME))
    storage.write_json(
        storage.join(request.folder, EVALUATION_NAME),
        {
            "dataset_id": request.dataset_id,
            "model_id": request.model_id,
            "images": total.images,
            "cer": total.cer,
            "wer": total.wer,
            "exact_match": total.exact_match,
            "counts": dataclasses.asdict(total),
            "mean_confidence": sum(reading.confidence for reading in readings) / max(len(readings), 1),
            "expected_calibration_error": expected_calibration_error(
                [reading.confidence for reading in readings], [reading.right for reading in readings]
            ),
        },
    )


def _write_picture(readings: Sequence[EvaluatedLine], path: str) -> None:
    from components.plots import plot_predictions

    candidates = [reading for reading in readings if reading.png is not None]
    wrong = [reading for reading in candidates if not reading.right]
    right = [reading for reading in candidates if reading.right]
    shown = wrong[: max(_SHOWN // 2, _SHOWN - len(right))]
    shown += right[: _SHOWN - len(shown)]
    with tempfile.TemporaryDirectory() as scratch:
        local = os.path.join(scratch, PICTURE_NAME)
        plot_predictions(
            [(decode_png(reading.png or b""), reading.truth, reading.text, reading.confidence) for reading in shown],
            local,
        )
        storage.copy_file(local, path)
