"""Use of the machine by a measurement, and by other processes meanwhile: whether a figure can be trusted."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CORES = len(os.sched_getaffinity(0))
MOST_OTHERS = 0.05
"""Share of the cores that other processes may take while something is measured that is compared with a goal."""
_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE = (3, 4)  # fields of a line `cpu` of /proc/stat: idle, and idle while a disk works
_GUEST = 8  # this field and the next are counted in others, too: see proc(5)


class Rate(NamedTuple):
    """Speed of a loop.

    Attributes:
        rate: items a second.
        processor: microseconds of processor time an item.
        others: as in a `Usage`.
    """

    rate: float = 0.0
    processor: float = 0.0
    others: float = 0.0

    def count_parts(self, parts: float) -> Rate:
        """Returns the speed in parts, of which each item has so many."""
        return Rate(self.rate * parts, self.processor / parts, self.others)


class Usage:
    """Time that a measurement took.

    Attributes:
        seconds: from its start to its end.
        processor: seconds of processor time of this process, and of those that it started and waited for.
        others: share of this process's cores that all other processes took, and the machine's host; 0 to 1.
    """

    seconds = 0.0
    processor = 0.0
    others = 0.0

    def make_rate(self, items: int) -> Rate:
        """Makes the speed of so many items."""
        return Rate(items / self.seconds, self.processor / items * 1e6, self.others)


@contextlib.contextmanager
def measure_usage() -> Iterator[Usage]:
    """Measures what happens inside the block; the result is complete behind it."""
    usage = Usage()
    started, own, busy = time.monotonic(), get_processor_seconds(), read_busy_seconds()
    yield usage
    usage.seconds = time.monotonic() - started
    usage.processor = get_processor_seconds() - own
    usage.others = share_of_others(usage.seconds, read_busy_seconds() - busy, usage.processor)


def get_processor_seconds() -> float:
    """Returns the processor seconds of this process, and of those that it started and waited for."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in times)


def read_busy_seconds() -> float:
    """Reads for how many seconds the cores that this process may use were busy since the machine's start.

    0 where there is no `/proc/stat`.
    """
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for name, *fields in map(str.split, lines):
        if name in names:
            ticks += sum(int(field) for number, field in enumerate(fields[:_GUEST]) if number not in _IDLE)
    return ticks / _TICKS


def share_of_others(seconds: float, busy: float, own: float) -> float:
    """Returns the share of the cores that others took in some seconds, of which the cores were busy and own so many."""
    return min(1.0, max(0.0, busy - own) / (seconds * CORES)) if seconds > 0 else 0.0
