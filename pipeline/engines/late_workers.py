"""Workers of Beam's own engine that connect after their job has failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from apache_beam.runners.portability.fn_api_runner.worker_handlers import BeamFnControlServicer, ControlConnection


@contextlib.contextmanager
def end_late_workers() -> Iterator[None]:
    """Has the engine tell a worker that connects after the end of its job that nothing is to be done.

    Beam 2.77 tells only workers that had connected before (`ControlConnection.close` in `worker_handlers.py`). With
    `--direct_running_mode=multi_processing` a job that fails at once would then wait for such a worker for ever.
    """
    close = ControlConnection.close

    def close_and_tell(connection: Any) -> None:
        close(connection)
        connection.push(BeamFnControlServicer._DONE_MARKER)

    ControlConnection.close = close_and_tell
    try:
        yield
    finally:
        ControlConnection.close = close
