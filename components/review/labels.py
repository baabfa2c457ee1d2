"""Labels that are checked: each line's label against what a model that never saw it reads."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow

from components.ctc.decoding import Decoded, compute_label_log_probability, decode_greedily, pad_labels
from components.recogniser.batches import BATCH_LINES, BATCH_PIXELS
from components.recogniser.model import Recogniser
from tfrecords import decode_png, examples_to_record_batch

CHECKED_NAME = "labels.parquet"
CHECKED_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("label", pyarrow.string(), nullable=False),
        pyarrow.field("reading", pyarrow.string(), nullable=False),
        pyarrow.field("label_log_probability", pyarrow.float64(), nullable=False),
        pyarrow.field("reading_log_probability", pyarrow.float64(), nullable=False),
    ]
)
_RECORDS_AT_A_TIME = 1000
_LEAST_LOG_PROBABILITY = -700.0  # that of a label which the network holds for impossible


@dataclasses.dataclass(frozen=True)
class CheckedLabel:
    """A label for a person to check.

    Attributes:
        uri: of the image.
        label: as it stands in the dataset.
        reading: of a model that did not train on the line.
        label_log_probability, reading_log_probability: natural logarithms of their posteriors by that model.
    """

    uri: str
    label: str
    reading: str
    label_log_probability: float
    reading_log_probability: float

    @property
    def label_confidence(self) -> float:
        """The posterior of the label, 0 to 1."""
        return math.exp(self.label_log_probability)

    @property
    def confidence(self) -> float:
        """The posterior of the reading, 0 to 1."""
        return math.exp(self.reading_log_probability)


def check_labels(records: Iterable[bytes], recogniser: Recogniser) -> pyarrow.Table:
    """Reads lines with a model that did not train on them, and computes the posteriors of their labels.

    Args:
        records: serialised examples.

    Returns:
        A row of `CHECKED_SCHEMA` for each line.

    Raises:
        DataError: if the model gives no numbers.
    """
    tables = [CHECKED_SCHEMA.empty_table()]
    records = iter(records)
    while examples := list(itertools.islice(records, _RECORDS_AT_A_TIME)):
        batch = examples_to_record_batch(examples)
        images, texts, uris = (
            batch.column(batch.schema.get_field_index(name)).flatten().to_pylist() for name in ("image", "text", "uri")
        )
        lines = sorted(zip(map(decode_png, images), texts, uris, strict=True), key=lambda line: line[0].shape[1])
        for pixels, labels, names in _make_batches(lines):
            tables.append(_check_batch(pixels, labels, names, recogniser))
    return pyarrow.concat_tables(tables)


def _make_batches(lines: Sequence[tuple[np.ndarray, bytes, bytes]]) -> Iterator[Any]:
    """Cuts lines, the narrowest first, into batches; yields the pixels, labels and URIs of each."""
    start = 0
    while start < len(lines):
        end = start + 1
        while end < len(lines) and (end + 1 - start) * lines[end][0].size <= BATCH_PIXELS and end - start < BATCH_LINES:
            end += 1
        pixels, labels, uris = zip(*lines[start:end], strict=True)
        yield pixels, [label.decode() for label in labels], [uri.decode() for uri in uris]
        start = end


def _check_batch(
    pixels: Sequence[np.ndarray], labels: Sequence[str], uris: Sequence[str], recogniser: Recogniser
) -> pyarrow.Table:
    ids = [recogniser.charset.encode(label) for label in labels]
    lengths = np.array([len(label) for label in ids])
    padded = pad_labels(np.concatenate(ids), lengths)

    def decode(logits: np.ndarray, time_steps: np.ndarray) -> tuple[list[Decoded], np.ndarray]:
        return decode_greedily(logits, time_steps), compute_label_log_probability(logits, time_steps, padded, lengths)

    readings, probabilities = recogniser.decode_with(decode, *recogniser.compute_logits(pixels))
    return pyarrow.table(
        [
            uris,
            labels,
            [recogniser.charset.decode(reading.ids) for reading in readings],
            np.maximum(probabilities, _LEAST_LOG_PROBABILITY),
            [reading.log_probability for reading in readings],
        ],
        CHECKED_SCHEMA,
    )


def find_suspects(checked: pyarrow.Table) -> list[CheckedLabel]:
    """Finds the labels that differ from what is read, the most likely wrong first, then by URI."""
    labels = (CheckedLabel(**row) for row in checked.to_pylist())
    suspects = [label for label in labels if label.label != label.reading]
    return sorted(suspects, key=lambda label: (label.label_log_probability - label.reading_log_probability, label.uri))
