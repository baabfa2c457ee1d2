"""What a stopped training goes on from: its whole state, in one file for each checkpoint."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfrecords import DataError, storage

_NAME = re.compile(r"checkpoint-(\d{9})\.npz")
_FACTS = "facts"
_KEPT = 2


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A training's state after a number of steps.

    Attributes:
        step: batches trained on since the start, over all epochs.
        arrays: weights, optimiser and random state, by name.
        facts: all else, as JSON has it.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


class Checkpoints:
    """A folder of checkpoints, local or remote; the newest two are kept.

    A checkpoint is one file, written beside its place and then moved there, so that it is whole
    or not there; the file's own checksums (CRC-32 of each array) are verified on reading. Nothing
    in it depends on the number of workers.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint; drops those before the last two, and what a killed writer left.

        Raises:
            DataError: if it cannot be written, such as on a full disk.
        """
        content = io.BytesIO()
        facts = np.frombuffer(json.dumps({**checkpoint.facts, "step": checkpoint.step}).encode(), np.uint8)
        arrays: dict[str, Any] = {_FACTS: facts, **checkpoint.arrays}
        np.savez(content, **arrays)
        try:
            storage.write_bytes(storage.join(self.folder, f"checkpoint-{checkpoint.step:09d}.npz"), content.getvalue())
            left = [name for name in storage.list_names(self.folder) if name.startswith(storage.TEMPORARY_PREFIX)]
            for name in [*left, *self._names()[_KEPT:]]:
                storage.remove_file(storage.join(self.folder, name))
        except OSError as error:
            raise DataError(
                f"the checkpoint of step {checkpoint.step} ({content.tell() / 1e6:.1f} MB) cannot be written to "
                f"{self.folder}: {error.strerror or error}; mend that, and the same command goes on from the last one"
            ) from None

    def latest(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is intact, or None; `say` hears of damaged ones.

        Raises:
            DataError: if the folder cannot be read.
        """
        try:
            names = self._names()
        except OSError as error:
            raise DataError(f"the checkpoints in {self.folder} cannot be read: {error.strerror or error}") from None
        for name in names:
            path = storage.join(self.folder, name)
            try:
                with np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False) as file:
                    arrays = {key: file[key] for key in file.files}
                facts = json.loads(arrays.pop(_FACTS).tobytes())
                return Checkpoint(facts["step"], arrays, facts)
            except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
                say(f"warning: {path} is damaged ({error}): going on from the checkpoint before it, if there is one")
        return None

    def remove(self) -> None:
        """Deletes them all."""
        storage.remove_folder(self.folder)

    def _names(self) -> list[str]:
        """The files' names, newest first."""
        return sorted(filter(_NAME.fullmatch, storage.list_names(self.folder)), reverse=True)
