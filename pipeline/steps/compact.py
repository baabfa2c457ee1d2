"""The compact step: the small runs of predictions of one day merged into few large files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import apache_beam as beam

from components.predictions.merging import MergeRequest, group_runs_to_merge, plan_merged_files
from components.predictions.runs import CommittedRun, read_run
from components.predictions.transforms import MergeRuns
from pipeline.engines.jobs import run_job
from pipeline.options import LinePipelineOptions
from pipeline.steps.runs import find_sound_runs
from pipeline.steps.step import Context, StepResult
from pipeline.workspace import Workspace, make_id
from tfrecords import storage


@dataclasses.dataclass(frozen=True)
class Compaction:
    """What became of a day's runs.

    Attributes:
        summary: one sentence.
        folder: of the day's predictions.
        figures: `date`, `runs_before`, `runs`, `files_before`, `files`, `rows`, and the IDs of the runs that are there
            then, `run_ids`.
        reused: whether there was nothing to do.
    """

    summary: str
    folder: str
    figures: dict[str, Any]
    reused: bool


def compact_day(options: LinePipelineOptions, workspace: Workspace, say: Callable[[str], None]) -> Compaction:
    """Merges the runs of the day `--date` that were read in the same way; the rows stay what they are.

    Raises:
        DataError: if a file of one was damaged.
    """
    date = options.date
    folder = os.path.dirname(workspace.predictions(date, ""))
    runs = [run for run in find_sound_runs(workspace, say) if run.date == date]
    _remove_rejects_of_no_run(os.path.dirname(workspace.rejects(date, "")), runs)
    # Runs without a row, whose rejects were pruned, have nothing to merge.
    plans = [(group, files) for group in group_runs_to_merge(runs) if (files := plan_merged_files(group))]
    requests = [_make_request(workspace, date, group) for group, _ in plans]
    if requests:
        say(f"merging {sum(len(group) for group, _ in plans):,} runs of {date} into {len(plans):,}")
        written = [(number, file) for number, (_, files) in enumerate(plans) for file in files]
        run_job(
            options,
            lambda pipeline: pipeline | "Files" >> beam.Create(written) | "Merge" >> MergeRuns(requests),
            say=say,
        )
    merged = {run.run_id for group, _ in plans for run in group}
    now = [run for run in runs if run.run_id not in merged] + [read_run(request.destination) for request in requests]
    figures = {
        "date": date,
        "runs_before": len(runs),
        "runs": len(now),
        "files_before": sum(len(run.files) for run in runs),
        "files": sum(len(run.files) for run in now),
        "rows": sum(run.manifest.counts.read for run in now),
        "run_ids": [run.run_id for run in now],
    }
    return Compaction(_summarise(figures, bool(requests)), folder, figures, reused=not requests)


def _make_request(workspace: Workspace, date: str, runs: list[CommittedRun]) -> MergeRequest:
    what = [[run.run_id, sorted(part.sha256 for part in run.manifest.files.values())] for run in runs]
    run_id = f"m{make_id(merged=what)}"
    return MergeRequest(
        run_id=run_id,
        folder=workspace.unfinished(f"merged-{run_id}"),
        destination=workspace.predictions(date, run_id),
        # Of another name than the rejects of a run that reads: these are in their place before the run is committed.
        rejects_folder=workspace.unfinished(f"merged-rejects-{run_id}"),
        rejects_destination=workspace.rejects(date, run_id),
        merged=tuple(run.folder for run in runs),
    )


def _remove_rejects_of_no_run(folder: str, runs: list[CommittedRun]) -> None:
    """Removes the rejects of a merge that was stopped just before it was committed."""
    committed = {f"run={run.run_id}" for run in runs}
    for name in storage.list_names(folder, "run=m"):
        if name not in committed:
            storage.remove_folder(storage.join(folder, name))


def _summarise(figures: dict[str, Any], merged: bool) -> str:
    held = f"{figures['rows']:,} rows in {_count(figures['files'], 'file')}"
    if merged:
        return (
            f"{figures['date']}: {_count(figures['runs_before'], 'run')} in {_count(figures['files_before'], 'file')} "
            f"merged into {_count(figures['runs'], 'run')}: {held}"
        )
    if not figures["runs"]:
        return f"{figures['date']}: nothing to merge, since no run of that day is committed"
    if figures["runs"] == 1:
        return f"{figures['date']}: nothing to merge, since there is one run: {held}"
    return (
        f"{figures['date']}: nothing to merge, since each of {figures['runs']:,} runs was read with another decoder or "
        f"other limits, by an older version of this program, or has nothing left: {held}"
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def compact(context: Context) -> StepResult:
    """The committed runs of one day to one run for each way of reading.

    Raises:
        DataError: if a file of one was damaged.
    """
    done = compact_day(context.options, context.workspace, context.say)
    return StepResult("compact", done.summary, done.folder, done.figures, reused=done.reused)
