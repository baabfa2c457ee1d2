"""Retention: the removal of old rejects and reports and, only if asked for, of old predictions."""

from __future__ import annotations

import contextlib
import datetime
import logging
import re
from collections.abc import Callable, Iterator

from components.predictions.manifest import RUN_MANIFEST_NAME
from pipeline.options import LinePipelineOptions
from pipeline.workspace import Workspace
from tfrecords import DataError, storage

log = logging.getLogger(__name__)

_DAY = re.compile(r"date=(\d{4})-(\d{2})-(\d{2})")
# What `CommandRecord` names them by; the logs of training's workers have no day, and are written anew each time.
_RUN_RECORD = re.compile(r"(\d{4})(\d{2})(\d{2})T\d{6}Z-[0-9a-f]+\.(html|json|log)")


def prune(options: LinePipelineOptions, workspace: Workspace) -> None:
    """Removes files older than `--retention_days` and `--prediction_retention_days`, by the day in their names.

    Logs one line about it. A file that cannot be removed is a warning; the next command tries again.
    """
    kept, predictions_kept = options.retention_days, options.prediction_retention_days
    kinds = (
        ("days of rejects", storage.join(workspace.root, "rejects"), _DAY, kept, _remove_day),
        ("files of run reports", storage.join(workspace.root, "runs"), _RUN_RECORD, kept, storage.remove_file),
        ("days of predictions", workspace.all_predictions, _DAY, predictions_kept, _remove_runs),
    )
    pruned: list[str] = []
    problems: list[str] = []
    try:
        for noun, folder, names, days, remove in kinds:
            if days is not None:
                count = _remove_paths(_find_older(folder, names, days), remove, problems)
                pruned.append(f"{noun} older than {days}: {count:,}")
    except (DataError, OSError) as error:  # a store that does not answer is not asked for each file
        problems.append(str(error))
    if pruned:
        log.info(f"pruned {', '.join(pruned)}")
    if problems:
        more = f", and {len(problems) - 1:,} more" if len(problems) > 1 else ""
        log.warning(f"what is older than it is to be kept could not all be removed: {problems[0]}{more}")


def _find_older(folder: str, names: re.Pattern[str], days: int) -> Iterator[str]:
    """Finds the paths in a folder whose names hold a day more than so many days ago."""
    first_kept = _get_today() - datetime.timedelta(days=days)
    for name in storage.list_names(folder):
        if match := names.fullmatch(name):
            with contextlib.suppress(ValueError):  # no day of any calendar
                if datetime.date(*map(int, match.groups()[:3])) < first_kept:
                    yield storage.join(folder, name)


def _get_today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _remove_paths(paths: Iterator[str], remove: Callable[[str], None], problems: list[str]) -> int:
    """Removes paths, and adds to the problems; returns the number of the removed."""
    count = 0
    for path in paths:
        try:
            remove(path)
        except OSError as error:
            problems.append(f"{error.filename or path}: {error.strerror or error}")
        else:
            count += 1
    return count


def _remove_day(folder: str) -> None:
    storage.remove_folder(folder)
    if storage.exists(folder):
        raise OSError(None, "it is not wholly removed", folder)


def _remove_runs(folder: str) -> None:
    """Removes the runs of a day: all manifests first, so that no run loses files while readers still see it."""
    runs = [storage.join(folder, name) for name in storage.list_names(folder, "run=")]
    for run in runs:
        storage.remove_file(storage.join(run, RUN_MANIFEST_NAME))
    _remove_day(folder)
