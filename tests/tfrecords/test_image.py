"""From the bytes of image files to grey lines: one case for every rule of the policy."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tfrecords import ImageLimits, ImageRejected, decode_png, encode_png, pad_lines, read_line

LIMITS = ImageLimits()
LOSSLESS_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")


def file_of(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def ramp(width: int = 32, height: int = 16) -> np.ndarray:
    """Grey that rises from left to right, the first row white, so that every edge can be told apart."""
    pixels = np.tile(np.linspace(0, 200, width, dtype=np.uint8), (height, 1))
    pixels[0] = 255
    return pixels


def noise(width: int = 256, height: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


def grey_value(data: bytes) -> int:
    """The one value of an image that is even."""
    pixels = read_line(data, 16, LIMITS).pixels
    assert pixels.min() == pixels.max()
    return int(pixels[0, 0])


def reject_of(data: bytes, limits: ImageLimits = LIMITS, height: int = 16) -> ImageRejected:
    with pytest.raises(ImageRejected) as error:
        read_line(data, height, limits)
    return error.value


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))


@pytest.mark.parametrize("file_format", LOSSLESS_FORMATS)
def test_a_grey_file_of_the_right_height_keeps_every_pixel(file_format):
    line = read_line(file_of(Image.fromarray(ramp()), file_format), 16, LIMITS)
    assert line.pixels.dtype == np.uint8
    np.testing.assert_array_equal(line.pixels, ramp())
    assert (line.source_width, line.source_height) == (32, 16)


@pytest.mark.parametrize(("file_format", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_a_lossy_file_is_read_nearly_as_it_was(file_format, options):
    line = read_line(file_of(Image.fromarray(ramp()), file_format, **options), 16, LIMITS)
    assert line.pixels.shape == (16, 32)
    assert np.abs(line.pixels[4:].astype(int) - ramp()[4:]).mean() < 6


def test_a_bilevel_image_becomes_black_and_white():
    half = Image.new("1", (32, 16), 1)
    half.paste(0, (0, 0, 16, 16))
    pixels = read_line(file_of(half), 16, LIMITS).pixels
    assert (pixels[:, :16] == 0).all()
    assert (pixels[:, 16:] == 255).all()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_a_tiff_whose_zero_is_white_is_not_read_as_its_negative(mode):
    data = file_of(Image.fromarray(ramp()).convert(mode), "TIFF", tiffinfo={262: 0})
    assert Image.open(io.BytesIO(data)).tag_v2[262] == 0
    pixels = read_line(data, 16, LIMITS).pixels
    assert pixels[0, 5] == 255
    assert pixels[8, 0] == 0


def test_a_16_bit_tiff_whose_zero_is_white_is_not_read_as_its_negative():
    dark_in_file = Image.fromarray(np.full((16, 32), 0x1000, np.uint16))
    assert grey_value(file_of(dark_in_file, "TIFF", tiffinfo={262: 0})) == 255 - 0x10


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize(("value", "grey"), [(0, 0), (0x00FF, 0), (0x7FFF, 0x7F), (0xABCD, 0xAB), (0xFFFF, 255)])
def test_16_bit_grey_keeps_its_high_byte(file_format, value, grey):
    assert grey_value(file_of(Image.fromarray(np.full((16, 32), value, np.uint16)), file_format)) == grey


@pytest.mark.parametrize(
    ("colour", "grey"),
    [((255, 255, 255), 255), ((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((9, 9, 9), 9)],
)
def test_colour_becomes_its_itu_r_601_luma(colour, grey):
    assert grey_value(file_of(Image.new("RGB", (32, 16), colour))) == grey


def test_a_palette_is_looked_up():
    image = Image.new("P", (32, 16), 1)
    image.putpalette([255, 255, 255, 0, 0, 255])
    assert grey_value(file_of(image)) == 29


@pytest.mark.parametrize(
    ("mode", "colour", "grey"),
    [
        ("LA", (40, 255), 40),
        ("LA", (40, 0), 255),
        ("LA", (0, 128), 127),
        ("RGBA", (10, 10, 10, 255), 10),
        ("RGBA", (10, 10, 10, 0), 255),
        ("RGBA", (0, 0, 0, 128), 127),
    ],
)
def test_transparency_is_laid_on_white(mode, colour, grey):
    assert grey_value(file_of(Image.new(mode, (32, 16), colour))) == grey


@pytest.mark.parametrize(
    ("mode", "colour", "transparent"), [("L", 7, 7), ("RGB", (1, 2, 3), (1, 2, 3)), ("1", 0, 0), ("P", 1, 1)]
)
@pytest.mark.parametrize("is_transparent", [True, False])
def test_a_colour_that_the_png_declares_transparent_is_white(mode, colour, transparent, is_transparent):
    image = Image.new(mode, (32, 16), colour)
    if mode == "P":
        image.putpalette([255, 255, 255, 0, 0, 0])
    value = grey_value(file_of(image, transparency=transparent) if is_transparent else file_of(image))
    assert (value == 255) == is_transparent


def test_a_16_bit_value_that_the_png_declares_transparent_is_white():
    image = Image.fromarray(np.full((16, 32), 0x1234, np.uint16))
    assert grey_value(file_of(image, transparency=0x1234)) == 255


def test_a_transparent_gif_is_laid_on_white():
    image = Image.new("P", (32, 16), 1)
    image.putpalette([255, 255, 255, 0, 0, 0])
    assert grey_value(file_of(image, "GIF", transparency=1)) == 255


@pytest.mark.parametrize(("ink", "grey"), [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((255, 255, 255, 0), 0)])
def test_a_cmyk_jpeg_is_not_inverted(ink, grey):
    assert abs(grey_value(file_of(Image.new("CMYK", (32, 16), ink), "JPEG")) - grey) <= 2


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70_000)])
def test_pixels_without_a_fixed_black_and_white_are_refused(mode, value):
    rejected = reject_of(file_of(Image.new(mode, (32, 16), value), "TIFF"))
    assert rejected.reason == "unsupported_pixels"
    assert f"TIFF pixels of mode {mode}" in rejected.detail


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda p: p),
        (2, np.fliplr),
        (3, lambda p: np.rot90(p, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (8, np.rot90),
    ],
)
def test_the_orientation_that_a_camera_noted_is_applied_once(file_format, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((16, 32), np.uint8)
    stored[:8, :16] = 255  # white in the stored image's top left corner
    shown = turned(stored)
    line = read_line(file_of(Image.fromarray(stored), file_format, exif=exif), shown.shape[0], LIMITS)
    assert (line.source_height, line.source_width) == shown.shape
    assert np.abs(line.pixels.astype(int) - shown).max() < 40


def test_the_name_of_a_file_does_not_matter_because_it_is_never_asked_for(tmp_path):
    path = tmp_path / "really-a-jpeg.png"
    path.write_bytes(file_of(Image.fromarray(ramp()), "JPEG"))
    assert read_line(path.read_bytes(), 16, LIMITS).pixels.shape == (16, 32)


@pytest.mark.parametrize(("file_format", "frames"), [("GIF", 2), ("PNG", 3), ("WEBP", 2), ("TIFF", 2)])
def test_an_animation_or_several_pages_are_refused_with_their_number(file_format, frames):
    others = [Image.fromarray(np.roll(ramp(), shift, axis=1)) for shift in range(1, frames)]
    rejected = reject_of(file_of(Image.fromarray(ramp()), file_format, save_all=True, append_images=others))
    assert rejected.reason == "several_images"
    assert rejected.detail == f"the {file_format} file holds {frames} images, not 1"


def test_a_gif_of_one_frame_is_a_line():
    assert read_line(file_of(Image.fromarray(ramp()), "GIF", save_all=True), 16, LIMITS).pixels.shape == (16, 32)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.95])
def test_a_truncated_file_is_rejected_as_truncated(file_format, part):
    data = file_of(Image.fromarray(noise()), file_format)
    assert reject_of(data[: int(len(data) * part)]).reason == "truncated"


def test_a_png_with_a_flipped_byte_is_rejected_as_truncated():
    data = bytearray(file_of(Image.fromarray(noise())))
    data[len(data) // 2] ^= 0xFF
    rejected = reject_of(bytes(data))
    assert rejected.reason == "truncated"
    assert "damaged" in rejected.detail


def test_a_file_of_0_bytes_is_rejected_as_empty():
    assert reject_of(b"").reason == "empty_file"


@pytest.mark.parametrize(
    "data",
    [
        b"just some text\n",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"\x00",
        bytes(4096),
    ],
    ids=["text", "html", "svg", "pdf", "eps", "one byte", "zeros"],
)
def test_what_is_no_image_is_rejected_with_its_first_bytes(data):
    rejected = reject_of(data)
    assert rejected.reason == "not_an_image"
    assert f"{len(data)} bytes that start with {data[:1].hex()}" in rejected.detail


@pytest.mark.parametrize(("width", "height"), [(6_000, 6_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header_alone(width, height):
    rejected = reject_of(png_that_claims(width, height))  # decoding it would call it truncated: its data is short
    assert rejected.reason == "too_large"
    assert "--max_pixels=20000000" in rejected.detail


def test_the_size_in_the_header_is_believed_when_it_is_small_enough():
    assert reject_of(png_that_claims(400, 400)).reason == "truncated"


def test_pixels_are_refused_above_the_limit_and_not_at_it():
    data = file_of(Image.fromarray(ramp(32, 16)))
    assert read_line(data, 16, ImageLimits(max_pixels=512)).pixels.shape == (16, 32)
    rejected = reject_of(data, ImageLimits(max_pixels=511))
    assert rejected.reason == "too_large"
    assert rejected.detail == "32x16 pixels are 512, more than --max_pixels=511"


def test_bytes_are_refused_above_the_limit_and_not_at_it():
    data = file_of(Image.fromarray(ramp()))
    assert read_line(data, 16, ImageLimits(max_bytes=len(data))).pixels.shape == (16, 32)
    rejected = reject_of(data, ImageLimits(max_bytes=len(data) - 1))
    assert rejected.reason == "too_large"
    assert rejected.detail == f"{len(data)} bytes are more than --max_bytes={len(data) - 1}"


def test_a_line_is_refused_above_the_greatest_width_and_not_at_it():
    data = file_of(Image.fromarray(ramp(64, 16)))
    assert read_line(data, 32, ImageLimits(max_line_width=128)).pixels.shape == (32, 128)
    rejected = reject_of(data, ImageLimits(max_line_width=127), height=32)
    assert rejected.reason == "too_large"
    assert "64x16 pixels scaled to height 32 are 128 pixels wide, more than --max_line_width=127" in rejected.detail


def test_a_line_much_wider_than_high_is_refused_before_it_is_scaled():
    rejected = reject_of(file_of(Image.new("L", (100_000, 4))), height=64)
    assert rejected.reason == "too_large"
    assert "1600000 pixels wide" in rejected.detail


@pytest.mark.parametrize(("width", "height"), [(100_000, 1), (1, 1), (1, 40), (3, 4), (4, 3)])
def test_too_few_pixels_on_a_side_are_refused_with_the_size(width, height):
    rejected = reject_of(file_of(Image.new("L", (width, height))))
    assert rejected.reason == "too_small"
    assert rejected.detail == f"{width}x{height} pixels: a line has at least 4 on each side"


@pytest.mark.parametrize(
    ("source", "height", "width"), [((32, 16), 32, 64), ((64, 16), 8, 32), ((100, 30), 20, 67), ((4, 400), 16, 1)]
)
def test_the_aspect_is_kept_and_the_source_size_reported(source, height, width):
    line = read_line(file_of(Image.new("L", source, 90)), height, LIMITS)
    assert line.pixels.shape == (height, width)
    assert (line.source_width, line.source_height) == source
    assert (line.pixels == 90).all()


def test_scaling_neither_mirrors_nor_cuts():
    pixels = read_line(file_of(Image.fromarray(ramp(64, 32))), 16, LIMITS).pixels
    row = pixels[8].astype(int)
    assert (np.diff(row) >= 0).all()
    assert row[0] < 10
    assert row[-1] > 190
    assert pixels[0].min() > row.min()  # the white first row is still above


@pytest.mark.parametrize("limit", ["max_pixels", "max_bytes", "max_line_width", "min_side"])
def test_a_limit_of_nothing_is_refused_by_name(limit):
    with pytest.raises(ValueError, match=f"{limit} must be at least 1, not 0"):
        ImageLimits(**{limit: 0})


@pytest.mark.parametrize("shape", [(1, 1), (16, 1), (32, 300)])
def test_encoding_a_line_loses_nothing(shape):
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    decoded = decode_png(encode_png(pixels))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


def test_equal_pixels_give_equal_bytes_however_they_lie_in_memory():
    pixels = noise(64, 16)
    assert encode_png(pixels) == encode_png(np.asfortranarray(pixels)) == encode_png(pixels.copy())


def test_decode_png_reads_nothing_but_png():
    with pytest.raises(OSError, match="cannot identify"):
        decode_png(file_of(Image.fromarray(ramp()), "BMP"))


def test_lines_are_padded_with_white_on_the_right_to_a_multiple():
    lines = [np.zeros((4, 5), np.uint8), np.full((4, 9), 7, np.uint8)]
    images, widths = pad_lines(lines, 8)
    assert images.shape == (2, 4, 16, 1)
    assert images.dtype == np.uint8
    assert widths.dtype == np.int32
    assert widths.tolist() == [5, 9]
    assert (images[0, :, :5] == 0).all()
    assert (images[0, :, 5:] == 255).all()
    assert (images[1, :, :9] == 7).all()
    assert (images[1, :, 9:] == 255).all()


@pytest.mark.parametrize(("width", "multiple", "padded"), [(8, 8, 8), (9, 8, 16), (1, 8, 8), (5, 1, 5)])
def test_a_width_that_is_a_multiple_already_is_not_padded_further(width, multiple, padded):
    images, _ = pad_lines([np.zeros((4, width), np.uint8)], multiple)
    assert images.shape[2] == padded
