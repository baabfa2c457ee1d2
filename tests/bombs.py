"""Small image files that take gigabytes or minutes to decode, each made by code.

All are within the default `--max_bytes` and `--max_pixels`, by their headers. Each was tried without bounds.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

_MEGABYTE = 1_000_000
_UNDEFINED, _LONG, _SHORT = 7, 4, 3


def make_exif_bomb(entries: int = 3000) -> bytes:
    """Makes a PNG with EXIF of many entries, which all share the same megabyte: a bomb for who reads all of them."""
    image = io.BytesIO()
    Image.new("L", (80, 20), 255).save(image, "PNG")
    content = image.getvalue()
    return content[:33] + _make_png_chunk(b"eXIf", _make_directory(entries)) + content[33:]


def make_jpeg_exif_bomb(entries: int = 3000) -> bytes:
    """Makes a JPEG with the same in as many APP1 segments as it takes."""
    image = io.BytesIO()
    Image.new("L", (80, 20), 255).save(image, "JPEG")
    content = image.getvalue()
    exif = _make_directory(entries)
    parts = [b"Exif\0\0" + exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
    return content[:2] + segments + content[2:]


def make_tiff_directory_bomb(entries: int = 3000) -> bytes:
    """Makes a TIFF of 80 by 20 pixels with many entries, which all share the same megabyte."""
    return _make_directory(entries, _tiff_entries(80, 20, strip=20, offset=8, size=1600))


def make_tiff_tile_bomb() -> bytes:
    """Makes a TIFF of 80 by 20 pixels whose one tile has a gigapixel."""
    tile = zlib.compressobj(9)
    data = b"".join(tile.compress(bytes(_MEGABYTE)) for _ in range(1024)) + tile.flush()
    entries = [
        (256, _LONG, 1, 80),
        (257, _LONG, 1, 20),
        (258, _SHORT, 1, 8),
        (259, _SHORT, 1, 8),  # deflated
        (262, _SHORT, 1, 1),
        (277, _SHORT, 1, 1),
        (322, _LONG, 1, 32_000),
        (323, _LONG, 1, 32_000),
        (324, _LONG, 1, 8),
        (325, _LONG, 1, len(data)),
    ]
    return _make_tiff(data, entries)


def make_tiff_strips_bomb(strips: int = 4_900_000) -> bytes:
    """Makes a TIFF of 4 by 4,900,000 pixels, each row of which is a strip."""
    offsets, sizes = struct.pack("<I", 8) * strips, struct.pack("<I", 4) * strips
    entries = _tiff_entries(4, strips, strip=1, offset=8, size=4)
    entries[5] = (273, _LONG, strips, 16)
    entries[8] = (279, _LONG, strips, 16 + len(offsets))
    return _make_tiff(b"\xff" * 8 + offsets + sizes, entries)


def make_bmp_bomb() -> bytes:
    """Makes a BMP of 4,900,000 by 4 pixels whose run lengths are a step beyond its end."""
    return _make_bmp(4_900_000, b"\0\x02\xff\xff\0\x01")


def make_jpeg_scans_bomb(scans: int = 2000, side: int = 4472) -> bytes:
    """Makes a progressive JPEG whose last scan comes again and again."""
    image = io.BytesIO()
    Image.new("L", (side, side), 255).save(image, "JPEG", progressive=True)
    content = image.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def make_ppm_bomb(comments: int = 500_000) -> bytes:
    """Makes a PGM with a comment after each number of its header."""
    return b"P2\n80 20\n255\n" + b"#\n" * comments + b"255 " * 1600


def make_gif_bomb(size: int = 5 * _MEGABYTE) -> bytes:
    """Makes a GIF with one long comment."""
    image = io.BytesIO()
    Image.new("L", (80, 20), 255).save(image, "GIF")
    content = image.getvalue()
    blocks = (b"\xff" + b"c" * 255) * (size // 255)
    start = content.index(b"\x2c\0\0\0\0")
    return content[:start] + b"\x21\xfe" + blocks + b"\0" + content[start:]


BOMBS: dict[str, Callable[[], bytes]] = {
    "exif.jpg": make_jpeg_exif_bomb,
    "directory.tif": make_tiff_directory_bomb,
    "tile.tif": make_tiff_tile_bomb,
    "strips.tif": make_tiff_strips_bomb,
    "run-lengths.bmp": make_bmp_bomb,
    "scans.jpg": make_jpeg_scans_bomb,
    "comments.pgm": make_ppm_bomb,
    "comment.gif": make_gif_bomb,
}
"""How to make each file, by a name for it."""


def _make_directory(entries: int, before: list[tuple[int, int, int, int]] | None = None) -> bytes:
    tags = before or []
    free = (tag for tag in range(1000, 65_536))
    tags = tags + [(next(free), _UNDEFINED, _MEGABYTE, 8) for _ in range(entries)]
    return _make_tiff(b"\xff" * _MEGABYTE, tags)


def _tiff_entries(width: int, height: int, *, strip: int, offset: int, size: int) -> list[tuple[int, int, int, int]]:
    return [
        (256, _LONG, 1, width),
        (257, _LONG, 1, height),
        (258, _SHORT, 1, 8),
        (259, _SHORT, 1, 1),
        (262, _SHORT, 1, 1),
        (273, _LONG, 1, offset),
        (277, _SHORT, 1, 1),
        (278, _LONG, 1, strip),
        (279, _LONG, 1, size),
    ]


def _make_tiff(data: bytes, entries: list[tuple[int, int, int, int]]) -> bytes:
    """Makes a TIFF (revision 6.0, section 2) of data from byte 8 on, and one directory after them."""
    data += b"\0" * (len(data) % 2)
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(entries)) + directory + bytes(4)
    )


def _make_bmp(width: int, runs: bytes) -> bytes:
    palette = b"".join(struct.pack("<I", grey * 0x010101) for grey in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, width, 4, 1, 8, 1, len(runs), 2835, 2835, 256, 0)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start) + header + palette + runs


def _make_png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
