"""What TensorFlow's graph reads of image files, held against what the pipeline reads of them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin

from components.ctc.decoding import decode_greedily
from components.training.serving import decode_text, read_lines
from tfrecords import ImageLimits, ImageRejected, pad_lines, read_line

HEIGHT = 32


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
def read(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return read_lines(files, HEIGHT, 4)


def noise(height: int, width: int, channels: int) -> Image.Image:
    """Every colour next to every other: grey, grey and alpha, RGB or RGBA."""
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels.squeeze())


def file_of(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def white_ink(ground_alpha: int, lightest: int = 255) -> Image.Image:
    """A white stroke on a ground that is transparent or nearly so."""
    pixels = np.full((40, 90, 4), (255, 255, 255, ground_alpha), np.uint8)
    pixels[15:25, 10:80] = lightest, lightest, lightest, 255
    return Image.fromarray(pixels)


def turned_by(orientation: int, order: str = "<") -> bytes:
    """An EXIF block that holds an orientation alone."""
    mark = b"II" if order == "<" else b"MM"
    return b"Exif\0\0" + struct.pack(f"{order}2sHIHHHIHHI", mark, 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 65536, (40, 90), np.uint16))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def deep_png(values: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16-bit samples: grey, grey and alpha, RGB or RGBA by their number, uint16 [height, width, samples]."""
    height, width, samples = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[samples], 0, 0, 0))
        + (chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def shallow_png(bits: int, transparent: int) -> bytes:
    """A PNG of all greys of 2 or 4 bits, one of them transparent."""
    values = np.tile(np.arange(2**bits, dtype=np.uint8), (16, 32 // 2**bits))
    packed = np.zeros((16, 32 * bits // 8), np.uint8)
    for start in range(8 // bits):
        packed = packed << bits | values[:, start :: 8 // bits]
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 16, bits, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", transparent))
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed)))
        + chunk(b"IEND", b"")
    )


def deep_noise(samples: int, bits: int, darkest: int = 0) -> np.ndarray:
    return np.random.default_rng(bits).integers(darkest, 2**bits, (40, 91, samples), np.uint16)


def coloured(ink: tuple[int, int, int], ground: tuple[int, int, int]) -> Image.Image:
    """A stroke of one colour on another, with soft edges."""
    covered = np.zeros((40, 90, 1))
    covered[15:25, 10:80], covered[14, 10:80] = 1, 0.5
    return Image.fromarray((ground + (np.array(ink) - ground) * covered).astype(np.uint8))


def few_greys(count: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(count).integers(0, count, (40, 91), np.uint8))


RED, GREEN = (255, 0, 0), (0, 130, 0)  # of equal luma

FILES = {
    "transparent grey": file_of(few_greys(8), transparency=3),
    "transparent grey that is light": file_of(few_greys(2).point(lambda value: 255 - value), transparency=254),
    "transparent colour": file_of(few_greys(3).convert("RGB"), transparency=(1, 1, 1)),
    "black ink on a transparent colour": file_of(few_greys(2), transparency=1),
    "transparent bit": file_of(noise(40, 91, 1).convert("1"), transparency=0),
    "opaque bit": file_of(noise(40, 91, 1).convert("1"), transparency=255),
    "2 bits, a transparent grey": shallow_png(2, 1),
    "4 bits, a transparent grey": shallow_png(4, 6),
    "palette of 2": file_of(noise(40, 91, 3).quantize(2)),
    "palette of 4": file_of(noise(40, 91, 3).quantize(4)),
    "palette of 256": file_of(noise(40, 91, 3).quantize(256)),
    "palette of 4 and transparency": file_of(noise(40, 91, 3).quantize(4), transparency=1),
    "16 bits, a transparent value": deep_png(deep_noise(1, 2) * 0x1234, (0x1234,)),
    "16 bits, dark": deep_png(deep_noise(1, 13)),
    "16 bits, dark and made of 8": deep_png(deep_noise(1, 3) * 257),
    "16 bits, dark and made of 8 by a shift": deep_png(deep_noise(1, 3) << 8),
    "16 bits, even": deep_png(np.full((40, 91, 1), 4000, np.uint16)),
    **{
        f"{bits} bits in 16, {samples} samples": deep_png(deep_noise(samples, bits))
        for bits in (8, 10, 12, 14, 16)
        for samples in (1, 2, 3, 4)
    },
    "12 bits, a transparent value beyond": deep_png(
        np.where(few_greys(2), 65535, deep_noise(1, 12)[..., 0])[..., None], (65535,)
    ),
    "12 bits, a transparent colour beyond": deep_png(
        np.where(np.asarray(few_greys(2))[..., None], 65535, deep_noise(3, 12)), (65535, 65535, 65535)
    ),
    "16 bits, a transparent colour": deep_png(deep_noise(3, 1) * 0x1234, (0x1234, 0, 0x1234)),
    "red on green": file_of(coloured(RED, GREEN)),
    "green on red": file_of(coloured(GREEN, RED)),
    "red on green, JPEG": file_of(coloured(RED, GREEN), "JPEG"),
    "red on green, palette": file_of(coloured(RED, GREEN).quantize(8)),
    "red on green, BMP": file_of(coloured(RED, GREEN), "BMP"),
    "red on green, JPEG of many faults": file_of(coloured(RED, (0, 150, 0)), "JPEG", quality=40),
    "faint grey": file_of(coloured((150, 150, 150), (250, 250, 250))),
    "yellow on white": file_of(coloured((255, 255, 0), (255, 255, 255))),
    "tinted on tinted": file_of(coloured((200, 60, 60), (170, 75, 70))),
    "upright by its metadata": file_of(noise(40, 91, 3), "JPEG", exif=turned_by(1), xmp=b'<x tiff:Orientation="1">'),
    "grey": file_of(noise(40, 91, 1)),
    "black and white": file_of(noise(40, 91, 1).convert("1")),
    "grey and alpha": file_of(noise(40, 91, 4).convert("LA")),
    "colour": file_of(noise(40, 91, 3)),
    "colour and alpha": file_of(noise(40, 91, 4)),
    "palette": file_of(noise(40, 91, 3).quantize(16)),
    "palette and transparency": file_of(noise(40, 91, 3).quantize(16), transparency=3),
    "16 bits": file_of(sixteen_bits()),
    "white ink": file_of(white_ink(0)),
    "nearly white ink": file_of(white_ink(10, 225)),
    "ink as dark as white allows": file_of(white_ink(0, 255 - 32)),
    "ink a level lighter": file_of(white_ink(0, 255 - 31)),
    "black ink": file_of(Image.fromarray(255 - np.asarray(white_ink(255))[:, :, :3])),
    "JPEG": file_of(noise(40, 91, 3), "JPEG", quality=90),
    "JPEG, colours at half the size": file_of(noise(40, 91, 3), "JPEG", quality=70, subsampling=2),
    "JPEG, progressive": file_of(noise(40, 91, 3), "JPEG", progressive=True),
    "JPEG, grey": file_of(noise(40, 91, 1), "JPEG"),
    "JPEG, CMYK": file_of(noise(40, 91, 3).convert("CMYK"), "JPEG"),
    "WebP": file_of(noise(40, 91, 3), "WEBP", quality=80),
    "WebP and alpha": file_of(noise(40, 91, 4), "WEBP", lossless=True),
    "BMP": file_of(noise(40, 91, 3), "BMP"),
    "at the height": file_of(noise(HEIGHT, 57, 1)),
    "twice the height": file_of(noise(2 * HEIGHT, 57, 1)),
    "far higher": file_of(noise(311, 700, 1)),
    "far lower": file_of(noise(7, 33, 1)),
    "a half rounded to even": file_of(noise(2 * HEIGHT, 61, 1)),
    "another half": file_of(noise(2 * HEIGHT, 63, 1)),
    "narrower than high": file_of(noise(300, 4, 1)),
}


@pytest.mark.parametrize("kind", FILES)
def test_lines_are_those_of_the_pipeline_to_the_bit(kind):
    images, widths = read(tf.constant([FILES[kind]]))
    wanted, wanted_widths = pad_lines([read_line(FILES[kind], HEIGHT, ImageLimits()).pixels], 4)
    np.testing.assert_array_equal(widths, wanted_widths)
    np.testing.assert_array_equal(images, wanted)


def test_lines_of_many_widths_are_padded_to_the_widest():
    images, widths = read(tf.constant([*FILES.values()]))
    lines = [read_line(data, HEIGHT, ImageLimits()).pixels for data in FILES.values()]
    wanted, wanted_widths = pad_lines(lines, 4)
    np.testing.assert_array_equal(widths, wanted_widths)
    np.testing.assert_array_equal(images, wanted)
    assert len({*wanted_widths.tolist()}) > 5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all, but longer than what is looked at of a file's start",
        file_of(noise(40, 91, 3))[:-100],
        file_of(noise(40, 91, 3), "JPEG")[:-100],
        file_of(noise(3, 91, 1)),
        file_of(noise(40, 3, 1)),
        file_of(noise(4, 4000, 1)),
    ],
    ids=["empty", "text", "PNG cut short", "JPEG cut short", "too low", "too narrow", "too wide"],
)
def test_what_the_pipeline_rejects_is_refused(data):
    with pytest.raises(ImageRejected):
        read_line(data, HEIGHT, ImageLimits())
    with pytest.raises(tf.errors.InvalidArgumentError):
        read(tf.constant([FILES["grey"], data]))


@pytest.mark.parametrize(
    ("image", "file_format"),
    [
        (noise(40, 91, 3).quantize(16), "GIF"),
        (noise(40, 91, 3).quantize(16), "BMP"),
        (noise(40, 91, 4), "BMP"),
        (noise(40, 91, 1), "TIFF"),
        (noise(40, 91, 1), "PPM"),
    ],
)
def test_what_would_be_read_otherwise_is_refused(image, file_format):
    data = file_of(image, file_format)
    read_line(data, HEIGHT, ImageLimits())
    with pytest.raises(tf.errors.InvalidArgumentError, match="the bytes are no PNG, JPEG, WebP or BMP of 24 bits"):
        read(tf.constant([data]))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_an_image_that_its_metadata_turns_is_refused(file_format, orientation, order):
    exif = turned_by(orientation, order)
    with pytest.raises(tf.errors.InvalidArgumentError, match="turn its pixels upright, and leave the metadata out"):
        read(tf.constant([FILES["grey"], file_of(noise(40, 91, 3), file_format, exif=exif)]))


def test_an_image_that_its_metadata_turns_in_another_way_is_refused():
    profile, xmp = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    profile.add_text("Raw profile type exif", f"\nexif\n 40\n{turned_by(6).hex()}", zip=True)
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6">', zip=True)
    turned = [
        file_of(noise(40, 91, 3), pnginfo=profile),
        file_of(noise(40, 91, 3), pnginfo=xmp),
        file_of(noise(40, 91, 3), "JPEG", xmp=b"<tiff:Orientation>6</tiff:Orientation>"),
    ]
    for data in turned:
        assert read_line(data, HEIGHT, ImageLimits()).source_width == 40
        with pytest.raises(tf.errors.InvalidArgumentError, match="the metadata may turn the image"):
            read(tf.constant([data]))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_an_animation_is_refused(file_format):
    data = file_of(noise(40, 91, 3), file_format, save_all=True, append_images=[noise(40, 91, 4).convert("RGB")])
    with pytest.raises(ImageRejected):
        read_line(data, HEIGHT, ImageLimits())
    with pytest.raises(tf.errors.InvalidArgumentError, match="the image is an animation"):
        read(tf.constant([data]))


SYMBOLS = ("a", "é", "ſ", "字")


@tf.function(input_signature=[tf.TensorSpec([None, None, len(SYMBOLS) + 1]), tf.TensorSpec([None], tf.int32)])
def decode(logits: tf.Tensor, time_steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return decode_text(logits, time_steps, SYMBOLS)


def some_logits() -> tuple[np.ndarray, np.ndarray]:
    """Rows of many lengths; two of them blank throughout, one of a single time step."""
    chooser = np.random.default_rng(5)
    logits = chooser.normal(0, 3, (40, 12, len(SYMBOLS) + 1)).astype(np.float32)
    logits[:2, :, -1] += 30
    time_steps = chooser.integers(1, 13, 40).astype(np.int32)
    time_steps[:4] = 12, 5, 1, 12
    return logits, time_steps


def test_texts_and_confidences_are_those_of_the_pipeline():
    logits, time_steps = some_logits()
    texts, confidences = decode(logits, time_steps)
    wanted = decode_greedily(logits, time_steps)
    assert [text.decode() for text in texts.numpy()] == ["".join(SYMBOLS[i] for i in line.ids) for line in wanted]
    np.testing.assert_allclose(confidences, np.exp([line.log_probability for line in wanted]), rtol=1e-6)
    assert texts.numpy()[:2].tolist() == [b"", b""]
    assert any(b"aa" in text for text in texts.numpy())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused_and_never_matter_behind_a_line(value):
    logits, time_steps = some_logits()
    wanted = decode(logits, time_steps)
    logits[1, 5:] = value
    for found, each in zip(decode(logits, time_steps), wanted, strict=True):
        np.testing.assert_array_equal(found, each)
    logits[1, 4, 2] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match="the network's logits"):
        decode(logits, time_steps)
