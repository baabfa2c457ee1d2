"""The console: log records as lines for a person, and errors in one sentence each."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from components.printing import make_printable

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
            print_story(f"{record.levelname} {record.name}: {self._format_library(record)}")

    def _format_library(self, record: logging.LogRecord) -> str:
        return logging.Formatter().format(record)


def print_line(line: str) -> None:
    """Prints one line to standard output, whatever is in it."""
    print(make_printable(line), flush=True)


def print_error(sentence: str) -> None:
    """Prints an error to standard error."""
    print_to_stderr(f"error: {sentence}")


def print_to_stderr(line: str) -> None:
    """Prints one line to standard error, whatever is in it."""
    print(make_printable(line), file=sys.stderr, flush=True)


def print_story(story: str) -> None:
    """Prints several lines to standard error; no line but the first begins where lines of ours begin."""
    first, *others = story.splitlines() or [""]
    print_to_stderr(first)
    for line in others:
        print_to_stderr(f"  {line}")
