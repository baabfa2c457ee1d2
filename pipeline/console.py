"""What a person sees on a terminal."""

from __future__ import annotations

import os
import sys


def say(line: str) -> None:
    try:
        print(make_printable(line), flush=True)
    except BrokenPipeError:  # nobody reads any more; the run goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(line: str) -> None:
    """Prints over the line that it printed before."""
    print(f"\r\x1b[K{make_printable(line)}", end="", flush=True)


def say_error(sentence: str) -> None:
    print(make_printable(f"error: {sentence}"), file=sys.stderr, flush=True)


def make_printable(line: str) -> str:
    """A line without what a terminal cannot show of names that are not UTF-8."""
    return line.encode(errors="backslashreplace").decode()
