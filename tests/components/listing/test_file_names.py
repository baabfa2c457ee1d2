"""Telling the names of files that may be labels from those that cameras, scanners and programs make."""

import itertools
import os
import random
import struct

import pytest
from PIL import Image

from components.listing.file_names import explain_names
from components.listing.image_sizes import find_image_size

COUNT = 300
RUNNING = "they are running numbers"
NUMBERED = "they are a few fixed words with a number"
HASHES = "they look like hashes or random identifiers"
DATES = "they look like dates or times"
COUNTED = "they have a number that counts; if a label stands beside it, --label_pattern says where"


def explain(names, total: int | None = None) -> str | None:
    paths = [name if "/" in name else f"/lines/{name}.png" for name in sorted(set(names))]
    return explain_names(paths, total or len(paths), lambda _: None)


def draw(symbols: str, length: int, count: int = COUNT) -> list[str]:
    chooser = random.Random(length)
    return ["".join(chooser.choices(symbols, k=length)) for _ in range(count)]


def draw_numbers(form: str, below: int, count: int = COUNT) -> list[str]:
    chooser = random.Random(below)
    return [form.format(chooser.randrange(below), chooser.randrange(100)) for _ in range(count)]


DIGITS, CAPITALS = "0123456789", "ABCDEFGHJKLMNPRSTUVWXYZ"


@pytest.mark.parametrize(
    "names",
    [
        draw("2345678bcdefgmnpwxy", 5),
        draw("2345678bcdefgmnpwxy", 5, 12),
        draw(DIGITS, 5),
        draw(DIGITS, 8),
        draw(DIGITS + CAPITALS, 7),
        draw(DIGITS + CAPITALS, 17),
        draw("abcdefghijklmnopqrstuvwxyz", 8),
        [
            f"{place}{code}"
            for place, code in zip(itertools.cycle("浙沪川苏鲁"), draw(DIGITS + CAPITALS, 6), strict=False)
        ],
        [f"浙{code}" for code in draw(DIGITS + CAPITALS, 6)],
        draw_numbers("{:04d}", 10_000),
        draw_numbers("{:05d}", 4_000),
        draw_numbers("{:d}", 100_000),
        draw_numbers("{:04d}", 10_000, 40),
        draw_numbers("{:d}.{:02d} €", 90),
        draw_numbers("EUR {:d},{:02d}", 90),
        draw_numbers("Room {:d}", 900, 60),
        draw_numbers("{:d} kg", 900, 60),
        [
            f"{letters}-{number}"
            for letters, number in zip(draw(CAPITALS, 2), draw_numbers("{:d}", 10_000), strict=True)
        ],
        [f"B-{letters} {n}" for letters, n in zip(draw(CAPITALS, 2), draw_numbers("{:d}", 1_000), strict=True)],
        [f"{letter}{n}" for letter, n in zip(draw(CAPITALS, 1), draw_numbers("{:05d}", 100_000), strict=True)],
        ["Hund", "Katze", "Maus", "Haus", "Baum", "Wald", "Berg", "Tal", "Meer", "Fluss", "Weg", "Stein", "Vogel"],
        ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"],
        [f"img_{number:04d}" for number in range(9)],  # too few to tell
        [f"/classes/{word}/{word}.png" for word in draw(CAPITALS, 5)],
    ],
)
def test_what_may_be_labels_is_not_questioned(names):
    assert explain(names) is None


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (range(COUNT), RUNNING),
        (range(100_000, 100_012), RUNNING),
        (range(0, 3_000, 10), RUNNING),
        ([f"{number:06d}" for number in range(COUNT)], RUNNING),
        (draw_numbers("{:012d}", 500_000), RUNNING),
        (draw_numbers("{:d}_{:d}", 500), RUNNING),
        ([f"/set/{folder}/{number}.png" for folder in "abcdefgh" for number in range(8)], RUNNING),
        ([f"img_{number:04d}" for number in range(COUNT)], NUMBERED),
        (draw_numbers("word_{:d}_{:d}", 3_000), NUMBERED),
        (draw_numbers("IMG{:d}", 9_000), NUMBERED),
        ([f"page{number // 20}_line{number % 20}" for number in range(COUNT)], NUMBERED),
        ([f"Scan {number}" for number in range(COUNT)], NUMBERED),
        (draw_numbers("Scan {:04d}", 900), NUMBERED),
        ([f"Scan ({number})" for number in range(COUNT)], NUMBERED),
        ([f"{camera}{number:04d}" for camera in ("DSC", "IMG_") for number in range(COUNT)], NUMBERED),
        (draw("0123456789abcdef", 8), HASHES),
        (draw("0123456789abcdef", 32), HASHES),
        (draw("0123456789ABCDEF", 40), HASHES),
        (draw("0123456789abcdefghijkmnpqrstABCDEFGHJKLMNPQRSTUVWXYZ", 22), HASHES),
        ([f"{a}-{b}-{b}-{b}-{a}beef" for a, b in zip(draw("0af3", 8), draw("09ce", 4), strict=True)], HASHES),
        ([f"2024{1 + n % 12:02d}{1 + n % 28:02d}" for n in range(COUNT)], DATES),
        ([f"IMG_202405{1 + n % 28:02d}_10{n % 60:02d}{n % 59:02d}" for n in range(COUNT)], DATES),
        ([f"Screenshot 2024-05-{1 + n % 28:02d} at 10.{n % 60:02d}.11" for n in range(COUNT)], DATES),
        ([f"202405{1 + n % 28:02d}10{n % 60:02d}{n % 59:02d}" for n in range(COUNT)], DATES),
        (draw_numbers("17{:08d}", 10**8), DATES),
        (draw_numbers("17{:011d}", 10**11), DATES),
        ([f"{code}_{n % 3}" for n, code in enumerate(draw(CAPITALS, 5))], COUNTED),
        ([f"{n}_{code}_{n * 7}" for n, code in enumerate(draw(CAPITALS, 5))], COUNTED),
        ([f"{code} ({1 + n % 3})" for n, code in enumerate(draw(CAPITALS, 5))], "they are the names of copies"),
        ([f"crop_{code}" for code in draw(CAPITALS, 5)], "all those of a folder begin alike, such as with 'crop_'"),
        ([f"/set/Faust/Faust {code}.png" for code in draw(CAPITALS, 5)], "they begin with the names of their folders"),
    ],
)
def test_what_programs_make_is_questioned_with_the_reason(names, why):
    assert explain(map(str, names)) == why


def test_every_tenth_of_running_numbers_is_known_as_such():
    names = [f"{number:07d}" for number in random.Random(1).sample(range(3_000), 300)]
    assert explain(names, total=3_000) == RUNNING
    assert explain(names) is None


# Sizes


def explain_sizes(lengths: list[int], aspects: list[float]) -> str | None:
    names = [
        f"/lines/{code[:length]}.png" for code, length in zip(draw(CAPITALS, 40, len(lengths)), lengths, strict=True)
    ]
    sizes = {name: (round(100 * aspect), 100) for name, aspect in zip(names, aspects, strict=True)}
    return explain_names(names, len(names), sizes.get)


WIDTHS = [1 + number % 10 for number in range(100)]


def test_wide_images_have_long_labels():
    assert explain_sizes([2 * width for width in WIDTHS], [0.9 * width for width in WIDTHS]) is None
    assert explain_sizes([12] * 100, [6.0] * 100) is None
    assert explain_sizes([2 * width for width in WIDTHS], [10.0] * 100) is None
    assert explain_sizes([8] * 100, [4 + width / 10 for width in WIDTHS]) is None


def test_widths_that_do_not_go_with_the_names_contradict_them():
    assert "the images' widths contradict them" in explain_sizes([8] * 100, [2.0 * width for width in WIDTHS])
    shuffled = [6 + (number * 7919) % 11 for number in range(100)]
    assert "the images' widths contradict them" in explain_sizes(shuffled, [2.0 * width for width in WIDTHS])
    assert explain_sizes([2] * 100, [30.0] * 100) == (
        "they are too short for the images, which are 30 times as wide as high where a name has 2 symbols"
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp"])
def test_the_size_of_an_image_is_found_in_its_first_bytes(tmp_path, suffix):
    path = f"{tmp_path}/image.{suffix}"
    Image.new("RGB", (321, 45)).save(path, **({"exif": b"x" * 9_000} if suffix == "jpg" else {}))
    assert find_image_size(path) == (321, 45)
    os.truncate(path, 8)
    assert find_image_size(path) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"II*\0", b"\xff\xd8" + b"\xff" * 90_000, b"\xff\xd8" + struct.pack(">BBH", 255, 1, 0) * 99],
)
def test_what_has_no_size_in_its_first_bytes_has_none(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    assert find_image_size(str(path)) is None
    assert find_image_size(f"{tmp_path}/missing.png") is None
