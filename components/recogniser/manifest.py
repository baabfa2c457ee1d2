"""The manifest of a trained model. A folder without one holds no model."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from typing import Any

from tfrecords import Charset, DataError, storage
from tfrecords.directions import VISUAL
from tfrecords.manifest import MANIFEST_NAME, read_charset, read_manifest, suggest_remedy

MODEL_VERSION = 5
"""Goes into the IDs of models: raised when models that the same datasets and options made are not to be used any more.

Until then they are found again, also where this version would train a better one.
"""
SCHEMA_VERSION = 6
CALIBRATION_NAME = "calibration.json"
KERAS_NAME = "model.keras"
ONNX_NAME = "model.onnx"
INT8_NAME = "model.int8.onnx"
SAVED_MODEL_NAME = "saved_model"
LANGUAGE_MODEL_NAME = "language_model.npz"
PLOTS_NAME = "plots"
MODELS_NAME, ACCEPTED = "models", "ACCEPTED"
"""The folder of all models in a workspace, and the file in it that names the one in use."""
_OLDEST_VERSION = 1
_ADDED = {
    "time_stride": 4,
    "temperature": 1.0,
    "language_model": None,
    "base_direction": VISUAL,
    "vertical": False,
    "int8": None,
}
"""Fields that versions 2 to 6 added, with the values that the versions before implied."""
RENAMED_NETWORKS = {"crnn": "ctc_conv", "crnn_large": "ctc_conv_large"}
"""Networks by the names that they had first. Older manifests and command lines have these names."""


@dataclasses.dataclass(frozen=True)
class Int8Trial:
    """The trial of a network that computes in 8 bits, on validation lines.

    Attributes:
        why: what was decided, and for which reason, for a person.
        layers: which layers of `model.int8.onnx` compute in 8 bits; None if there is no such file.
        temperature: its logits are divided by this; None without the file.
        cer, float_cer: of the network in 8 and in 32 bits; None if nothing was tried.
        standard_error: of `float_cer`.
        lines: number of the validation lines.
        calibration_lines: number of the training lines on which the ranges of the activations were measured.
    """

    why: str
    layers: str | None = None
    temperature: float | None = None
    cer: float | None = None
    float_cer: float | None = None
    standard_error: float | None = None
    lines: int = 0
    calibration_lines: int = 0


@dataclasses.dataclass(frozen=True)
class ModelManifest:
    """The description of a committed model.

    Attributes:
        model_id: short digest of the dataset and the options that it was trained with.
        dataset_id: of the dataset that it was trained on.
        model: name of the network.
        height: pixels of the lines that it recognises.
        time_stride: the width of a batch is a multiple of this many pixels.
        temperature: its logits are divided by this, so that confidences are calibrated.
        charset_sha256: digest of `charset.txt`.
        options: the training options, by flag.
        files: `{path inside the folder: {"bytes": …, "sha256": …}}`.
        created_at: ISO 8601, UTC.
        language_model: `weight`, `bonus` and `exponent` of the `Fusion` with `language_model.npz`; None without one.
        base_direction: how the symbols that it gives stand on an image, one of `tfrecords.directions.DIRECTIONS`.
        vertical: whether images are turned before they are read, since their text runs from top to bottom.
        int8: the trial of the network in 8 bits; None in manifests of versions that had none.
        schema_version: of this manifest and of the files. Version 1 had no `model.onnx`, and its SavedModel took
            prepared batches only. Version 2 had no temperature, version 3 no language model, version 4 no directions,
            version 5 no `model.int8.onnx`.
    """

    model_id: str
    dataset_id: str
    model: str
    height: int
    time_stride: int
    temperature: float
    charset_sha256: str
    options: dict[str, Any]
    files: dict[str, dict[str, Any]]
    created_at: str
    language_model: dict[str, float] | None = None
    base_direction: str = VISUAL
    vertical: bool = False
    int8: Int8Trial | None = None
    schema_version: int = SCHEMA_VERSION

    def write(self, folder: str) -> None:
        """Commits the model in `folder`."""
        storage.write_json(storage.join(folder, MANIFEST_NAME), dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: str) -> ModelManifest:
        """Reads the manifest of the model in `folder`, of this version or an older one.

        Raises:
            FileNotFoundError: if nothing was committed there.
            DataError: if a newer version wrote it, or what it says cannot be.
            TypeError: if it is the manifest of something else.
        """
        content = read_manifest(folder, SCHEMA_VERSION, step="train", oldest=_OLDEST_VERSION)
        manifest = cls(**{**_ADDED, **content})
        if manifest.model in RENAMED_NETWORKS:
            name = RENAMED_NETWORKS[manifest.model]
            manifest = dataclasses.replace(manifest, model=name, options={**manifest.options, "model": name})
        if manifest.int8 is not None:
            manifest = dataclasses.replace(manifest, int8=Int8Trial(**content["int8"]))
        int8_temperature = manifest.int8_temperature
        temperatures = [manifest.temperature, *([] if int8_temperature is None else [int8_temperature])]
        for temperature in temperatures:
            if not _is_positive(temperature):
                raise DataError(
                    f"the manifest in {folder} has the temperature {temperature!r}, by which logits are divided, "
                    f"and which must be a number above 0: {suggest_remedy(folder, 'train')}"
                )
        if not _describes_files(manifest.files):
            raise DataError(
                f"the manifest in {folder} does not give the checksums of the model's files: "
                f"{suggest_remedy(folder, 'train')}"
            )
        if outside := [name for name in manifest.files if not {"", ".", ".."}.isdisjoint(name.split("/"))]:
            raise DataError(f"the manifest in {folder} names a file that is not in its folder: {outside[0]}")
        return manifest

    @property
    def int8_temperature(self) -> float | None:
        """The temperature of `model.int8.onnx`; None if the model has no such file."""
        return None if self.int8 is None else self.int8.temperature

    def read_charset(self, folder: str) -> Charset:
        """Reads the model's charset, and checks it against the manifest.

        Raises:
            DataError: if `charset.txt` is not the one that the model was trained with.
        """
        return read_charset(folder, self.charset_sha256, self.base_direction, step="train")

    def fetch(self, folder: str, name: str) -> str:
        """Checks a committed file, or all files of a folder, and returns its local path.

        A model is a program: what the manifest does not name, with its checksum, is not loaded. Local files are checked
        where they are. Remote ones are copied to a new folder first, which the caller removes.

        Args:
            folder: of the model.
            name: of the file or the folder in it.

        Raises:
            DataError: for a file that is missing, differs from the manifest, or is not named there.
        """
        local = tempfile.mkdtemp(prefix="model-") if storage.is_remote(folder) else folder
        try:
            self._fetch(folder, name, local)
        except BaseException:
            if local != folder:
                storage.remove_folder(local)
            raise
        return os.path.join(local, name)

    def _fetch(self, folder: str, wanted: str, local: str) -> None:
        named = {name: file for name, file in self.files.items() if name == wanted or name.startswith(f"{wanted}/")}
        if wanted == SAVED_MODEL_NAME:
            needed = {f"{SAVED_MODEL_NAME}/saved_model.pb", f"{SAVED_MODEL_NAME}/variables/variables.index"}
        else:
            needed = {wanted}
        present = _list_inside(os.path.join(local, wanted), wanted) if local == folder else set()
        if unnamed := sorted((needed | present) - named.keys()):
            raise DataError(
                f"the manifest in {folder} does not name {unnamed[0]}, which would be loaded: a model's files are its "
                f"program, and must be those that the train step wrote; {suggest_remedy(folder, 'train')}"
            )
        for name, expected in named.items():
            path = os.path.join(local, *name.split("/"))
            try:
                if local != folder:
                    storage.copy_file(storage.join(folder, name), path)
                digest = storage.compute_checksum(path)
            except FileNotFoundError:
                raise DataError(
                    f"{folder}/{name} is missing, but the manifest beside it names it: "
                    f"{suggest_remedy(folder, 'train')}"
                ) from None
            if digest != expected["sha256"]:
                raise DataError(
                    f"{folder}/{name} has checksum {digest[:12]}, the manifest says {expected['sha256'][:12]}: "
                    f"it was damaged or replaced; {suggest_remedy(folder, 'train')}"
                )


def get_first_name(network: str) -> str:
    """Returns the name that a network had first.

    IDs of models are digests over this name, so that a renamed network's finished models are found again.
    """
    return next((first for first, now in RENAMED_NETWORKS.items() if now == network), network)


def _is_positive(temperature: Any) -> bool:
    return isinstance(temperature, int | float) and 0 < temperature < math.inf


def _describes_files(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(file, dict) and isinstance(file.get("sha256"), str) for file in files.values()
    )


def _list_inside(folder: str, prefix: str) -> set[str]:
    """Lists the files below a local folder, each with a prefix before its path in it; none if it is a file."""
    return {
        f"{prefix}/{os.path.relpath(os.path.join(parent, name), folder)}"
        for parent, _, names in os.walk(folder)
        for name in names
    }


def describe_files(folder: str) -> dict[str, dict[str, Any]]:
    """Returns the bytes and SHA-256 of every file below a local folder, by path inside it."""
    described = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            inside = os.path.relpath(path, folder).replace(os.sep, "/")
            described[inside] = {"bytes": storage.get_size(path), "sha256": storage.compute_checksum(path)}
    return dict(sorted(described.items()))
