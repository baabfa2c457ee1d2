"""The commit of a run whose shards are all recognised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.commit import REFUSED_NAME, check_files, keep_only
from components.counts import check_accounted, merge_counts
from components.inference.request import STARTED_NAME, SUMMARIES_NAME, UNCHANGED_NAME, InferenceRequest, RecognisedShard
from components.predictions.runs import RUN_MANIFEST_NAME, move_rejects
from components.predictions.schema import summarise_rows
from components.predictions.unread import RETRIED
from components.rejects import explain_too_many_rejects
from tfrecords import name_shard, storage


def commit_run(summaries: Iterable[RecognisedShard], request: InferenceRequest) -> None:
    """Checks that every listed image is accounted for, and makes the run's predictions exist.

    If too many images were left out, `refused.json` with one sentence is written instead,
    and nothing is committed; nor is it if nothing but what could not be read before was tried, and
    still cannot be: that is told in `unchanged.json`, and known from an earlier run.
    """
    if storage.exists(storage.join(request.destination, RUN_MANIFEST_NAME)):
        move_rejects(request.rejects_folder, request.rejects_destination)
        storage.remove_folder(request.folder)
        return  # the engine repeats a commit that was done
    ordered = sorted(summaries, key=lambda summary: summary.index)
    matched = sum(summary.matched for summary in ordered)
    rows = sum(summary.rows for summary in ordered)
    rejects = merge_counts(summary.rejects for summary in ordered)
    check_accounted(request.images, matched, rows, rejects, verb="read")
    rejected = {name_shard("rejects", each.index, request.shards, "parquet") for each in ordered if each.rejects}
    keep_only(request.rejects_folder, rejected)
    listed = request.skipped + matched
    problem = explain_too_many_rejects(
        rejects, listed, request.max_reject_fraction, where=f"{request.rejects_folder}/rejects-*.parquet"
    )
    if problem is not None:
        storage.write_json(storage.join(request.folder, REFUSED_NAME), {"reason": problem, "rejects": rejects})
        return
    if request.retried and not rows and sum(rejects.values()) == request.retried and rejects.keys() <= set(RETRIED):
        storage.write_json(storage.join(request.folder, UNCHANGED_NAME), {"rejects": rejects})
        return
    files: dict[str, dict[str, Any]] = {
        name_shard("part", summary.index, request.shards, "parquet"): {
            "rows": summary.rows,
            "bytes": summary.bytes,
            "sha256": summary.sha256,
        }
        for summary in ordered
        if summary.rows
    }
    check_files(request.folder, {name: described["bytes"] for name, described in files.items()})
    keep_only(request.folder, {*files, SUMMARIES_NAME, STARTED_NAME})
    manifest: dict[str, Any] = {
        "run_id": request.run_id,
        "model_id": request.model_id,
        "scored_at": request.scored_at.isoformat(),
        "decoding": request.decoding.identity,
        "limits": request.limits_of_lines,
        "inputs": request.inputs,
        "matched": listed,
        "repeats": request.repeats,
        "skipped": request.skipped,
        "reread": request.reread,
        "retried": request.retried,
        "rows": rows,
        "rejects": rejects,
        **summarise_rows(ordered),
        "min_confidence": request.min_confidence,
        "figures": summarise_figures([summary.figures for summary in ordered]),
        "files": files,
    }
    storage.remove_folder(storage.join(request.folder, SUMMARIES_NAME))
    storage.remove_file(storage.join(request.folder, STARTED_NAME))
    storage.write_json(storage.join(request.folder, RUN_MANIFEST_NAME), manifest)
    storage.move_folder(request.folder, request.destination)
    move_rejects(request.rejects_folder, request.rejects_destination)


def summarise_figures(shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How a run was read, from the figures of its shards."""
    engines = sorted({(shard["engine"], shard["why"]) for shard in shards if "engine" in shard})
    return {
        "engines": [f"{engine} ({why})" for engine, why in engines],
        "model_load_s": max((shard.get("model_load_s", 0.0) for shard in shards), default=0.0),
        "batches": sum(shard["batches"] for shard in shards),
        "scoring_s": sum(shard["scoring_s"] for shard in shards),
        "slowest_batch_s": max((shard["slowest_batch_s"] for shard in shards), default=0.0),
        "shard_s": sum(shard["seconds"] for shard in shards),
    }
