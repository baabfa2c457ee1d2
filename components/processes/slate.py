"""A few bytes that a helper process and the one that started it share: which image is being decoded, and since when."""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import NamedTuple

_NUMBER = struct.Struct("<q")
_BOUNDS = struct.Struct("<ddd")
_BYTES = _NUMBER.size + _BOUNDS.size


class Decoding(NamedTuple):
    """An image that is being decoded.

    Attributes:
        number: of the image in the call that the helper works on, from 1.
        since: seconds of `time.monotonic`, which all processes of a machine share.
        processor_since: seconds of processor time that the process had taken before.
        seconds: of processor time that the image may take.
    """

    number: int
    since: float
    processor_since: float
    seconds: float


class Slate:
    """Shared memory on which a helper notes what it decodes. What a killed helper noted stays.

    Args:
        descriptor: of the memory that the process that started this one made; by default, new memory is made.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("slate", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, _BYTES)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _BYTES)

    def note(self, number: int, seconds: float) -> None:
        """Notes that the decoding of an image begins."""
        _BOUNDS.pack_into(self._memory, _NUMBER.size, time.monotonic(), time.process_time(), seconds)
        _NUMBER.pack_into(self._memory, 0, number)

    def wipe(self) -> None:
        """Notes that nothing is being decoded."""
        _NUMBER.pack_into(self._memory, 0, 0)

    def read(self) -> Decoding | None:
        """Returns what is being decoded, or was when the helper ended; None for nothing."""
        (number,) = _NUMBER.unpack_from(self._memory, 0)
        return Decoding(number, *_BOUNDS.unpack_from(self._memory, _NUMBER.size)) if number else None

    def close(self) -> None:
        """Gives the memory back."""
        if not self._memory.closed:
            self._memory.close()
            os.close(self.descriptor)
