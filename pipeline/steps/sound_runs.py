"""The committed runs of a workspace, less the files that were lost or damaged since."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable

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
from pipeline.steps.step import Context
from pipeline.workspace import Unfinished, Workspace
from tfrecords import storage

log = logging.getLogger(__name__)

_READ_AGAIN = "it was damaged after it was committed; what it held is read again, where the images are still there"


def find_sound_runs(context: Context) -> list[CommittedRun]:
    """Finds the committed runs, less the files that were lost or damaged since, whose images are read again.

    The remains of a stopped merge are removed first, if the run that it made is whole. Rejects are moved to their place
    if their run was killed right after its predictions were moved. In a plan the same runs are found, and nothing is
    changed.
    """
    workspace = context.workspace
    all_runs = find_all_runs(workspace.all_predictions, on_damage=log.warning)
    for run in _find_damaged_merges(all_runs):
        log.warning(
            f"{run.folder}, into which other runs were merged, is damaged: it is removed, and those count again"
        )
        if not context.plans:
            storage.remove_folder(run.folder)
            storage.remove_folder(run.rejects_folder)
        all_runs.remove(run)
    merged = find_merged_ids(all_runs)
    all_runs = [run for run in all_runs if run.run_id not in merged]
    if not context.plans:
        remove_merged(all_runs)
    runs: list[CommittedRun] = []
    set_aside = functools.partial(set_aside_damaged, change=not context.plans)
    for kept, problems in map_concurrently(set_aside, all_runs, remote=storage.is_remote(workspace.root)):
        for problem in problems:
            log.warning(f"{problem}: {_READ_AGAIN}")
        if kept is not None:
            runs.append(kept)
    if not context.plans:
        move_pending_rejects(workspace, runs)
    return runs


def _find_damaged_merges(runs: list[CommittedRun]) -> list[CommittedRun]:
    """Finds damaged runs into which others were merged, if all of those still exist."""
    there = {run.run_id for run in runs}
    unsettled = [run for run in runs if run.manifest.merged and there.issuperset(run.manifest.merged)]
    return [run for run in unsettled if set_aside_damaged(run, change=False)[1]]


def move_pending_rejects(workspace: Workspace, runs: Iterable[CommittedRun]) -> None:
    """Moves rejects to their place if their run was killed after its predictions were in theirs."""
    places = {f"{Unfinished.REJECTS.prefix}{run.run_id}": run.rejects_folder for run in runs}
    for name in storage.list_names(workspace.all_unfinished, Unfinished.REJECTS.prefix):
        if name in places:
            move_rejects(storage.join(workspace.all_unfinished, name), places[name])


def set_aside_unreadable(context: Context, runs: list[CommittedRun], damaged: Iterable[str]) -> None:
    """Sets aside files that cannot be read, in the runs that have them; their images count as unread."""
    paths = set(damaged)
    for run in () if context.plans else runs:
        if names := [name for name in run.manifest.files if storage.join(run.folder, name) in paths]:
            set_aside_files(run, names)
        for path in paths.intersection(run.reject_files):
            storage.rename(path, f"damaged-{os.path.basename(path)}")  # which no rejects file is called
    for path in sorted(paths):
        log.warning(f"{path} cannot be read: {_READ_AGAIN}")
