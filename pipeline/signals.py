"""Interrupts and the end of the process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from pipeline.exits import EXIT_INTERRUPTED


@contextlib.contextmanager
def handle_signals() -> Iterator[Interruption]:
    """Turns SIGTERM and SIGINT into a `KeyboardInterrupt` inside the block; a second one ends the process at once."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interruption:
    """A scheduler's request to stop, treated like a person's Ctrl-C.

    Attributes:
        came: whether a signal arrived: an engine may pass it on as an error of its own.
        ending: whether the process is about to end by itself, so that nothing is to be interrupted.
    """

    came = False
    ending = False

    def __call__(self, _signal: int, _frame: Any) -> None:
        if self.came:  # and the first could not end the process
            end_at_once(EXIT_INTERRUPTED)
        self.came = True
        if not self.ending:
            raise KeyboardInterrupt


def end_at_once(status: int) -> NoReturn:
    """Ends this process and the workers that an engine started, whatever its threads are doing.

    Otherwise an engine's thread may wait for ever for a worker that is gone. And a thread that runs C++ code while the
    interpreter shuts down ends the process with a signal, although all the work was done.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it
            stream.flush()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children", encoding="ascii") as children:
            for child in children.read().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
    os._exit(status)
