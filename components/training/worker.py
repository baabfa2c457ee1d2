"""One training process: `python -m components.training.worker REQUEST.json`.

Its exit status says how it ended:

- 0: trained.
- 1, with `error.txt` beside the request: the data cannot be trained on.
- `STATUS_LOST`: the other workers or the devices failed; all workers can resume from the last checkpoint.
- killed by SIGALRM: it waited too long for the others.
- anything else: a failure of its own.

The last line on standard error says why.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time

from components.printing import make_printable, prepare_streams
from components.process_settings import prepare_process
from components.training.watchdog import ERROR_NAME, STATUS_LOST, TrainingLost, Watchdog


def main(request_path: str) -> int:
    """Trains what the request at a path describes.

    Returns:
        The exit status.
    """
    prepare_streams()
    _end_with_parent()
    prepare_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C reaches the launcher too, which ends its workers
    from components.training.place import ClusterPlace
    from components.training.request import TrainingRequest
    from components.training.trainer import train
    from tfrecords import DataError, storage

    with open(request_path, encoding="utf-8") as file:
        request = TrainingRequest(**json.load(file))
    try:
        place = ClusterPlace.from_environment(os.environ)
        _print_log()
        if place is not None and not place.is_chief:  # all workers see the same checkpoints: one warning is enough
            logging.getLogger("components.training.checkpoints").setLevel(logging.ERROR)
        watchdog = Watchdog(len(place.addresses) if place else 1, own_process=True)
        watchdog.expect(request.start_timeout_s)
        train(request, watchdog, live=sys.stdout.isatty())
    except DataError as error:
        storage.write_bytes(os.path.join(os.path.dirname(request_path), ERROR_NAME), str(error).encode())
        return 1
    except TrainingLost as error:
        print(error, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(STATUS_LOST)  # a runtime whose peers are gone may not end by itself
    return 0


class _StandardOutputHandler(logging.Handler):
    """Standard output, which is the launcher's."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record as one line."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        print(make_printable(f"{prefix}{record.getMessage()}"), flush=True)


def _print_log() -> None:
    """Prints what this project's modules log, and leaves those of other packages alone."""
    handler = _StandardOutputHandler()
    for package in ("components", "tfrecords"):
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False


def _end_with_parent() -> None:
    """Ends this process when its parent ends: a worker whose launcher was killed must not train on alone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(70)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
