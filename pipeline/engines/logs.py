"""Logs of engines, without what the job's own error says in one sentence."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from components.process_settings import set_log_level
from pipeline.engines.errors import find_own_error
from tfrecords import DataError

_WORKER_LOGGERS = (
    "apache_beam.runners.common",
    "apache_beam.runners.worker.sdk_worker",
    "apache_beam.runners.portability.local_job_service",
)
# A service's messages come from here: the root is where Beam's client logs those of a job service.
_SERVICE_LOGGERS = (None, "apache_beam.runners.dataflow.dataflow_runner")
_LEVELS = {
    # The error that ends the job says it, too.
    "apache_beam.runners.worker.data_plane": logging.CRITICAL,
    "apache_beam.runners.portability.fn_api_runner.worker_handlers": logging.CRITICAL,
    "distributed.client": logging.CRITICAL,
    # Workers in other processes warn about settings of a container that they do not run in.
    "apache_beam.runners.portability.local_job_service": logging.ERROR,
}
_MESSAGE_THREAD = "wait_until_finish_read"
_CONNECTION_THREADS = ("beam_control_read", "run_worker", "read_grpc_client_inputs", _MESSAGE_THREAD)
_ENDS_WITHIN_S = 5.0


@contextlib.contextmanager
def quieten_engines() -> Iterator[None]:
    """Keeps out of the log, while a job runs, whatever the error that ends the job says too.

    That is a `DataError` of a worker, the stack traces that a job service passes on, and the messages of threads that
    waited for a lost worker. Every setting is restored at the end.
    """
    with contextlib.ExitStack() as stack:
        not_ours, shortened = _NotOurs(), _WithoutStackTraces()
        for name in (*_WORKER_LOGGERS, *_SERVICE_LOGGERS):
            stack.enter_context(_add_filter(logging.getLogger(name), not_ours))
        for name in _SERVICE_LOGGERS:
            stack.enter_context(_add_filter(logging.getLogger(name), shortened))
        for name, level in _LEVELS.items():
            stack.enter_context(set_log_level(name, level))
        stack.enter_context(_silence_connection_threads())
        yield


class _WithoutStackTraces(logging.Filter):
    """Filter that shortens a job service's stack traces to their last line: the whole is in the job's exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shortens the record; keeps it always."""
        message = record.getMessage()
        if "Traceback (most recent call last)" in message:
            record.msg, record.args = message.strip().rpartition("\n")[2], ()
        return True


class _NotOurs(logging.Filter):
    """Filter that drops records of a `DataError`: its sentence is printed once, at the end, without a stack trace."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells whether the record is kept."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, DataError) and not find_own_error(record.getMessage().replace("\\n", "\n"))


@contextlib.contextmanager
def _add_filter(logger: logging.Logger, added: logging.Filter) -> Iterator[None]:
    logger.addFilter(added)
    try:
        yield
    finally:
        logger.removeFilter(added)


@contextlib.contextmanager
def _silence_connection_threads() -> Iterator[None]:
    """Silences exceptions that end threads waiting for a lost worker or service: the job's error says so.

    The thread that waits for a service's messages may notice a loss a moment later than the job does.
    """
    before = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        if failure.thread is None or failure.thread.name not in _CONNECTION_THREADS:
            before(failure)

    threading.excepthook = report
    try:
        yield
    finally:
        for thread in threading.enumerate():
            if thread.name == _MESSAGE_THREAD:
                thread.join(_ENDS_WITHIN_S)
        threading.excepthook = before
