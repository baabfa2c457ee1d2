"""The committed runs of a workspace, less what was lost or damaged since."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from components.predictions.runs import (
    CommittedRun,
    find_all_runs,
    find_merged_ids,
    map_concurrently,
    move_rejects,
    remove_merged,
    set_aside_damaged,
    set_aside_files,
)
from pipeline.workspace import Workspace
from tfrecords import storage

_READ_AGAIN = "it was damaged after it was committed; what it held is read again, where the images are still there"


def find_sound_runs(workspace: Workspace, say: Callable[[str], None]) -> list[CommittedRun]:
    """The committed runs, less the files that were lost or damaged since, whose images are read again.

    What a merge of runs left that was stopped is removed first, if what it made is whole; rejects are moved whose run
    was killed after its predictions were.
    """

    def warn(problem: str) -> None:
        say(f"warning: {problem}")

    found = find_all_runs(workspace.all_predictions, on_damage=warn)
    for run in _find_damaged_merges(found):
        warn(f"{run.folder}, into which other runs were merged, is damaged: it is removed, and those count again")
        storage.remove_folder(run.folder)
        storage.remove_folder(run.rejects_folder)
        found.remove(run)
    merged = find_merged_ids(found)
    found = [run for run in found if run.run_id not in merged]
    remove_merged(found)
    runs: list[CommittedRun] = []
    for kept, problems in map_concurrently(set_aside_damaged, found, remote=storage.is_remote(workspace.root)):
        for problem in problems:
            warn(f"{problem}: {_READ_AGAIN}")
        if kept is not None:
            runs.append(kept)
    move_pending_rejects(workspace, runs)
    return runs


def _find_damaged_merges(runs: list[CommittedRun]) -> list[CommittedRun]:
    """The runs into which others were merged that are all there still, and that are not whole themselves."""
    there = {run.run_id for run in runs}
    unsettled = [run for run in runs if run.manifest.merged and there.issuperset(run.manifest.merged)]
    return [run for run in unsettled if set_aside_damaged(run, change=False)[1]]


def move_pending_rejects(workspace: Workspace, runs: Iterable[CommittedRun]) -> None:
    """Puts rejects in their place whose run was killed after its predictions were in theirs."""
    places = {f"rejects-{run.run_id}": run.rejects_folder for run in runs}
    for name in storage.list_names(workspace.unfinished(""), "rejects-"):
        if name in places:
            move_rejects(workspace.unfinished(name), places[name])


def set_aside_unreadable(runs: list[CommittedRun], damaged: Iterable[str], say: Callable[[str], None]) -> None:
    """Takes files that cannot be read out of the runs that have them; their images were not taken for read."""
    paths = set(damaged)
    for run in runs:
        if names := [name for name in run.manifest.files if storage.join(run.folder, name) in paths]:
            set_aside_files(run, names)
        for path in paths.intersection(run.reject_files):
            storage.rename(path, f"damaged-{os.path.basename(path)}")  # which no rejects file is called
    for path in sorted(paths):
        say(f"warning: {path} cannot be read: {_READ_AGAIN}")
