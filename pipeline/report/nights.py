"""The nights before the last one, compared with it: figures and confidences, for the report."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pyarrow

from components.predictions.runs import CommittedRun, count_below, find_runs
from components.processes import map_in_threads
from pipeline.workspace import Workspace
from tfrecords import storage

_DAYS_LOOKED_AT = 14  # on which something was read
_NIGHTS = 7  # that the last one is compared with
CONFIDENCE_BARS = 20
_THREADS = 8


def find_nights(workspace: Workspace, run_id: str | None, min_confidence: float) -> list[dict[str, Any]]:
    """Finds the last runs up to the given one, as a `CommandRecord` has them.

    Args:
        min_confidence: below which a reading needs a review; it may have been another one when it was read.
    """
    predictions = workspace.all_predictions
    days = [name.removeprefix("date=") for name in storage.list_names(predictions, "date=")][-_DAYS_LOOKED_AT:]
    runs_by_day = map_in_threads(lambda day: find_runs(predictions, day), days, _THREADS, ahead=_THREADS)
    runs = sorted(itertools.chain.from_iterable(runs_by_day), key=lambda run: (run.manifest.scored_at, run.run_id))
    tonight = next((run for run in runs if run.run_id == run_id), None)
    if tonight is not None:
        runs = runs[: runs.index(tonight)]
    same = [run for run in runs if tonight is not None and run.manifest.is_read_like(tonight.manifest)][-_NIGHTS:]
    shown = [run for run in runs if run in same or run in runs[-_NIGHTS:]]
    nights = [_describe_night(run, min_confidence) | {"tonight": False, "compared": run in same} for run in shown]
    return (
        nights
        if tonight is None
        else [*nights, _describe_night(tonight, min_confidence) | {"tonight": True, "compared": False}]
    )


def _describe_night(run: CommittedRun, min_confidence: float) -> dict[str, Any]:
    """Returns what a `CommandRecord` says of a run."""
    manifest = run.manifest
    needs_review = manifest.needs_review
    with contextlib.suppress(OSError, pyarrow.ArrowInvalid):  # a file that was damaged since
        needs_review = count_below(run, min_confidence)
    rows = manifest.counts.read
    seconds = manifest.figures.shard_s if manifest.figures else 0.0
    bins = manifest.confidence_histogram or []
    width = len(bins) // CONFIDENCE_BARS
    count = sum(bins)
    return {
        "run_id": run.run_id,
        "scored_at": manifest.scored_at,
        "model_id": manifest.model_id,
        "decoding": manifest.decoding,
        "matched": manifest.counts.matched,
        "skipped": manifest.counts.skipped,
        "read": rows,
        "rejected": manifest.counts.rejected,
        "needs_review": needs_review,
        "mean_confidence": manifest.mean_confidence if rows else None,
        "images_per_s": round(rows / seconds, 1) if seconds else None,
        "confidence_shares": [sum(bins[i * width : (i + 1) * width]) / count for i in range(CONFIDENCE_BARS)]
        if count
        else None,
    }


def compare_confidences(nights: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Compares tonight's confidences with those of comparable nights: the share of rows in each bar."""
    tonight = [night["confidence_shares"] for night in nights if night["tonight"] and night["confidence_shares"]]
    if not tonight:
        return None
    before = [night["confidence_shares"] for night in nights if night["compared"] and night["confidence_shares"]]
    means = [sum(shares) / len(before) for shares in zip(*before, strict=True)] or [None] * CONFIDENCE_BARS
    bars = [
        {"start": i / CONFIDENCE_BARS, "end": (i + 1) / CONFIDENCE_BARS, "share": share, "before": mean}
        for i, (share, mean) in enumerate(zip(tonight[0], means, strict=True))
    ]
    return {"bars": bars, "before": len(before)}
