"""One training process: `python -m components.training.worker REQUEST.json`.

Exits with 0 when trained, with 1 and `error.txt` beside the request when the data cannot
be trained on, with anything else after a failure of its own.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

ERROR_NAME = "error.txt"


def main(request_path: str) -> int:
    """Trains what the request says."""
    _end_with_parent()
    from components.training.trainer import TrainingRequest, train
    from tfrecords import DataError, storage

    with open(request_path, encoding="utf-8") as file:
        request = TrainingRequest(**json.load(file))
    try:
        train(request, lambda line: print(line, flush=True))
    except DataError as error:
        storage.write_bytes(os.path.join(os.path.dirname(request_path), ERROR_NAME), str(error).encode())
        return 1
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
