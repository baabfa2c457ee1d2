"""Processes of a command that is at work: its helpers and its training workers, to kill or stop them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path
from typing import NamedTuple

from pipeline.exits import EXIT_AGAIN, EXIT_DONE, EXIT_LOST

_SERVES = b"serve_calls"
_WORKER_LOG = re.compile(r"/worker-\d+\.log\Z")


class Blow(NamedTuple):
    """What happens to a process of a command.

    Attributes:
        target: `helper` or `worker`.
        number: of the signal that it gets.
        every: whether every one gets it that is there or comes, until the command ends.
    """

    target: str
    number: signal.Signals
    every: bool = False

    @property
    def statuses(self) -> tuple[int, ...]:
        """The exit statuses that the command may end with then; after another one than 0 it is run again."""
        if self.target == "worker":
            return EXIT_DONE, EXIT_LOST
        return (EXIT_AGAIN,) if self.every else (EXIT_DONE,)

    def find_victims(self, command: int, workspace: Path) -> list[int]:
        """Finds whom it may strike now, among the processes of a command."""
        return find_workers(workspace) if self.target == "worker" else find_helpers(command)

    def __str__(self) -> str:
        return f"{'every' if self.every else 'a'} {self.target} gets {self.number.name}"


def list_processes(parent: int) -> list[int]:
    """Lists the processes below another one."""
    found = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children = [int(pid) for pid in task.read_text().split()]
            found += children + [below for child in children for below in list_processes(child)]
    return found


def find_helpers(command: int) -> list[int]:
    """Finds the helper processes of a command."""
    return [pid for pid in list_processes(command) if _SERVES in _read_command_line(pid)]


def find_workers(workspace: Path) -> list[int]:
    """Finds the training workers of a workspace: their standard error is a log in it, whoever started them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            log = os.readlink(process / "fd" / "2")
            if log.startswith(f"{workspace}/") and _WORKER_LOG.search(log):
                found.append(int(process.name))
    return sorted(found)


def _read_command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
