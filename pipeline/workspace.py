"""The workspace: its folders, the names that point into it, and its lock."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from components.recogniser.manifest import ACCEPTED as ACCEPTED
from components.recogniser.manifest import ModelManifest
from pipeline.lock import StoreLock, WorkspaceHeldError, describe_holder
from tfrecords import DataError, DatasetManifest, storage
from tfrecords.manifest import MANIFEST_NAME, is_id, read_pointer

LATEST = "LATEST"


def read_latest_dataset(workspace: Workspace) -> tuple[str, str, DatasetManifest]:
    """Reads the ID, folder and manifest of the latest dataset; raises a `DataError` if there is none."""
    dataset_id = workspace.read_pointer("datasets", LATEST)
    if dataset_id is None:
        raise DataError(f"no dataset is committed in {workspace.root}: run the ingest step first (--steps=ingest)")
    folder = workspace.dataset(dataset_id)
    try:
        return dataset_id, folder, DatasetManifest.read(folder)
    except FileNotFoundError:
        raise DataError(f"dataset {dataset_id} is gone from {folder}: run the ingest step again") from None


def read_model(workspace: Workspace, model_id: str) -> ModelManifest:
    """Reads the manifest of a committed model; raises a `DataError` if it is gone."""
    try:
        return ModelManifest.read(workspace.model(model_id))
    except FileNotFoundError:
        raise DataError(
            f"model {model_id} is gone from {workspace.model(model_id)}: run the train and evaluate steps again"
        ) from None


_ID_LENGTH = 12
WEEK_S, _MONTH_S = 7 * 24 * 3600, 30 * 24 * 3600


def make_id(**parts: Any) -> str:
    """Returns a short digest of the parts: equal parts give the same ID."""
    content = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:_ID_LENGTH]


class Unfinished(enum.Enum):
    """A kind of unfinished work: the prefix of its folders' names, and the seconds for which they are kept.

    A training, or a run of predictions, may have taken hours, and somebody may run other steps before the stopped
    command is repeated. All else is made again within minutes.
    """

    RENDERED = "rendered", 0
    LISTING = "listing", 0
    DATASET = "dataset", 0
    TRAINING = "training", _MONTH_S
    SELF_TRAINING = "selftraining", _MONTH_S
    MODEL = "model", 0
    EVALUATION = "evaluation", 0
    FORECAST = "forecast", _MONTH_S
    RUN = "run", WEEK_S
    REJECTS = "rejects", WEEK_S
    MERGED = "merged", 0
    MERGED_REJECTS = "merged-rejects", 0
    REVIEW = "review", 0
    LABEL_CHECK = "label-check", _MONTH_S

    def __init__(self, prefix: str, kept_s: float):
        self.prefix = f"{prefix}-"
        self.kept_s = kept_s

    @classmethod
    def of(cls, name: str) -> Unfinished | None:
        """Returns the kind of a folder by its name; None if no step made it."""
        return max(
            (kind for kind in cls if name.startswith(kind.prefix)), key=lambda kind: len(kind.prefix), default=None
        )


class Workspace:
    """The folders below `--workspace`.

    Datasets, models and predictions exist once they are moved to their place, with a
    manifest. Work in progress lies below `unfinished/`.

    Args:
        root: local folder, made absolute, or a URL.
    """

    def __init__(self, root: str):
        self.root = root.rstrip("/") if storage.is_remote(root) else os.path.abspath(os.path.expanduser(root))
        self._store_lock: StoreLock | None = None

    @contextlib.contextmanager
    def lock(self, wait_s: float = 0, *, end: Callable[[str], None] = print) -> Iterator[None]:
        """Holds the workspace for this process alone; makes a local folder, while a bucket has to be there.

        The operating system releases a local lock when its holder ends, however it ends. A lock in an object store (see
        `pipeline.lock`) can be lost; the main thread is interrupted then.

        Args:
            wait_s: seconds to wait for another command's end.
            end: ends the process, given one sentence; called in a thread if the lock was lost and the process goes on.

        Raises:
            WorkspaceHeldError: if another command holds it, with a description of that one.
            WorkspaceLostError: if it was lost.
            DataError: if the folder cannot be written, or there is no such bucket that may be used.
        """
        if storage.is_remote(self.root):
            storage.require_bucket(self.root, "--workspace")
            self._store_lock = StoreLock(self.root, end)
            with self._store_lock.held(wait_s):
                yield
            return
        try:
            os.makedirs(self.root, exist_ok=True)
            file = open(os.path.join(self.root, ".lock"), "a+", encoding="utf-8")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise DataError(f"--workspace={self.root} cannot be written: {error.strerror}") from None
        with file:
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() < deadline:
                        time.sleep(1)
                        continue
                    file.seek(0)
                    raise WorkspaceHeldError(
                        f"another command works in {self.root} ({file.read().strip()}): wait for its end, or use "
                        "another --workspace"
                    ) from None
                except OSError as error:
                    raise DataError(
                        f"--workspace={self.root} lies on a file system without locks ({error.strerror}): use another"
                    ) from None
            file.truncate(0)
            file.write(f"{describe_holder()}\n")
            file.flush()
            yield

    def check_lock(self) -> None:
        """Raises `WorkspaceLostError` if the lock was lost."""
        if self._store_lock is not None:
            self._store_lock.check()

    @property
    def all_unfinished(self) -> str:
        """The folder of work in progress."""
        return storage.join(self.root, "unfinished")

    def unfinished(self, kind: Unfinished, name: str) -> str:
        """Returns a folder for work in progress."""
        return storage.join(self.all_unfinished, f"{kind.prefix}{name}")

    def dataset(self, dataset_id: str) -> str:
        """Returns the folder of a committed dataset."""
        return self._place("datasets", dataset_id)

    def model(self, model_id: str) -> str:
        """Returns the folder of a committed model."""
        return self._place("models", model_id)

    def _place(self, kind: str, artefact_id: str) -> str:
        """Returns the folder of a dataset or model; raises a `DataError` for what would lie outside its place."""
        if not is_id(artefact_id):
            raise DataError(
                f"{artefact_id[:80]!r} is no ID of one of the {kind} in {self.root}: an ID is a name without a slash"
            )
        return storage.join(self.root, kind, artefact_id)

    def holds(self, kind: str, artefact_id: str) -> bool:
        """Checks whether a dataset or model (`kind` is the name of its folder) is committed."""
        return storage.exists(storage.join(self._place(kind, artefact_id), MANIFEST_NAME))

    @property
    def all_predictions(self) -> str:
        """The folder of all committed runs of predictions."""
        return storage.join(self.root, "predictions")

    def predictions(self, date: str, run_id: str) -> str:
        """Returns the folder of a committed run of predictions."""
        return storage.join(self.root, "predictions", f"date={date}", f"run={run_id}")

    def rejects(self, date: str, run_id: str) -> str:
        """Returns the folder of a committed run's rejects; it is apart, so that predictions are one table."""
        return storage.join(self.root, "rejects", f"date={date}", f"run={run_id}")

    def run_record(self, run_id: str, suffix: str) -> str:
        """Returns the path of a file of a command's report."""
        return storage.join(self.root, "runs", f"{run_id}.{suffix}")

    @property
    def archives(self) -> str:
        """The folder of the indexes of archives."""
        return storage.join(self.root, "archives")

    @property
    def sample(self) -> str:
        """The folder of the rendered sample collection."""
        return storage.join(self.root, "sample")

    def read_pointer(self, kind: str, name: str) -> str | None:
        """Reads the ID in `datasets/LATEST`, `models/LATEST` or `models/ACCEPTED`; None if there is none."""
        return read_pointer(storage.join(self.root, kind, name))

    def expects(self, kind: str, name: str) -> bool:
        """Checks whether a pointer will name something that does not exist yet; only in a plan it may."""
        del kind, name
        return False

    def expect(self, kind: str, name: str, target: str | None) -> None:
        """Notes in a plan what a pointer would name; None for what is not known yet."""
        raise NotImplementedError("only the workspace of a plan expects something")

    def remove_pointer(self, kind: str, name: str) -> None:
        """Removes a pointer."""
        storage.remove_file(storage.join(self.root, kind, name))

    def write_pointer(self, kind: str, name: str, target: str) -> None:
        """Writes a pointer in one atomic step."""
        storage.write_bytes(storage.join(self.root, kind, name), f"{target}\n".encode())
