"""How a training worker ends when the others are lost, and the watchdog that finds out."""

from __future__ import annotations

import math
import signal

ERROR_NAME = "error.txt"
STATUS_LOST = 138
"""What Kubernetes' training operator takes for "start it again": 128 + SIGUSR1."""


class TrainingLost(Exception):  # noqa: N818 (no error of the data or the program)
    """The other workers, a device or an object store failed; training can go on from its last checkpoint."""


class Watchdog:
    """Ends this process, by SIGALRM, when it waits too long for the others of its cluster.

    The system does it: TensorFlow waits for ever for a worker that never comes, and no other
    Python thread runs meanwhile. Its own time limit for what workers do together costs a
    sleeping thread for each operation, thousands of them a minute.

    Args:
        workers: in the cluster; with less than two there is nothing to watch.
        own_process: whether this process is there for training alone.

    Attributes:
        asked_to_end: whether SIGTERM came, after `end_gently`.
    """

    def __init__(self, workers: int, *, own_process: bool = False):
        self.asked_to_end = False
        self._limit_s = 0
        self._alone = workers < 2
        self._own_process = own_process

    def end_gently(self) -> None:
        """From now on, SIGTERM is a wish: a worker on its own can save its state first."""

        def ask(_signal: int, _frame: object) -> None:
            self.asked_to_end = True

        if self._alone and self._own_process:
            signal.signal(signal.SIGTERM, ask)

    def expect(self, limit_s: float) -> None:
        """From now on, no more than `limit_s` seconds may pass between two signs of life; 0 ends the watch."""
        self._limit_s = math.ceil(limit_s)
        self.alive()

    def alive(self) -> None:
        """A sign of life: something is done that needed the other workers."""
        if not self._alone:
            signal.alarm(self._limit_s)
