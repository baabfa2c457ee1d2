"""Committed runs of predictions: found, read, and cleared of damaged files. A run without a manifest does not exist."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pyarrow.parquet

from components.processes import map_in_threads
from tfrecords import DataError, StoreError, storage


def move_rejects(folder: str, destination: str) -> None:
    """Puts the rejects of a run whose predictions are committed in their place, if that was not done."""
    if storage.exists(folder):
        storage.move_folder(folder, destination)


# The underscore keeps the manifest out of what pandas, pyarrow and Spark take for data.
RUN_MANIFEST_NAME = "_manifest.json"
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_DAMAGED_SUFFIX = ".damaged"
_THREADS = 16  # for an object store, which is asked for each file by itself


@dataclasses.dataclass(frozen=True)
class CommittedRun:
    """One run of the infer step that is committed.

    Attributes:
        folder: of its predictions, `…/date=YYYY-MM-DD/run=ID`.
        manifest: what it holds, and how it was read.
    """

    folder: str
    manifest: dict[str, Any]

    @property
    def run_id(self) -> str:
        """The run's ID."""
        return self.manifest["run_id"]

    @property
    def date(self) -> str:
        """The day of the run, UTC, as `YYYY-MM-DD`."""
        return self.folder.split("/")[-2].removeprefix("date=")

    @property
    def rejects_folder(self) -> str:
        """The folder of what the run left out, which is there if there are any."""
        root, day, run = self.folder.rsplit("/", 2)
        return storage.join(os.path.dirname(root), "rejects", day, run)

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Rows, bytes and checksum of every file of predictions, by its path."""
        return {storage.join(self.folder, name): described for name, described in self.manifest["files"].items()}

    @property
    def reject_files(self) -> list[str]:
        """The files of what the run left out, as far as they were not pruned."""
        if not self.manifest["rejects"]:
            return []
        folder = self.rejects_folder
        return [storage.join(folder, name) for name in storage.list_names(folder, "rejects-")]

    def is_read_like(self, figures: Mapping[str, Any]) -> bool:
        """Whether model and decoding were those of another run, so that confidences can be compared."""
        names = ("model_id", "decoding")
        return all(name in self.manifest and self.manifest[name] == figures.get(name) for name in names)

    @property
    def readings(self) -> list[CommittedRun]:
        """The run itself, or those that were merged into it: their own figures, and the files of all of them."""
        if "history" not in self.manifest:
            return [self]
        shared = {name: self.manifest[name] for name in ("decoding", "limits", "files")}
        shared["lost"] = self.manifest.get("lost", 0)  # of which of them is not known
        return [CommittedRun(self.folder, {**figures, **shared}) for figures in self.manifest["history"]]


def read_run(folder: str) -> CommittedRun:
    """The run that is committed in a folder; raises `FileNotFoundError` if there is none."""
    return CommittedRun(folder, storage.read_json(storage.join(folder, RUN_MANIFEST_NAME)))


def find_runs(predictions: str, date: str | None = None) -> list[CommittedRun]:
    """The committed runs below a folder of predictions, the oldest first.

    A run whose rows are in a later one, into which it was merged, is not among them.

    Args:
        date: of the runs, as `YYYY-MM-DD`; None for all.
    """
    runs = find_all_runs(predictions, date)
    merged = find_merged_ids(runs)
    return [run for run in runs if run.run_id not in merged]


def find_merged_ids(runs: Iterable[CommittedRun]) -> set[str]:
    """The IDs of the runs whose rows others of these have."""
    return {run_id for run in runs for run_id in run.manifest.get("merged", ())}


def remove_merged(runs: Iterable[CommittedRun]) -> None:
    """Removes the runs that were merged into others, and what a removal that was stopped left of them.

    The folder of predictions goes last: as long as it is there, with a manifest or without, it is looked for.

    Args:
        runs: into which they were merged, all of them or some.
    """

    def remove(run: CommittedRun) -> None:
        day = os.path.dirname(run.folder)
        merged = {f"run={run_id}" for run_id in run.manifest["merged"]}
        for name in merged.intersection(storage.list_names(day, "run=")):
            left = CommittedRun(storage.join(day, name), {})
            storage.remove_folder(left.rejects_folder)
            storage.remove_folder(left.folder)

    merging = [run for run in runs if run.manifest.get("merged")]
    for _ in map_concurrently(remove, merging, remote=any(storage.is_remote(run.folder) for run in merging)):
        pass


def find_all_runs(
    predictions: str, date: str | None = None, on_damage: Callable[[str], None] | None = None
) -> list[CommittedRun]:
    """`find_runs`, and the runs that were merged into others.

    Args:
        on_damage: told in a sentence of each run whose manifest cannot be read, and which does not count.
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
        except StoreError:
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
        (run for run in found if run is not None), key=lambda run: (run.date, run.manifest["scored_at"], run.run_id)
    )


def map_concurrently(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, remote: bool
) -> Iterator[_Result]:
    """`map`, by threads where each item is asked of an object store."""
    return map_in_threads(function, items, _THREADS, ahead=_THREADS) if remote else map(function, items)


def set_aside_damaged(run: CommittedRun, *, change: bool = True) -> tuple[CommittedRun | None, list[str]]:
    """Takes files that are missing, or have another size than was committed, out of a run.

    Args:
        change: whether this is done, or only found out.

    Returns:
        The run as it is then, or None if nothing is left of it; and what was wrong, in words.
    """
    problems: list[str] = []
    kept = {name: file["bytes"] for name, file in run.manifest["files"].items()}
    while problem := storage.find_missing_or_changed(run.folder, kept):
        problems.append(problem)
        del kept[next(name for name in kept if problem.startswith(f"{storage.join(run.folder, name)} "))]
    damaged = [name for name in run.manifest["files"] if name not in kept]
    return (set_aside_files(run, damaged, change=change) if damaged else run), problems


def set_aside_files(run: CommittedRun, damaged: Collection[str], *, change: bool = True) -> CommittedRun | None:
    """A run without some of its files of predictions; None if nothing is left of it.

    The files stay under a name that no reader takes for a table's; that is done before the manifest says so, so that
    whoever is stopped between finds them missing, and goes on from there.
    """
    kept = {name: file for name, file in run.manifest["files"].items() if name not in damaged}
    gone = not kept and not run.reject_files
    lost = sum(run.manifest["files"][name]["rows"] for name in damaged)
    # What described all rows describes them no more.
    described = {
        name: value for name, value in run.manifest.items() if name not in ("confidence_histogram", "least_confident")
    }
    rows, lost = run.manifest["rows"] - lost, run.manifest.get("lost", 0) + lost
    manifest = {**described, "files": kept, "rows": rows, "lost": lost}
    if change:
        for name in damaged:
            storage.rename(storage.join(run.folder, name), f"{name}{_DAMAGED_SUFFIX}")
        if gone:
            storage.remove_file(storage.join(run.folder, RUN_MANIFEST_NAME))
            if not storage.list_names(run.folder):
                storage.remove_folder(run.folder)
        else:
            storage.write_json(storage.join(run.folder, RUN_MANIFEST_NAME), manifest)
    return None if gone else CommittedRun(run.folder, manifest)


def read_predictions(folder: str, columns: list[str], rows: int | None = None) -> list[dict[str, Any]]:
    """The first rows of a committed run, or all of them, in the order of its files."""
    found: list[dict[str, Any]] = []
    for name in storage.read_json(storage.join(folder, RUN_MANIFEST_NAME))["files"]:
        with storage.open_to_read(storage.join(folder, name)) as file:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(columns=columns):
                found += batch.to_pylist()
                if rows is not None and len(found) >= rows:
                    return found[:rows]
    return found
