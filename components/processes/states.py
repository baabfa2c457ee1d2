"""States of other processes, as the system tells them: whether somebody stopped one, and its processor time."""

from __future__ import annotations

import os


def _is_stopped(pid: int) -> bool:
    """Tells whether somebody stopped a process (SIGSTOP), so that it neither goes on nor ends."""
    return _read_fields(pid)[:1] == ["T"]


class StoppedTimes:
    """The seconds for which somebody has been seen to stop each of some processes."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def measure(self, pid: int, now: float) -> float:
        """Measures how long a process has been stopped, since it was first seen so; 0 if it is not.

        Args:
            now: seconds of `time.monotonic`.
        """
        if _is_stopped(pid):
            return now - self._since.setdefault(pid, now)
        self._since.pop(pid, None)
        return 0.0


def read_processor_seconds(pid: int) -> float:
    """Reads the seconds of processor time that a process has taken; 0 where the system does not say."""
    fields = _read_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _read_fields(pid: int) -> list[str]:
    """Reads the fields of `/proc/PID/stat` (proc(5)) from the third one, the state; empty without such a file."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []
