"""The review step: it gives the least confident readings to a person to correct."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components.commit import Commit
from components.recogniser.manifest import ModelManifest
from components.review.given_out import MANIFEST_NAME, ReviewManifest, read_given_out
from components.review.page import choose_with_images, mark_doubtful, write_table_and_page
from components.review.selection import DoubtfulText, find_least_confident, read_details
from components.review.table import ReviewRow
from pipeline.steps.doubt import find_doubt
from pipeline.steps.label_review import plan_review_of_labels, review_labels
from pipeline.steps.sound_runs import find_sound_runs
from pipeline.steps.step import Context, Outcome, Plan, StepResult
from pipeline.workspace import ACCEPTED, LATEST, Unfinished, Workspace, make_id
from tfrecords import DataError, DatasetManifest, storage

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The readings that can be given to a person.

    Attributes:
        runs: number of committed runs.
        dataset_id: the dataset to which corrections are to be added.
        waiting: readings that no review gave out yet, the least confident first; doubtful ones alone, if the flags say
            what is doubtful.
        vertical: whether the text of the images runs from top to bottom.
    """

    runs: int
    dataset_id: str
    waiting: Iterator[DoubtfulText]
    vertical: bool


class ReviewStep:
    """Gives a person the least confident readings, which no review gave out yet, to correct."""

    name = "review"
    place = "review"

    def run(self, context: Context) -> StepResult:
        """Commits a review."""
        options, workspace = context.options, context.workspace
        if options.review == "labels":
            return review_labels(context)
        resolved = _resolve(context)
        dataset_id = resolved.dataset_id
        log.info(f"looking for the {options.review_count:,} least confident readings of {resolved.runs:,} runs")
        vertical = resolved.vertical
        chosen, gone = choose_with_images(resolved.waiting, options.review_count, options.image_limits, vertical)
        figures: dict[str, Any] = {
            "images": len(chosen),
            "runs": resolved.runs,
            "dataset_id": dataset_id,
            "unreadable": gone,
        }
        if gone:
            log.warning(f"{gone:,} images that were to be reviewed cannot be read any more, and are left out")
        if not chosen:
            summary = "nothing is left to review: every image that was read is in the dataset, or was given out before"
            if options.min_confidence:
                summary += f", or was read with at least --min_confidence={options.min_confidence:g}"
            if options.target_error is not None:
                summary += f", or is accepted under --target_error={options.target_error:g}"
            return StepResult(summary, storage.join(workspace.root, "review"), figures, Outcome.NOTHING)
        readings = [reading for reading, _ in chosen]
        review_id = make_id(dataset=dataset_id, readings=[(reading.uri, reading.run_id) for reading in readings])
        folder = workspace.unfinished(Unfinished.REVIEW, review_id)
        storage.remove_folder(folder)
        rows, lines = _describe_readings(chosen, dataset_id)
        write_table_and_page(folder, rows, lines, review_id=review_id, dataset_id=dataset_id, vertical=vertical)
        destination = storage.join(workspace.root, "review", review_id)
        created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        manifest = ReviewManifest(
            review_id,
            dataset_id,
            created_at,
            given_out=[[reading.uri, reading.model_id, reading.text] for reading in readings],
        )
        Commit(folder, destination, MANIFEST_NAME).finish(manifest)
        least, most = readings[0].confidence, readings[-1].confidence
        summary = (
            f"review {review_id}: {len(readings):,} images with confidences from {least:.3f} to {most:.3f}, to be "
            f"added to dataset {dataset_id} when they are corrected"
        )
        return StepResult(summary, destination, {**figures, "review_id": review_id, "confidences": [least, most]})

    def plan(self, context: Context) -> Plan:
        """Says how many images would be given out."""
        options, workspace = context.options, context.workspace
        if options.review == "labels":
            return plan_review_of_labels(context)
        if workspace.expects("predictions", LATEST):
            return Plan(None, [f"the {options.review_count:,} least confident readings, tonight's among them"])
        resolved = _resolve(context)
        waiting = sum(1 for _ in itertools.islice(resolved.waiting, options.review_count))
        folder = storage.join(workspace.root, "review")
        if not waiting:
            return Plan(Outcome.NOTHING, ["nothing is left to review"])
        lines = [
            f"give out the {waiting:,} least confident readings of {resolved.runs:,} runs that wait for a person",
            f"as a table and a page in {folder}, for dataset {resolved.dataset_id}",
        ]
        return Plan(Outcome.MADE, lines)

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Returns 0: a person's work takes longer than the step's."""
        del figures
        return 0


def _resolve(context: Context) -> _Resolved:
    """Finds the readings that wait for a person.

    Raises:
        DataError: if nothing was read yet, or the dataset to which corrections are to be added is gone.
    """
    workspace = context.workspace
    runs = find_sound_runs(context)
    if not runs:
        raise DataError(f"nothing was read yet in {workspace.root}: run the infer step first (--steps=infer)")
    dataset_id, dataset = _find_dataset_to_correct(workspace)
    given = read_given_out(storage.join(workspace.root, "review"))
    records = [storage.join(workspace.dataset(dataset_id), shard.name) for shard in dataset.shards]
    waiting: Iterator[DoubtfulText] = (
        reading
        for reading in find_least_confident([path for run in runs for path in run.files], records)
        if (reading.uri, reading.model_id, reading.text) not in given
    )
    if least := _find_least_confidence(context):  # whatever was asked for when they were read
        waiting = itertools.takewhile(lambda reading: np.float32(reading.confidence) < least, waiting)
    return _Resolved(len(runs), dataset_id, waiting, dataset.vertical)


def _find_least_confidence(context: Context) -> float:
    """Finds the confidence from which on readings are given to nobody; 0 if all may be."""
    model_id = context.workspace.read_pointer("models", ACCEPTED)
    if model_id is None:
        return context.options.min_confidence
    return find_doubt(context.options, context.workspace, model_id, None).least_confidence


def _describe_readings(
    chosen: Sequence[tuple[DoubtfulText, bytes]], dataset_id: str
) -> tuple[list[ReviewRow], list[dict[str, Any]]]:
    """Describes readings, each with its image as PNG, for the table and for the page."""
    details = read_details([reading for reading, _ in chosen])
    rows, lines = [], []
    for (reading, picture), detail in zip(chosen, details, strict=True):
        alternatives = [other["text"] for other in detail["alternatives"]]
        text, confidence = reading.text, reading.confidence
        rows.append(
            ReviewRow(reading.uri, text, confidence, text, alternatives, reading.run_id, reading.model_id, dataset_id)
        )
        lines.append(
            {
                "picture": picture,
                "read": mark_doubtful(text, detail["symbol_confidences"]),
                "confidence": confidence,
                "alternatives": alternatives,
            }
        )
    return rows, lines


def _find_dataset_to_correct(workspace: Workspace) -> tuple[str, DatasetManifest]:
    """Returns the dataset for corrections: that of the model in use, or the latest if that grew out of it."""
    model_id = workspace.read_pointer("models", ACCEPTED)
    latest = workspace.read_pointer("datasets", LATEST)
    of_model = None
    if model_id is not None:
        try:
            of_model = ModelManifest.read(workspace.model(model_id)).dataset_id
        except FileNotFoundError:
            raise DataError(
                f"model {model_id} is gone from {workspace.model(model_id)}: run the train and evaluate steps again"
            ) from None
    dataset_id = latest if of_model is None or of_model in _walk_ancestors(workspace, latest) else of_model
    if dataset_id is None:
        raise DataError(f"no dataset is committed in {workspace.root}: run the ingest step first (--steps=ingest)")
    try:
        return dataset_id, DatasetManifest.read(workspace.dataset(dataset_id))
    except FileNotFoundError:
        raise DataError(
            f"dataset {dataset_id}, to which corrections would be added, is gone from {workspace.dataset(dataset_id)}: "
            "run the ingest and train steps again"
        ) from None


def _walk_ancestors(workspace: Workspace, dataset_id: str | None) -> Iterator[str]:
    """Yields a dataset, the one that it was added to, and so on."""
    while dataset_id is not None:
        yield dataset_id
        try:
            dataset_id = DatasetManifest.read(workspace.dataset(dataset_id)).added_to
        except FileNotFoundError:
            return
