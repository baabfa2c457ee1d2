"""The console: log records as lines for a person, and errors in one sentence each."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

_OURS = ("pipeline", "components", "tfrecords")


@contextlib.contextmanager
def log_to_console() -> Iterator[None]:
    """Prints log records within the block, and leaves logging as it was.

    The project's records go to standard output: INFO as it is, WARNING with "warning: " before it. Records of the
    libraries go to standard error, from WARNING on, with level and logger.
    """
    handler = _ConsoleHandler()
    root = logging.getLogger()
    loggers = [logging.getLogger(name) for name in _OURS]
    levels = [logger.level for logger in loggers]
    root.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _ConsoleHandler(logging.Handler):
    """The one handler of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record, if a person needs it."""
        message = record.getMessage()
        if record.name.partition(".")[0] in _OURS:
            print_line(f"warning: {message}" if record.levelno >= logging.WARNING else message)
        elif record.levelno >= logging.WARNING:
            print_to_stderr(f"{record.levelname} {record.name}: {self._format_library(record)}")

    def _format_library(self, record: logging.LogRecord) -> str:
        return logging.Formatter().format(record)


def print_line(line: str) -> None:
    """Prints a line to standard output; where nobody reads any more, the command goes on."""
    try:
        print(make_printable(line), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(sentence: str) -> None:
    """Prints an error to standard error."""
    print_to_stderr(f"error: {sentence}")


def print_to_stderr(line: str) -> None:
    """Prints a line to standard error."""
    print(make_printable(line), file=sys.stderr, flush=True)


def make_printable(line: str) -> str:
    """Escapes what a terminal cannot show of names that are not UTF-8."""
    return line.encode(errors="backslashreplace").decode()
