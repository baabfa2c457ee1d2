"""The short way to the grey line of a plain PNG, held against Pillow, and what does not go it."""

import hashlib
import io
import os
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, PngImagePlugin

from tests.conftest import find_missing_tool
from tests.fuzz_scanlines import describe_reading, fuzz
from tests.fuzzing.mutations import Mutator, join_png, split_png
from tests.fuzzing.scanlines import choose_scanlines
from tests.fuzzing.seeds import PNG_SIGNATURE, make_seeds
from tfrecords import ImageLimits, ImageRejected, decode_png, encode_png, png, read_line

ROOT = Path(__file__).parents[2]
HEIGHTS = (48, 32, 16)
MUTATED = 5000


def find_missing_extension() -> str | None:
    return "tfrecords/scanlines.c is not compiled, or isal not installed" if png.scanlines is None else None


extension = pytest.mark.tool.with_args(find_missing_extension)


def read_both_ways(content: bytes, height: int, vertical: bool = False) -> tuple[tuple, tuple]:
    short = describe_reading(content, height, vertical)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "scanlines", None)
        return short, describe_reading(content, height, vertical)


def goes_the_short_way(content: bytes) -> bool:
    plain = png.parse_plain_png(content)
    return plain is not None and plain.make_grey_line(plain.width, plain.height) is not None


def draw(mode: str = "RGB", size: tuple[int, int] = (60, 20)) -> Image.Image:
    values = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    values[:4] = [[[0, 0, 0]], [[255, 255, 255]], [[0, 0, 0]], [[255, 255, 255]]]
    image = Image.fromarray(values)
    if mode == "P":
        return image.quantize(200)
    return image.convert(mode)


def save(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def insert(content: bytes, chunk: bytes, place: int = 1) -> bytes:
    parts = split_png(content)
    parts.insert(place, chunk)
    return join_png(parts)


def change_rows(content: bytes, change) -> bytes:
    """Changes what is compressed; all checksums are right afterwards."""
    parts = [part for part in split_png(content) if part[:4] != b"IDAT"]
    rows = zlib.decompress(b"".join(part[4:] for part in split_png(content) if part[:4] == b"IDAT"))
    return join_png([*parts[:-1], b"IDAT" + zlib.compress(change(rows)), parts[-1]])


def add_text(name: str, value: str, **options) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text(name, value, **options)
    return save(draw(), pnginfo=text)


def split_data(content: bytes, size: int) -> bytes:
    return join_png(
        [
            piece
            for part in split_png(content)
            for piece in (
                [b"IDAT" + part[start : start + size] for start in range(4, len(part), size)]
                if part[:4] == b"IDAT"
                else [part]
            )
        ]
    )


PLAIN = {
    **{mode: save(draw(mode)) for mode in ("L", "LA", "RGB", "RGBA", "P")},
    "little contrast in grey": save(draw("L").point(lambda value: 100 + value // 16)),
    "resolution": save(draw(), dpi=(300, 300)),
    "gamma": insert(save(draw()), b"gAMA" + bytes(4)),
    "chromaticity": insert(save(draw()), b"cHRM" + bytes(32)),
    "ground": insert(save(draw()), b"bKGD" + bytes(6)),
    "time": insert(save(draw()), b"tIME" + bytes(7), -1),
    "program": add_text("Software", "scan"),
    "date": add_text("date:create", "2026-11-30"),
    "data in parts": split_data(save(draw()), 100),
    "data with an empty part": insert(save(draw()), b"IDAT", 1),
}
NOT_PLAIN = {
    **{mode: save(draw(mode)) for mode in ("1", "I;16")},
    "transparency": save(Image.merge("RGBA", [*draw().split(), draw("L")])),
    "transparent grey": save(draw("L"), transparency=3),
    "transparent colour": save(draw(), transparency=(0, 0, 0)),
    "transparent index": save(draw("P"), transparency=3),
    "little contrast": save(draw().point(lambda value: 100 + value // 4)),
    "orientation": save(draw(), exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    "orientation in a text": add_text("XML:com.adobe.xmp", 'tiff:Orientation="6"'),
    "a text that looks like a transparency": add_text("transparency", "3"),
    "a compressed text": add_text("Software", "scan " * 99, zip=True),
    "profile": save(draw(), icc_profile=b"a profile"),
    "animation": save(draw(), save_all=True, append_images=[draw().rotate(180)]),
    "gamma of three bytes": insert(save(draw()), b"gAMA" + bytes(3)),
    "a chunk that is not known": insert(save(draw()), b"abCd"),
    "two headers": insert(save(draw()), split_png(save(draw()))[0]),
    "a palette after the data": insert(save(draw("P")), b"PLTE" + bytes(6), -1),
    "no palette": join_png([part for part in split_png(save(draw("P"))) if part[:4] != b"PLTE"]),
    "an index beyond the palette": join_png(
        [part[:34] if part[:4] == b"PLTE" else part for part in split_png(save(draw("P")))]
    ),
    "data apart": insert(split_data(save(draw()), 2000), b"tIME" + bytes(7), 2),
    "one byte more after the end": save(draw()) + b"\0",
    "interlacing": make_seeds()["png-rgb-interlaced"],
    "another format": make_seeds()["bmp-RGB"],
    "nothing": b"",
    "a signature": PNG_SIGNATURE,
}
DAMAGED = {
    "a wrong checksum": save(draw())[:-20] + b"\0" + save(draw())[-19:],
    "a wrong sum of the data": join_png(
        [part[:-1] + bytes([part[-1] ^ 1]) if part[:4] == b"IDAT" else part for part in split_png(save(draw()))]
    ),
    "a row less": change_rows(save(draw()), lambda rows: rows[:-181]),
    "a byte less": change_rows(save(draw()), lambda rows: rows[:-1]),
    "a byte more": change_rows(save(draw()), lambda rows: rows + b"\0"),
    "a million bytes more": change_rows(save(draw()), lambda rows: rows + bytes(1_000_000)),
    "an unknown filter": change_rows(save(draw()), lambda rows: rows[:181] + b"\5" + rows[182:]),
    "a window too large": join_png(
        [b"IDAT\x88\x1c" + part[6:] if part[:4] == b"IDAT" else part for part in split_png(save(draw()))]
    ),
    "no end": join_png(split_png(save(draw()))[:-1]),
    "half of the data": join_png(
        [part[: len(part) // 2] if part[:4] == b"IDAT" else part for part in split_png(save(draw()))]
    ),
    "no data": join_png([part for part in split_png(save(draw())) if part[:4] != b"IDAT"]),
}


@extension
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("vertical", [False, True])
def test_a_plain_image_goes_the_short_way_to_the_same_line(name, vertical):
    assert goes_the_short_way(PLAIN[name])
    for height in HEIGHTS:
        short, by_pillow = read_both_ways(PLAIN[name], height, vertical)
        assert len(short) == 5  # a line
        assert short == by_pillow


@extension
@pytest.mark.parametrize("name", [*NOT_PLAIN, *DAMAGED])
def test_all_others_are_left_to_pillow(name):
    content = (NOT_PLAIN | DAMAGED)[name]
    assert not goes_the_short_way(content)
    short, by_pillow = read_both_ways(content, 20)
    assert short == by_pillow


@extension
@pytest.mark.parametrize("lightest", [126, 127, 128, 129])
def test_only_ample_contrast_of_colours_goes_the_short_way(lightest):
    values = np.asarray(draw("L")) > 128
    grey = np.where(values, lightest, 0).astype(np.uint8)
    content = save(Image.fromarray(np.dstack([grey] * 3)))
    assert goes_the_short_way(content) == (lightest >= 128)
    assert goes_the_short_way(save(Image.fromarray(grey)))


@extension
def test_an_image_of_the_right_height_keeps_every_pixel():
    grey = draw("L", (61, 17))
    np.testing.assert_array_equal(read_line(save(grey), 17, ImageLimits()).pixels, np.asarray(grey))
    turned = read_line(save(grey), 61, ImageLimits(), vertical=True)
    np.testing.assert_array_equal(turned.pixels, np.asarray(grey.transpose(Image.Transpose.ROTATE_90)))


@extension
@pytest.mark.parametrize(
    ("limits", "height"),
    [
        (ImageLimits(max_pixels=1199), 20),
        (ImageLimits(max_bytes=100), 20),
        (ImageLimits(min_side=21), 20),
        (ImageLimits(max_line_width=59), 20),
    ],
)
def test_limits_hold_as_without_the_short_way(limits, height, monkeypatch):
    rejects = []
    for scanlines in (png.scanlines, None):
        monkeypatch.setattr(png, "scanlines", scanlines)
        with pytest.raises(ImageRejected) as reject:
            read_line(PLAIN["RGB"], height, limits)
        rejects.append(str(reject.value))
    assert rejects[0] == rejects[1]


@extension
def test_very_tall_images_are_left_to_pillow():
    tall = save(draw("L", (4, 401)))
    short, by_pillow = read_both_ways(tall, 20)
    assert short == by_pillow
    plain = png.parse_plain_png(tall)
    assert plain.make_grey_line(1, 20) is None
    assert plain.make_grey_line(2005, 20, vertical=True) is not None


@extension
def test_scanlines_by_chance_become_the_same_line():
    made = 0
    for number in range(1500):
        scanlines = choose_scanlines(number)
        try:
            png.scanlines.make_grey_line(*scanlines)
        except (OverflowError, ValueError):
            continue
        short, by_pillow = read_both_ways(scanlines.make_png(), scanlines.line[1], scanlines.vertical)
        assert short == by_pillow, number
        made += goes_the_short_way(scanlines.make_png())
    assert made > 700


@extension
def test_mutated_images_are_read_alike_both_ways():
    seeds = {name: content for name, content in make_seeds().items() if name.startswith("png")}
    mutator, short_ways = Mutator(seeds | {f"png-plain {name}": content for name, content in PLAIN.items()}, seed=18), 0
    for number in range(MUTATED):
        if number % 1000 == 999:  # made of a bomb
            continue
        content = mutator.make(number).content
        short, by_pillow = read_both_ways(content, 24)
        assert short == by_pillow, number
        short_ways += goes_the_short_way(content)
    assert short_ways > MUTATED // 50


@extension
@pytest.mark.shared_data
def test_real_images_are_read_alike_both_ways():
    folder = ROOT.parent / "shared" / "data"
    paths = sorted([*folder.glob("captcha/*"), *folder.glob("fraktur/*/*.png"), *folder.glob("plates/*")])
    short_ways = 0
    for number, path in enumerate(paths):
        content = path.read_bytes()
        short, by_pillow = read_both_ways(content, HEIGHTS[number % len(HEIGHTS)], number % 7 == 0)
        assert short == by_pillow, path
        short_ways += goes_the_short_way(content)
    assert short_ways > 4000
    assert len(paths) > 5000


@extension
def test_what_was_encoded_is_decoded_alike_both_ways(monkeypatch):
    pixels = np.asarray(draw("L"))
    short = decode_png(encode_png(pixels))
    monkeypatch.setattr(png, "scanlines", None)
    by_pillow = decode_png(encode_png(pixels))
    for decoded in (short, by_pillow):
        np.testing.assert_array_equal(decoded, pixels)
        assert decoded.dtype == np.uint8
        assert not decoded.flags.writeable


@extension
def test_an_image_for_which_the_short_way_lacks_memory_is_left_to_pillow(monkeypatch):
    class Exhausted:
        def make_grey_line(self, *_):
            raise MemoryError

    line = read_line(PLAIN["RGB"], 16, ImageLimits()).pixels
    monkeypatch.setattr(png, "scanlines", Exhausted())
    np.testing.assert_array_equal(read_line(PLAIN["RGB"], 16, ImageLimits()).pixels, line)


@extension
def test_no_memory_is_kept():
    chosen = [
        scanlines
        for scanlines in map(choose_scanlines, range(400))
        if len(scanlines.rows) > 20_000 and len(scanlines.rows) % scanlines.picture[1] == 0
    ]

    def use() -> int:
        for _ in range(200):
            for scanlines in chosen:
                try:
                    png.scanlines.make_grey_line(*scanlines)
                except (OverflowError, ValueError):
                    continue
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    assert chosen
    before = use()
    assert use() - before < 20_000_000  # what the pictures of one round take


@extension
def test_a_version_of_pillow_that_was_not_compared_does_all_of_it():
    program = "import PIL.Image; PIL.__version__ = '99.0.0'\nfrom tfrecords import png\nprint(png.scanlines)"
    assert run_python(program).strip() == "None"
    assert png.scanlines is not None, (
        f"compare the lines with Pillow {PIL.__version__}, then name it in tfrecords/png.py"
    )


def test_without_the_extension_pillow_does_all_of_it():
    program = (
        "import sys; sys.modules['tfrecords.scanlines'] = None\n"
        "from tests.tfrecords.test_png import PLAIN, describe_reading\n"
        "from tfrecords import png\n"
        "assert png.scanlines is None\n"
        "import hashlib\n"
        "print(hashlib.sha256(repr([describe_reading(PLAIN[name], 48, False) for name in PLAIN]).encode()).hexdigest())"
    )
    here = hashlib.sha256(repr([describe_reading(PLAIN[name], 48, False) for name in PLAIN]).encode()).hexdigest()
    assert run_python(program).strip() == here


def run_python(program: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("compiler", ["false", "/nowhere/gcc"])
def test_the_project_is_built_without_a_compiler(compiler, tmp_path):
    done = build(tmp_path, {"CC": compiler})
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("scanlines*.so"))


@pytest.mark.tool("gcc")
def test_the_extension_is_built_where_there_is_a_compiler(tmp_path):
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        pytest.skip("this Python has no headers")
    done = build(tmp_path, {"CC": "gcc", "CFLAGS": "-Wall -Wextra -Werror"})
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("scanlines*.so"))) == 1


def build(folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={folder}", f"--build-temp={folder / 'temporary'}"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True)


def find_missing_sanitizers() -> str | None:
    return find_missing_tool("gcc") or find_missing_extension()


@pytest.mark.slow
@pytest.mark.tool.with_args(find_missing_sanitizers)
def test_scanlines_by_chance_harm_nothing():
    done = fuzz(10_000, first=1_000_000)
    assert done.returncode == 0, done.stderr
    assert "made" in done.stdout
