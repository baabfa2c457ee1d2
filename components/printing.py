"""Printing: text that cannot act on a terminal, and streams that cannot end a process.

Names of files and words of libraries reach what is printed. They could end a line and forge another, or move the
cursor. And whoever reads what is printed may be gone, or the disk of the log may be full: the work goes on.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import Any

# C0, DEL and C1; separators of lines and paragraphs; controls of the direction of text; halves of surrogate pairs, by
# which Python stands for bytes that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NAMES = ("standard input", "standard output", "standard error")

_losses: dict[str, str] = {}
"""What became of each stream that did not take all that was printed, by its name."""


def make_printable(text: str) -> str:
    """Makes one line of a text: escapes line breaks, controls of terminals and of direction, and bytes not UTF-8."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def prepare_streams() -> None:
    """Has printing never fail in this process, and puts the null device in the place of closed streams.

    Without that the next file that is opened would take the place of a closed stream, and get what is printed.
    """
    for descriptor, name in enumerate(_NAMES):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(opened, True)
            if descriptor:
                _losses[name] = "it was closed from the beginning"
    sys.stdout = _wrap(1, getattr(sys.stdout, "encoding", None))
    sys.stderr = _wrap(2, getattr(sys.stderr, "encoding", None))


def list_losses() -> list[str]:
    """Lists the streams that did not take all that was printed, with the reason, one sentence each."""
    return [f"{name} did not take all that was printed: {reason}" for name, reason in sorted(_losses.items())]


def _wrap(descriptor: int, encoding: str | None) -> io.TextIOWrapper:
    stream = io.BufferedWriter(_UnfailingStream(descriptor))
    return io.TextIOWrapper(stream, encoding or "utf-8", "backslashreplace", line_buffering=True)


class _UnfailingStream(io.RawIOBase):
    """A standard stream that drops what it cannot write, and takes note of that."""

    def __init__(self, descriptor: int):
        super().__init__()
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Returns the number by which the operating system knows the stream."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tells whether the stream is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Says yes."""
        return True

    def write(self, block: Any) -> int:
        """Writes bytes, or drops them; returns how many were dealt with."""
        try:
            return os.write(self._descriptor, block)
        except OSError as error:
            _losses.setdefault(_NAMES[self._descriptor], error.strerror or type(error).__name__)
            return len(block)
