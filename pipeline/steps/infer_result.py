"""The result of the infer step: its summary, its figures and the first rows."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from components.counts import Counts
from components.ingest.sample import read_truth
from components.predictions.manifest import RunManifest
from components.predictions.runs import CommittedRun, count_below, find_rejects_folder, read_predictions
from components.review.selection import count_doubtful
from pipeline.steps.alarms import check_alarms
from pipeline.steps.collection import SelectedCollection
from pipeline.steps.doubt import Doubt, read_evaluation
from pipeline.steps.step import Context, Outcome, StepResult, format_rejects
from pipeline.workspace import Workspace

_FIRST_ROWS = 5


def summarise_run(
    context: Context,
    collection: SelectedCollection,
    doubt: Doubt,
    earlier: Sequence[CommittedRun],
    folder: str,
    manifest: RunManifest,
    outcome: Outcome = Outcome.REUSED,
) -> StepResult:
    """Sums up a committed run.

    Args:
        collection: the images that were to be recognised.
        doubt: which readings a person has to look at.
        earlier: the committed runs before it, the oldest first.
        folder, manifest: of the run.
        outcome: whether it was made now.
    """
    options, counts = context.options, manifest.counts
    # A run that was there already may have been read when another confidence was asked for.
    least = doubt.least_confidence
    needs_review = count_below(CommittedRun(folder, manifest), least)
    manifest = dataclasses.replace(
        manifest, needs_review=needs_review, min_confidence=least, target_error=options.target_error
    )
    summary = f"run {manifest.run_id}: {counts.matched:,} images matched, "
    if counts.skipped:
        summary += f"{counts.skipped:,} skipped as read before, "
    summary += f"{counts.read:,} read with mean confidence {manifest.mean_confidence:.3f}, "
    summary += format_rejects(counts.rejects)
    if counts.reread:
        summary += f"; {counts.reread:,} were read again, since another model had read them with less confidence"
    if counts.retried:
        summary += f"; {counts.retried:,} were tried again, since they could not be read before"
    if outcome is Outcome.REUSED:
        summary += "; it was there already, read from the very same images by the same model"
    elif manifest.figures is not None:
        summary += f"; engine: {', '.join(manifest.figures.engines)}"
    accepted = counts.read - needs_review
    summary += doubt.describe_accepted(accepted)
    if needs_review:
        summary += f"; {needs_review:,} {doubt.reason} need a review"
    unwanted = ("files", "limits", "scored_at", "schema_version")
    figures = {name: value for name, value in manifest.to_json().items() if name not in unwanted}
    figures["looked_at"] = counts.looked_at
    figures |= _describe_doubt(doubt, accepted)
    figures |= {"listing_s": round(collection.listing_s, 3), "unread_s": round(collection.unread_s, 3)}
    evaluation = None if manifest.model_id is None else read_evaluation(context.workspace, manifest.model_id)
    closing = list(_show_first_rows(folder, counts.read))
    if not options.infer_images:
        figures["right"] = right = _count_right(context.workspace, folder, manifest)
        share = f"{right['exact']} ({right['exact'] / max(right['images'], 1):.1%})"
        closing += ["", f"of the sample's {right['images']} unlabelled images, {share} were read exactly"]
    return StepResult(
        summary,
        folder,
        figures,
        outcome,
        alarms=check_alarms(options, counts, manifest, earlier, evaluation),
        rejects=counts.rejects,
        rejects_folder=find_rejects_folder(folder),
        summary_figures=_make_summary_figures(counts, needs_review),
        closing=closing,
    )


def summarise_nothing_new(
    context: Context,
    collection: SelectedCollection,
    rejects: dict[str, int],
    doubt: Doubt,
    runs: Sequence[CommittedRun],
) -> StepResult:
    """Sums up a step in which every image was read before, or still cannot be read.

    Args:
        doubt: which readings a person has to look at now.
        runs: the committed runs, whose readings are judged by that.
    """
    files = [path for run in runs for path in run.files]
    needs_review = count_doubtful(files, doubt.least_confidence) if doubt.least_confidence else 0
    counts = dataclasses.replace(collection.counts, rejects=rejects)
    summary = f"nothing new: {counts.matched:,} images matched, all of which were read before"
    if rejects:
        summary += f", but for those that still cannot be: {format_rejects(rejects)}"
    if needs_review:
        summary += f"; {needs_review:,} readings of earlier runs are {doubt.reason} and need a review"
    figures = {
        **counts.to_json(),
        "reread": 0,
        "needs_review": needs_review,
        "min_confidence": doubt.least_confidence,
        "doubt": doubt.reason,
        "looked_at": collection.images,
        "listing_s": round(collection.listing_s, 3),
        "unread_s": round(collection.unread_s, 3),
    }
    return StepResult(
        summary,
        context.workspace.all_predictions,
        figures,
        Outcome.NOTHING,
        alarms=check_alarms(context.options, counts, None, []),
        summary_figures=_make_summary_figures(counts, needs_review),
    )


def _describe_doubt(doubt: Doubt, accepted: int) -> dict[str, Any]:
    """Returns the figures of doubtful and accepted readings for the report."""
    promise = doubt.promise
    return {"doubt": doubt.reason} | (
        {} if promise is None else {"promise": dataclasses.asdict(promise), "accepted": accepted}
    )


def _make_summary_figures(counts: Counts, needs_review: int) -> dict[str, Any]:
    """Returns the counts of images for the last line of the log."""
    return {
        "matched": counts.matched,
        "skipped": counts.skipped,
        "needs_review": needs_review,
        "rejected": counts.rejected,
        "read": counts.read,
    }


def _show_first_rows(folder: str, rows: int) -> Iterator[str]:
    """Yields the first rows of a run as lines."""
    if not rows:
        return
    yield ""
    yield f"first rows of {rows:,}:"
    yield f"  {'confidence':>10}  {'text':<24} uri"
    for row in read_predictions(folder, ["uri", "text", "confidence"], _FIRST_ROWS):
        yield f"  {row['confidence']:>10.3f}  {row['text']:<24} {row['uri']}"


def _count_right(workspace: Workspace, folder: str, manifest: RunManifest) -> dict[str, int]:
    """Counts the images of the sample, whose truth is known, that were read exactly."""
    truth = read_truth(workspace.sample)
    rows = read_predictions(folder, ["uri", "text"])
    right = sum(truth.get(os.path.basename(row["uri"])) == row["text"] for row in rows)
    return {"images": manifest.counts.matched, "exact": right}
