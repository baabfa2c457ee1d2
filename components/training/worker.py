"""One training process: `python -m components.training.worker REQUEST.json`.

Exits with 0 when trained; with 1 and `error.txt` beside the request when the data cannot be
trained on; with `STATUS_LOST` when the other workers or the devices failed it, so that all can
go on from the last checkpoint; by SIGALRM when it waited too long for the others; with anything
else after a failure of its own. The last line on standard error says why.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from components.process_settings import prepare_process
from components.training.lost import ERROR_NAME, STATUS_LOST, TrainingLost, Watchdog


def main(request_path: str) -> int:
    """Trains what the request says."""
    _end_with_parent()
    prepare_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C reaches the launcher too, which ends its workers
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    from components.training.place import ClusterPlace
    from components.training.progress import show
    from components.training.request import TrainingRequest
    from components.training.trainer import train
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


def _end_with_parent() -> None:
    """A worker whose launcher was killed must not train on alone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(70)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
