"""The traces that an image left in a workspace, and the search for them in one file each."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow

from components.lineage.names import CANDIDATES, ImageName
from components.predictions.runs import CommittedRun, open_predictions
from components.review.given_out import ReviewManifest
from components.review.table import TABLE_NAME
from tfrecords import ShardEntry, read_labels, storage

_READING = ("run_id", "model_id", "scored_at", "text", "confidence", "needs_review")
_REJECT = ("step", "reason", "detail", "run_id", "at")


@dataclasses.dataclass(frozen=True)
class Example:
    """An image with its label in a dataset.

    Attributes:
        dataset_id: of the dataset.
        split: `train`, `validation` or `test`.
        label: as the dataset has it.
    """

    dataset_id: str
    split: str
    label: str


@dataclasses.dataclass(frozen=True)
class TaughtLabel:
    """A label that a model gave the image, and with which another one was trained.

    Attributes:
        model_id: of the model that was trained.
        teacher_id: of the one that read the image.
        label: what that one read.
    """

    model_id: str
    teacher_id: str
    label: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """A row of the predictions, with the run that read it first.

    Attributes:
        at: ISO 8601, UTC.
        run_id: of the run that read it.
        merged_into: the run that holds the row now; None if that is the same.
        model_id: of the model.
        text, confidence, needs_review: as the row has them.
    """

    at: str
    run_id: str
    merged_into: str | None
    model_id: str
    text: str
    confidence: float
    needs_review: bool


@dataclasses.dataclass(frozen=True)
class RejectRow:
    """A row of the rejects.

    Attributes:
        at: ISO 8601, UTC.
        step: that left the image out.
        run_id: of the run, or of the dataset.
        reason, detail: as the row has them.
    """

    at: str
    step: str
    run_id: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class GivenOut:
    """A text that a review gave a person to correct.

    Attributes:
        review_id, created_at: of the review.
        dataset_id: to which its corrections are to be added.
        origin: the model that read the text, or `given_out.LABEL` for a label.
        text: as it was given out.
        table: the path of the review table.
    """

    review_id: str
    created_at: str
    dataset_id: str
    origin: str
    text: str
    table: str


Trace = Example | TaughtLabel | Reading | RejectRow | GivenOut
Found = tuple[str, Trace]
"""The URI of an image, and a trace of it."""


def find_examples(name: ImageName, folder: str, dataset_id: str, shard: ShardEntry) -> list[Found]:
    """Finds an image in one file of a dataset.

    Raises:
        DataError: if the file is damaged.
    """
    found: list[Found] = []
    for uris, labels in read_labels(storage.join(folder, shard.name)):
        found += [
            (uris[place].as_py(), Example(dataset_id, shard.split, labels[place].as_py()))
            for place in name.find(pyarrow.chunked_array([uris])).tolist()
        ]
    return found


def find_readings(name: ImageName, run: CommittedRun, path: str) -> list[Found]:
    """Finds an image in one file of a run's predictions."""
    return [
        (
            row["uri"],
            Reading(
                _format_time(row["scored_at"]),
                row["run_id"],
                run.run_id if row["run_id"] != run.run_id else None,
                row["model_id"],
                row["text"],
                row["confidence"],
                row["needs_review"],
            ),
        )
        for row in _find_rows(name, path, _READING)
    ]


def find_rejects(name: ImageName, path: str) -> list[Found]:
    """Finds an image in one file of rejects."""
    return [
        (row["uri"], RejectRow(_format_time(row["at"]), row["step"], row["run_id"], row["reason"], row["detail"]))
        for row in _find_rows(name, path, _REJECT)
    ]


def find_taught_labels(name: ImageName, model_id: str, path: str) -> list[Found]:
    """Finds an image among the lines that a model learned from another one's readings."""
    return [
        (row["uri"], TaughtLabel(model_id, row["model_id"], row["text"]))
        for row in _find_rows(name, path, ("model_id", "text"))
    ]


def find_given_out(name: ImageName, folder: str, review: ReviewManifest) -> list[Found]:
    """Finds an image in what a review gave out."""
    uris = pyarrow.chunked_array([[uri for uri, _, _ in review.given_out]], pyarrow.string())
    rows = [review.given_out[place] for place in name.find(uris).tolist()]
    table = storage.join(folder, TABLE_NAME)
    return [
        (uri, GivenOut(review.review_id, review.created_at, review.dataset_id, origin, text, table))
        for uri, origin, text in rows
    ]


def _find_rows(name: ImageName, path: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields the rows of an image in a Parquet file; reads other columns than `uri` only where there are any."""
    with open_predictions(path) as parquet:
        for group in range(parquet.num_row_groups):
            places = name.find(parquet.read_row_group(group, columns=["uri"]).column("uri"))
            if len(places):
                yield from parquet.read_row_group(group, columns=["uri", *columns]).take(places).to_pylist()


def _format_time(at: datetime.datetime) -> str:
    return at.isoformat(timespec="seconds")


class Collector:
    """The traces of every image that a name may stand for; of more than `CANDIDATES` which it ends, of some."""

    def __init__(self, name: ImageName) -> None:
        self._name = name
        self._traces: dict[str, list[Trace]] = {}

    def add(self, found: Iterable[Found]) -> None:
        """Takes in what was found in one place."""
        for uri, trace in found:
            if uri in self._traces or uri in self._name.exact or len(self._traces) <= CANDIDATES:
                self._traces.setdefault(uri, []).append(trace)

    def choose(self) -> tuple[str, list[Trace]] | None:
        """Returns the URI and the traces of the image that the name stands for; None if there is none.

        Raises:
            DataError: if it may stand for several.
        """
        uri = self._name.choose(self._traces)
        return None if uri is None else (uri, self._traces[uri])
