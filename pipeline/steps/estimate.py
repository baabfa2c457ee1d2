"""Estimates of a step's duration, by the records of earlier commands."""

from __future__ import annotations

import contextlib
from typing import Any

from components.progress_bar import format_duration
from pipeline.workspace import Workspace
from tfrecords import DataError, storage

_RECORDS_READ = 50


def estimate_time(workspace: Workspace, step: str, amount: str, of: int) -> str:
    """Says how long a step might take, by the largest earlier one.

    Args:
        step: its name.
        amount: the name of the figure that says how much the step had to do.
        of: how much the step would have to do now.
    """
    done = [
        (earlier["figures"][amount], earlier["seconds"])
        for record in _read_records(workspace)
        for earlier in record["steps"]
        if earlier["name"] == step and not earlier["reused"] and earlier["figures"].get(amount)
    ]
    if not done:
        return "time: not known, since no earlier command is recorded"
    most, seconds = max(done)
    about, took = format_duration(of * seconds / most), format_duration(seconds)
    return f"time: about {about}, as an earlier command took {took} for {most:,}"


def _read_records(workspace: Workspace) -> list[dict[str, Any]]:
    """Reads the records of the last commands, the newest first."""
    folder = storage.join(workspace.root, "runs")
    names = [name for name in storage.list_names(folder) if name.endswith(".json")]
    records = []
    for name in names[: -_RECORDS_READ - 1 : -1]:
        with contextlib.suppress(FileNotFoundError, DataError):  # damaged, or pruned meanwhile
            records.append(storage.read_json(storage.join(folder, name)))
    return records
