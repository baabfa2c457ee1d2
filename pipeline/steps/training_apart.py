"""One training, of the train step or apart from it: on a part of the dataset's lines, or on more than it has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from components.recogniser.model import Recogniser, RecogniserSpec
from components.training.place import ClusterPlace
from pipeline.options import LinePipelineOptions
from pipeline.steps.repeated_training import remove_checkpoints, train_until_reading
from pipeline.steps.training_files import fetch_texts, fetch_weights, open_training_folder
from pipeline.steps.training_start import Start, is_base, is_fine_tuning
from tfrecords import storage


def train_from_start(
    options: LinePipelineOptions,
    request: dict[str, Any],
    scratch: str,
    dataset: str,
    checkpoints: str,
    *,
    least_steps: int,
    start: Start | None,
    place: ClusterPlace | None = None,
) -> dict[str, Any]:
    """Trains a model from a start as the options say; it is repeated unless its rate was given or is for fine-tuning.

    Args:
        request: the network, and how it is trained, as `make_request` has it.
        scratch: local, for copies of what the training needs, the workers' logs, and the model.
        dataset: local folder.
        checkpoints: their folder, local or remote.
        least_steps: steps before which `--patience` does not end the training.
        start: folder and manifest of the model whose weights are the start, if there is one.
        place: as for `train_in_processes`.

    Returns:
        The request of the better training, whose `output_folder` has the model.

    Raises:
        DataError, TrainingLostError: as `train_until_reading` does.
    """
    asked = {
        **request,
        "least_steps": least_steps,
        "dataset_folder": dataset,
        "output_folder": os.path.join(scratch, "model"),
        "checkpoint_folder": checkpoints,
        "index_folder": os.path.join(scratch, "index"),
        "init_from": fetch_weights(*start, scratch) if start else None,
        "init_symbols": start[1].read_charset(start[0]).symbols if start else (),
        "from_base": is_base(start),
        "texts": fetch_texts(options.texts, request["texts"], scratch) if request.get("texts") else None,
    }
    repeats = not (options.learning_rate or is_fine_tuning(start))
    return train_until_reading(
        asked, scratch, options.train_workers, restarts=options.train_restarts, place=place, repeats=repeats
    )


@contextlib.contextmanager
def train_apart(
    options: LinePipelineOptions,
    work: str,
    request: dict[str, Any],
    *,
    least_steps: int,
    write_dataset: Callable[[str], object],
    start: Start | None = None,
) -> Iterator[dict[str, Any]]:
    """Trains a model in a folder of its own, which is removed after the context; a stopped training is resumed.

    Args:
        work: the folder, local or remote; it keeps the checkpoints.
        request: the network, and how it is trained, as `make_request` has it.
        least_steps: steps before which `--patience` does not end the training.
        write_dataset: writes the dataset into an empty local folder, the same one each time.
        start: folder and manifest of the model whose weights are the start, if there is one.

    Yields:
        The request of the training that was kept; its `output_folder` is local, and has the model without a manifest.

    Raises:
        DataError: if a worker refuses the data, or fails.
        TrainingLostError: if it was ended from outside too often.
    """
    checkpoints = storage.join(work, "checkpoints")
    if options.resume == "never":
        remove_checkpoints(checkpoints)
    with open_training_folder(None if storage.is_remote(work) else work) as scratch:
        dataset = os.path.join(scratch, "dataset")
        storage.remove_folder(dataset)
        write_dataset(dataset)
        yield train_from_start(options, request, scratch, dataset, checkpoints, least_steps=least_steps, start=start)
    storage.remove_folder(work)


def load_beside_training(model_folder: str) -> Recogniser:
    """Loads a model that recognises lines between trainings: with ONNX Runtime, which leaves them the GPU.

    Raises:
        DataError: if the folder holds no intact model, or one of a version that did not export to ONNX.
    """
    return RecogniserSpec(model_folder, "onnx", os.cpu_count() or 1).load()
