"""The compact step: it merges the small runs of predictions of one day into few large files."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

import apache_beam as beam

from components.counts import format_count
from components.predictions.merging import MergedFile, MergeRequest, group_runs_to_merge, plan_merged_files
from components.predictions.runs import CommittedRun, read_run
from components.predictions.transforms import MergeRuns
from pipeline.engines.jobs import run_job
from pipeline.steps.sound_runs import find_sound_runs
from pipeline.steps.step import Context, Outcome, Plan, StepResult
from pipeline.workspace import Unfinished, Workspace, make_id
from tfrecords import storage

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The runs of a day, and the merges to make of them.

    Attributes:
        runs: the sound runs of the day.
        groups: the runs that become one run each, with the files to write for them.
    """

    runs: list[CommittedRun]
    groups: list[tuple[list[CommittedRun], list[MergedFile]]]

    @property
    def merged(self) -> int:
        """Number of runs that are merged into others."""
        return sum(len(group) for group, _ in self.groups)


class CompactStep:
    """Merges the runs of the day `--date` that were recognised in the same way; the rows stay what they are."""

    name = "compact"
    place = "predictions"

    def run(self, context: Context) -> StepResult:
        """Commits the merged runs, and removes their originals.

        Raises:
            DataError: if a file of one of them was damaged.
        """
        workspace, date = context.workspace, context.options.date
        resolved = _resolve(context)
        _remove_rejects_of_no_run(os.path.dirname(workspace.rejects(date, "")), resolved.runs)
        requests = [_make_request(workspace, date, group) for group, _ in resolved.groups]
        if requests:
            log.info(f"merging {resolved.merged:,} runs of {date} into {len(requests):,}")
            written = [(number, file) for number, (_, files) in enumerate(resolved.groups) for file in files]
            run_job(
                context.options,
                lambda pipeline: pipeline | "Files" >> beam.Create(written) | "Merge" >> MergeRuns(requests),
            )
        merged = {run.run_id for group, _ in resolved.groups for run in group}
        kept = [run for run in resolved.runs if run.run_id not in merged]
        now = kept + [read_run(request.destination) for request in requests]
        figures = {
            "date": date,
            "runs_before": len(resolved.runs),
            "runs": len(now),
            "files_before": sum(len(run.files) for run in resolved.runs),
            "files": sum(len(run.files) for run in now),
            "rows": sum(run.manifest.counts.read for run in now),
            "run_ids": [run.run_id for run in now],
        }
        outcome = Outcome.MADE if requests else Outcome.NOTHING
        folder = os.path.dirname(workspace.predictions(date, ""))
        return StepResult(_summarise(figures, bool(requests)), folder, figures, outcome)

    def plan(self, context: Context) -> Plan:
        """Says how many runs would be merged."""
        date = context.options.date
        resolved = _resolve(context)
        rows = sum(run.manifest.counts.read for run in resolved.runs)
        files = sum(len(run.files) for run in resolved.runs)
        lines = [f"{format_count(len(resolved.runs), 'run')} of {date}, {rows:,} rows in {format_count(files, 'file')}"]
        if not resolved.groups:
            return Plan(Outcome.NOTHING, [*lines, "nothing to merge"])
        written = sum(len(files) for _, files in resolved.groups)
        lines.append(f"merge {resolved.merged:,} runs into {len(resolved.groups):,}, {format_count(written, 'file')}")
        return Plan(Outcome.MADE, lines)

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Returns 0: no image is looked at."""
        del figures
        return 0


def _resolve(context: Context) -> _Resolved:
    """Finds the runs of the day, and groups those that become one."""
    runs = [run for run in find_sound_runs(context) if run.date == context.options.date]
    # Runs without a row, whose rejects were pruned, have nothing to merge.
    groups = [(group, files) for group in group_runs_to_merge(runs) if (files := plan_merged_files(group))]
    return _Resolved(runs, groups)


def _make_request(workspace: Workspace, date: str, runs: list[CommittedRun]) -> MergeRequest:
    """Makes the job's request for runs that become one."""
    originals = [[run.run_id, sorted(part.sha256 for part in run.manifest.files.values())] for run in runs]
    run_id = f"m{make_id(merged=originals)}"
    return MergeRequest(
        run_id=run_id,
        folder=workspace.unfinished(Unfinished.MERGED, run_id),
        destination=workspace.predictions(date, run_id),
        # Of another name than the rejects of a run that reads: these are in their place before the run is committed.
        rejects_folder=workspace.unfinished(Unfinished.MERGED_REJECTS, run_id),
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
    """Sums up in one sentence what became of the day's runs."""
    held = f"{figures['rows']:,} rows in {format_count(figures['files'], 'file')}"
    if merged:
        return (
            f"{figures['date']}: {format_count(figures['runs_before'], 'run')} in "
            f"{format_count(figures['files_before'], 'file')} merged into "
            f"{format_count(figures['runs'], 'run')}: {held}"
        )
    if not figures["runs"]:
        return f"{figures['date']}: nothing to merge, since no run of that day is committed"
    if figures["runs"] == 1:
        return f"{figures['date']}: nothing to merge, since there is one run: {held}"
    return (
        f"{figures['date']}: nothing to merge, since each of {figures['runs']:,} runs was read with another decoder or "
        f"other limits, by an older version of this program, or has nothing left: {held}"
    )
