"""From a workspace, or a model's folder, to a recogniser that is ready."""

from __future__ import annotations

import os

from components.ctc.decoders import Decoding
from components.process_settings import prepare_pillow
from components.recogniser.manifest import ACCEPTED, MODELS_NAME
from components.recogniser.model import Recogniser, RecogniserSpec
from tfrecords import storage
from tfrecords.errors import DataError
from tfrecords.manifest import MANIFEST_NAME, read_pointer


def load_recogniser(
    place: str | os.PathLike[str], *, engine: str = "auto", threads: int = 1, decoding: Decoding | None = None
) -> Recogniser:
    """Loads a model, its files checked against its manifest.

    Args:
        place: a workspace, whose accepted model is loaded, or the folder of a model; local or a `gs://` URL.
        engine: what computes logits: `tensorflow`, `onnx`, `onnx-int8`, or `auto` for the fastest one on this machine,
            which is TensorFlow where it sees a GPU, and ONNX Runtime elsewhere.
        threads: processor cores that ONNX Runtime uses at once; TensorFlow takes what there is.
        decoding: how logits become text; by default with the model's language model if it has one, or else the best
            symbol at each time step.

    Raises:
        DataError: if there is no model or it was damaged, or the lexicon cannot be used.
        ValueError: for an engine that does not exist, or less than one thread.
    """
    prepare_pillow()
    return RecogniserSpec(find_model(place), engine, threads, decoding or Decoding()).load()


def find_model(place: str | os.PathLike[str]) -> str:
    """Returns the folder of the accepted model of a workspace; the folder of a model is returned as it is.

    Raises:
        DataError: if the place is neither, or the accepted model is gone.
    """
    folder = os.path.expanduser(os.fspath(place))
    if storage.is_file(storage.join(folder, MANIFEST_NAME)):
        return folder
    pointer = storage.join(folder, MODELS_NAME, ACCEPTED)
    model_id = read_pointer(pointer)
    if model_id is None:
        raise DataError(
            f"{folder} is neither the folder of a model nor a workspace with an accepted model: it has no "
            f"{MANIFEST_NAME} and no {MODELS_NAME}/{ACCEPTED}; give another folder, or run the train and evaluate steps"
        )
    model_folder = storage.join(folder, MODELS_NAME, model_id)
    if not storage.is_file(storage.join(model_folder, MANIFEST_NAME)):
        raise DataError(
            f"model {model_id}, which {pointer} names, is gone from {model_folder}: "
            "run the train and evaluate steps again"
        )
    return model_folder
