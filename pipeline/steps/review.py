"""The review step: the least confident readings, given to a person to correct."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable, Iterator
from typing import Any

from components.recogniser.manifest import ModelManifest
from components.review.page import choose_with_images, mark_doubtful, render_page
from components.review.selection import find_least_confident, read_details
from components.review.table import MANIFEST_NAME, PAGE_NAME, TABLE_NAME, format_table, split_row
from pipeline.options import LinePipelineOptions
from pipeline.steps.runs import find_sound_runs
from pipeline.steps.step import Context, StepResult
from pipeline.workspace import ACCEPTED, LATEST, Workspace, make_id
from tfrecords import DataError, DatasetManifest, storage

# Giving out


def write_review(
    options: LinePipelineOptions, workspace: Workspace, say: Callable[[str], None]
) -> tuple[str, str, dict[str, Any]]:
    """Commits a review of the least confident readings that no review gave out yet.

    Returns:
        A sentence, the review's folder, and figures.

    Raises:
        DataError: if nothing was read yet, or the dataset to which corrections are to be added is gone.
    """
    runs = find_sound_runs(workspace, say)
    if not runs:
        raise DataError(f"nothing was read yet in {workspace.root}: run the infer step first (--steps=infer)")
    dataset_id, dataset = _find_dataset_to_correct(workspace)
    given = _read_given_out(workspace)
    say(f"looking for the {options.review_count:,} least confident readings of {len(runs):,} runs")
    records = [storage.join(workspace.dataset(dataset_id), shard.name) for shard in dataset.shards]
    waiting = (
        reading
        for reading in find_least_confident([path for run in runs for path in run.files], records)
        if (reading.uri, reading.model_id, reading.text) not in given
    )
    chosen, gone = choose_with_images(waiting, options.review_count, options.image_limits)
    figures: dict[str, Any] = {"images": len(chosen), "runs": len(runs), "dataset_id": dataset_id, "unreadable": gone}
    if gone:
        say(f"warning: {gone:,} images that were to be reviewed cannot be read any more, and are left out")
    if not chosen:
        summary = "nothing is left to review: every image that was read is in the dataset, or was given out before"
        return summary, storage.join(workspace.root, "review"), figures
    readings = [reading for reading, _ in chosen]
    review_id = make_id(dataset=dataset_id, readings=[(each.uri, each.run_id) for each in readings])
    folder = workspace.unfinished(f"review-{review_id}")
    storage.remove_folder(folder)
    details = read_details(readings)
    rows = [
        split_row(reading, [other["text"] for other in detail["alternatives"]], dataset_id)
        for reading, detail in zip(readings, details, strict=True)
    ]
    storage.write_bytes(storage.join(folder, TABLE_NAME), format_table(rows).encode())
    lines = [
        {
            "source": f"data:image/png;base64,{base64.b64encode(png).decode()}",
            "text": reading.text,
            "read": mark_doubtful(reading.text, detail["symbol_confidences"]),
            "confidence": reading.confidence,
            "alternatives": [other["text"] for other in detail["alternatives"]],
            "uri": reading.uri,
            "before": before,
            "after": after,
        }
        for (reading, png), detail, (before, _, after) in zip(chosen, details, rows, strict=True)
    ]
    page = render_page(review_id=review_id, dataset_id=dataset_id, lines=lines)
    storage.write_bytes(storage.join(folder, PAGE_NAME), page.encode())
    destination = storage.join(workspace.root, "review", review_id)
    manifest = {
        "review_id": review_id,
        "dataset_id": dataset_id,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "given_out": [[each.uri, each.model_id, each.text] for each in readings],
    }
    storage.write_json(storage.join(folder, MANIFEST_NAME), manifest)
    storage.move_folder(folder, destination)
    least, most = readings[0].confidence, readings[-1].confidence
    summary = (
        f"review {review_id}: {len(readings):,} images with confidences from {least:.3f} to {most:.3f}, to be added to "
        f"dataset {dataset_id} when they are corrected"
    )
    return summary, destination, {**figures, "review_id": review_id, "confidences": [least, most]}


def _read_given_out(workspace: Workspace) -> set[tuple[str, str, str]]:
    """URI, model and text of every reading of a committed review: a person has had it."""
    parent = storage.join(workspace.root, "review")
    given: set[tuple[str, str, str]] = set()
    for name in storage.list_names(parent):
        try:
            manifest = storage.read_json(storage.join(parent, name, MANIFEST_NAME))
        except (FileNotFoundError, NotADirectoryError):
            continue
        given.update((uri, model_id, text) for uri, model_id, text in manifest["given_out"])
    return given


def _find_dataset_to_correct(workspace: Workspace) -> tuple[str, DatasetManifest]:
    """What corrections are added to: the dataset of the model in use, or the latest one if that grew out of it."""
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
    """A dataset, the one that it was added to, and so on."""
    while dataset_id is not None:
        yield dataset_id
        try:
            dataset_id = DatasetManifest.read(workspace.dataset(dataset_id)).added_to
        except FileNotFoundError:
            return


def review(context: Context) -> StepResult:
    """The least confident readings as a table and a page, for a person to correct.

    Raises:
        DataError: if nothing was read yet, or the dataset that the model was trained on is gone.
    """
    return StepResult("review", *write_review(context.options, context.workspace, context.say))
