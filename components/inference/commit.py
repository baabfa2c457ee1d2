"""The commit of a run whose shards are all recognised."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.commit import Commit, keep_only
from components.counts import merge_counts
from components.inference.request import STARTED_NAME, SUMMARIES_NAME, UNCHANGED_NAME, InferenceRequest, RecognisedShard
from components.predictions.manifest import RUN_MANIFEST_NAME, PartEntry, RunManifest, RunTimes
from components.predictions.runs import move_rejects
from components.predictions.schema import summarise_rows
from components.predictions.unread import RETRIED
from components.rejects import explain_too_many_rejects
from tfrecords import name_shard, storage


def commit_run(summaries: Iterable[RecognisedShard], request: InferenceRequest) -> None:
    """Checks that every listed image is accounted for, and makes the run's predictions exist.

    Two cases commit nothing. If too many images were left out, `refused.json` says so in one sentence. If every image
    was one that earlier runs could not read, and none can be read now, `unchanged.json` says so.
    """
    commit = Commit(request.folder, request.destination, RUN_MANIFEST_NAME, working=(SUMMARIES_NAME, STARTED_NAME))
    if commit.already_done():
        move_rejects(request.rejects_folder, request.rejects_destination)
        storage.remove_folder(request.folder)
        return
    ordered = sorted(summaries, key=lambda summary: summary.index)
    rejects = merge_counts(summary.rejects for summary in ordered)
    counts = dataclasses.replace(request.counts, read=sum(summary.rows for summary in ordered), rejects=rejects)
    counts.check_accounted(sum(summary.matched for summary in ordered), verb="read")
    rejected = {name_shard("rejects", each.index, request.shards, "parquet") for each in ordered if each.rejects}
    keep_only(request.rejects_folder, rejected)
    problem = explain_too_many_rejects(
        rejects, counts.matched, request.max_reject_fraction, where=f"{request.rejects_folder}/rejects-*.parquet"
    )
    if problem is not None:
        commit.refuse(problem, rejects)
        return
    if counts.retried and not counts.read and counts.rejected == counts.retried and rejects.keys() <= set(RETRIED):
        storage.write_json(storage.join(request.folder, UNCHANGED_NAME), {"rejects": rejects})
        return
    files = {
        name_shard("part", summary.index, request.shards, "parquet"): PartEntry(
            summary.rows, summary.bytes, summary.sha256
        )
        for summary in ordered
        if summary.rows
    }
    commit.check({name: part.bytes for name, part in files.items()})
    commit.keep(files)
    manifest = RunManifest(
        run_id=request.run_id,
        model_id=request.model_id,
        scored_at=request.scored_at.isoformat(),
        decoding=request.decoding.identity,
        limits=request.limits_of_lines,
        inputs=request.inputs,
        counts=counts,
        **summarise_rows(ordered),
        min_confidence=request.min_confidence,
        target_error=request.target_error,
        figures=summarise_figures([summary.figures for summary in ordered]),
        files=files,
    )
    storage.remove_folder(storage.join(request.folder, SUMMARIES_NAME))
    storage.remove_file(storage.join(request.folder, STARTED_NAME))
    commit.finish(manifest)
    move_rejects(request.rejects_folder, request.rejects_destination)


def summarise_figures(shards: Sequence[Mapping[str, Any]]) -> RunTimes:
    """Adds up how long the shards of a run took."""
    engines = sorted({(shard["engine"], shard["why"]) for shard in shards if "engine" in shard})
    return RunTimes(
        engines=[f"{engine} ({why})" for engine, why in engines],
        model_load_s=max((shard.get("model_load_s", 0.0) for shard in shards), default=0.0),
        batches=sum(shard["batches"] for shard in shards),
        scoring_s=sum(shard["scoring_s"] for shard in shards),
        slowest_batch_s=max((shard["slowest_batch_s"] for shard in shards), default=0.0),
        shard_s=sum(shard["seconds"] for shard in shards),
    )
