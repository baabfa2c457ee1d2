"""Commits: work is written apart, checked, and moved to its place with a manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from typing import Protocol, TypeVar

from tfrecords import storage

_Summary = TypeVar("_Summary")
REFUSED_NAME = "refused.json"
"""The file that a job leaves, with its reason in one sentence, when it commits nothing."""


class Manifest(Protocol):
    """A description of an artefact that writes itself into the artefact's folder."""

    def write(self, folder: str) -> None:
        """Writes the manifest's file."""


@dataclasses.dataclass(frozen=True)
class Commit:
    """The one way in which a dataset, a model or a run of predictions becomes visible.

    A folder without a manifest does not exist for any reader. So the manifest is written last, and the folder is moved
    to its place whole. A commit that was killed anywhere is repeated from its beginning by the same command.

    Attributes:
        folder: the folder in which files are written until they are committed.
        destination: the folder's final place, in which readers look.
        manifest_name: the name of the manifest's file.
        working: names of what an unfinished folder needs for a resume, besides the files to commit.
    """

    folder: str
    destination: str
    manifest_name: str
    working: Collection[str] = ()

    def already_done(self) -> bool:
        """Tells whether this was committed before: an engine may repeat a commit."""
        return storage.exists(storage.join(self.destination, self.manifest_name))

    def check(self, sizes: Mapping[str, int]) -> None:
        """Makes sure that the files which workers wrote are there in their sizes; raises like `check_files`."""
        check_files(self.folder, sizes)

    def keep(self, names: Iterable[str]) -> None:
        """Removes what stopped attempts left in the folder: all but these names and what a resume needs."""
        keep_only(self.folder, {*names, *self.working})

    def refuse(self, reason: str, rejects: Mapping[str, int]) -> None:
        """Leaves a reason, in one sentence, and the rejects by reason, in place of a commit.

        The folder stays as it is, for the person who looks into it and for the next attempt.
        """
        storage.write_json(storage.join(self.folder, REFUSED_NAME), {"reason": reason, "rejects": dict(rejects)})

    def finish(self, manifest: Manifest, *, remove: Iterable[str] = ()) -> None:
        """Writes the manifest, and moves the folder to its place.

        Args:
            remove: folders inside, removed between the two: a commit that is killed before resumes from them.
        """
        manifest.write(self.folder)
        for name in remove:
            storage.remove_folder(storage.join(self.folder, name))
        storage.move_folder(self.folder, self.destination)


def read_finished_summary(
    kind: type[_Summary], summary_path: str, inputs: str, files: Callable[[_Summary], Mapping[str, int | None]]
) -> _Summary | None:
    """Reads the summary of a shard that an earlier attempt finished for the same inputs, unless something is wrong.

    The files that the shard wrote have to be there. A shard with an unreadable image is done again: what was wrong with
    a disk or a network may have passed.

    Args:
        files: the files that such a shard wrote, and their bytes where they are known.
    """
    try:
        summary = kind(**storage.read_json(summary_path))
    except (FileNotFoundError, TypeError):  # TypeError: an older version's summary had other fields
        return None
    if summary.inputs != inputs or "unreadable" in summary.rejects:  # type: ignore[attr-defined]
        return None
    for path, expected in files(summary).items():
        size = storage.find_size(path)
        if size is None or expected not in (None, size):
            return None
    return summary


def check_files(folder: str, sizes: Mapping[str, int]) -> None:
    """Makes sure before a commit that the files which workers wrote are there.

    Raises:
        RuntimeError: for a file that is missing or has another size.
    """
    if problem := storage.find_missing_or_changed(folder, sizes):
        raise RuntimeError(f"{problem}: do all workers share the workspace?")


def keep_only(folder: str, names: Container[str]) -> None:
    """Removes everything else from a folder, if it exists: stopped attempts left it there."""
    for name in storage.list_names(folder):
        if name not in names:
            storage.remove_file(storage.join(folder, name))
