"""One training process: `python -m components.training.worker REQUEST.json`.

Exits with 0 when trained; with 1 and `error.txt` beside the request when the data cannot be
trained on; with `STATUS_LOST` when the other workers or the devices failed it, so that all can
go on from the last checkpoint; by SIGALRM when it waited too long for the others; with anything
else after a failure of its own. The last line on standard error says why.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time

ERROR_NAME = "error.txt"
STATUS_LOST = 138
"""What Kubernetes' training operator takes for "start it again": 128 + SIGUSR1."""


class TrainingLost(Exception):  # noqa: N818 (no error of the data or the program)
    """The other workers, a device or an object store failed; training can go on from its last checkpoint."""


def main(request_path: str) -> int:
    """Trains what the request says."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C reaches the launcher too, which ends its workers
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    from components.training.cluster import ClusterPlace
    from components.training.progress import show
    from components.training.trainer import TrainingRequest, train
    from tfrecords import DataError, storage

    with open(request_path, encoding="utf-8") as file:
        request = TrainingRequest(**json.load(file))
    try:
        place = ClusterPlace.of(os.environ)
        watchdog = Watchdog(len(place.addresses) if place else 1, own_process=True)
        watchdog.expect(request.start_timeout_s)
        train(request, show, watchdog, live=sys.stdout.isatty())
    except DataError as error:
        storage.write_bytes(os.path.join(os.path.dirname(request_path), ERROR_NAME), str(error).encode())
        return 1
    except TrainingLost as error:
        print(error, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(STATUS_LOST)  # a runtime whose peers are gone may not end by itself
    return 0


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


def _end_with_parent() -> None:
    """A worker whose launcher was killed must not train on alone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(70)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    from components.training import worker  # not this module a second time: its exceptions would be others

    sys.exit(worker.main(sys.argv[1]))
