"""Width and height of an image, from its first bytes alone: nothing is decoded."""

from __future__ import annotations

import struct

from components.archives.paths import find_member_path
from components.listing.references import read_regular_file
from tfrecords import StoreError

_FIRST_BYTES = 65_536
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # of JPEG, whose headers give the size


def find_image_size(path: str) -> tuple[int, int] | None:
    """Finds width and height of a PNG, JPEG, GIF or BMP file in its first 64 KiB; None if they are not there.

    A member of an archive, which would have to be looked for in it, has none either.

    Args:
        path: local path or URL.
    """
    if find_member_path(path) is not None:
        return None
    try:
        first = read_regular_file(path, _FIRST_BYTES)
        if first.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack_from(">II", first, 16)
        if first.startswith(b"GIF8"):
            return struct.unpack_from("<HH", first, 6)
        if first.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", first, 18)
            return abs(width), abs(height)
        return _find_jpeg_size(first) if first.startswith(b"\xff\xd8") else None
    except StoreError:
        raise
    except (OSError, struct.error):
        return None


def _find_jpeg_size(first: bytes) -> tuple[int, int] | None:
    place = 2
    while True:
        start, marker, length = struct.unpack_from(">BBH", first, place)
        if start != 0xFF:
            return None
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", first, place + 5)
            return width, height
        place += 2 + length if marker != 0xFF else 1
