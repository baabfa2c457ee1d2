"""Local copies of what a training needs: TensorFlow reads no object store here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator

from components.recogniser.manifest import KERAS_NAME, ModelManifest
from pipeline.steps.repeated_training import SLOWER
from tfrecords import DataError, DatasetManifest, storage
from tfrecords.manifest import CHARSET_NAME, suggest_remedy


def fetch_dataset(folder: str, manifest: DatasetManifest, scratch: str) -> str:
    """Returns the folder of the dataset on a local disk: TensorFlow reads no object store here.

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
def open_training_folder(folder: str | None) -> Iterator[str]:
    """Opens a local folder to train in: the given one, or a temporary one, of which only the logs survive a failure."""
    if folder is not None:
        yield folder
        return
    folder = tempfile.mkdtemp(prefix="training-")
    try:
        yield folder
    except BaseException:
        for name in ("dataset", "index", "model", f"model{SLOWER}", "start", "texts"):
            storage.remove_folder(os.path.join(folder, name))
        raise
    storage.remove_folder(folder)


def fetch_weights(folder: str, manifest: ModelManifest, scratch: str) -> str:
    """Returns the path of a model's `.keras` file, copied to the scratch folder if it is not local."""
    path = manifest.fetch(folder, KERAS_NAME)
    if storage.is_remote(folder):
        target = os.path.join(scratch, "start", KERAS_NAME)
        storage.copy_file(path, target)
        storage.remove_folder(os.path.dirname(path))
        return target
    return path


def compute_texts_checksum(path: str) -> str:
    """Computes the SHA-256 of the file of texts; raises a `DataError` if it cannot be read or is not UTF-8."""
    try:
        content = storage.read_bytes(path)
        content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--texts={path} has to hold one text a line, in UTF-8: {error}") from None
    return hashlib.sha256(content).hexdigest()


def fetch_texts(path: str, sha256: str, scratch: str) -> str:
    """Copies a file of texts to the scratch folder.

    Raises:
        DataError: if it was changed since the command began.
    """
    target = os.path.join(scratch, "texts", "texts.txt")
    storage.copy_file(path, target)
    if storage.compute_checksum(target) != sha256:
        raise DataError(f"--texts={path} was changed while the command ran: run it again")
    return target
