"""From the bytes of image files to grey lines: one case for every rule of the policy."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from tfrecords import ImageLimits, ImageRejected, decode_png, encode_png, pad_lines, read_line

LIMITS = ImageLimits()
LOSSLESS_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PICTURE, THUMBNAIL = 0, 1
"""Values of the TIFF field NewSubfileType."""


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
    return (
        SIGNATURE
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + png_chunk(b"IEND", b"")
    )


def tiff_of(*pages: tuple[tuple[int, int], int, int]) -> bytes:
    """A TIFF whose pages are even: size, value and NewSubfileType of each."""
    images = []
    for size, value, kind in pages:
        image = Image.new("L", size, value)
        image.encoderinfo = {"tiffinfo": {254: kind}}
        images.append(image)
    data = file_of(images[0], "TIFF", save_all=True, append_images=images[1:])
    with Image.open(io.BytesIO(data)) as tiff:
        for frame, (size, _, kind) in enumerate(pages):
            tiff.seek(frame)
            assert (tiff.size, tiff.tag_v2[254]) == (size, kind)
    return data


def pgm_of(values: np.ndarray, greatest: int) -> bytes:
    height, width = values.shape
    return f"P5 {width} {height} {greatest}\n".encode() + values.astype(">u2" if greatest > 255 else "u1").tobytes()


def transparent_ink(mode: str, value: int, opacity: int = 255) -> bytes:
    """A block of ink of one value on a ground of the same value that is wholly transparent."""
    opaque = Image.new("L", (32, 16), 0)
    opaque.paste(opacity, (8, 4, 24, 12))
    even = Image.new("L", (32, 16), value)
    return file_of(Image.merge(mode, [even] * (len(mode) - 1) + [opaque]))


def ink_and_ground(data: bytes) -> tuple[int, int]:
    """The values inside and outside the block of `transparent_ink`, each of which has to be even."""
    pixels = read_line(data, 16, LIMITS).pixels.copy()
    ink = pixels[4:12, 8:24].copy()
    pixels[4:12, 8:24] = pixels[0, 0]
    assert ink.min() == ink.max()
    assert pixels.min() == pixels.max()
    return int(ink[0, 0]), int(pixels[0, 0])


@pytest.mark.parametrize("file_format", LOSSLESS_FORMATS)
def test_a_grey_file_of_the_right_height_keeps_every_pixel(file_format):
    line = read_line(file_of(Image.fromarray(ramp()), file_format), 16, LIMITS)
    assert line.pixels.dtype == np.uint8
    np.testing.assert_array_equal(line.pixels, ramp())
    assert (line.source_width, line.source_height) == (32, 16)


def test_the_scale_of_a_line_is_that_along_its_text():
    file = io.BytesIO()
    Image.new("L", (240, 60), 200).save(file, "PNG")
    across = read_line(file.getvalue(), 20, ImageLimits())
    assert (across.pixels.shape, across.vertical, across.scale) == ((20, 80), False, 3.0)
    down = read_line(file.getvalue(), 20, ImageLimits(), vertical=True)
    assert (down.pixels.shape, down.vertical, down.scale) == ((20, 5), True, 12.0)


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


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG2000"])
@pytest.mark.parametrize(("value", "grey"), [(0, 0), (0x00FF, 0), (0x7FFF, 0x7F), (0xABCD, 0xAB), (0xFFFF, 255)])
def test_16_bit_grey_keeps_its_high_byte(file_format, value, grey):
    assert grey_value(file_of(Image.fromarray(np.full((16, 32), value, np.uint16)), file_format)) == grey


@pytest.mark.parametrize(
    ("greatest", "value", "grey"),
    [
        (0xFFFF, 0, 0),
        (0xFFFF, 0x00FF, 0),
        (0xFFFF, 0xABCD, 0xAB),
        (0xFFFF, 0xFFFF, 255),
        (1023, 1023, 255),
        (1023, 512, 128),
        (255, 200, 200),
        (256, 256, 255),
    ],
)
def test_a_pgm_is_read_in_proportion_to_its_greatest_value(greatest, value, grey):
    assert grey_value(pgm_of(np.full((16, 32), value), greatest)) == grey


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}], ids=["in a file", "bare"])
def test_a_jpeg_2000_file_or_codestream_is_read(options):
    data = file_of(Image.fromarray(ramp()), "JPEG2000", **options)
    np.testing.assert_array_equal(read_line(data, 16, LIMITS).pixels, ramp())


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


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("value", [0, 40, 200])
def test_ink_that_shows_on_white_is_laid_on_white(mode, value):
    assert ink_and_ground(transparent_ink(mode, value)) == (value, 255)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("value", [255, 250, 230])
def test_ink_that_would_not_show_on_white_is_laid_on_black(mode, value):
    assert ink_and_ground(transparent_ink(mode, value)) == (value, 0)


def test_faint_black_ink_stays_black_on_white():
    ink, ground = ink_and_ground(transparent_ink("LA", 0, opacity=20))
    assert ground == 255
    assert 230 < ink < 240


def test_faint_white_ink_is_light_on_black():
    ink, ground = ink_and_ground(transparent_ink("LA", 255, opacity=200))
    assert ground == 0
    assert ink == 200


def test_white_ink_that_a_png_gives_by_a_transparent_colour_is_laid_on_black():
    image = Image.new("L", (32, 16), 1)
    image.paste(255, (8, 4, 24, 12))
    assert ink_and_ground(file_of(image, transparency=1)) == (255, 0)


def test_white_ink_of_a_palette_is_laid_on_black():
    image = Image.new("P", (32, 16), 0)
    image.paste(1, (8, 4, 24, 12))
    image.putpalette([0, 0, 0, 255, 255, 255])
    assert ink_and_ground(file_of(image, transparency=0)) == (255, 0)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_that_is_transparent_throughout_is_white(value):
    assert grey_value(file_of(Image.new("LA", (32, 16), (value, 0)))) == 255


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
    assert rejected.detail == f"the {file_format} file holds several images, not 1"


def test_a_photograph_with_a_second_picture_behind_it_is_the_photograph():
    first, second = (Image.new("RGB", (32, 16), (value,) * 3) for value in (200, 10))
    data = file_of(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert abs(grey_value(data) - 200) <= 2


@pytest.mark.parametrize(
    "pages",
    [
        [((32, 16), 90, PICTURE), ((8, 4), 7, THUMBNAIL)],
        [((8, 4), 7, THUMBNAIL), ((32, 16), 90, PICTURE)],
        [((8, 4), 7, THUMBNAIL), ((32, 16), 90, PICTURE), ((16, 8), 8, THUMBNAIL)],
        [((32, 16), 90, THUMBNAIL)],
    ],
    ids=["behind the picture", "before the picture", "on both sides", "a thumbnail alone"],
)
def test_a_tiff_with_thumbnails_is_its_picture(pages):
    data = tiff_of(*pages)
    assert grey_value(data) == 90
    line = read_line(data, 16, LIMITS)
    assert (line.source_width, line.source_height) == (32, 16)


@pytest.mark.parametrize(
    ("pages", "pictures"),
    [
        ([((8, 4), 7, THUMBNAIL), ((16, 8), 8, THUMBNAIL)], 2),
        ([((32, 16), 9, PICTURE), ((8, 4), 7, THUMBNAIL), ((32, 16), 9, PICTURE)], 2),
    ],
    ids=["thumbnails alone", "two pictures and a thumbnail"],
)
def test_a_tiff_in_which_no_one_picture_stands_out_is_refused(pages, pictures):
    rejected = reject_of(tiff_of(*pages))
    assert (rejected.reason, rejected.detail) == (
        "several_images",
        "the TIFF file holds several images, not 1",
    )


@pytest.mark.parametrize("kinds", [(THUMBNAIL, PICTURE), (PICTURE, THUMBNAIL)])
@pytest.mark.parametrize(
    ("size", "reason"), [((64, 16), "too_large"), ((40, 3), "too_small")], ids=["too large", "too small"]
)
def test_the_limits_are_those_of_the_picture_wherever_its_thumbnail_stands(kinds, size, reason):
    pages = [((8, 8), 7, kind) if kind == THUMBNAIL else (size, 9, kind) for kind in kinds]
    assert reject_of(tiff_of(*pages), ImageLimits(max_pixels=1000)).reason == reason


@pytest.mark.parametrize("kinds", [(THUMBNAIL, PICTURE), (PICTURE, THUMBNAIL)])
def test_a_thumbnail_of_few_pixels_does_not_make_its_picture_too_small(kinds):
    pages = [((8, 2), 7, kind) if kind == THUMBNAIL else ((32, 16), 90, kind) for kind in kinds]
    assert grey_value(tiff_of(*pages)) == 90


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
    assert rejected.detail == "the checksum of the b'IDAT' chunk at byte 33 of the PNG is wrong"


def test_a_png_whose_checksum_alone_is_wrong_is_rejected_as_truncated():
    data = bytearray(file_of(Image.fromarray(ramp())))
    data[-13] ^= 0xFF  # the last byte before the 12 of the end
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), ramp())  # a viewer would show it
    rejected = reject_of(bytes(data))
    assert rejected.reason == "truncated"
    assert "the checksum of the b'IDAT' chunk" in rejected.detail


@pytest.mark.parametrize(("first", "second"), [((1, 3), (8, 0)), ((8, 0), (8, 0)), ((8, 2), (8, 6))])
def test_a_png_with_a_second_header_is_rejected_as_truncated(first, second):
    headers = [png_chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 16, *kind, 0, 0, 0)) for kind in (first, second)]
    palette = png_chunk(b"PLTE", bytes(6)) if first[1] == 3 else b""
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(16 * (1 + 48 * 4))))
    reject = reject_of(SIGNATURE + headers[0] + palette + headers[1] + pixels + png_chunk(b"IEND", b""))
    assert reject.reason == "truncated"
    assert f"second header (IHDR) at byte {33 + len(palette)}" in reject.detail


@pytest.mark.parametrize("missing", [12, 8, 4, 1])
def test_a_png_without_its_end_is_rejected_as_truncated(missing):
    data = file_of(Image.fromarray(ramp()))
    rejected = reject_of(data[:-missing])
    assert rejected.reason == "truncated"
    assert rejected.detail == (
        f"the PNG ends at byte {len(data) - missing}, within the chunk that begins at byte {len(data) - 12}"
    )


@pytest.mark.parametrize("length", [8, 12, 20, 32])
def test_a_png_that_ends_in_its_header_is_rejected_as_truncated(length):
    assert reject_of(file_of(Image.fromarray(ramp()))[:length]).reason == "truncated"


@pytest.mark.parametrize(
    "garbage", [b"\0", b"\r\n", bytes(1000), b"IDAT" * 50], ids=["a zero", "a line", "zeros", "text"]
)
def test_what_follows_the_end_of_a_png_does_not_matter(garbage):
    data = file_of(Image.fromarray(ramp())) + garbage
    np.testing.assert_array_equal(read_line(data, 16, LIMITS).pixels, ramp())


def test_a_png_of_many_chunks_is_read():
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "scanned on Monday")
    data = file_of(Image.fromarray(noise()), pnginfo=notes, compress_level=0, dpi=(300, 300))
    np.testing.assert_array_equal(read_line(data, 64, LIMITS).pixels, noise())


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
def test_what_is_no_image_is_rejected_and_nothing_of_it_is_told(data):
    rejected = reject_of(data)
    assert rejected.reason == "not_an_image"
    assert rejected.detail == f"its {len(data)} bytes are none of PNG, JPEG, TIFF, BMP, GIF, WEBP, PPM, JPEG2000"


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


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 1), np.uint8),
        np.full((48, 1), 255, np.uint8),
        np.arange(256, dtype=np.uint8)[None],
        np.arange(256, dtype=np.uint8)[:, None],
        np.tile(np.array([[0, 255], [255, 0]], np.uint8), (24, 100)),
        np.full((48, 5000), 255, np.uint8),
        ramp(300, 48),
        noise(257, 33),
    ],
    ids=["one pixel", "one column", "one row", "all values", "chequered", "white", "ramp", "noise"],
)
def test_an_encoded_line_is_the_same_to_every_reader_of_png(pixels):
    data = encode_png(pixels)
    np.testing.assert_array_equal(tf.io.decode_png(data)[..., 0], pixels)
    np.testing.assert_array_equal(read_line(data, len(pixels), ImageLimits(min_side=1)).pixels, pixels)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", pixels.shape[::-1])
    decoded = decode_png(data)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


def test_a_grainy_line_is_encoded_about_as_small_as_pillow_makes_it():
    page = Image.new("L", (800, 48), 220)
    ImageDraw.Draw(page).text((10, 4), "the quick brown fox jumps over", font=ImageFont.load_default(36), fill=30)
    grain = np.random.default_rng(0).normal(0, 3, (48, 800))
    pixels = np.clip(np.asarray(page) + grain, 0, 255).astype(np.uint8)
    assert len(encode_png(pixels)) < 1.05 * len(file_of(Image.fromarray(pixels)))


def test_equal_pixels_give_equal_bytes_however_they_lie_in_memory():
    pixels = noise(64, 16)
    wider = np.zeros((32, 128), np.uint8)
    wider[::2, ::2] = pixels
    layouts = [pixels, np.asfortranarray(pixels), wider[::2, ::2], np.flipud(np.flipud(pixels).copy())]
    assert len({encode_png(layout) for layout in layouts}) == 1


def test_the_pixels_of_a_line_are_encoded_to_bytes_that_do_not_change_silently():
    data = encode_png(ramp())
    assert data.startswith(SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 16, 8, 0, 0, 0, 0)))
    assert data.endswith(png_chunk(b"IEND", b""))
    (length,) = struct.unpack_from(">I", data, 33)
    assert len(data) == 33 + 12 + length + 12
    rows = np.frombuffer(zlib.decompress(data[41 : 41 + length]), np.uint8).reshape(16, 33)
    assert (rows[:, 0] == 2).all()  # the filter `Up`: each row as the difference to the one above
    np.testing.assert_array_equal(np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8), ramp())


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


def twelve_bit_tiff(value: int, width: int = 16, height: int = 8) -> bytes:
    """A TIFF of one grey value, 12 bits a pixel, uncompressed."""
    pixels = bytes([value >> 4, (value & 15) << 4 | value >> 8, value & 255]) * (width * height // 2)
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(pixels)))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, entry) for tag, entry in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (0x800, 0x80), (0xFFF, 0xFF)])
def test_twelve_bits_of_a_tiff_are_read_over_their_whole_range(value, grey):
    assert set(np.unique(read_line(twelve_bit_tiff(value), 8, ImageLimits()).pixels)) == {grey}


@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0\xff\xff\xff\xff", b"GIF89a"])
def test_what_begins_as_an_image_and_cannot_be_read_is_called_damaged_and_not_something_else(start):
    with pytest.raises(ImageRejected) as rejected:
        read_line(start, 8, ImageLimits())
    assert rejected.value.reason == "truncated"
