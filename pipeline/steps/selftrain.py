"""The selftrain step: the accepted model's most confident readings train a new one, beside the true labels."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from components.commit import Commit
from components.lines import digest_references
from components.listing import ImageReference
from components.predictions.sampling import sample_recognised_images
from components.recogniser.manifest import MODEL_VERSION, ModelManifest
from components.training.taught_labels import (
    TaughtLine,
    UnlabelledLine,
    label_confident_lines,
    read_unlabelled_lines,
    write_taught_dataset,
    write_taught_labels,
)
from pipeline.steps.estimate import estimate_time
from pipeline.steps.sound_runs import find_sound_runs
from pipeline.steps.step import Context, Outcome, Plan, StepResult, require_test_split
from pipeline.steps.train import (
    count_least_steps,
    describe_model,
    describe_request,
    find_model,
    make_request,
    measure_lines,
)
from pipeline.steps.training_apart import load_beside_training, train_apart
from pipeline.steps.training_start import Start, find_kept_symbols, find_start
from pipeline.workspace import ACCEPTED, LATEST, Unfinished, make_id, read_latest_dataset, read_model
from tfrecords import DataError, DatasetManifest, storage
from tfrecords.directions import describe_lines
from tfrecords.manifest import MANIFEST_NAME

log = logging.getLogger(__name__)

_SAMPLE_NAME = "sample.json"


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The model that teaches, the images that it teaches with, and the model to train.

    Attributes:
        teacher, teacher_folder: the accepted model.
        dataset, dataset_folder: the latest dataset.
        images: a sample of the images that committed runs read, and the dataset does not have.
        symbols: of a line of the dataset, on average.
        start: folder and manifest of the model whose weights are the start, if `--init_from` names one.
        kept: the symbols that the model knows beside those of the dataset.
        model_id: digest of all this.
        folder: of the committed model.
        unfinished: the folder of the rounds.
        committed: the committed model, if it is whole.
        damage: what is wrong with a committed one.
        finished_rounds: rounds that an earlier command finished.
        resumes: whether an earlier command left anything to resume from, its sample of images among it.
    """

    teacher: ModelManifest
    teacher_folder: str
    dataset: DatasetManifest
    dataset_folder: str
    images: list[ImageReference]
    symbols: float
    start: Start | None
    kept: str
    model_id: str
    folder: str
    unfinished: str
    committed: ModelManifest | None
    damage: str | None
    finished_rounds: int
    resumes: bool

    @property
    def outcome(self) -> Outcome:
        """The outcome for the model."""
        if self.committed is not None:
            return Outcome.REUSED
        if not self.images:
            return Outcome.NOTHING
        if self.damage is not None:
            return Outcome.REMADE
        return Outcome.RESUMED if self.resumes else Outcome.MADE


class SelftrainStep:
    """Trains a model on the labelled images and on the most confident readings of the accepted model."""

    name = "selftrain"
    place = "model"

    def run(self, context: Context) -> StepResult:
        """Commits the model, or finds it committed; the evaluate step decides whether it is used.

        Raises:
            DataError: if no model is accepted, or no images were recognised with it that could teach.
            TrainingLostError: if training workers were killed too often.
        """
        options, workspace = context.options, context.workspace
        resolved = _resolve(context)
        teacher_id = resolved.teacher.model_id
        figures: dict[str, Any] = {"teacher": teacher_id, "unlabelled": len(resolved.images)}
        if resolved.outcome is Outcome.NOTHING:
            return StepResult(_EXPLAIN_NOTHING, resolved.teacher_folder, figures, Outcome.NOTHING)
        manifest = resolved.committed
        if manifest is None:
            if resolved.damage is not None:
                log.warning(f"{resolved.damage}: it was damaged after it was committed, and is made again")
            manifest = _train_rounds(context, resolved)
            if manifest is None:
                storage.remove_folder(resolved.unfinished)
                summary = (
                    f"none of {len(resolved.images):,} unlabelled images can teach: model {teacher_id} reads nothing"
                )
                return StepResult(summary, resolved.teacher_folder, figures, Outcome.NOTHING)
        storage.remove_folder(resolved.unfinished)
        workspace.write_pointer("models", LATEST, manifest.model_id)
        taught = manifest.options["taught"]
        summary = (
            f"model {manifest.model_id}: {manifest.model}, on dataset {resolved.dataset.dataset_id} and on "
            f"{taught[-1]:,} of {len(resolved.images):,} unlabelled images, as model {teacher_id} taught it"
        )
        if resolved.committed is not None:
            summary += "; it was there already"
        if "evaluate" not in options.step_names:
            summary += "; --steps=evaluate decides whether it is used"
        figures |= {"model_id": manifest.model_id, "taught": taught}
        return StepResult(summary, resolved.folder, figures, resolved.outcome)

    def plan(self, context: Context) -> Plan:
        """Says which images would teach, and how many trainings that takes."""
        options, workspace = context.options, context.workspace
        if workspace.expects("datasets", LATEST):
            workspace.expect("models", LATEST, None)
            return Plan(None, ["on the dataset that the ingest step makes, and images that runs have read"])
        resolved = _resolve(context)
        if resolved.outcome is Outcome.NOTHING:
            return Plan(Outcome.NOTHING, [_EXPLAIN_NOTHING])
        workspace.expect("models", LATEST, resolved.model_id)
        requests = {number: _request(context, resolved, number) for number in range(1, options.selftrain_rounds + 1)}
        lines = [
            f"model {resolved.teacher.model_id} reads {len(resolved.images):,} unlabelled images; the most confident "
            "of these readings are labels, more of them each time",
            f"on these and the {resolved.dataset.examples('train'):,} labelled images of dataset "
            f"{resolved.dataset.dataset_id}, in {options.selftrain_rounds} trainings, one after the other",
            describe_request(requests[1]),
        ]
        if resolved.committed is not None:
            return Plan(Outcome.REUSED, [*lines, f"nothing to train: {resolved.folder} is there already"])
        if resolved.damage is not None:
            lines.append(f"{resolved.damage}: it was damaged after it was committed, and is made again")
        if resolved.resumes:
            lines.append(f"resume: {resolved.finished_rounds} of {options.selftrain_rounds} trainings are finished")
        lines.append(f"write model {resolved.model_id} to {resolved.folder}")
        image_epochs = sum(
            _count_lines(resolved, number, options.selftrain_rounds) * request["epochs"]
            for number, request in requests.items()
            if number > resolved.finished_rounds
        )
        lines.append(estimate_time(workspace, "train", "image_epochs", image_epochs))
        return Plan(resolved.outcome, lines)

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Returns 0: a speed in images a second is said by each epoch."""
        del figures
        return 0


_EXPLAIN_NOTHING = "no image can teach: every image that was read is in the dataset"


def _resolve(context: Context) -> _Resolved:
    """Determines the model that the accepted one teaches.

    Raises:
        DataError: if no model is accepted, none has recognised anything, or the dataset does not fit it.
    """
    options, workspace = context.options, context.workspace
    teacher_id = workspace.read_pointer("models", ACCEPTED)
    if teacher_id is None:
        raise DataError(
            f"no model in {workspace.root} has been accepted, and only such a one may teach: run the train and "
            "evaluate steps first (--steps=train,evaluate)"
        )
    teacher = read_model(workspace, teacher_id)
    dataset_id, dataset_folder, dataset = read_latest_dataset(workspace)
    if teacher.height != dataset.height:
        raise DataError(
            f"model {teacher_id} reads lines of height {teacher.height}, but those of dataset {dataset_id} are "
            f"{dataset.height} pixels high: train a model on it first (--steps=train,evaluate)"
        )
    if teacher.vertical != dataset.vertical:
        raise DataError(
            f"model {teacher_id} reads {describe_lines(teacher.vertical)}, but dataset {dataset_id} has "
            f"{describe_lines(dataset.vertical)}: train a model on it first (--steps=train,evaluate)"
        )
    if not dataset.examples("train"):
        raise DataError(f"the train split of dataset {dataset_id} is empty: ingest more images")
    if "evaluate" in options.step_names:
        require_test_split(dataset)
    runs = find_sound_runs(context)
    if not runs:
        raise DataError(
            f"nothing was read yet in {workspace.root}, so that no reading can teach: run the infer step first "
            "(--steps=infer --infer_images=FOLDER)"
        )
    symbols = measure_lines(dataset.read_statistics(dataset_folder))
    start = find_start(options, workspace, dataset, dataset_folder, symbols)
    kept = find_kept_symbols(options, start, dataset, dataset_folder)
    asked = {
        "version": MODEL_VERSION,
        "teacher": teacher_id,
        "dataset_id": dataset_id,
        "images": options.selftrain_images,
        "rounds": options.selftrain_rounds,
        "limits": options.image_limits.describe(),
        **make_request(options, dataset.examples("train"), symbols, start, kept),
    }
    unfinished = workspace.unfinished(Unfinished.SELF_TRAINING, make_id(**asked))
    names = () if options.resume == "never" else storage.list_names(unfinished)
    if _SAMPLE_NAME in names:  # images that were read meanwhile do not change what is resumed
        listed = storage.read_json(storage.join(unfinished, _SAMPLE_NAME))
        images = [ImageReference(uri, "", size, modified) for uri, size, modified in listed]
    else:
        images = sample_recognised_images(
            [path for run in runs for path in run.files],
            options.selftrain_images,
            without=[storage.join(dataset_folder, shard.name) for shard in dataset.shards],
        )
    model_id = make_id(**asked, sample=digest_references(images))
    folder = workspace.model(model_id)
    committed, damage = find_model(folder)
    finished = 0
    while names and storage.exists(storage.join(unfinished, _name_round(finished + 1), MANIFEST_NAME)):
        finished += 1
    return _Resolved(
        teacher=teacher,
        teacher_folder=workspace.model(teacher_id),
        dataset=dataset,
        dataset_folder=dataset_folder,
        images=images,
        symbols=symbols,
        start=start,
        kept=kept,
        model_id=model_id,
        folder=folder,
        unfinished=unfinished,
        committed=committed,
        damage=damage,
        finished_rounds=finished,
        resumes=bool(names),
    )


def _name_round(number: int) -> str:
    return f"round-{number}"


def _count_lines(resolved: _Resolved, number: int, rounds: int) -> int:
    """Counts the lines that a round trains on, if all of its readings can be labels."""
    return resolved.dataset.examples("train") + math.ceil(number / (rounds + 1) * len(resolved.images))


def _request(context: Context, resolved: _Resolved, number: int) -> dict[str, Any]:
    """Returns the network and the settings of a round's training."""
    lines = _count_lines(resolved, number, context.options.selftrain_rounds)
    return make_request(context.options, lines, resolved.symbols, resolved.start, resolved.kept)


def _train_rounds(context: Context, resolved: _Resolved) -> ModelManifest | None:
    """Trains one model after the other, each on confident readings of the one before, and commits the last.

    Returns:
        The last model; None if no reading was confident.
    """
    options, work = context.options, resolved.unfinished
    if options.resume == "never":
        storage.remove_folder(work)
    sample = [(image.uri, image.size_bytes, image.modified_us) for image in resolved.images]
    storage.write_json(storage.join(work, _SAMPLE_NAME), sample)
    dataset = resolved.dataset
    lines, gone = read_unlabelled_lines(resolved.images, dataset.height, options.image_limits, dataset.vertical)
    if gone:
        log.warning(f"{gone:,} of {len(resolved.images):,} images cannot be read any more, and are left out")
    if not lines:
        raise DataError(
            f"none of the {len(resolved.images):,} images that were recognised can be read any more, "
            f"{resolved.images[0].uri} among them: no image can teach"
        )
    reader, model = resolved.teacher_folder, resolved.teacher
    for number in range(1, options.selftrain_rounds + 1):
        folder = storage.join(work, _name_round(number))
        if number > resolved.finished_rounds:
            share = number / (options.selftrain_rounds + 1)
            taught = _label(resolved, lines, reader, share)
            if not taught:
                if number == 1:
                    return None
                log.warning(f"model {model.model_id} reads nothing: the model before it is kept")
                break
            log.info(
                f"training {number} of {options.selftrain_rounds}, on {len(taught):,} of {len(lines):,} readings of "
                f"model {model.model_id}, those of which it is most confident"
            )
            _train_round(context, resolved, taught, model, number)
        reader, model = folder, ModelManifest.read(folder)
    manifest = dataclasses.replace(model, model_id=resolved.model_id)
    Commit(reader, resolved.folder, MANIFEST_NAME).finish(manifest)
    return manifest


def _label(resolved: _Resolved, lines: Sequence[UnlabelledLine], model_folder: str, share: float) -> list[TaughtLine]:
    """Labels the share of the unlabelled lines of which a model is most confident."""
    recogniser = load_beside_training(model_folder)
    charset = resolved.dataset.read_charset(resolved.dataset_folder)
    return label_confident_lines(lines, recogniser, charset, share)


def _train_round(
    context: Context, resolved: _Resolved, taught: Sequence[TaughtLine], teacher: ModelManifest, number: int
) -> None:
    """Trains one model, and leaves it in the folder of its round.

    Args:
        taught: the lines, labelled by the teacher.
        number: of the round, from 1.
    """
    options, work = context.options, resolved.unfinished
    dataset = resolved.dataset
    request = _request(context, resolved, number)
    labels = [(one.line.uri, one.text) for one in taught]
    charset = dataset.read_charset(resolved.dataset_folder)

    def write_dataset(folder: str) -> None:
        write_taught_dataset(folder, resolved.dataset_folder, dataset, charset, taught)

    with train_apart(
        options,
        storage.join(work, f"training-{number}-{make_id(labels=labels)}"),
        request,
        least_steps=count_least_steps(request, resolved.symbols, resolved.start),
        write_dataset=write_dataset,
        start=resolved.start,
    ) as trained:
        output = trained["output_folder"]
        write_taught_labels(output, taught, teacher.model_id)
        counts = [*teacher.options["taught"], len(taught)] if number > 1 else [len(taught)]
        how = {
            **request,
            "learning_rate": trained["learning_rate"],
            "teacher": resolved.teacher.model_id,
            "taught": counts,
        }
        manifest = describe_model(output, f"{resolved.model_id}-{number}", how, dataset, resolved.dataset_folder)
        finished = storage.join(work, _name_round(number))
        storage.remove_folder(finished)
        storage.copy_folder(output, finished)
        manifest.write(finished)
