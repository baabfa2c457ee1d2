"""The export step: it writes the newest reading of every image or line into files for other systems."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from components.counts import format_count
from components.export.exporting import Tally, export_files, export_rows, write_rejects
from components.export.formats import FileFormat, TextFormat
from components.export.hocr import HocrFormat
from components.export.manifest import ExportManifest
from components.export.page_files import PageFileFormat
from components.export.readings import NewestReadings
from components.export.rows import format_csv, format_jsonl
from components.predictions.runs import CommittedRun
from pipeline.steps.sound_runs import find_sound_runs
from pipeline.steps.step import Context, Outcome, Plan, StepResult, format_rejects, get_now
from pipeline.workspace import LATEST
from tfrecords import DataError, storage

log = logging.getLogger(__name__)

_PAGE_FILES = {"alto": "an ALTO", "page": "a PAGE"}
_TABLES = {"csv": format_csv, "jsonl": format_jsonl}
_FILES: dict[str, FileFormat] = {
    "alto": PageFileFormat("ALTO"),
    "page": PageFileFormat("PAGE"),
    "hocr": HocrFormat(),
    "txt": TextFormat(),
}


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The readings that are exported, and the place for them.

    Attributes:
        format: one of `FORMATS`.
        folder: of the format.
        runs: the sound runs of predictions, the oldest first.
        readings: the newest ones in them.
    """

    format: str
    folder: str
    runs: list[CommittedRun]
    readings: NewestReadings

    def export(self, *, write: bool) -> Tally:
        """Exports the readings, or finds out what is to be done for that."""
        if self.format not in _TABLES:
            return export_files(self.readings, self.folder, _FILES[self.format], write=write)
        return export_rows(self.readings, self.folder, self._name_part, _TABLES[self.format], write=write)

    def _name_part(self, path: str) -> str:
        """Names the table of a file of predictions: `date=…/run=…/part-00000-of-00001.csv`."""
        *_, day, run, name = path.split("/")
        return f"{day}/{run}/{name.removesuffix('.parquet')}.{self.format}"


class ExportStep:
    """Writes the newest readings into files of one format; those without a newer reading stay as they are."""

    name = "export"
    place = "export"

    def run(self, context: Context) -> StepResult:
        """Writes what is new, the manifest last."""
        resolved = _resolve(context)
        count = resolved.readings.count
        log.info(
            f"exporting the newest readings of {format_count(len(resolved.runs), 'run')}, {count:,}, as "
            f"{resolved.format}"
        )
        tally = resolved.export(write=True)
        _check_page_files(resolved, tally)
        if tally.exported + tally.passed_over + len(tally.rejects) != count:
            raise RuntimeError(
                f"of {count} readings, {tally.exported} were exported, {len(tally.rejects)} rejected and "
                f"{tally.passed_over} passed over: something was lost or doubled"
            )
        now = get_now()
        write_rejects(resolved.folder, tally.rejects, resolved.runs[-1].run_id, now)
        manifest = ExportManifest(
            format=resolved.format,
            exported_at=now.isoformat(timespec="seconds"),
            runs=tuple(run.run_id for run in resolved.runs),
            readings=count,
            exported=tally.exported,
            rejects=tally.rejected,
            passed_over=tally.passed_over,
            files=tally.written + tally.unchanged,
        )
        if not manifest.says_the_same(ExportManifest.read(resolved.folder)):
            manifest.write(resolved.folder)
        figures: dict[str, Any] = {
            "format": resolved.format,
            "runs": len(resolved.runs),
            "readings": count,
            "exported": tally.exported,
            "rejects": tally.rejected,
            "passed_over": tally.passed_over,
            "files_written": tally.written,
            "files_unchanged": tally.unchanged,
            "files_removed": tally.removed,
        }
        is_new = tally.written or tally.removed
        return StepResult(
            _summarise(resolved, tally),
            resolved.folder,
            figures,
            Outcome.MADE if is_new else Outcome.NOTHING,
            rejects=tally.rejected,
            rejects_folder=resolved.folder if tally.rejects else None,
        )

    def plan(self, context: Context) -> Plan:
        """Says how many files would be written."""
        options, workspace = context.options, context.workspace
        if workspace.expects("predictions", LATEST):
            return Plan(None, [f"the newest readings as {options.format}, tonight's among them"])
        resolved = _resolve(context)
        tally = resolved.export(write=False)
        _check_page_files(resolved, tally)
        runs = format_count(len(resolved.runs), "run")
        lines = [
            f"the newest readings of {runs}, {resolved.readings.count:,}, as {options.format}",
            f"to {resolved.folder}, which has {format_count(tally.unchanged, 'file')} with the newest readings",
        ]
        if not tally.written and not tally.removed:
            return Plan(Outcome.NOTHING, [*lines, "nothing to write"])
        return Plan(Outcome.MADE, [*lines, f"write up to {format_count(tally.written, 'file')}"])

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Returns 0: no image is looked at."""
        del figures
        return 0


def _resolve(context: Context) -> _Resolved:
    """Finds the readings to export; raises a `DataError` if nothing was read yet."""
    workspace, name = context.workspace, context.options.format
    runs = find_sound_runs(context)
    if not runs:
        raise DataError(f"nothing was read yet in {workspace.root}: run the infer step first (--steps=infer)")
    readings = NewestReadings.find([path for run in runs for path in run.files])
    return _Resolved(name, storage.join(workspace.root, "export", name), runs, readings)


def _check_page_files(resolved: _Resolved, tally: Tally) -> None:
    """Raises a `DataError` if copies of page files are asked for, and no reading belongs to such a file."""
    if resolved.format in _PAGE_FILES and resolved.readings.count and tally.passed_over == resolved.readings.count:
        raise DataError(
            f"none of the {resolved.readings.count:,} readings is of a line of {_PAGE_FILES[resolved.format]} file, so "
            f"there is nothing to copy for --format={resolved.format}: take --format=hocr, txt, csv or jsonl"
        )


def _summarise(resolved: _Resolved, tally: Tally) -> str:
    """Sums up an export in one sentence."""
    held = f"{tally.exported:,} readings as {resolved.format}"
    if tally.passed_over:
        held += f", {tally.passed_over:,} passed over"
    held += f", {format_rejects(tally.rejected)}"
    if not tally.written and not tally.removed:
        return f"nothing new to export: {format_count(tally.unchanged, 'file')} with {held}"
    removed = f", {tally.removed:,} removed" if tally.removed else ""
    return f"{format_count(tally.written, 'file')} written, {tally.unchanged:,} unchanged{removed}: {held}"
