"""Places in a gzip file that does not compress, as `write_records` writes it, so that parts of it are read in place.

Its content lies in stored blocks of at most 65,535 bytes, each behind a header of five (RFC 1951, section 3.2.4; the
frame around them is that of RFC 1952).
"""

from __future__ import annotations

import dataclasses
import os
import struct

import numpy as np

_GZIP_HEADER = struct.Struct("<HBBIBB")
_GZIP_MAGIC, _DEFLATE = 0x8B1F, 8
_GZIP_TRAILER_BYTES = 8
_BLOCK_HEADER = struct.Struct("<BHH")
_LAST = 1


@dataclasses.dataclass(frozen=True)
class StoredBlocks:
    """The blocks of a file, in their order.

    Attributes:
        starts: int64 [blocks], bytes of content before each block.
        positions: int64 [blocks], of each block's first byte of content in the file.
        sizes: int64 [blocks], bytes of content.
    """

    starts: np.ndarray
    positions: np.ndarray
    sizes: np.ndarray

    def locate(self, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Locates bytes of the content in the file.

        Args:
            offsets: int64 [n], bytes of content before them.

        Returns:
            Their positions in the file, int64 [n], and the bytes from there to the end of their blocks, int64 [n].
        """
        blocks = np.searchsorted(self.starts, offsets, side="right") - 1
        inside = offsets - self.starts[blocks]
        return self.positions[blocks] + inside, self.sizes[blocks] - inside


def find_stored_blocks(path: str) -> StoredBlocks | None:
    """Finds the blocks of a local gzip file of one member; returns None if anything in it is compressed, or damaged."""
    sizes: list[int] = []
    positions: list[int] = []
    with open(path, "rb") as file:
        header = file.read(_GZIP_HEADER.size)
        if len(header) < _GZIP_HEADER.size:
            return None
        magic, method, flags, *_ = _GZIP_HEADER.unpack(header)
        if (magic, method, flags) != (_GZIP_MAGIC, _DEFLATE, 0):
            return None
        position, kind = _GZIP_HEADER.size, 0
        while kind != _LAST:
            header = os.pread(file.fileno(), _BLOCK_HEADER.size, position)
            if len(header) < _BLOCK_HEADER.size:
                return None
            kind, size, complement = _BLOCK_HEADER.unpack(header)
            if kind not in (0, _LAST) or size != complement ^ 0xFFFF:
                return None
            positions.append(position + _BLOCK_HEADER.size)
            sizes.append(size)
            position = positions[-1] + size
        if position + _GZIP_TRAILER_BYTES != os.fstat(file.fileno()).st_size:
            return None
    lengths = np.array(sizes, np.int64)
    return StoredBlocks(np.cumsum(lengths) - lengths, np.array(positions, np.int64), lengths)


def read_stored(file: int, position: int, room: int, size: int) -> bytes:
    """Reads content that begins in one block and may end in a later one.

    Args:
        file: descriptor.
        position: of the first byte in the file.
        room: bytes from there to the end of its block.
        size: bytes to read.

    Returns:
        The content; less of it, or other bytes, if the file is not what it was.
    """
    if size <= room:
        return os.pread(file, size, position)
    parts, left = [os.pread(file, room, position)], size - room
    while left:
        position += room
        header = os.pread(file, _BLOCK_HEADER.size, position)
        if len(header) < _BLOCK_HEADER.size:
            break
        _, room, _ = _BLOCK_HEADER.unpack(header)
        position += _BLOCK_HEADER.size
        parts.append(os.pread(file, min(room, left), position))
        if not parts[-1] and room:
            break
        left -= min(room, left)
    return b"".join(parts)
