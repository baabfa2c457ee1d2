"""PNG files: those that this project writes, and a short way to the grey line of a plain one.

Plain is a PNG of 8 bits a sample without interlacing or transparency, in which no chunk has a say in how it looks: what
most programs write. It is inflated by isal, and `tfrecords/scanlines.c` makes a grey line of its scanlines, in a third
of the time that Pillow takes. The pixels are the same to the bit. Where that file was not compiled, or an image is not
plain, Pillow reads it.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image

try:
    from isal import isal_zlib

    import tfrecords.scanlines as scanlines
except ImportError:  # where the project was installed, no compiler was found
    scanlines = None  # type: ignore[assignment]
if not PIL.__version__.startswith(("12.2.", "12.3.")):  # with which it was compared: others may round in another order
    scanlines = None  # type: ignore[assignment]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FILTER_UP = 2
_HEADER, _CHUNK, _CHECKSUM = struct.Struct(">8sI4sIIBBBBB"), struct.Struct(">I4s"), struct.Struct(">I")
_HEADER_LENGTH = 13
_PALETTE_LENGTHS = range(3, 3 * 256 + 1, 3)
_INDEXED = 3
_CHANNELS = {0: 1, 2: 3, _INDEXED: 1, 4: 2, 6: 4}
"""Samples of a pixel by its colour type."""
_LENGTHS = {b"gAMA": (4,), b"sRGB": (1,), b"cHRM": (32,), b"pHYs": (9,), b"tIME": (7,), b"bKGD": (1, 2, 6)}
"""Lengths of the chunks that have no say in the grey of an image."""
_TEXTS = (b"Software\0", b"date:")
"""Beginnings of texts that have no say in it either. Others may hold an orientation, or pass for a transparency."""
_MOST_PIXELS, _MOST_BYTES = 1 << 24, 1 << 26
"""Of an image that goes the short way. Pillow warns of five times as many pixels, and refuses more bytes of text."""
_LARGEST_WINDOW = b"\x78"
"""First byte of a zlib stream with the largest window, 32 KB (RFC 1950, section 2.2); isal takes larger ones too."""
_MOST_TALL = 50
"""Times its width that an image may be high. Where it is a hundred times as high, Pillow scales the height first."""


class PlainPng(NamedTuple):
    """A plain PNG, still compressed.

    Attributes:
        width, height: pixels.
        channels: samples of a pixel: grey; grey and alpha; red, green and blue; or these and alpha.
        palette: red, green and blue of each index, where the one sample is an index; or else empty.
        compressed: the zlib stream of the scanlines.
    """

    width: int
    height: int
    channels: int
    palette: bytes
    compressed: bytes

    def make_grey_line(self, width: int, height: int, vertical: bool = False) -> np.ndarray | None:
        """Makes a grey line, uint8 [height, width], as `tfrecords.image` makes it by means of Pillow.

        Args:
            width, height: pixels of the line.
            vertical: whether it is turned to the left first.

        Returns:
            The line; or None for damage, transparency, a contrast so low that other rules apply, a very tall image, or
            too little memory.
        """
        along, across = (self.height, self.width) if vertical else (self.width, self.height)
        if across > _MOST_TALL * along:
            return None
        size = self.height * (1 + self.width * self.channels)
        picture = (self.width, self.height, self.channels)
        inflate = isal_zlib.decompressobj()
        try:
            rows = inflate.decompress(self.compressed, size + 1)
            if len(rows) != size or not inflate.eof:
                return None
            line = scanlines.make_grey_line(rows, picture, self.palette, (width, height), vertical)
        except (isal_zlib.error, MemoryError):  # type: ignore[misc]  # its stub has an instance for the class
            return None
        return None if line is None else np.frombuffer(line, np.uint8).reshape(height, width)


def parse_plain_png(data: bytes) -> PlainPng | None:
    """Parses a file, if it is a plain PNG of sound checksums that can be read by the short way; else returns None."""
    if scanlines is None or not _HEADER.size <= len(data) <= _MOST_BYTES:
        return None
    signature, length, kind, width, height, bits, colour, *methods = _HEADER.unpack_from(data)
    if (signature, length, kind, bits, methods) != (SIGNATURE, _HEADER_LENGTH, b"IHDR", 8, [0, 0, 0]):
        return None
    if colour not in _CHANNELS or not 0 < width * height <= _MOST_PIXELS:
        return None
    chunks = _read_chunks(data)
    if chunks is None:
        return None
    palette, parts = chunks
    compressed = parts[0] if len(parts) == 1 else b"".join(parts)
    if bool(palette) != (colour == _INDEXED) or compressed[:1] > _LARGEST_WINDOW:
        return None
    return PlainPng(width, height, _CHANNELS[colour], palette, compressed)


def _read_chunks(data: bytes) -> tuple[bytes, list[bytes]] | None:
    """Reads the palette and the compressed parts; None where a chunk might have a say, is damaged or out of order."""
    parts: list[bytes] = []
    palette = last = b""
    start, end = len(SIGNATURE), len(data)
    while start + 12 <= end:
        length, kind = _CHUNK.unpack_from(data, start)
        stop = start + 8 + length
        if stop + 4 > end or isal_zlib.crc32(data[start + 4 : stop]) != _CHECKSUM.unpack_from(data, stop)[0]:
            return None
        if kind == b"IDAT" and (not parts or last == kind):
            parts.append(data[start + 8 : stop])
        elif kind == b"IEND":
            return (palette, parts) if length == 0 and stop + 4 == end else None
        elif kind == b"PLTE" and not palette and not parts and length in _PALETTE_LENGTHS:
            palette = data[start + 8 : stop]
        elif kind == b"tEXt" and data.startswith(_TEXTS, start + 8):
            pass
        elif length not in _LENGTHS.get(kind, ()) and (kind != b"IHDR" or last):
            return None
        start, last = stop + 4, kind
    return None


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes a grey line, uint8 [height, width], as PNG bytes: lossless, equal pixels give equal bytes.

    Every row is filtered by `Up` (PNG specification, section 9.2) and deflated with run lengths alone.
    The result is no larger than that of an encoder that tries every filter for every row, and takes a
    third of the time.
    """
    height, width = pixels.shape
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = _FILTER_UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = deflate.compress(rows.data) + deflate.flush()
    return b"".join([SIGNATURE, *_make_chunk(b"IHDR", header), *_make_chunk(b"IDAT", data), *_make_chunk(b"IEND", b"")])


def decode_png(data: bytes) -> np.ndarray:
    """Decodes the bytes that `encode_png` wrote to uint8 [height, width]."""
    png = parse_plain_png(data)
    if png is not None and (pixels := png.make_grey_line(png.width, png.height)) is not None:
        return pixels
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.asarray(image)


def _make_chunk(kind: bytes, content: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    return struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
