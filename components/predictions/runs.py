"""Committed runs of predictions: finding and reading them, and clearing them of damaged files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar

import pyarrow
import pyarrow.parquet

from components.predictions.manifest import RUN_MANIFEST_NAME, NewerRunError, PartEntry, RunManifest
from components.processes import map_in_threads
from tfrecords import DataError, StoreError, storage

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_DAMAGED_SUFFIX = ".damaged"
_THREADS = 16  # for an object store, where each file is a request of its own


@dataclasses.dataclass(frozen=True)
class CommittedRun:
    """A committed run of predictions.

    Attributes:
        folder: of its predictions, `…/date=YYYY-MM-DD/run=ID`.
        manifest: what it holds, and how it was read.
    """

    folder: str
    manifest: RunManifest

    @property
    def run_id(self) -> str:
        """The run's ID."""
        return self.manifest.run_id

    @property
    def date(self) -> str:
        """The day of the run, UTC, as `YYYY-MM-DD`."""
        return self.folder.split("/")[-2].removeprefix("date=")

    @property
    def rejects_folder(self) -> str:
        """The folder of what the run left out, which is there if there are any."""
        return find_rejects_folder(self.folder)

    @property
    def files(self) -> dict[str, PartEntry]:
        """Every file of predictions, by its path."""
        return {storage.join(self.folder, name): part for name, part in self.manifest.files.items()}

    @property
    def reject_files(self) -> list[str]:
        """The files of what the run left out, as far as they were not pruned."""
        if not self.manifest.counts.rejects:
            return []
        folder = self.rejects_folder
        return [storage.join(folder, name) for name in storage.list_names(folder, "rejects-")]

    @property
    def readings(self) -> list[CommittedRun]:
        """The run itself, or those that were merged into it: their own figures, and the files of all of them."""
        merged = self.manifest
        if not merged.history:
            return [self]
        shared: dict[str, Any] = {"files": merged.files, "decoding": merged.decoding, "limits": merged.limits}
        shared["lost"] = merged.lost  # of which of them is not known
        return [CommittedRun(self.folder, RunManifest(**{**vars(entry), **shared})) for entry in merged.history]


def read_run(folder: str) -> CommittedRun:
    """Reads the run that is committed in a folder.

    Raises:
        FileNotFoundError: if there is none.
        DataError: if its manifest is damaged, or of a newer version of this program.
    """
    return CommittedRun(folder, RunManifest.read(folder))


def find_rejects_folder(folder: str) -> str:
    """Returns the folder of rejects that belongs to a run's folder of predictions."""
    root, day, run = folder.rsplit("/", 2)
    return storage.join(os.path.dirname(root), "rejects", day, run)


def move_rejects(folder: str, destination: str) -> None:
    """Puts the rejects of a run whose predictions are committed in their place, unless they are there."""
    if storage.exists(folder):
        storage.move_folder(folder, destination)


def find_runs(predictions: str, date: str | None = None) -> list[CommittedRun]:
    """Finds the committed runs below a folder of predictions, the oldest first.

    A run that was merged into a later one is not among them: that one holds its rows.

    Args:
        date: of the runs, as `YYYY-MM-DD`; None for all.
    """
    runs = find_all_runs(predictions, date)
    merged = find_merged_ids(runs)
    return [run for run in runs if run.run_id not in merged]


def find_merged_ids(runs: Iterable[CommittedRun]) -> set[str]:
    """Collects the IDs of the runs whose rows others of these hold."""
    return {run_id for run in runs for run_id in run.manifest.merged}


def remove_merged(runs: Iterable[CommittedRun]) -> None:
    """Removes the runs that were merged into others, and what a stopped removal left of them.

    The folder of predictions goes last: as long as it is there, with a manifest or without, the next removal finds it.

    Args:
        runs: into which they were merged, all of them or some.
    """

    def remove(run: CommittedRun) -> None:
        day = os.path.dirname(run.folder)
        merged = {f"run={run_id}" for run_id in run.manifest.merged}
        for name in merged.intersection(storage.list_names(day, "run=")):
            folder = storage.join(day, name)
            storage.remove_folder(find_rejects_folder(folder))
            storage.remove_folder(folder)

    merging = [run for run in runs if run.manifest.merged]
    for _ in map_concurrently(remove, merging, remote=any(storage.is_remote(run.folder) for run in merging)):
        pass


def find_all_runs(
    predictions: str, date: str | None = None, on_damage: Callable[[str], None] | None = None
) -> list[CommittedRun]:
    """Finds the runs of `find_runs`, and those that were merged into others.

    Args:
        on_damage: gets a sentence about each run whose manifest cannot be read; such a run does not count.

    Raises:
        NewerRunError: if a newer version of this program wrote one of them.
    """
    days = [f"date={date}"] if date else storage.list_names(predictions, "date=")
    remote = storage.is_remote(predictions)

    def folders(day: str) -> list[str]:
        above = storage.join(predictions, day)
        return [storage.join(above, name) for name in storage.list_names(above, "run=")]

    def run_in(folder: str) -> CommittedRun | None:
        try:
            return read_run(folder)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (StoreError, NewerRunError):
            raise
        except DataError:
            if on_damage is not None:
                on_damage(
                    f"the manifest of {folder} is damaged, so that this run does not count and its images are read "
                    "again: put back the manifest from a copy, or remove the folder"
                )
            return None

    listed = map_concurrently(folders, days, remote=remote)
    found = map_concurrently(run_in, (folder for some in listed for folder in some), remote=remote)
    return sorted(
        (run for run in found if run is not None), key=lambda run: (run.date, run.manifest.scored_at, run.run_id)
    )


def map_concurrently(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, remote: bool
) -> Iterator[_Result]:
    """Maps like `map`, by threads where each item is asked of an object store."""
    return map_in_threads(function, items, _THREADS, ahead=_THREADS) if remote else map(function, items)


def set_aside_damaged(run: CommittedRun, *, change: bool = True) -> tuple[CommittedRun | None, list[str]]:
    """Takes files out of a run that are missing or have another size than was committed.

    Args:
        change: whether to do this, or only to find out.

    Returns:
        What is left of the run, or None if nothing is; and one sentence for each problem.
    """
    problems: list[str] = []
    kept = {name: part.bytes for name, part in run.manifest.files.items()}
    while problem := storage.find_missing_or_changed(run.folder, kept):
        problems.append(problem)
        del kept[next(name for name in kept if problem.startswith(f"{storage.join(run.folder, name)} "))]
    damaged = [name for name in run.manifest.files if name not in kept]
    return (set_aside_files(run, damaged, change=change) if damaged else run), problems


def set_aside_files(run: CommittedRun, damaged: Collection[str], *, change: bool = True) -> CommittedRun | None:
    """Takes some files of predictions out of a run; returns what is left of it, or None if nothing is.

    The files stay under a name that no reader takes for a table's. They are renamed before the manifest says so: after
    a stop between the two, the next call finds them missing and finishes the work.
    """
    before = run.manifest
    kept = {name: part for name, part in before.files.items() if name not in damaged}
    gone = not kept and not run.reject_files
    lost = sum(before.files[name].rows for name in damaged)
    manifest = dataclasses.replace(
        before,
        files=kept,
        counts=dataclasses.replace(before.counts, read=before.counts.read - lost),
        lost=before.lost + lost,
        # These described all rows, and describe them no more.
        confidence_histogram=None,
        least_confident=None,
    )
    if change:
        for name in damaged:
            storage.rename(storage.join(run.folder, name), f"{name}{_DAMAGED_SUFFIX}")
        if gone:
            storage.remove_file(storage.join(run.folder, RUN_MANIFEST_NAME))
            if not storage.list_names(run.folder):
                storage.remove_folder(run.folder)
        else:
            manifest.write(run.folder)
    return None if gone else CommittedRun(run.folder, manifest)


def count_below(run: CommittedRun, min_confidence: float) -> int:
    """Counts the rows of a run with less than a confidence, whatever confidence was asked for when they were read."""
    manifest = run.manifest
    if min_confidence == manifest.min_confidence and not manifest.lost:
        return manifest.needs_review
    if not min_confidence:
        return 0
    count = 0
    for path in run.files:
        with storage.open_to_read(path) as file:
            confidences = pyarrow.parquet.read_table(file, columns=["confidence"])["confidence"].to_numpy()
        count += int((confidences < min_confidence).sum())
    return count


def read_predictions(folder: str, columns: list[str], rows: int | None = None) -> list[dict[str, Any]]:
    """Reads the first rows of a committed run, or all of them, in the order of its files."""
    found: list[dict[str, Any]] = []
    for name in RunManifest.read(folder).files:
        with storage.open_to_read(storage.join(folder, name)) as file:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(columns=columns):
                found += batch.to_pylist()
                if rows is not None and len(found) >= rows:
                    return found[:rows]
    return found


@contextlib.contextmanager
def open_predictions(path: str) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Opens a Parquet file; raises `DataError` if it turns out to be damaged in the block."""
    try:
        with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as parquet:
            yield parquet
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # not pyarrow's own, but the disk's or the store's
            raise
        raise DataError(
            f"{path} is damaged ({' '.join(str(error).split())}): run the infer step, which sets it aside and reads "
            "its images again"
        ) from None
