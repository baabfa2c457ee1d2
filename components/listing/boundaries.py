"""Boundaries of a collection: where links and rows of tables may lead, and where never."""

from __future__ import annotations

import dataclasses
import os

from components.listing.references import resolve_folder

LINKS_FOLLOWED = ("files", "all", "none")
SYSTEM_FOLDERS = ("/proc", "/sys", "/dev")
"""Folders whose files are no files: some never end, and some tell what nobody asked for."""


@dataclasses.dataclass(frozen=True)
class Boundaries:
    """The rule for what is followed out of the folders that were named.

    Attributes:
        links: which links below these folders are followed, one of `LINKS_FOLLOWED`.
        closed: real paths of folders into which no link is followed, whatever its kind.
        closed_to_rows: real paths of folders in which no row of a table names an image.
        inside: real paths of the named folders. What lies in one that was named within a closed folder is open.
    """

    links: str = "all"
    closed: tuple[str, ...] = SYSTEM_FOLDERS
    closed_to_rows: tuple[str, ...] = SYSTEM_FOLDERS
    inside: tuple[str, ...] = ()

    def find_closed_folder(self, path: str, *, of_row: bool = False) -> str | None:
        """Finds the closed folder into which a path leads, by way of links or not; None if there is none."""
        folder, name = os.path.split(path)
        real = os.path.join(resolve_folder(folder), name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if real == "/":
            return real  # all of them, and everything else of the machine
        for closed in self.closed_to_rows if of_row else self.closed:
            named = [folder for folder in self.inside if lies_inside(folder, closed)]
            for place in (os.path.normpath(path), real):
                if lies_inside(place, closed) and not any(lies_inside(place, folder) for folder in named):
                    return closed
        return None

    def leaves_folders(self, path: str) -> bool:
        """Tells whether a file is a link that leads out of its folder, and out of all folders that were named."""
        if not os.path.islink(path):
            return False
        real = os.path.realpath(path)
        return not any(lies_inside(real, folder) for folder in (resolve_folder(os.path.dirname(path)), *self.inside))


def lies_inside(path: str, folder: str) -> bool:
    """Tells whether a path is a folder or lies in it; both are real paths."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
