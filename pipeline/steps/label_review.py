"""The review of labels: it gives the labels that are most likely wrong to a person to correct.

Every line of the latest dataset is read by a model that did not train on it. A label that this model holds for
improbable, while it is sure of another text, is likely wrong.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet

from components.commit import Commit
from components.review.folds import LEAST_LINES, Fold, choose_folds
from components.review.given_out import LABEL, MANIFEST_NAME, ReviewManifest, find_check, read_given_out
from components.review.labels import CHECKED_NAME, CheckedLabel, check_labels, find_suspects
from components.review.page import choose_with_images, mark_differing, write_table_and_page
from components.review.table import ReviewRow
from components.training.diagnosis import get_lowest_cer, has_never_begun
from pipeline.steps.estimate import estimate_time
from pipeline.steps.repeated_training import read_epochs
from pipeline.steps.step import Context, Outcome, Plan, StepResult, get_now
from pipeline.steps.train import count_least_steps, describe_model, make_request, measure_lines
from pipeline.steps.training_apart import load_beside_training, train_apart
from pipeline.steps.training_start import Start, find_base_start
from pipeline.workspace import LATEST, Unfinished, make_id, read_latest_dataset
from tfrecords import DataError, storage

log = logging.getLogger(__name__)
_CHECK_VERSION = 1
"""Goes into the IDs of checks: raised when the same dataset and options would give another result."""


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The check of the latest dataset's labels.

    Attributes:
        folds: parts of the dataset, each of which is read by a model of the others.
        request: the network, and how it is trained.
        start: folder and manifest of the model whose weights are the start, if there is one.
        least_steps: steps before which `--patience` does not end a training.
        check_id: digest of the dataset and the request.
        reviewed: the folder of a committed review that was chosen from this check, if there is one.
        unfinished: the folder of the check that is under way.
        finished: the folds that an earlier command finished, by their files.
        resumes: whether an earlier command left anything to resume from.
    """

    folds: tuple[Fold, ...]
    request: dict[str, Any]
    start: Start | None
    least_steps: int
    check_id: str
    reviewed: str | None
    unfinished: str
    finished: tuple[str, ...]
    resumes: bool

    @property
    def outcome(self) -> Outcome:
        """The outcome for the review."""
        return Outcome.RESUMED if self.resumes and self.reviewed is None else Outcome.MADE

    @property
    def dataset_id(self) -> str:
        """The dataset whose labels are checked, and to which corrections are added."""
        return self.folds[0].manifest.dataset_id

    @property
    def lines(self) -> int:
        """Number of lines of the dataset."""
        return sum(self.folds[0].manifest.counts.values())


def review_labels(context: Context) -> StepResult:
    """Commits a review of labels.

    Raises:
        DataError: if there is no dataset, too small a one, or a damaged one.
        TrainingLostError: if training workers were killed too often.
    """
    options, workspace = context.options, context.workspace
    resolved = _resolve(context)
    dataset_id = resolved.dataset_id
    checked = _read_or_check(context, resolved)
    suspects = find_suspects(checked)
    waiting = _leave_out_given(context, suspects)
    vertical = resolved.folds[0].manifest.vertical
    chosen, gone = choose_with_images(waiting, options.review_count, options.image_limits, vertical)
    figures: dict[str, Any] = {
        "images": len(chosen),
        "dataset_id": dataset_id,
        "checked": resolved.lines,
        "read_differently": len(suspects),
        "unreadable": gone,
    }
    if gone:
        log.warning(f"{gone:,} images that were to be reviewed cannot be read any more, and are left out")
    if not chosen and resolved.reviewed is not None:
        summary = "nothing is left to review: every label that is likely wrong was given out before"
        return StepResult(summary, storage.join(workspace.root, "review"), figures, Outcome.NOTHING)
    labels = [label for label, _ in chosen]
    review_id = make_id(check=resolved.check_id, labels=[(label.uri, label.label) for label in labels])
    folder = workspace.unfinished(Unfinished.REVIEW, review_id)
    storage.remove_folder(folder)
    storage.write_parquet(storage.join(folder, CHECKED_NAME), checked)
    rows, lines = [], []
    for label, picture in chosen:
        origin = ("", f"{LABEL} check {resolved.check_id}", dataset_id)
        rows.append(ReviewRow(label.uri, label.label, label.confidence, label.reading, [], *origin))
        lines.append(
            {
                "picture": picture,
                "read": mark_differing(label.reading, label.label),
                "reading": label.reading,
                "confidence": label.confidence,
                "alternatives": [],
                "label": mark_differing(label.label, label.reading),
                "label_confidence": label.label_confidence,
            }
        )
    write_table_and_page(
        folder, rows, lines, review_id=review_id, dataset_id=dataset_id, of_labels=True, vertical=vertical
    )
    manifest = ReviewManifest(
        review_id,
        dataset_id,
        get_now().isoformat(timespec="seconds"),
        given_out=[[label.uri, LABEL, label.label] for label in labels],
        check_id=resolved.check_id,
    )
    destination = storage.join(workspace.root, "review", review_id)
    Commit(folder, destination, MANIFEST_NAME).finish(manifest)
    storage.remove_folder(resolved.unfinished)
    summary = (
        f"review {review_id}: {len(labels):,} labels that are most likely wrong, of {len(suspects):,} lines that are "
        f"read differently and {resolved.lines:,} in dataset {dataset_id}, to which corrections are to be added"
    )
    return StepResult(summary, destination, {**figures, "review_id": review_id}, resolved.outcome)


def plan_review_of_labels(context: Context) -> Plan:
    """Says how many labels would be given out, or what has to be trained before."""
    options, workspace = context.options, context.workspace
    if workspace.expects("datasets", LATEST):
        return Plan(None, [f"{options.review_count:,} labels of the dataset that the ingest step makes"])
    resolved = _resolve(context)
    folder = storage.join(workspace.root, "review")
    if resolved.reviewed is not None:
        suspects = find_suspects(_read_checked(resolved.reviewed))
        waiting = sum(1 for _ in itertools.islice(_leave_out_given(context, suspects), options.review_count))
        if not waiting:
            return Plan(Outcome.NOTHING, ["nothing is left to review"])
        lines = [f"give out the {waiting:,} next labels of dataset {resolved.dataset_id} that are likely wrong"]
        return Plan(resolved.outcome, [*lines, f"as a table and a page in {folder}; they were checked already"])
    left = len(resolved.folds) - len(resolved.finished)
    lines = [
        f"check the {resolved.lines:,} labels of dataset {resolved.dataset_id}: "
        f"each is read by a model that did not train on it; {left:,} of {len(resolved.folds):,} are to be trained",
        ", ".join(f"{name} {value}" for name, value in resolved.request.items() if value is not None),
        f"give out the {options.review_count:,} that are most likely wrong, as a table and a page in {folder}",
        estimate_time(workspace, "train", "image_epochs", _count_image_epochs(resolved)),
    ]
    return Plan(resolved.outcome, lines)


def _resolve(context: Context) -> _Resolved:
    """Determines the check that the latest dataset and the options make.

    Raises:
        DataError: if there is no dataset, or too small a one.
    """
    options, workspace = context.options, context.workspace
    dataset_id, dataset_folder, dataset = read_latest_dataset(workspace)
    lines = sum(dataset.counts.values())
    if lines < LEAST_LINES or not dataset.examples("train"):
        raise DataError(
            f"dataset {dataset_id} has {lines:,} lines: to check labels, models are trained on some of the lines to "
            f"read the others, and that takes at least {LEAST_LINES}"
        )
    count = choose_folds(lines)
    folds = tuple(Fold(dataset_folder, dataset, number, count) for number in range(count))
    symbols = measure_lines(dataset.read_statistics(dataset_folder))
    reviews = storage.join(workspace.root, "review")

    def make_check(start: Start | None) -> tuple[Start | None, dict[str, Any], str]:
        request = make_request(options, folds[0].count_training_lines(), symbols, start)
        request.pop("texts", None)  # labels are checked without a language model
        return start, request, make_id(version=_CHECK_VERSION, dataset_id=dataset_id, folds=count, **request)

    start, request, check_id = make_check(find_base_start(options, dataset, dataset_folder, symbols))
    if start is not None and find_check(reviews, check_id) is None:
        without = make_check(None)
        if find_check(reviews, without[-1]) is not None:  # by a version without base weights
            start, request, check_id = without
    unfinished = workspace.unfinished(Unfinished.LABEL_CHECK, check_id)
    names = () if options.resume == "never" else storage.list_names(unfinished)
    return _Resolved(
        folds=folds,
        request=request,
        start=start,
        least_steps=count_least_steps(request, symbols, start),
        check_id=check_id,
        reviewed=find_check(reviews, check_id),
        unfinished=unfinished,
        finished=tuple(name for name in names if name.endswith(".parquet")),
        resumes=bool(names),
    )


def _leave_out_given(context: Context, suspects: list[CheckedLabel]) -> Iterator[CheckedLabel]:
    """Leaves out the labels that a review gave out before, for this dataset or another."""
    given = read_given_out(storage.join(context.workspace.root, "review"))
    return (label for label in suspects if (label.uri, LABEL, label.label) not in given)


def _count_image_epochs(resolved: _Resolved) -> int:
    """Counts the images of all trainings that are left, as often as each is seen."""
    left = (fold for fold in resolved.folds if _name_part(fold) not in resolved.finished)
    return sum(fold.count_training_lines() for fold in left) * resolved.request["epochs"]


def _read_or_check(context: Context, resolved: _Resolved) -> pyarrow.Table:
    """Returns the lines with the posteriors of their labels, from an earlier review or by training."""
    if resolved.reviewed is not None:
        return _read_checked(resolved.reviewed)
    for fold in resolved.folds:
        if _name_part(fold) not in resolved.finished:
            log.info(
                f"training model {fold.number + 1} of {fold.folds}, which reads the lines that it does not train on"
            )
            _check_fold(context, resolved, fold)
    return pyarrow.concat_tables(
        _read_table(storage.join(resolved.unfinished, _name_part(fold))) for fold in resolved.folds
    )


def _read_checked(review: str) -> pyarrow.Table:
    return _read_table(storage.join(review, CHECKED_NAME))


def _read_table(path: str) -> pyarrow.Table:
    with storage.open_to_read(path) as file:
        return pyarrow.parquet.read_table(file)


def _name_part(fold: Fold) -> str:
    return f"labels-{fold.number}.parquet"


def _check_fold(context: Context, resolved: _Resolved, fold: Fold) -> None:
    """Trains a model on the other folds, reads this one with it, and keeps the result in the unfinished folder."""
    work = storage.join(resolved.unfinished, f"fold-{fold.number}")
    with train_apart(
        context.options,
        work,
        resolved.request,
        least_steps=resolved.least_steps,
        write_dataset=fold.write_training_dataset,
        start=resolved.start,
    ) as trained:
        if has_never_begun(epochs := read_epochs(trained), resolved.least_steps):
            raise DataError(
                f"a model that is to check the labels has not begun to read, its CER is {get_lowest_cer(epochs):.0%}: "
                "see whether the dataset's labels are those of its images at all, and whether a model can be trained "
                "on it (--steps=train)"
            )
        output = trained["output_folder"]
        model_id = f"{resolved.check_id}-{fold.number}"
        describe_model(output, model_id, resolved.request, fold.manifest, fold.folder).write(output)
        checked = check_labels(fold.read_own_records(), load_beside_training(output))
        storage.write_parquet(storage.join(resolved.unfinished, _name_part(fold)), checked)
