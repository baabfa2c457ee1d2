"""What a stopped training goes on from: its whole state, in one file for each checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from components.training.lost import TrainingLost
from tfrecords import DataError, StoreError, storage

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
        """Writes a checkpoint; keeps it and the one before it, and deletes the rest and what a killed writer left.

        Raises:
            DataError: if it cannot be written, such as on a full disk.
            TrainingLost: if an object store fails.
        """
        content = io.BytesIO()
        facts = np.frombuffer(json.dumps({**checkpoint.facts, "step": checkpoint.step}).encode(), np.uint8)
        arrays: dict[str, Any] = {_FACTS: facts, **checkpoint.arrays}
        np.savez(content, **arrays)
        what = f"the checkpoint of step {checkpoint.step} ({content.tell() / 1e6:.1f} MB) cannot be written to"
        with self._explained(what, "; mend that, and the same command goes on from the last one"):
            name = f"checkpoint-{checkpoint.step:09d}.npz"
            storage.write_bytes(storage.join(self.folder, name), content.getvalue())
            names = self._names()
            # Those of later steps are damaged, or of a run that was given up.
            kept = names[names.index(name) :][:_KEPT]
            left = [found for found in storage.list_names(self.folder) if found.startswith(storage.TEMPORARY_PREFIX)]
            for found in [*left, *set(names).difference(kept)]:
                storage.remove_file(storage.join(self.folder, found))

    def latest(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is intact, or None; `say` hears of damaged ones.

        Raises:
            DataError: if the folder or a file cannot be read.
            TrainingLost: if an object store fails.
        """
        with self._explained("the checkpoints cannot be read in"):
            for name in self._names():
                content = storage.read_bytes(storage.join(self.folder, name))
                try:
                    with np.load(io.BytesIO(content), allow_pickle=False) as file:
                        arrays = {key: file[key] for key in file.files}
                    facts = json.loads(arrays.pop(_FACTS).tobytes())
                    return Checkpoint(facts["step"], arrays, facts)
                except (zipfile.BadZipFile, zlib.error, AttributeError, ValueError, KeyError, EOFError, OSError):
                    say(
                        f"warning: {self.folder}/{name} is damaged: going on from the checkpoint before it, "
                        "if there is one"
                    )
        return None

    @contextlib.contextmanager
    def _explained(self, what: str, advice: str = "") -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            raise TrainingLost(f"{what} {self.folder}: {error}") from None
        except DataError:
            raise
        except Exception as error:
            remote = storage.is_remote(self.folder)
            # The errors of an object store's clients pass, most of them: a network is gone for a while. OSErrors too.
            if remote and not isinstance(error, (PermissionError, FileNotFoundError)):
                raise TrainingLost(f"{what} {self.folder}: {type(error).__name__}: {error}") from error
            if not isinstance(error, OSError):
                raise
            raise DataError(f"{what} {self.folder}: {error.strerror or error}{advice}") from None

    def _names(self) -> list[str]:
        """The files' names, newest first."""
        return sorted(filter(_NAME.fullmatch, storage.list_names(self.folder)), reverse=True)
