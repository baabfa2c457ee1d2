"""The images of a listed collection that are left to recognise, after the nights before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from components.listing import ListingSummary
from components.predictions.runs import CommittedRun, map_concurrently
from components.predictions.transforms import FindUnread
from components.predictions.unread import SkipRule, Source, UnreadSummary
from pipeline.engines.jobs import run_job
from pipeline.options import LinePipelineOptions
from tfrecords import storage
from tfrecords.shards import choose_shard_count

_LARGER_PLACES = 64  # times as many images as in a shard: only digests and names meet


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
) -> tuple[UnreadSummary, list[str]]:
    """Finds the listed images that no committed run has read, and writes them to listing files below a folder.

    Args:
        files: the listing files.
        runs: committed ones; runs with another decoding do not count, nor do the rejects of runs with other limits.
        decoding, limits: of this run, as manifests have them.
    """
    sources = list(_list_sources(runs, decoding, limits))
    if options.reread or not sources:
        return UnreadSummary(listing, 0, 0, 0), files
    known = sum(run.manifest.counts.read for run in runs)
    places = choose_shard_count(max(listing.images, known) // _LARGER_PLACES)
    unread = [storage.join(folder, f"unread-{number:05d}.parquet") for number in range(places)]
    summary_path = storage.join(folder, "unread.json")
    read = SkipRule(model_id, options.reread_below)
    sources += [Source("listing", path) for path in files]
    run_job(
        options,
        lambda pipeline: (
            pipeline | "Sources" >> beam.Create(sources) | "FindUnread" >> FindUnread(summary_path, unread, read)
        ),
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
    """Lists the files of committed runs that say which images were read, or rejected."""
    for run in runs:
        if run.manifest.decoding == decoding:
            yield from (Source("predictions", path) for path in run.files)
    alike = [run for run in runs if run.manifest.limits == limits]
    remote = any(storage.is_remote(run.folder) for run in alike)
    for paths in map_concurrently(lambda run: run.reject_files, alike, remote=remote):
        yield from (Source("rejects", path) for path in paths)
