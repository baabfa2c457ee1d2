"""Grey of colours, of transparency and of 16-bit values: what keeps its bytes, and what would be blank otherwise."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tfrecords import ImageLimits, convert_line, read_line

LIMITS = ImageLimits()
HEIGHT = 48


def file_of(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def coverage(text: str = "AB12-X") -> np.ndarray:
    """How much of each pixel is ink: float [48, 200], 0 to 1."""
    image = Image.new("L", (200, HEIGHT))
    ImageDraw.Draw(image).text((10, 2), text, font=ImageFont.load_default(36), fill=255)
    return np.asarray(image) / 255


def colour_line(ink: tuple[int, int, int], ground: tuple[int, int, int]) -> Image.Image:
    covered = coverage()[..., None]
    return Image.fromarray(np.round(np.array(ground) + (np.array(ink) - np.array(ground)) * covered).astype(np.uint8))


def luma_of(image: Image.Image) -> np.ndarray:
    """ITU-R 601-2 luma in the integers that have always been used."""
    red, green, blue = np.moveaxis(np.asarray(image).astype(int)[..., :3], -1, 0)
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


def pixels_of(data: bytes) -> np.ndarray:
    return read_line(data, HEIGHT, LIMITS).pixels.astype(int)


def likeness(pixels: np.ndarray) -> float:
    """The correlation of a line's darkness with its ink, -1 to 1."""
    return float(np.corrcoef(-pixels.ravel(), coverage().ravel())[0, 1])


COLOURS = list(itertools.product((0, 90, 255), repeat=3))
DISTINCT = [
    (ink, ground)
    for ink, ground in itertools.permutations(COLOURS, 2)
    if abs(int(np.dot(np.array(ink) - ground, (299, 587, 114)))) > 33_000
]


def test_colours_that_luma_tells_apart_keep_their_luma_to_the_bit():
    assert len(DISTINCT) > 500
    for ink, ground in DISTINCT:
        image = colour_line(ink, ground)
        np.testing.assert_array_equal(pixels_of(file_of(image)), luma_of(image), err_msg=f"{ink} on {ground}")


@pytest.mark.parametrize("level", [0, 128, 255])
def test_faint_grey_in_a_file_of_colours_keeps_its_luma(level):
    image = colour_line((level,) * 3, (min(level + 10, 255),) * 3)
    np.testing.assert_array_equal(pixels_of(file_of(image)), luma_of(image))


def test_a_tinted_ground_without_contrast_in_any_channel_keeps_its_luma():
    image = colour_line((200, 60, 60), (170, 75, 70))
    np.testing.assert_array_equal(pixels_of(file_of(image)), luma_of(image))


EQUAL_LUMA = [
    ((255, 0, 0), (0, 130, 0)),
    ((0, 130, 0), (255, 0, 0)),
    ((0, 0, 255), (97, 0, 0)),
    ((255, 0, 255), (0, 179, 0)),
    ((255, 100, 100), (100, 179, 100)),
    ((180, 75, 0), (0, 120, 200)),
    ((200, 60, 60), (30, 133, 60)),
]
FORMS = {
    "PNG": lambda image: file_of(image),
    "palette": lambda image: file_of(image.quantize(64)),
    "opaque RGBA": lambda image: file_of(image.convert("RGBA")),
    "JPEG": lambda image: file_of(image, "JPEG", quality=75),
    "WebP": lambda image: file_of(image, "WEBP", quality=80),
    "BMP": lambda image: file_of(image, "BMP"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("ink", "ground"), EQUAL_LUMA)
def test_ink_of_the_luma_of_its_ground_is_dark_on_a_light_ground(form, ink, ground):
    image = colour_line(ink, ground)
    assert np.ptp(luma_of(image)) < 32
    pixels = pixels_of(FORMS[form](image))
    assert np.ptp(pixels) > 100
    assert likeness(pixels) > 0.9


@pytest.mark.parametrize("noise", [3, 8])
@pytest.mark.parametrize(("ink", "ground"), EQUAL_LUMA)
def test_noise_and_a_speck_do_not_hide_that_luma_shows_nothing(ink, ground, noise):
    clean = np.asarray(colour_line(ink, ground)).astype(int)
    pixels = np.clip(clean + np.random.default_rng(0).normal(0, noise, clean.shape), 0, 255).astype(np.uint8)
    pixels[40:44, 180:184] = 120, 120, 120
    image = Image.fromarray(pixels)
    assert likeness(luma_of(image)) < 0.6
    assert likeness(pixels_of(file_of(image))) > 0.9


@pytest.mark.parametrize("noise", [1, 8])
@pytest.mark.parametrize("ink", [(140, 140, 150), (160, 130, 130), (190, 190, 190)])
def test_faint_ink_on_yellowed_and_noisy_paper_keeps_its_luma(ink, noise):
    clean = np.asarray(colour_line(ink, (225, 215, 170))).astype(int)
    image = Image.fromarray(
        np.clip(clean + np.random.default_rng(0).normal(0, noise, clean.shape), 0, 255).astype(np.uint8)
    )
    np.testing.assert_array_equal(pixels_of(file_of(image)), luma_of(image))


def test_a_channel_is_taken_whole_or_inverted():
    red_on_green = colour_line((255, 0, 0), (0, 130, 0))
    np.testing.assert_array_equal(pixels_of(file_of(red_on_green)), 255 - np.asarray(red_on_green)[..., 0].astype(int))
    green_on_red = colour_line((0, 130, 0), (255, 0, 0))
    np.testing.assert_array_equal(pixels_of(file_of(green_on_red)), np.asarray(green_on_red)[..., 0])


def test_a_transparent_ground_of_the_luma_of_white_is_told_apart_on_white():
    pixels = np.zeros((HEIGHT, 200, 4), np.uint8)
    pixels[..., :3] = 255, 255, 60  # yellow: luma 233
    pixels[..., 3] = np.round(coverage() * 255)
    assert abs(likeness(pixels_of(file_of(Image.fromarray(pixels))))) > 0.9


def deep_line(black: float, white: float, bits: int = 16) -> np.ndarray:
    """A line of 16-bit values, uint16; black and white are shares of the greatest value of so many bits."""
    greatest = 2**bits - 1
    grain = np.random.default_rng(0).normal(0, 0.004, (HEIGHT, 200))
    shares = np.clip(white + (black - white) * coverage() + grain, 0, 1)
    return np.round(shares * greatest).astype(np.uint16)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG2000"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_values_of_fewer_bits_than_16_are_read_over_their_range(file_format, bits):
    values = deep_line(0.02, 0.97, bits)
    np.testing.assert_array_equal(pixels_of(file_of(Image.fromarray(values), file_format)), values >> (bits - 8))


@pytest.mark.parametrize("factor", [16, 4095 / 255])
def test_8_bits_that_were_multiplied_to_12_are_read_over_their_range(factor):
    wanted = np.round(255 - 215 * coverage())
    pixels = pixels_of(file_of(Image.fromarray(np.round(wanted * factor).astype(np.uint16))))
    assert np.abs(pixels - wanted).max() <= 1


@pytest.mark.parametrize("white", [0.3, 0.6, 0.8])
def test_a_dim_image_of_12_bits_is_read_in_proportion(white):
    values = deep_line(0.05, white, 12)
    assert values.max() > 1023
    np.testing.assert_array_equal(pixels_of(file_of(Image.fromarray(values))), values >> 4)


GREY, RGB, GREY_AND_ALPHA, RGBA = 0, 2, 4, 6
"""Colour types of PNG."""


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def deep_png(values: np.ndarray, kind: int, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16-bit samples, uint16 [height, width, samples], that Pillow itself cannot write."""

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + (chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tint(values: np.ndarray, kind: int) -> np.ndarray:
    """Colours with these greys in proportion, and opaque where there is alpha."""
    if kind == GREY:
        return values[..., None]
    if kind == GREY_AND_ALPHA:
        return np.dstack([values, np.full_like(values, 65535)])
    colours = [values, values // 2, values // 3]
    return np.dstack([*colours, np.full_like(values, 65535)][: 3 if kind == RGB else 4])


@pytest.mark.parametrize("kind", [GREY, RGB, GREY_AND_ALPHA, RGBA])
@pytest.mark.parametrize(("white", "bits"), [(0.97, 10), (0.97, 12), (0.6, 12), (0.97, 14), (0.2, 16), (0.97, 16)])
def test_16_bit_colours_follow_the_same_rule(kind, white, bits):
    values = tint(deep_line(0.02, white, bits), kind)
    eight = (values >> (bits - 8)).astype(np.uint8)[..., : 3 if kind in (RGB, RGBA) else 1]
    wanted = luma_of(Image.fromarray(np.broadcast_to(eight, (*eight.shape[:2], 3)).copy()))
    np.testing.assert_array_equal(pixels_of(deep_png(values, kind)), wanted)


def test_of_a_transparent_16_bit_colour_all_bits_count():
    values = tint(deep_line(0.02, 0.97, 16), RGB)
    values[:, :20] = 0x1234, 0x5678, 0x9ABC
    values[:, 20:40] = 0x1234, 0x5678, 0x9ABD
    pixels = pixels_of(deep_png(values, RGB, transparent=(0x1234, 0x5678, 0x9ABC)))
    assert (pixels[:, :20] == 255).all()
    np.testing.assert_array_equal(pixels[:, 20:], luma_of(Image.fromarray((values[:, 20:] >> 8).astype(np.uint8))))


def test_what_is_transparent_does_not_count_for_the_range_of_colours():
    values = tint(deep_line(0.02, 0.97, 12), RGBA)
    values[:, :20] = 65535, 65535, 65535, 0
    pixels = pixels_of(deep_png(values, RGBA))
    assert (pixels[:, :20] == 255).all()
    np.testing.assert_array_equal(pixels[:, 20:], luma_of(Image.fromarray((values[:, 20:, :3] >> 4).astype(np.uint8))))


@pytest.mark.parametrize(("bits", "row"), [(2, 0b00_01_10_11), (4, 0x06)])
def test_a_transparent_grey_of_few_bits_is_white(bits, row):
    transparent = {2: 1, 4: 6}[bits]
    samples = 8 // bits
    header = struct.pack(">IIBBBBB", 8 * samples, 8, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", transparent))
    data += chunk(b"IDAT", zlib.compress((b"\0" + bytes([row]) * 8) * 8)) + chunk(b"IEND", b"")
    greys = {2: [0, 255, 170, 255], 4: [0, 255]}[bits]
    assert read_line(data, 8, LIMITS).pixels.tolist() == [greys * 8] * 8


def test_an_opened_image_of_16_bit_colours_is_read_as_its_file_is(tmp_path):
    data = deep_png(tint(deep_line(0.02, 0.97, 12), RGB), RGB)
    (tmp_path / "deep.png").write_bytes(data)
    with Image.open(tmp_path / "deep.png") as image:
        np.testing.assert_array_equal(convert_line(image, HEIGHT, LIMITS).pixels, pixels_of(data))


DARK = {
    "a quarter as bright": deep_line(0.02, 0.2),
    "an eighth as bright": deep_line(0.01, 0.11),
    "14 bits, not quite used": deep_line(0.02, 0.8, 14),
    "a dark 8-bit image, repeated": (deep_line(0.02, 0.2, 8) * 257).astype(np.uint16),
    "a very dark 8-bit image, repeated": (deep_line(0.005, 0.05, 8) * 257).astype(np.uint16),
    "a dark 8-bit image, shifted": deep_line(0.02, 0.2, 8) << 8,
    "bright": deep_line(0.02, 0.97),
    "half as bright": deep_line(0.02, 0.48),
    "even": np.full((HEIGHT, 200), 4000, np.uint16),
}


@pytest.mark.parametrize("kind", DARK)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_a_16_bit_image_that_is_dark_keeps_its_upper_bits(file_format, kind):
    values = DARK[kind]
    np.testing.assert_array_equal(pixels_of(file_of(Image.fromarray(values), file_format)), values >> 8)


def test_a_pgm_says_itself_what_is_white():
    values = deep_line(0.02, 0.05)
    data = f"P5 200 {HEIGHT} 65535\n".encode() + values.astype(">u2").tobytes()
    np.testing.assert_array_equal(pixels_of(data), values >> 8)


def test_12_bits_in_a_tiff_whose_zero_is_white_are_no_negative():
    values = deep_line(0.02, 0.97, 12)
    data = file_of(Image.fromarray(4095 - values), "TIFF", tiffinfo={262: 0})
    assert np.abs(pixels_of(data) - (values >> 4)).max() <= 1


def test_a_transparent_value_does_not_count_for_the_range():
    values = deep_line(0.02, 0.97, 12)
    values[:, :20] = 65535
    pixels = pixels_of(file_of(Image.fromarray(values), transparency=65535))
    np.testing.assert_array_equal(pixels[:, 20:], values[:, 20:] >> 4)
    assert (pixels[:, :20] == 255).all()


def test_white_ink_on_a_transparent_16_bit_ground_is_laid_on_black():
    values = np.where(coverage() > 0.5, 65000, 7).astype(np.uint16)
    pixels = pixels_of(file_of(Image.fromarray(values), transparency=7))
    assert set(np.unique(pixels)) == {0, 253}
    assert likeness(pixels) < -0.9
