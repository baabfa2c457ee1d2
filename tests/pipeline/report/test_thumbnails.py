"""Small pictures of files that may be anything: what is drawn, and what is said where nothing is."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import random
import signal
import struct
import threading
import time
import zlib

import fsspec
import numpy as np
import pytest
from PIL import Image, ImageFile

from pipeline.report import thumbnails
from pipeline.report.thumbnails import Thumbnail, draw_files, draw_lines
from tests.bombs import make_jpeg_exif_bomb
from tests.hostile import build_corpus, build_names
from tests.victims import find_helpers
from tfrecords import ImageLimits, decode_png


def pixels_of(thumbnail: Thumbnail) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(thumbnail.source.partition("base64,")[2]))) as image:
        return np.asarray(image.convert("L")).astype(int)


def draw(tmp_path, content: bytes) -> Thumbnail:
    path = tmp_path / "file"
    path.write_bytes(content)
    (thumbnail,) = draw_files([str(path)])
    return thumbnail


def file_of(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(100, 256, (height, width), np.uint8))


def png_that_claims(width: int, height: int, kind: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    )


def test_an_image_is_shrunk_and_keeps_its_aspect(tmp_path):
    image = Image.new("RGB", (1600, 200), "white")
    image.paste("black", (0, 0, 800, 200))
    small = draw(tmp_path, file_of(image, "PNG"))
    assert small.problem == ""
    pixels = pixels_of(small)
    assert pixels.shape == (40, 320)
    assert pixels[:, :150].max() < 20
    assert pixels[:, 170:].min() > 235


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "PPM"])
def test_the_part_of_a_truncated_image_that_is_there_is_drawn(tmp_path, file_format):
    content = file_of(noise(300, 90), file_format)
    small = draw(tmp_path, content[: len(content) // 2])
    assert small.problem == "as far as it can be decoded"
    pixels = pixels_of(small)
    assert pixels.shape == (90, 300)
    if file_format == "BMP":  # from the last row to the first
        pixels = pixels[::-1]
    assert pixels[:30].mean() > 150
    assert pixels[-20:].max() < 40
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False  # of which nobody else is to know


def test_a_png_with_a_damaged_middle_is_drawn_until_there(tmp_path):
    content = bytearray(file_of(noise(300, 90), "PNG"))
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    assert draw(tmp_path, bytes(content)).problem == "as far as it can be decoded"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file has 0 bytes"),
        (b"<html>\n404 not found", "nothing of it can be decoded"),
        (b"\xff\xd8", "nothing of it can be decoded"),
        (png_that_claims(60000, 40000), "it has too many pixels"),
        (png_that_claims(12000, 5000), "60,000,000 pixels are too many for this page"),
        (png_that_claims(4000, 4000), "nothing of it can be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "nothing of it can be decoded"),
    ],
)
def test_where_nothing_can_be_drawn_the_reason_is_told_and_nothing_of_the_file(tmp_path, content, problem):
    assert draw(tmp_path, content) == Thumbnail("", problem)


def test_a_large_jpeg_is_decoded_small_and_a_large_progressive_one_is_not(tmp_path):
    image = Image.new("L", (10000, 4000), 200)
    began = time.process_time()
    small = draw(tmp_path, file_of(image, "JPEG"))
    assert time.process_time() - began < 5
    assert pixels_of(small).shape == (96, 240)
    progressive = draw(tmp_path, file_of(image, "JPEG", progressive=True))
    assert progressive.problem == "40,000,000 pixels are too many for this page"


def test_no_more_of_a_file_is_read_than_is_looked_at(tmp_path):
    path = tmp_path / "endless.png"
    path.write_bytes(file_of(noise(300, 90), "PNG"))
    os.truncate(path, 1 << 40)  # a hole that takes no room on the disk
    (small,) = draw_files([str(path)])
    assert small.problem == ""
    assert pixels_of(small).shape == (90, 300)
    path.write_bytes(b"II*\0" + struct.pack("<I", 1 << 30))  # whose directory lies further
    os.truncate(path, 1 << 40)
    (small,) = draw_files([str(path)])
    assert small == Thumbnail("", "nothing of it can be decoded")


def test_what_is_transparent_lies_on_white_and_what_lies_on_its_side_is_turned(tmp_path):
    image = Image.new("RGBA", (60, 20), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 20, 20))
    pixels = pixels_of(draw(tmp_path, file_of(image, "PNG")))
    assert abs(int(pixels[:, :15].mean()) - 76) < 12
    assert pixels[:, 30:].min() > 240

    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("L", (20, 60), 255)
    turned.paste(0, (0, 0, 20, 20))
    for file_format in ("JPEG", "PNG", "TIFF"):
        pixels = pixels_of(draw(tmp_path, file_of(turned, file_format, exif=exif)))
        assert pixels.shape == (20, 60)
        assert pixels[:, 45:].max() < 30
        assert pixels[:, :35].min() > 225


@pytest.mark.parametrize(("kind", "most"), [("float32", 1e30), ("int32", 70_000), ("uint16", 900)])
def test_values_without_a_fixed_black_and_white_are_stretched(tmp_path, kind, most):
    values = np.zeros((20, 60), kind)
    values[:, :30] = most
    if kind == "float32":
        values[0, 59] = np.nan
    pixels = pixels_of(draw(tmp_path, file_of(Image.fromarray(values), "TIFF")))
    assert (pixels[:, :29] == 255).all()
    assert (pixels[:, 31:] == 0).all()


def test_a_few_pixels_are_enlarged(tmp_path):
    assert pixels_of(draw(tmp_path, file_of(Image.new("L", (3, 2), 90), "PNG"))).shape == (16, 24)


def test_what_is_gone_or_no_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    names = ("nowhere.png", "pipe.png", "endless.png", "")
    found = [each.problem for each in draw_files([f"{tmp_path}/{name}" for name in names])]
    assert found[0] == "the file is gone"
    assert all("is not a regular file" in problem or "directory" in problem for problem in found[1:])
    (unknown,) = draw_files(["nosuch://bucket/line.png"])
    assert unknown.problem.startswith("the file cannot be read: cannot use 'nosuch://bucket/line.png'")


def test_nothing_hostile_stops_the_drawing(tmp_path):
    inputs = build_corpus(tmp_path / "corpus") + build_names(tmp_path / "names")
    paths = [str(path) for path in sorted(tmp_path.rglob("*.*")) if not path.is_dir()]
    assert len(paths) > len(inputs)
    began = time.process_time()
    found = list(draw_files(paths))
    assert time.process_time() - began < 60
    assert len(found) == len(paths)
    assert sum(bool(each.source) for each in found) > 60
    for each in found:
        assert each.source or each.problem
        assert len(each.source) < 60_000


def test_files_with_random_damage_are_drawn_or_not_but_never_fail(tmp_path):
    chooser = random.Random(0)
    image = noise(64, 24).convert("RGB")
    paths = []
    for file_format in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000"):
        whole = file_of(image, file_format)
        for number in range(25):
            content = bytearray(whole)
            for _ in range(chooser.randint(1, 12)):
                content[chooser.randrange(len(content))] = chooser.randrange(256)
            path = tmp_path / f"{file_format}-{number}"
            path.write_bytes(content[: chooser.randint(1, len(content))])
            paths.append(str(path))
    found = list(draw_files(paths))
    assert len(found) == 200
    assert 20 < sum(bool(each.source) for each in found) < 200


def test_files_of_an_object_store_are_drawn_too():
    memory = fsspec.filesystem("memory")
    whole = file_of(noise(300, 90), "PNG")
    memory.pipe({"/thumbnails/whole.png": whole, "/thumbnails/half.png": whole[: len(whole) // 2]})
    try:
        names = ("whole.png", "half.png", "gone.png")
        found = list(draw_files([f"memory://thumbnails/{name}" for name in names]))
    finally:
        memory.rm("/thumbnails", recursive=True)
    assert [each.problem for each in found] == ["", "as far as it can be decoded", "the file is gone"]
    assert [bool(each.source) for each in found] == [True, True, False]


def test_after_a_time_nothing_more_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "_SECONDS", -1.0)
    path = tmp_path / "line.png"
    path.write_bytes(file_of(noise(30, 20), "PNG"))
    assert [each.problem for each in draw_files([str(path)] * 3)] == ["not looked at, since the others took long"] * 3


def test_lines_are_drawn_as_the_model_sees_them_and_very_long_ones_smaller(tmp_path):
    for name, width in (("short", 80), ("long", 8000)):
        noise(width, 40).save(tmp_path / f"{name}.png")
    (tmp_path / "other.png").write_bytes(b"no image any more")
    names = ("short", "long", "gone", "other")
    short, long, gone, other = draw_lines([f"{tmp_path}/{name}.png" for name in names], 20, ImageLimits())
    assert pixels_of(short).shape == (20, 40)
    assert pixels_of(long).shape == (8, 1600)
    assert (gone.problem, gone.source) == ("the file is gone", "")
    assert (other.problem, other.source) == ("changed since it was read: not_an_image", "")
    assert decode_png(base64.b64decode(short.source.partition("base64,")[2])).dtype == np.uint8


def test_profiles_and_comments_of_an_image_are_no_part_of_its_picture(tmp_path):
    picture = file_of(noise(300, 90), "PNG", icc_profile=random.Random(0).randbytes(2_000_000))
    assert len(draw(tmp_path, picture).source) < 60_000
    with_comment = file_of(noise(300, 90).convert("RGB"), "JPEG", comment=b"c" * 60_000, icc_profile=bytes(2_000_000))
    assert len(draw(tmp_path, with_comment).source) < 60_000


def test_what_takes_too_much_memory_is_not_drawn(tmp_path):
    assert draw(tmp_path, make_jpeg_exif_bomb()) == Thumbnail("", "it takes too much time or memory")


def test_helpers_that_somebody_kills_again_and_again_cost_pictures_and_not_the_report(tmp_path):
    paths = []
    for number in range(3):
        noise(200, 40).save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    over = threading.Event()

    def kill_helpers() -> None:
        while not over.wait(0.02):
            for pid in find_helpers(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_helpers)
    killer.start()
    try:
        drawn = list(draw_files(paths))
    finally:
        over.set()
        killer.join()
    assert [(thumbnail.source, thumbnail.problem) for thumbnail in drawn] == (
        [("", "the process that draws it was ended")] * 3
    )
