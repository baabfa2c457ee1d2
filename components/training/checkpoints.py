"""Checkpoints: the whole state of a training, from which it resumes, one file for each."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from components.training.history import EpochRecord
from components.training.watchdog import TrainingLost
from tfrecords import DataError, StoreError, storage

log = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d{9})\.npz")
_FACTS = "facts"
_KEPT = 2


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a training after a number of steps.

    Attributes:
        step: batches trained on since the start, over all epochs.
        arrays: weights, optimiser and random state, by name.
        facts: everything else, as JSON has it.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


class Checkpoints:
    """A folder of checkpoints, local or remote; the newest two are kept.

    A checkpoint is one file. It is written beside its place and then moved there, so it is whole or not
    there. Reading verifies the file's own checksums (CRC-32 of each array). Nothing in it depends on the
    number of workers.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, and deletes all but it and the one before it, with what a killed writer left.

        Raises:
            DataError: if it cannot be written, such as on a full disk.
            TrainingLost: if an object store fails.
        """
        content = io.BytesIO()
        facts = np.frombuffer(json.dumps({**checkpoint.facts, "step": checkpoint.step}).encode(), np.uint8)
        arrays: dict[str, Any] = {_FACTS: facts, **checkpoint.arrays}
        np.savez(content, **arrays)
        problem = f"the checkpoint of step {checkpoint.step} ({content.tell() / 1e6:.1f} MB) cannot be written to"
        with self._explain_errors(problem, "; correct that and run the same command to resume from the last one"):
            name = f"checkpoint-{checkpoint.step:09d}.npz"
            storage.write_bytes(storage.join(self.folder, name), content.getvalue())
            names = self._list_names()
            # Checkpoints of later steps are damaged, or of a training that was given up.
            kept = names[names.index(name) :][:_KEPT]
            unfinished = [
                other for other in storage.list_names(self.folder) if other.startswith(storage.TEMPORARY_PREFIX)
            ]
            for other in [*unfinished, *set(names).difference(kept)]:
                storage.remove_file(storage.join(self.folder, other))

    def find_latest(self) -> Checkpoint | None:
        """Finds the newest checkpoint that is intact, or None, and logs a warning for each damaged one.

        Raises:
            DataError: if the folder or a file cannot be read.
            TrainingLost: if an object store fails.
        """
        with self._explain_errors("the checkpoints cannot be read in"):
            for name in self._list_names():
                content = storage.read_bytes(storage.join(self.folder, name))
                try:
                    with np.load(io.BytesIO(content), allow_pickle=False) as file:
                        arrays = {key: file[key] for key in file.files}
                    facts = json.loads(arrays.pop(_FACTS).tobytes())
                    return Checkpoint(facts["step"], arrays, facts)
                except (zipfile.BadZipFile, zlib.error, AttributeError, ValueError, KeyError, EOFError, OSError):
                    log.warning(
                        f"{self.folder}/{name} is damaged: resuming from the checkpoint before it, if there is one"
                    )
        return None

    @contextlib.contextmanager
    def _explain_errors(self, problem: str, advice: str = "") -> Iterator[None]:
        """Turns errors of the storage into sentences that begin with a problem and end with advice.

        Raises:
            DataError: for a refusal, or an error of a local disk.
            TrainingLost: for an error of an object store that may pass.
        """
        try:
            yield
        except StoreError as error:
            raise TrainingLost(f"{problem} {self.folder}: {error}") from None
        except DataError:
            raise
        except Exception as error:
            remote = storage.is_remote(self.folder)
            # Most errors of an object store's clients pass, OSErrors too: a network is gone for a while.
            if remote and not isinstance(error, (PermissionError, FileNotFoundError)):
                raise TrainingLost(f"{problem} {self.folder}: {type(error).__name__}: {error}") from error
            if not isinstance(error, OSError):
                raise
            raise DataError(f"{problem} {self.folder}: {error.strerror or error}{advice}") from None

    def _list_names(self) -> list[str]:
        """Lists the names of the checkpoint files, newest first."""
        return sorted(filter(_NAME.fullmatch, storage.list_names(self.folder)), reverse=True)


def read_history(folder: str) -> list[EpochRecord]:
    """Reads the finished epochs of the newest checkpoint in a folder."""
    checkpoint = Checkpoints(folder).find_latest()
    return [] if checkpoint is None else [EpochRecord(**record) for record in checkpoint.facts["history"]]
