"""What every shard job shares: images read in order, and the memory of what is finished."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import TypeVar

from tfrecords import storage

_Summary = TypeVar("_Summary")
REFUSED_NAME = "refused.json"
"""What a job leaves, with its reason in one sentence, when it commits nothing."""


def read_finished_summary(
    kind: type[_Summary], summary_path: str, inputs: str, files: Callable[[_Summary], Mapping[str, int | None]]
) -> _Summary | None:
    """The summary of a shard that was finished before for the same inputs, if nothing is wrong with it now.

    The files that it wrote have to be there, and an image that could not be read is tried again: what was wrong with a
    disk or a network may have passed.

    Args:
        files: that such a shard wrote, and their bytes where they are known.
    """
    try:
        summary = kind(**storage.read_json(summary_path))
    except (FileNotFoundError, TypeError):  # TypeError: an older version's summary had other fields
        return None
    if summary.inputs != inputs or "unreadable" in summary.rejects:  # type: ignore[attr-defined]
        return None
    for path, expected in files(summary).items():
        found = storage.find_size(path)
        if found is None or expected not in (None, found):
            return None
    return summary


def check_files(folder: str, sizes: dict[str, int]) -> None:
    """Makes sure before a commit that the files which workers wrote are there.

    Raises:
        RuntimeError: for a file that is missing or has another size.
    """
    if problem := storage.find_missing_or_changed(folder, sizes):
        raise RuntimeError(f"{problem}: do all workers share the workspace?")


def keep_only(folder: str, names: Container[str]) -> None:
    """Removes from a folder, if it exists, what attempts that were stopped left there."""
    for name in storage.list_names(folder):
        if name not in names:
            storage.remove_file(storage.join(folder, name))
