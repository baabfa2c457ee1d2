"""Retention: how long unfinished work, rejects, reports and predictions are kept, and their removal."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import time
from collections.abc import Callable, Iterable

from components.predictions.manifest import RUN_MANIFEST_NAME
from pipeline.options import LinePipelineOptions
from pipeline.workspace import WEEK_S, Unfinished, Workspace
from tfrecords import DataError, storage

log = logging.getLogger(__name__)

_DAY = re.compile(r"date=(\d{4})-(\d{2})-(\d{2})")
# What `CommandRecord` names them by; the logs of training's workers have no day, and are written anew each time.
_RUN_RECORD = re.compile(r"(\d{4})(\d{2})(\d{2})T\d{6}Z-[0-9a-f]+\.(html|json|log)")

_LONGEST_PAUSE = datetime.timedelta(days=2 * 365)
"""Between two days of a workspace that is in use; past it, rather the clock is wrong."""


def prune(options: LinePipelineOptions, workspace: Workspace) -> None:
    """Removes files older than `--retention_days` and `--prediction_retention_days`, by the day in their names.

    Logs one line about it. A file that cannot be removed is a warning; the next command tries again. So is a removal
    that looks like the work of a wrong clock: nothing goes then.
    """
    kept, predictions_kept = options.retention_days, options.prediction_retention_days
    if kept is None and predictions_kept is None:
        return
    pruned: list[str] = []
    problems: list[str] = []
    try:
        kinds = (
            _Kind("days of rejects", storage.join(workspace.root, "rejects"), _DAY, kept, _remove_day),
            _Kind("files of run reports", storage.join(workspace.root, "runs"), _RUN_RECORD, kept, storage.remove_file),
            _Kind("days of predictions", workspace.all_predictions, _DAY, predictions_kept, _remove_runs),
        )
        known_days = {_get_today()}.union(*(kind.paths.values() for kind in kinds))
        for kind in kinds:
            if kind.days is None:
                continue
            if doubt := kind.doubt_clock(known_days, options.max_prune_fraction):
                log.warning(doubt)
            else:
                count = _remove_paths(kind.find_older(), kind.remove, problems)
                pruned.append(f"{kind.noun} older than {kind.days}: {count:,}")
    except (DataError, OSError) as error:  # a store that does not answer is not asked for each file
        problems.append(str(error))
    if pruned:
        log.info(f"pruned {', '.join(pruned)}")
    if problems:
        more = f", and {len(problems) - 1:,} more" if len(problems) > 1 else ""
        log.warning(f"what is older than it is to be kept could not all be removed: {problems[0]}{more}")


class _Kind:
    """One kind of paths that have days in their names.

    Attributes:
        noun: what they are, in the plural.
        days: for how long they are kept; None for ever.
        remove: removes one of them.
        paths: all of them, with their days.
    """

    def __init__(
        self, noun: str, folder: str, names: re.Pattern[str], days: int | None, remove: Callable[[str], None]
    ) -> None:
        self.noun, self.days, self.remove = noun, days, remove
        self.paths: dict[str, datetime.date] = {}
        for name in storage.list_names(folder):
            if match := names.fullmatch(name):
                with contextlib.suppress(ValueError):  # no day of any calendar
                    self.paths[storage.join(folder, name)] = datetime.date(*map(int, match.groups()[:3]))

    def find_older(self) -> list[str]:
        """Finds the paths that are older than they are to be kept."""
        assert self.days is not None
        first_kept = _get_today().toordinal() - self.days
        return [path for path, day in self.paths.items() if day.toordinal() < first_kept]

    def doubt_clock(self, known_days: set[datetime.date], most: float) -> str | None:
        """Doubts the clock if what it makes too old is too much, or ends years before what is newer.

        Args:
            known_days: of everything in the workspace, and today's.
            most: the greatest share that may go at once; at 1 the clock is believed.

        Returns:
            Why nothing of this kind is to be removed; None if nothing speaks against it.
        """
        older = self.find_older()
        if not older or most >= 1:
            return None
        advice = f"set the clock of this machine right, which says {_get_today()}, or give --max_prune_fraction=1 once"
        what = f"no {self.noun} were removed, though {len(older):,} of {len(self.paths):,} are older than {self.days}"
        newest = max(self.paths[path] for path in older)
        following = min(day for day in known_days if day > newest)
        if following - newest > _LONGEST_PAUSE:
            return f"{what}: nothing is there from between {newest} and {following}; {advice}"
        if len(older) > most * len(self.paths):
            return f"{what}, more than --max_prune_fraction={most:g} of all; {advice}"
        return None


def _get_today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _remove_paths(paths: Iterable[str], remove: Callable[[str], None], problems: list[str]) -> int:
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


def clear_unfinished(workspace: Workspace) -> None:
    """Deletes the unfinished work of stopped commands once it is older than its kind is kept.

    In an object store everything stays for a week at least: a job that was handed over may need it.
    """
    if storage.is_remote(workspace.root):
        with contextlib.suppress(OSError, DataError):  # the command did well; the next one comes here again
            _clear_remote(workspace)
        return
    for name in storage.list_names(workspace.all_unfinished):
        path = storage.join(workspace.all_unfinished, name)
        kind = Unfinished.of(name)
        if kind is None or not kind.kept_s or time.time() - _find_last_change(path) > kind.kept_s:
            storage.remove_folder(path) if storage.is_folder(path) else storage.remove_file(path)
    with contextlib.suppress(OSError):
        os.rmdir(workspace.all_unfinished)
    models = storage.join(workspace.root, "models")
    each_model = [storage.join(models, name) for name in storage.list_names(models)]  # evaluations are written there
    folders = [storage.join(workspace.root, name) for name in ("archives", "datasets", "runs", "sample")]
    for folder in [*folders, models, *filter(storage.is_folder, each_model)]:
        for name in storage.list_names(folder, storage.TEMPORARY_PREFIX):
            storage.remove_file(storage.join(folder, name))


def _clear_remote(workspace: Workspace) -> None:
    """Deletes old unfinished work in an object store."""
    above = f"{storage.canonicalise(workspace.all_unfinished).rstrip('/')}/"
    newest: dict[str, float] = {}
    for file in storage.find_files(above):
        name = file.url.removeprefix(above).partition("/")[0]
        newest[name] = max(newest.get(name, 0.0), file.modified)
    for name, modified in newest.items():
        kind = Unfinished.of(name)
        if name and time.time() - modified > max(kind.kept_s if kind else 0, WEEK_S):
            storage.remove_file(f"{above}{name}")
            storage.remove_folder(f"{above}{name}")


def _find_last_change(folder: str) -> float:
    """Finds the last change below a folder, in seconds since 1970."""
    return max((os.path.getmtime(parent) for parent, _, _ in os.walk(folder)), default=0.0)
