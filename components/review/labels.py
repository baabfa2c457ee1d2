"""Labels that are checked: each line's label against what a model that never saw it reads."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow
from rapidfuzz.distance import Levenshtein

from components.ctc.decoding import Emissions, compute_posteriors, decode_greedily, pad_labels
from components.lines import read_example_lines
from components.recogniser.batches import collect_batches
from components.recogniser.model import Recogniser

CHECKED_NAME = "labels.parquet"
CHECKED_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("label", pyarrow.string(), nullable=False),
        pyarrow.field("reading", pyarrow.string(), nullable=False),
        pyarrow.field("label_log_probability", pyarrow.float64(), nullable=False),
        pyarrow.field("reading_log_probability", pyarrow.float64(), nullable=False),
        pyarrow.field("suspicion", pyarrow.float64(), nullable=False),
    ]
)
_LEAST_LOG_PROBABILITY = -700.0  # that of a label which the network holds for impossible
_MOST_CORRECTIONS = 12  # of one label, each posterior of which is computed
_COST_OF_EDIT = 6.0  # natural logarithms


@dataclasses.dataclass(frozen=True)
class CheckedLabel:
    """A label for a person to check.

    Attributes:
        uri: of the image.
        label: as it stands in the dataset.
        reading: of a model that did not train on the line.
        label_log_probability, reading_log_probability: natural logarithms of their posteriors by that model.
        suspicion: by how much a correction makes the label more probable, in natural logarithms; 0 if the label is
            what was read. See `_measure_suspicions`.
    """

    uri: str
    label: str
    reading: str
    label_log_probability: float
    reading_log_probability: float
    suspicion: float

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
    for batch in collect_batches(read_example_lines(records)):
        described, pixels = zip(*batch, strict=True)
        labels, uris = zip(*described, strict=True)
        tables.append(_check_batch(pixels, labels, uris, recogniser))
    return pyarrow.concat_tables(tables)


def _check_batch(
    pixels: Sequence[np.ndarray], labels: Sequence[str], uris: Sequence[str], recogniser: Recogniser
) -> pyarrow.Table:
    charset = recogniser.charset

    def check(logits: np.ndarray, time_steps: np.ndarray) -> tuple[list[str], list[float], list[float], list[float]]:
        decoded = decode_greedily(logits, time_steps)
        readings = [charset.decode(line.ids) for line in decoded]
        # The posteriors of every label, and of what single corrections towards the reading make of it.
        texts = [[label, *_correct_once(label, reading)] for label, reading in zip(labels, readings, strict=True)]
        ids = [charset.encode(text) for several in texts for text in several]
        lengths, counts = np.array(list(map(len, ids))), np.array(list(map(len, texts)))
        posteriors = compute_posteriors(
            Emissions.from_logits(logits, time_steps),
            pad_labels(np.concatenate(ids), lengths),
            lengths,
            np.repeat(np.arange(len(labels)), counts),
        )
        bounds = itertools.pairwise([0, *np.cumsum(counts)])
        groups = [np.maximum(posteriors[start:end], _LEAST_LOG_PROBABILITY).tolist() for start, end in bounds]
        of_readings = [line.log_probability for line in decoded]
        suspicions = _measure_suspicions(labels, readings, groups, of_readings)
        return readings, [group[0] for group in groups], of_readings, suspicions

    readings, *columns = recogniser.decode_with(check, *recogniser.compute_logits(pixels))
    return pyarrow.table([list(uris), list(labels), readings, *columns], CHECKED_SCHEMA)


def _correct_once(label: str, reading: str) -> list[str]:
    """Lists the texts that a label becomes if it is made the reading in one place; edits side by side are one place."""
    places: list[list[int]] = []
    for step in Levenshtein.opcodes(label, reading):
        if step.tag == "equal":
            continue
        if places and step.src_start - places[-1][1] <= 1:
            places[-1][1], places[-1][3] = step.src_end, step.dest_end
        else:
            places.append([step.src_start, step.src_end, step.dest_start, step.dest_end])
    return [label[:start] + reading[first:last] + label[end:] for start, end, first, last in places[:_MOST_CORRECTIONS]]


def _measure_suspicions(
    labels: Sequence[str], readings: Sequence[str], posteriors: Sequence[list[float]], of_readings: Sequence[float]
) -> list[float]:
    """Measures how likely labels are wrong.

    A label with one wrong symbol becomes far more probable by one correction, however uncertain the rest of the line
    is. A label of another image becomes so by many at once. A label that is right becomes a little more probable
    wherever the network misreads the line. So the greatest gain of a single correction counts, or that of all edits
    together, less a cost for each edit but the first.

    Args:
        posteriors: natural logarithms, of each label, and behind it of its single corrections.
        of_readings: natural logarithms of the readings' posteriors.
    """
    suspicions = []
    for label, reading, (own, *corrected), of_reading in zip(labels, readings, posteriors, of_readings, strict=True):
        if label == reading:
            suspicions.append(0.0)
            continue
        edits = Levenshtein.distance(label, reading)
        suspicions.append(max(of_reading - own - _COST_OF_EDIT * (edits - 1), *(one - own for one in corrected)))
    return suspicions


def find_suspects(checked: pyarrow.Table) -> list[CheckedLabel]:
    """Finds the labels that differ from what is read, the most likely wrong first, then by URI."""
    labels = (CheckedLabel(**row) for row in checked.to_pylist())
    suspects = [label for label in labels if label.label != label.reading]
    return sorted(suspects, key=lambda label: (-label.suspicion, label.uri))
