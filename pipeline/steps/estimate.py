"""Estimates of how long a step takes, by the records of earlier commands."""

from __future__ import annotations

import contextlib
from typing import Any

from components.progress import format_duration
from pipeline.workspace import Workspace
from tfrecords import DataError, storage

_RECORDS_READ = 50


def estimate_time(workspace: Workspace, step: str, amount: str, of: int) -> str:
    """Says how long a step might take, by the largest of the earlier ones.

    Args:
        step: its name.
        amount: the figure that says how much it had to do.
        of: how much it would have to do now.
    """
    done = [
        (found["figures"][amount], found["seconds"])
        for record in _read_records(workspace)
        for found in record["steps"]
        if found["name"] == step and not found["reused"] and found["figures"].get(amount)
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
