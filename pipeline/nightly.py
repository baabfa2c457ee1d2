"""What of a listed collection is left to read, after the nights before."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam

from components.inference.predictions import move_rejects
from components.inference.runs import (
    CommittedRun,
    find_all_runs,
    find_merged_ids,
    map_concurrently,
    remove_merged,
    set_aside_damaged,
    set_aside_files,
)
from components.inference.transforms import FindUnread
from components.inference.unread import SkipRule, Source, UnreadSummary
from components.listing import ListingSummary
from components.work import choose_shard_count
from pipeline.options import LinePipelineOptions
from pipeline.runners import run_job
from pipeline.workspace import Workspace
from tfrecords import SplitFractions, storage

_READ_AGAIN = "it was damaged after it was committed; what it held is read again, where the images are still there"
_LARGER_PLACES = 64  # times as many images as in a shard: only digests and names meet


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
    unsettled = [run for run in runs if run.manifest.get("merged") and there.issuperset(run.manifest["merged"])]
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
        if names := [name for name in run.manifest["files"] if storage.join(run.folder, name) in paths]:
            set_aside_files(run, names)
        for path in paths.intersection(run.reject_files):
            storage.rename(path, f"damaged-{os.path.basename(path)}")  # which no rejects file is called
    for path in sorted(paths):
        say(f"warning: {path} cannot be read: {_READ_AGAIN}")


def find_unread(
    options: LinePipelineOptions,
    listing: ListingSummary,
    files: list[str],
    runs: list[CommittedRun],
    *,
    model_id: str,
    decoding: list[Any],
    limits: dict[str, int],
    folder: str,
    say: Callable[[str], None],
) -> tuple[UnreadSummary, list[str]]:
    """The listed images that are to be read, in listing files of their own below a folder.

    Args:
        files: the listing files.
        runs: committed ones; those with another decoding count for nothing, nor do the rejects of those with other
            limits.
        decoding, limits: of this run, as manifests have them.
    """
    sources = list(_list_sources(runs, decoding, limits))
    if options.reread or not sources:
        return UnreadSummary(listing, 0, 0, 0), files
    known = sum(run.manifest["rows"] for run in runs)
    places = choose_shard_count(max(listing.images, known) // _LARGER_PLACES)
    unread = [storage.join(folder, f"unread-{number:05d}.parquet") for number in range(places)]
    summary_path = storage.join(folder, "unread.json")
    read = SkipRule(model_id, options.reread_below)
    sources += [Source("listing", path) for path in files]
    run_job(
        options,
        lambda pipeline: (
            pipeline
            | "Sources" >> beam.Create(sources)
            | "FindUnread" >> FindUnread(summary_path, unread, read, SplitFractions())
        ),
        say=say,
        before_template=True,
    )
    content = storage.read_json(summary_path)
    summary = UnreadSummary(**{**content, "listing": ListingSummary(**content["listing"])})
    if summary.listing.images + summary.skipped != listing.images:
        raise RuntimeError(
            f"{listing.images} images were listed, but {summary.listing.images} to read and {summary.skipped} that "
            "were read are left of them"
        )
    summary = dataclasses.replace(
        summary, listing=dataclasses.replace(summary.listing, repeats=listing.repeats, passed_over=listing.passed_over)
    )
    return summary, [path for path in unread if storage.exists(path)] if summary.listing.images else []


def _list_sources(runs: list[CommittedRun], decoding: list[Any], limits: dict[str, int]) -> Iterator[Source]:
    for run in runs:
        if run.manifest.get("decoding") == decoding:
            yield from (Source("predictions", path) for path in run.files)
    alike = [run for run in runs if run.manifest.get("limits") == limits]
    remote = any(storage.is_remote(run.folder) for run in alike)
    for paths in map_concurrently(lambda run: run.reject_files, alike, remote=remote):
        yield from (Source("rejects", path) for path in paths)
