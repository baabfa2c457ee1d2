"""Bounds on the decoding of one image in a helper process: its memory and its processor time.

An image whose decoding takes too much memory raises here. One that takes too much time ends the process, because
nothing else interrupts a library that is at work; the process that started it leaves the image out of the next try.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator, Mapping
from typing import ClassVar, TypeAlias

from components.processes.slate import Slate
from tfrecords import ImageLimits, ImageRejected

LeftOut: TypeAlias = Mapping[int, tuple[str, str]]
"""Images of a call that a helper does not try again, by their number from 1: the reject's reason and detail."""


class DecodingBounds:
    """Bounds that a helper process keeps, one image after the other. There is one object in a helper, else none.

    Args:
        slate: on which the helper notes what it decodes.
    """

    of_process: ClassVar[DecodingBounds | None] = None
    """The bounds of this process if it is a helper; set by `serve_calls` alone."""

    def __init__(self, slate: Slate) -> None:
        self._slate = slate
        self._left_out: LeftOut = {}
        self._number = 0
        self._sizes = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._page = resource.getpagesize()
        self._memory_limits = resource.getrlimit(resource.RLIMIT_AS)  # of whoever started the command
        self._errors = os.dup(2)
        self._nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process, whatever it does

    def begin_call(self, left_out: LeftOut) -> None:
        """Counts the images of a new call from 1."""
        self._left_out, self._number = left_out, 0

    def begin(self, limits: ImageLimits) -> None:
        """Begins the decoding of the next image.

        Raises:
            ImageRejected: if this image is left out.
        """
        self._number += 1
        if reject := self._left_out.get(self._number):
            raise ImageRejected(*reject)
        self._slate.note(self._number, limits.max_decode_seconds)
        most = int(os.pread(self._sizes, 32, 0).split()[0]) * self._page + limits.max_decode_memory
        soft, hard = self._memory_limits
        if soft != resource.RLIM_INFINITY:
            most = min(most, soft)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        signal.setitimer(signal.ITIMER_PROF, limits.max_decode_seconds)
        os.dup2(self._nowhere, 2)  # what a library prints about an image does not name it; its reject does

    def end(self) -> None:
        """Ends the decoding of an image."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.dup2(self._errors, 2)
        resource.setrlimit(resource.RLIMIT_AS, self._memory_limits)
        self._slate.wipe()


def is_helper() -> bool:
    """Tells whether this process is a helper."""
    return DecodingBounds.of_process is not None


@contextlib.contextmanager
def bound_decoding(limits: ImageLimits) -> Iterator[None]:
    """Bounds what the reading and decoding of one image takes in a helper process; elsewhere it bounds nothing.

    Raises:
        ImageRejected: if it takes too much memory, or did too much harm before in the same call.
    """
    bounds = DecodingBounds.of_process
    if bounds is None:
        yield
        return
    bounds.begin(limits)
    try:
        yield
    except MemoryError:
        raise ImageRejected("too_large", limits.explain_memory()) from None
    finally:
        bounds.end()
