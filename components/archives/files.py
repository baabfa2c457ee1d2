"""Bytes of archives, on a disk or in an object store: at places, or from the beginning."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

import pyarrow

from tfrecords import StoreError, storage

BLOCK_BYTES = 4 << 20
"""Bytes of an archive from which members are read together; members of one block belong to one shard."""
_AHEAD_BYTES = 8 << 20  # by one request, where an archive is read from its beginning to its end
LONGEST_READ = 1 << 20
"""Most bytes that a library may ask for at once: the length of a header is what an archive says."""


MOST_GROWTH = 200
"""Most bytes to which one of an archive may unpack, as those of images do; zeros grow a thousandfold."""
_ALWAYS_ALLOWED = 100 << 20  # bytes, for small archives
_SHOWN = 200  # symbols of what a library says
_DAMAGES = (
    tarfile.TarError,
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    ValueError,
    LookupError,
    OverflowError,
    MemoryError,
    RecursionError,
    pyarrow.ArrowException,
)


class ArchiveError(Exception):
    """An archive that cannot be read, or a member of one; says why in words."""


@contextlib.contextmanager
def explain_damage() -> Iterator[None]:
    """Turns what libraries raise about a damaged archive inside the block into an `ArchiveError`.

    Raises:
        OSError: as it is, if it says that a file cannot be read.
    """
    try:
        yield
    except (ArchiveError, StoreError):
        raise
    except _DAMAGES as error:
        raise _make_error(error) from None
    except OSError as error:
        if error.errno is not None or isinstance(error, IrregularFileError):
            raise
        raise _make_error(error) from None  # of pyarrow


def _make_error(error: Exception) -> ArchiveError:
    said = str(error).partition("\n")[0][:_SHOWN] or type(error).__name__
    return ArchiveError(f"it is damaged: {said}")


def check_growth(packed: int, unpacked: int) -> None:
    """Checks that bytes do not unpack to far more than those of images do.

    Raises:
        ArchiveError: if they do.
    """
    if unpacked > _ALWAYS_ALLOWED + MOST_GROWTH * packed:
        raise ArchiveError(f"it unpacks to more than {MOST_GROWTH} times its size")


def open_regular_file(path: str, *, buffered: bool = False) -> IO[bytes]:
    """Opens a local file to read.

    Raises:
        IrregularFileError: if it is a folder, or a pipe or a device, which never end.
        OSError: if it cannot be opened.
    """
    # O_NONBLOCK: a pipe that nobody writes to would keep open() waiting.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IrregularFileError("it is not a regular file")
    return open(descriptor, "rb", buffering=-1 if buffered else 0)


def read_range(path: str, start: int, length: int) -> bytes:
    """Reads bytes from a place in a file or object; fewer where it ends before.

    Raises:
        OSError: if it cannot be read.
    """
    if storage.is_remote(path):
        return storage.read_range(path, start, length)
    with open_regular_file(path) as file:
        return os.pread(file.fileno(), length, start)


class IrregularFileError(OSError):
    """A path that leads to something else than a file."""


class ArchiveChangedError(ArchiveError):
    """An archive that is not the one that was listed; says in words what lies there now."""

    def __init__(self, found: str):
        super().__init__(f"its archive has changed since it was listed, or is damaged: {found}")


class ArchiveFile:
    """An archive as a file that is read by places, in blocks.

    Args:
        path: path or URL.
        size: bytes.
        longest_read: most bytes that may be asked for at once.

    Raises:
        OSError: from each call, if the archive cannot be read.
    """

    def __init__(self, path: str, size: int, longest_read: int = LONGEST_READ):
        self._path = path
        self._size = size
        self._longest_read = longest_read
        self._position = 0
        self._block = (0, b"")

    def read(self, length: int = -1) -> bytes:
        """Reads bytes from the present position.

        Raises:
            ArchiveError: if more are asked for than any honest archive needs.
        """
        length = max(0, self._size - self._position) if length < 0 else length
        if length > self._longest_read:
            raise ArchiveError(f"it has a header of {length:,} bytes")
        parts = []
        while length > 0 and self._position < self._size:
            part = self._read_in_block(length)
            if not part:
                break
            parts.append(part)
            self._position += len(part)
            length -= len(part)
        return b"".join(parts)

    def _read_in_block(self, length: int) -> bytes:
        start, content = self._block
        if not start <= self._position < start + len(content):
            start = self._position
            content = read_range(self._path, start, min(_AHEAD_BYTES, self._size - start))
            self._block = start, content
        begin = self._position - start
        return content[begin : begin + length]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Sets the position, and returns it; raises an `OSError` for one before the beginning."""
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if position < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = position
        return position

    def tell(self) -> int:
        """Returns the position."""
        return self._position

    def seekable(self) -> bool:
        """Tells that any position can be set."""
        return True


class ArrowFile(io.RawIOBase):
    """An archive as pyarrow reads a Python file."""

    def __init__(self, file: ArchiveFile):
        self._inner = file

    def readable(self) -> bool:
        """Tells that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tells that any position can be set."""
        return True

    def read(self, length: int = -1) -> bytes:
        """Reads bytes from the present position."""
        return self._inner.read(length)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Sets the position, and returns it."""
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        """Returns the position."""
        return self._inner.tell()
