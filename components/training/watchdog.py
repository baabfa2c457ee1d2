"""The end of a training worker that lost the others, and the watchdog that finds that out."""

from __future__ import annotations

import math
import signal

ERROR_NAME = "error.txt"
STATUS_LOST = 138
"""The exit status on which Kubernetes' training operator starts a worker again: 128 + SIGUSR1."""


class TrainingLost(Exception):  # noqa: N818 (no error of the data or the program)
    """A failure of the other workers, a device or an object store; training can resume from its last checkpoint."""


class Watchdog:
    """A timer that ends this process, by SIGALRM, when it waits too long for the others of its cluster.

    The operating system keeps the time, because TensorFlow waits for ever for a worker that never
    comes, and no other Python thread runs meanwhile. TensorFlow's own time limit for collective
    operations costs a sleeping thread for each operation, thousands of them a minute.

    Args:
        workers: in the cluster; with less than two there is nothing to watch.
        own_process: whether this process exists for training alone.

    Attributes:
        asked_to_end: whether SIGTERM came, after `end_gently`.
    """

    def __init__(self, workers: int, *, own_process: bool = False):
        self.asked_to_end = False
        self._limit_s = 0
        self._alone = workers < 2
        self._own_process = own_process

    def end_gently(self) -> None:
        """Lets a worker that trains alone save its state before it obeys SIGTERM."""

        def ask(_signal: int, _frame: object) -> None:
            self.asked_to_end = True

        if self._alone and self._own_process:
            signal.signal(signal.SIGTERM, ask)

    def expect(self, limit_s: float) -> None:
        """Allows at most `limit_s` seconds between two signs of life from now on; 0 ends the watch."""
        self._limit_s = math.ceil(limit_s)
        self.report_alive()

    def report_alive(self) -> None:
        """Gives a sign of life: something is done that needed the other workers."""
        if not self._alone:
            signal.alarm(self._limit_s)
