"""The train step: the latest dataset to a committed model."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from components.recogniser.manifest import (
    CALIBRATION_NAME,
    KERAS_NAME,
    ONNX_NAME,
    SAVED_MODEL_NAME,
    ModelManifest,
    describe_files,
    get_first_name,
)
from components.training.launcher import train_in_processes
from components.training.place import ClusterPlace
from components.training.recipes import DEFAULT_MODEL, RECIPES, TIME_STRIDE
from pipeline.options import LinePipelineOptions
from pipeline.steps.step import CODE_VERSION, Context, StepResult, get_now, require_test_split
from pipeline.workspace import LATEST, Workspace, make_id, read_latest_dataset
from tfrecords import DataError, DatasetManifest, storage
from tfrecords.manifest import CHARSET_NAME, suggest_remedy


def train(context: Context) -> StepResult:
    """The latest dataset to a committed model.

    Raises:
        DataError: if no dataset is committed, or it cannot train the model.
        TrainingLostError: if workers were killed too often.
    """
    options, workspace = context.options, context.workspace
    place = ClusterPlace.of(os.environ)
    chief = place is None or place.chief
    dataset_id, dataset_folder, dataset = read_latest_dataset(workspace)
    if not dataset.examples("train"):
        raise DataError(
            f"the train split of dataset {dataset_id} is empty: ingest more images, or more groups of them, or lower "
            "--validation_fraction and --test_fraction"
        )
    plan = plan_training(options, workspace, dataset_id, dataset)
    model_id, request, start = plan.model_id, plan.request, plan.start
    network, epochs = request["model"], request["epochs"]
    folder = workspace.model(model_id)
    found = find_intact_model(context, folder)
    if found is not None and not chief:
        summary = f"model {model_id} is there already: nothing is left to train"
        return StepResult("train", summary, folder, {"model_id": model_id, **request}, reused=True)
    if found is not None:
        manifest = found
    else:
        if "evaluate" in options.step_names:
            require_test_split(dataset)
        training = workspace.unfinished(f"training-{model_id}")
        checkpoints = storage.join(training, "checkpoints")
        if options.resume == "never":
            storage.remove_folder(checkpoints)
        with _open_training_folder(None if storage.is_remote(training) or not chief else training) as scratch:
            output = os.path.join(scratch, "model")
            storage.remove_folder(output)
            train_in_processes(
                {
                    **request,
                    "dataset_folder": _fetch_dataset(dataset_folder, dataset, scratch),
                    "output_folder": output,
                    "checkpoint_folder": checkpoints,
                    "init_from": _fetch_weights(*start, scratch) if start else None,
                    "init_symbols": start[1].read_charset(start[0]).symbols if start else (),
                },
                scratch,
                options.train_workers,
                restarts=options.train_restarts,
                place=place,
                say=context.say,
            )
            if not chief:
                summary = f"this worker has trained its part of model {model_id}; the first worker commits it"
                return StepResult("train", summary, folder, {"model_id": model_id, **request})
            storage.copy_file(storage.join(dataset_folder, CHARSET_NAME), os.path.join(output, CHARSET_NAME))
            manifest = ModelManifest(
                model_id=model_id,
                dataset_id=dataset_id,
                model=network,
                height=dataset.height,
                time_stride=TIME_STRIDE,
                temperature=storage.read_json(os.path.join(output, CALIBRATION_NAME))["temperature"],
                charset_sha256=dataset.charset_sha256,
                options=request,
                files=describe_files(output),
                created_at=get_now().isoformat(),
            )
            unfinished = workspace.unfinished(f"model-{model_id}")
            storage.remove_folder(unfinished)
            storage.copy_folder(output, unfinished)
            manifest.write(unfinished)
            storage.move_folder(unfinished, folder)
    storage.remove_folder(workspace.unfinished(f"training-{model_id}"))
    workspace.write_pointer("models", LATEST, model_id)
    summary = f"model {model_id}: {network}, up to {epochs} epochs on dataset {dataset_id}"
    if start:
        summary += f", from the weights of model {start[1].model_id}"
    if found is not None:
        summary += "; it was there already, trained on the very same dataset with the same options"
    figures = {"model_id": model_id, **manifest.options, "image_epochs": dataset.examples("train") * epochs}
    return StepResult("train", summary, folder, figures, reused=found is not None)


class TrainingPlan(NamedTuple):
    """What the train step is asked for.

    Attributes:
        model_id: digest of the rest.
        request: the network, and how it is trained.
        start: folder and manifest of the model whose weights are the start, if there is one.
    """

    model_id: str
    request: dict[str, Any]
    start: tuple[str, ModelManifest] | None


def plan_training(
    options: LinePipelineOptions, workspace: Workspace, dataset_id: str, dataset: DatasetManifest
) -> TrainingPlan:
    """What would be trained on a dataset.

    Raises:
        DataError: if the model of `--init_from` is not there, or is no start for it.
    """
    start = _find_start(options, workspace, dataset)
    network = options.network or (start[1].model if start else DEFAULT_MODEL)
    recipe = RECIPES[network]
    batch_size = options.batch_size or recipe.batch_size
    epochs = options.epochs or recipe.epochs_for(dataset.examples("train"), batch_size)
    request = {
        "model": network,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": options.learning_rate or recipe.learning_rate * (recipe.fine_tuning if start else 1),
        "patience": options.patience or -(-epochs // 3),
        "seed": options.seed,
        "init_from": start[1].model_id if start else None,
    }
    hashed = {**request, "model": get_first_name(network)}
    return TrainingPlan(make_id(version=CODE_VERSION, dataset_id=dataset_id, **hashed), request, start)


def _find_start(
    options: LinePipelineOptions, workspace: Workspace, dataset: DatasetManifest
) -> tuple[str, ModelManifest] | None:
    """The folder and manifest of the model that `--init_from` names, by its ID or its folder."""
    named = options.init_from
    if not named:
        return None
    for folder in (named,) if storage.is_remote(named) else (workspace.model(named), named):
        try:
            model = ModelManifest.read(folder)
        except (FileNotFoundError, NotADirectoryError, TypeError):  # the last for the manifest of a dataset
            continue
        if options.network not in (None, model.model):
            raise DataError(
                f"--init_from={named} is a model of the network {model.model}, which cannot be the start of "
                f"--model={options.network}: leave --model out"
            )
        if model.height != dataset.height:
            raise DataError(
                f"--init_from={named} reads lines of height {model.height}, but those of dataset "
                f"{dataset.dataset_id} are {dataset.height} pixels high: ingest with --height={model.height}"
            )
        return folder, model
    raise DataError(
        f"--init_from={named} is neither the ID of a model in {workspace.root}/models nor the folder of a model"
    )


def find_intact_model(context: Context, folder: str) -> ModelManifest | None:
    """A committed model, if it is there; one that lost what it reads with is trained again, in use until then."""
    try:
        manifest = ModelManifest.read(folder)
    except FileNotFoundError:
        return None
    needed = (KERAS_NAME, ONNX_NAME, SAVED_MODEL_NAME, CHARSET_NAME)
    sizes = {name: described["bytes"] for name, described in manifest.files.items() if name.startswith(needed)}
    problem = storage.find_missing_or_changed(folder, sizes)
    if problem is not None:
        context.say(f"warning: {problem}: it was damaged after it was committed, and is made again")
    return manifest if problem is None else None


def _fetch_dataset(folder: str, manifest: DatasetManifest, scratch: str) -> str:
    """The dataset on a local disk: TensorFlow reads no object store here.

    Raises:
        DataError: for a shard that is missing or not what the manifest says.
    """
    if not storage.is_remote(folder):
        return folder
    local = os.path.join(scratch, "dataset")
    shards = [shard for split in ("train", "validation") for shard in manifest.shards_of(split)]
    storage.copy_file(storage.join(folder, CHARSET_NAME), os.path.join(local, CHARSET_NAME))
    for shard in shards:
        path = os.path.join(local, shard.name)
        try:
            storage.copy_file(storage.join(folder, shard.name), path)
            digest = storage.compute_checksum(path)
        except FileNotFoundError:
            digest = "none, for it is missing"
        if digest != shard.sha256:
            raise DataError(
                f"{folder}/{shard.name} has checksum {digest}, the manifest says {shard.sha256}: "
                f"{suggest_remedy(folder, 'ingest')}"
            )
    manifest.write(local)
    return local


@contextlib.contextmanager
def _open_training_folder(folder: str | None) -> Iterator[str]:
    """A local folder to train in; a temporary one, of which a failure leaves only the logs, if none is given."""
    if folder is not None:
        yield folder
        return
    folder = tempfile.mkdtemp(prefix="training-")
    try:
        yield folder
    except BaseException:
        for name in ("dataset", "model", "start"):
            storage.remove_folder(os.path.join(folder, name))
        raise
    storage.remove_folder(folder)


def _fetch_weights(folder: str, manifest: ModelManifest, scratch: str) -> str:
    """The path of a model's `.keras` file, copied to the scratch folder if it is not local."""
    path = manifest.fetch(folder, KERAS_NAME)
    if storage.is_remote(folder):
        target = os.path.join(scratch, "start", KERAS_NAME)
        storage.copy_file(path, target)
        storage.remove_folder(os.path.dirname(path))
        return target
    return path
