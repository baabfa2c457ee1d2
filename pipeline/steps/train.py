"""The train step: it turns the latest dataset into a committed model."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

from components.commit import Commit
from components.recogniser.manifest import (
    CALIBRATION_NAME,
    INT8_NAME,
    KERAS_NAME,
    LANGUAGE_MODEL_NAME,
    MODEL_VERSION,
    ONNX_NAME,
    SAVED_MODEL_NAME,
    Int8Trial,
    ModelManifest,
    describe_files,
    get_first_name,
)
from components.training.base_weights import FEW_IMAGES
from components.training.place import ClusterPlace
from components.training.recipes import LONG_LINE, RECIPES, TIME_STRIDE, choose_model
from pipeline.options import LinePipelineOptions
from pipeline.steps.estimate import estimate_time
from pipeline.steps.repeated_training import remove_checkpoints
from pipeline.steps.step import Context, Outcome, Plan, StepResult, get_now, require_test_split
from pipeline.steps.training_apart import train_from_start
from pipeline.steps.training_files import (
    compute_texts_checksum,
    fetch_dataset,
    open_training_folder,
)
from pipeline.steps.training_start import Start, find_kept_symbols, find_start, is_base, is_fine_tuning
from pipeline.workspace import LATEST, Unfinished, Workspace, make_id, read_latest_dataset
from tfrecords import DataError, DatasetManifest, storage
from tfrecords.manifest import CHARSET_NAME, MANIFEST_NAME

log = logging.getLogger(__name__)

_SHOWN = 30  # symbols


@dataclasses.dataclass(frozen=True)
class ResolvedTraining:
    """The model to train, and the dataset to train it on.

    Attributes:
        dataset, dataset_folder: the latest dataset.
        model_id: digest of the dataset and the request.
        request: the network, and how it is trained.
        choice: the reason for the network, if the step chose it; else None.
        least_steps: steps before which `--patience` does not end the training.
        start: folder and manifest of the model whose weights are the start, if there is one.
        symbols: of a training line, on average.
        folder: of the committed model.
        training: the folder of the training that is under way.
        checkpoints: its folder of checkpoints.
        committed: the committed model, if it is whole.
        damage: what is wrong with a committed one.
        resumes: whether an earlier command left a checkpoint to resume from.
    """

    dataset: DatasetManifest
    dataset_folder: str
    model_id: str
    request: dict[str, Any]
    choice: str | None
    least_steps: int
    start: Start | None
    symbols: float
    folder: str
    training: str
    checkpoints: str
    committed: ModelManifest | None
    damage: str | None
    resumes: bool

    @property
    def outcome(self) -> Outcome:
        """The outcome for the model."""
        if self.committed is not None:
            return Outcome.REUSED
        if self.damage is not None:
            return Outcome.REMADE
        return Outcome.RESUMED if self.resumes else Outcome.MADE


class TrainStep:
    """Trains a recogniser on the latest dataset."""

    name = "train"
    place = "model"

    def run(self, context: Context) -> StepResult:
        """Commits the model, or finds it committed; only helps to train on a node that is not the chief.

        Raises:
            TrainingLostError: if workers were killed too often.
        """
        options, workspace = context.options, context.workspace
        place = ClusterPlace.from_environment(os.environ)
        chief = place is None or place.is_chief
        resolved = resolve_training(options, workspace)
        model_id, request = resolved.model_id, resolved.request
        figures = {"model_id": model_id, **request}
        if resolved.committed is not None and not chief:
            summary = f"model {model_id} is there already: nothing is left to train"
            return StepResult(summary, resolved.folder, figures, Outcome.REUSED)
        manifest = resolved.committed
        if manifest is None:
            if resolved.damage is not None:  # it stays in use until the new one takes its place
                log.warning(f"{resolved.damage}: it was damaged after it was committed, and is made again")
            if resolved.choice is not None:
                log.info(resolved.choice)
            manifest = _train(options, workspace, resolved, place)
            if manifest is None:
                summary = f"this worker has trained its part of model {model_id}; the first worker commits it"
                return StepResult(summary, resolved.folder, figures, resolved.outcome)
        storage.remove_folder(resolved.training)
        workspace.write_pointer("models", LATEST, model_id)
        summary = (
            f"model {model_id}: {request['model']}, up to {request['epochs']} epochs on dataset "
            f"{resolved.dataset.dataset_id}"
        )
        if is_base(resolved.start):
            summary += ", from the base weights"
        elif resolved.start:
            summary += f", from the weights of model {resolved.start[1].model_id}"
        if resolved.committed is not None:
            summary += "; it was there already, trained on the very same dataset with the same options"
        image_epochs = resolved.dataset.examples("train") * request["epochs"]
        figures = {"model_id": model_id, **manifest.options, "image_epochs": image_epochs}
        return StepResult(summary, resolved.folder, figures, resolved.outcome)

    def plan(self, context: Context) -> Plan:
        """Says which dataset would be trained on, and how."""
        options, workspace = context.options, context.workspace
        if workspace.expects("datasets", LATEST):
            workspace.expect("models", LATEST, None)
            return Plan(
                None,
                ["on the dataset that the ingest step makes", f"write a model to {workspace.model('ID')}"],
            )
        resolved = resolve_training(options, workspace)
        workspace.expect("models", LATEST, resolved.model_id)
        dataset = resolved.dataset
        images = dataset.examples("train")
        lines = [
            f"on dataset {dataset.dataset_id}, {images:,} images, and {dataset.examples('validation'):,} to validate",
            describe_request(resolved.request),
        ]
        if resolved.committed is not None:
            reason = "trained on the very same dataset with the same options"
            return Plan(Outcome.REUSED, [*lines, f"nothing to train: {resolved.folder} is there already, {reason}"])
        if resolved.choice is not None:
            lines.append(resolved.choice)
        if resolved.damage is not None:
            lines.append(f"{resolved.damage}: it was damaged after it was committed, and is made again")
        if resolved.resumes:
            lines.append(f"resume from the last checkpoint in {resolved.checkpoints}")
        lines.append(f"write model {resolved.model_id} to {resolved.folder}")
        image_epochs = images * resolved.request["epochs"]
        lines.append(estimate_time(workspace, self.name, "image_epochs", image_epochs))
        return Plan(resolved.outcome, lines)

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Returns 0: a speed in images a second is said by each epoch."""
        del figures
        return 0


def resolve_training(options: LinePipelineOptions, workspace: Workspace) -> ResolvedTraining:
    """Determines the model that the latest dataset and the options make.

    Raises:
        DataError: if no dataset is committed, it cannot train the model, or be evaluated on if that is asked for too;
            or if the model of `--init_from` is not there, or is no start for it.
    """
    dataset_id, dataset_folder, dataset = read_latest_dataset(workspace)
    if not dataset.examples("train"):
        raise DataError(
            f"the train split of dataset {dataset_id} is empty: ingest more images, or more groups of them, or lower "
            "--validation_fraction and --test_fraction"
        )
    symbols = measure_lines(dataset.read_statistics(dataset_folder))
    images = dataset.examples("train")
    start = find_start(options, workspace, dataset, dataset_folder, symbols)
    kept = find_kept_symbols(options, start, dataset, dataset_folder)
    request = make_request(options, images, symbols, start, kept)
    model_id = _make_model_id(dataset_id, request)
    if start is not None and options.init_from is None and not workspace.holds("models", model_id):
        from_random = make_request(options, images, symbols, None)
        earlier = _make_model_id(dataset_id, from_random)
        if workspace.holds("models", earlier):  # by a version without base weights: it is found, and not made again
            start, request, model_id = None, from_random, earlier
    folder = workspace.model(model_id)
    committed, damage = find_model(folder)
    if committed is None and "evaluate" in options.step_names:
        require_test_split(dataset)
    training = workspace.unfinished(Unfinished.TRAINING, model_id)
    checkpoints = storage.join(training, "checkpoints")
    resumes = options.resume != "never" and bool(storage.list_names(checkpoints))
    return ResolvedTraining(
        dataset=dataset,
        dataset_folder=dataset_folder,
        model_id=model_id,
        request=request,
        choice=_explain_choice(options, request, symbols, start),
        least_steps=count_least_steps(request, symbols, start),
        start=start,
        symbols=symbols,
        folder=folder,
        training=training,
        checkpoints=checkpoints,
        committed=committed,
        damage=damage,
        resumes=resumes,
    )


def _make_model_id(dataset_id: str, request: dict[str, Any]) -> str:
    """Makes the ID of a model: the same one as ever for the same request."""
    hashed = {**request, "model": get_first_name(request["model"])}
    return make_id(version=MODEL_VERSION, dataset_id=dataset_id, **hashed)


def measure_lines(statistics: Mapping[str, Any]) -> float:
    """Measures the mean number of symbols of a training line that has any."""
    lengths = [pair for pair in statistics["splits"]["train"]["label_lengths"] if pair[0]]
    return sum(length * count for length, count in lengths) / max(1, sum(count for _, count in lengths))


def _explain_choice(
    options: LinePipelineOptions, request: Mapping[str, Any], symbols: float, start: Start | None
) -> str | None:
    """Says why a network was chosen, from what it starts and what it keeps; returns None if all was asked for."""
    parts, network = [], request["model"]
    if (kept := request.get("kept_symbols")) and start is not None and not options.charset:
        parts.append(
            f"the model keeps {len(kept)} symbols of model {start[1].model_id} that the dataset lacks "
            f"({' '.join(kept[:_SHOWN])}{' …' * (len(kept) > _SHOWN)}); --charset names others"
        )
    if options.network is None and not is_fine_tuning(start):
        comparison = "more" if symbols > LONG_LINE else "not more"
        parts.append(f"{network} is chosen: lines have {symbols:.0f} symbols on average, {comparison} than {LONG_LINE}")
    if options.init_from is None and start is not None:
        parts.append(
            f"training starts from the base weights, which were trained on rendered lines, since there are fewer than "
            f"{FEW_IMAGES} images to train on"
        )
    return "; ".join(parts) or None


def count_least_steps(request: dict[str, Any], symbols: float, start: Start | None) -> int:
    """Counts the steps before which `--patience` does not end a training; 0 if it starts from a trained model."""
    return 0 if is_fine_tuning(start) else RECIPES[request["model"]].count_least_steps(symbols)


def describe_request(request: Mapping[str, Any]) -> str:
    """Describes for a plan the network and its training settings."""
    shown = {**request, "kept_symbols": len(request.get("kept_symbols", "")) or None}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)


def make_request(
    options: LinePipelineOptions, images: int, symbols: float, start: Start | None, kept: str = ""
) -> dict[str, Any]:
    """Returns the network and its training settings, by flag: those that were asked for, or those of its recipe.

    Args:
        images: to train on.
        symbols: of a training line, on average.
        kept: symbols that the model knows beside those of the dataset.
    """
    network = options.network or (start[1].model if start else choose_model(symbols))
    recipe = RECIPES[network]
    slower = 1.0 if start is None else recipe.from_base if is_base(start) else recipe.fine_tuning
    batch_size = options.batch_size or recipe.batch_size
    epochs = options.epochs or recipe.epochs_for(images, batch_size, symbols)
    request = {
        "model": network,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": options.learning_rate or recipe.learning_rate * slower,
        "patience": options.patience or -(-epochs // 3),
        "seed": options.seed,
        "init_from": start[1].model_id if start else None,
    }
    if options.texts:  # only then, so that other models keep their IDs
        request["texts"] = compute_texts_checksum(options.texts)
    if kept:
        request["kept_symbols"] = kept
    return request


def find_model(folder: str) -> tuple[ModelManifest | None, str | None]:
    """Returns a committed model whose files are whole, or what is wrong with it; twice None if there is none."""
    try:
        manifest = ModelManifest.read(folder)
    except FileNotFoundError:
        return None, None
    needed = (KERAS_NAME, ONNX_NAME, INT8_NAME, SAVED_MODEL_NAME, LANGUAGE_MODEL_NAME, CHARSET_NAME)
    sizes = {name: described["bytes"] for name, described in manifest.files.items() if name.startswith(needed)}
    damage = storage.find_missing_or_changed(folder, sizes)
    return (manifest, None) if damage is None else (None, damage)


def _train(
    options: LinePipelineOptions, workspace: Workspace, resolved: ResolvedTraining, place: ClusterPlace | None
) -> ModelManifest | None:
    """Trains the model in processes of their own, and commits it; returns None on a node that is not the chief.

    A training in which reading never began is repeated with a lower learning rate, and the better model is kept.
    """
    chief = place is None or place.is_chief
    if options.resume == "never":
        remove_checkpoints(resolved.checkpoints)
    in_workspace = chief and not storage.is_remote(resolved.training)
    with open_training_folder(resolved.training if in_workspace else None) as scratch:
        trained = train_from_start(
            options,
            resolved.request,
            scratch,
            fetch_dataset(resolved.dataset_folder, resolved.dataset, scratch),
            resolved.checkpoints,
            least_steps=resolved.least_steps,
            start=resolved.start,
            place=place,
        )
        return _commit(workspace, resolved, trained) if chief else None


def _commit(workspace: Workspace, resolved: ResolvedTraining, trained: dict[str, Any]) -> ModelManifest:
    """Commits a trained model.

    Args:
        trained: the request of its training.
    """
    output, request = trained["output_folder"], {**resolved.request, "learning_rate": trained["learning_rate"]}
    manifest = describe_model(output, resolved.model_id, request, resolved.dataset, resolved.dataset_folder)
    unfinished = workspace.unfinished(Unfinished.MODEL, resolved.model_id)
    storage.remove_folder(unfinished)
    storage.copy_folder(output, unfinished)
    Commit(unfinished, resolved.folder, MANIFEST_NAME).finish(manifest)
    return manifest


def describe_model(
    output: str, model_id: str, request: dict[str, Any], dataset: DatasetManifest, dataset_folder: str
) -> ModelManifest:
    """Makes the manifest of a trained model, and writes its charset beside it.

    Args:
        output: the local folder to which the model was trained.
    """
    charset = dataset.read_charset(dataset_folder).add(request.get("kept_symbols", ""))
    storage.write_bytes(os.path.join(output, CHARSET_NAME), charset.to_file_text().encode())
    calibration = storage.read_json(os.path.join(output, CALIBRATION_NAME))
    return ModelManifest(
        model_id=model_id,
        dataset_id=dataset.dataset_id,
        model=request["model"],
        height=dataset.height,
        time_stride=TIME_STRIDE,
        temperature=calibration["temperature"],
        language_model=calibration["language_model"],
        int8=Int8Trial(**calibration["int8"]),
        charset_sha256=charset.digest,
        base_direction=charset.direction,
        vertical=dataset.vertical,
        options=request,
        files=describe_files(output),
        created_at=get_now().isoformat(),
    )
