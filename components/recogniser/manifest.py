"""The manifest of a trained model. A folder without one holds no model."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from typing import Any

from tfrecords import Charset, DataError, storage
from tfrecords.manifest import MANIFEST_NAME, read_charset, read_manifest, suggest_remedy

MODEL_VERSION = 5
"""Goes into the IDs of models: raised when models that the same datasets and options made are not to be used any more.

Until then they are found again, also where this version would train a better one.
"""
SCHEMA_VERSION = 4
CALIBRATION_NAME = "calibration.json"
KERAS_NAME = "model.keras"
ONNX_NAME = "model.onnx"
SAVED_MODEL_NAME = "saved_model"
LANGUAGE_MODEL_NAME = "language_model.npz"
PLOTS_NAME = "plots"
MODELS_NAME, ACCEPTED = "models", "ACCEPTED"
"""The folder of all models in a workspace, and the file in it that names the one in use."""
_OLDEST_VERSION = 1
_ADDED = {"time_stride": 4, "temperature": 1.0, "language_model": None}
"""Fields that versions 2, 3 and 4 added, with the values that the versions before implied."""
RENAMED_NETWORKS = {"crnn": "ctc_conv", "crnn_large": "ctc_conv_large"}
"""Networks by the names that they had first. Older manifests and command lines have these names."""


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
        schema_version: of this manifest and of the files. Version 1 had no `model.onnx`, and its SavedModel took
            prepared batches only. Version 2 had no temperature, version 3 no language model.
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
    schema_version: int = SCHEMA_VERSION

    def write(self, folder: str) -> None:
        """Commits the model in `folder`."""
        storage.write_json(storage.join(folder, MANIFEST_NAME), dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: str) -> ModelManifest:
        """Reads the manifest of the model in `folder`, of this version or an older one.

        Raises:
            FileNotFoundError: if nothing was committed there.
            DataError: if a newer version wrote it.
            TypeError: if it is the manifest of something else.
        """
        content = read_manifest(folder, SCHEMA_VERSION, step="train", oldest=_OLDEST_VERSION)
        manifest = cls(**{**_ADDED, **content})
        if manifest.model in RENAMED_NETWORKS:
            name = RENAMED_NETWORKS[manifest.model]
            manifest = dataclasses.replace(manifest, model=name, options={**manifest.options, "model": name})
        if outside := [name for name in manifest.files if not {"", ".", ".."}.isdisjoint(name.split("/"))]:
            raise DataError(f"the manifest in {folder} names a file that is not in its folder: {outside[0]}")
        return manifest

    def read_charset(self, folder: str) -> Charset:
        """Reads the model's charset, and checks it against the manifest.

        Raises:
            DataError: if `charset.txt` is not the one that the model was trained with.
        """
        return read_charset(folder, self.charset_sha256, step="train")

    def fetch(self, folder: str, prefix: str) -> str:
        """Checks the committed files whose path starts with `prefix`, and returns their local path.

        Local files are checked where they are. Remote ones are copied to a new folder first, which the caller removes.

        Raises:
            DataError: for a file that is missing or differs from the manifest.
        """
        local = tempfile.mkdtemp(prefix="model-") if storage.is_remote(folder) else folder
        try:
            self._fetch(folder, prefix, local)
        except BaseException:
            if local != folder:
                storage.remove_folder(local)
            raise
        return os.path.join(local, prefix)

    def _fetch(self, folder: str, prefix: str, local: str) -> None:
        for name, expected in self.files.items():
            if not name.startswith(prefix):
                continue
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


def describe_files(folder: str) -> dict[str, dict[str, Any]]:
    """Returns the bytes and SHA-256 of every file below a local folder, by path inside it."""
    described = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            inside = os.path.relpath(path, folder).replace(os.sep, "/")
            described[inside] = {"bytes": storage.get_size(path), "sha256": storage.compute_checksum(path)}
    return dict(sorted(described.items()))
