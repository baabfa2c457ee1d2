"""Photographs are turned by one number, whatever else their metadata holds, and odd metadata costs none of them."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tfrecords import ImageLimits, read_line, turn_upright

LIMITS = ImageLimits()
ORIENTATION, SHORT, LONG, RATIONAL, ASCII = 0x0112, 3, 4, 5, 2
TURNED = {
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.T,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).T,
    8: np.rot90,
}
STORED = np.zeros((16, 32), np.uint8)
STORED[:8, :16] = 255  # white in the top left corner


def exif_of(*entries: tuple[int, int, int, int], order: str = "<", start: bytes = b"Exif\0\0") -> bytes:
    """An EXIF block with one directory; an entry is its tag, kind, count, and value or place."""
    block = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(entries))
    for tag, kind, count, value in entries:
        content = struct.pack(f"{order}HH", value, 0) if kind == SHORT else struct.pack(f"{order}I", value)
        block += struct.pack(f"{order}HHI", tag, kind, count) + content
    return start + block + bytes(4)


def file_of(file_format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(STORED).save(buffer, file_format, **options)
    return buffer.getvalue()


def is_turned(data: bytes, orientation: int) -> bool:
    wanted = TURNED[orientation](STORED).astype(int)
    line = read_line(data, len(wanted), LIMITS)
    assert (line.source_height, line.source_width) == wanted.shape
    return bool(np.abs(line.pixels - wanted).max() < 60)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", TURNED)
def test_every_orientation_is_honoured_in_either_order_of_bytes(file_format, order, orientation):
    exif = exif_of((0x010F, ASCII, 4, 0), (ORIENTATION, SHORT, 1, orientation), order=order)
    assert is_turned(file_of(file_format, exif=exif), orientation)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_is_turned_once(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert is_turned(file_of("TIFF", exif=exif), orientation)


ODD = {
    "a rational that stands behind the end": (0x011A, RATIONAL, 1, 5000),
    "a text behind the end": (0x010E, ASCII, 400, 0x7FFFFFFF),
    "a length that cannot be": (0x829A, RATIONAL, 0xFFFFFFFF, 8),
    "an unknown kind": (0x9000, 77, 1, 0),
    "a rational where a number belongs": (0x0100, RATIONAL, 1, 8),
    "a directory that is its own": (0x8769, LONG, 1, 8),
    "a directory behind the end": (0x8825, LONG, 1, 0x7FFFFFFF),
    "a short where a text belongs": (0x0132, SHORT, 3, 7),
    "a second list of strips": (0x0111, LONG, 2, 3),
}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("before", [True, False])
def test_an_odd_tag_costs_neither_the_image_nor_its_orientation(file_format, odd, before):
    entries = [ODD[odd], (ORIENTATION, SHORT, 1, 6)]
    exif = exif_of(*(entries if before else reversed(entries)))
    assert is_turned(file_of(file_format, exif=exif), 6)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(value):
    assert is_turned(file_of(exif=exif_of((ORIENTATION, SHORT, 1, value))), 1)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0no directory at all",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        exif_of((ORIENTATION, SHORT, 1, 6))[:-9],
        exif_of((ORIENTATION, ASCII, 4, 6)),
        exif_of((ORIENTATION, SHORT, 2, 6)),
        exif_of(*[(0x0100, LONG, 1, 1)] * 2000)[:9000],
    ],
    ids=["nothing", "a head", "text", "no directory", "half an entry", "a text", "two", "too few entries"],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_damaged_metadata_turns_nothing_and_rejects_nothing(file_format, exif):
    assert is_turned(file_of(file_format, exif=exif), 1)


def test_metadata_whose_start_is_given_twice_is_read():
    assert is_turned(file_of("PNG", exif=b"Exif\0\0" + exif_of((ORIENTATION, SHORT, 1, 8))), 8)


def test_an_orientation_of_four_bytes_is_read():
    assert is_turned(file_of(exif=exif_of((ORIENTATION, LONG, 1, 3))), 3)


@pytest.mark.parametrize("text", ['tiff:Orientation="8"', "<tiff:Orientation>8</tiff:Orientation>"])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
def test_an_orientation_that_xmp_alone_says_is_honoured(file_format, text):
    if file_format == "PNG":
        notes = PngImagePlugin.PngInfo()
        notes.add_itxt("XML:com.adobe.xmp", f"<x {text}>")
        data = file_of(file_format, pnginfo=notes)
    else:
        data = file_of(file_format, xmp=f"<x {text}>".encode())
    assert is_turned(data, 8)


@pytest.mark.parametrize(("content", "orientation"), [(exif_of((ORIENTATION, SHORT, 1, 6)).hex(), 6), ("zz", 1)])
def test_a_png_may_keep_its_metadata_as_text(content, orientation):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Raw profile type exif", f"\nexif\n  40\n{content}\n")
    assert is_turned(file_of("PNG", pnginfo=notes), orientation)


def test_a_block_made_to_fill_the_memory_is_passed_over():
    repeated = [(0x8000 + number, ASCII, 60_000, 8) for number in range(5000)]  # 300 MB, were all of them read
    exif = exif_of((ORIENTATION, SHORT, 1, 6), *repeated)
    assert is_turned(file_of("PNG", exif=exif), 6)


def test_an_image_without_an_orientation_is_returned_as_it_is():
    with Image.open(io.BytesIO(file_of("PNG"))) as image:
        assert turn_upright(image) is image
