"""Scanlines of PNGs by chance, plain and odd ones, and the extension that makes grey lines of them, with sanitizers."""

from __future__ import annotations

import os
import random
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fuzzing.seeds import make_png

SOURCE = Path(__file__).parents[2] / "tfrecords" / "scanlines.c"
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Colour type by samples of a pixel; with a palette it is 3."""
_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")


class Scanlines(NamedTuple):
    """Arguments of `make_grey_line`.

    Attributes:
        rows: what the zlib stream of a PNG holds.
        picture: width, height and samples of a pixel.
        palette: or empty.
        line: width and height.
        vertical: whether the picture is turned to the left.
    """

    rows: bytes
    picture: tuple[int, int, int]
    palette: bytes
    line: tuple[int, int]
    vertical: bool

    def make_png(self) -> bytes:
        """Makes a file of them."""
        width, height, channels = self.picture
        kind = 3 if self.palette else COLOUR_TYPES[channels]
        return make_png(8, kind, [self.rows], size=(width, height), palette=self.palette)


def choose_scanlines(number: int) -> Scanlines:
    """Chooses scanlines; the number says all about them. One in eight has sizes that do not fit each other."""
    chooser = random.Random(number)
    longest = chooser.choice((4, 20, 70, 70, 300))
    width, height, channels = chooser.randint(1, longest), chooser.randint(1, longest), chooser.randint(1, 4)
    palette = (
        chooser.randbytes(3 * chooser.choice((1, 40, 256, 256))) if channels == 1 and chooser.random() < 0.3 else b""
    )
    rows = np.frombuffer(chooser.randbytes(height * (1 + width * channels)), np.uint8).reshape(height, -1).copy()
    rows[:, 0] = np.frombuffer(chooser.randbytes(height), np.uint8) % chooser.choice((1, 5, 5, 5, 5))
    if channels in (2, 4) and chooser.random() < 0.8:  # wholly opaque
        rows[:, channels::channels] = 0
        rows[:, 0] = np.where(rows[:, 0] == 3, 1, rows[:, 0])
        rows[0, 0] %= 2
        rows[rows[:, 0] == 0, channels::channels] = 255
        rows[rows[:, 0] == 1, channels] = 255
        rows[rows[:, 0] == 4, channels::channels] = 0
    if chooser.random() < 0.05:
        rows[chooser.randrange(height), 0] = chooser.choice((5, 255))
    scanlines = Scanlines(
        rows.tobytes(),
        (width, height, channels),
        palette,
        (chooser.randint(1, chooser.choice((4, 70, 400))), chooser.choice((1, 15, 16, 17, 32, 48, height, width))),
        chooser.random() < 0.3,
    )
    return _spoil(chooser, scanlines) if chooser.random() < 1 / 8 else scanlines


def _spoil(chooser: random.Random, scanlines: Scanlines) -> Scanlines:
    (width, height, channels), rows = scanlines.picture, scanlines.rows
    odd = chooser.choice((-(1 << 62), -1, 0, 1, 5, 7, 1 << 20, (1 << 31) - 1, 1 << 32, (1 << 63) - 1))
    return chooser.choice(
        (
            scanlines._replace(rows=rows[: chooser.randrange(len(rows))]),
            scanlines._replace(rows=rows + bytes(chooser.choice((1, width, len(rows))))),
            scanlines._replace(picture=(odd, height, channels)),
            scanlines._replace(picture=(width, odd, channels)),
            scanlines._replace(picture=(width, height, odd)),
            scanlines._replace(picture=(len(rows) - 1, 1, 1)),
            scanlines._replace(palette=bytes(chooser.choice((1, 2, 769, 771)))),
            scanlines._replace(line=(odd if odd < 1 << 20 else -odd, 16)),
            scanlines._replace(line=(16, min(odd, 1 << 12))),
        )
    )


def build_with_sanitizers(folder: Path) -> dict[str, str]:
    """Builds the extension into a folder, so that it ends the process at what must not be.

    Returns:
        Variables of the environment with which a process loads it.
    """
    include = sysconfig.get_paths()["include"]
    options = ("-shared", "-fPIC", "-ffp-contract=off", f"-I{include}", *_SANITIZERS)
    subprocess.run(["gcc", *options, str(SOURCE), "-o", str(folder / "scanlines.so"), "-lm"], check=True)
    found = [
        subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "PYTHONMALLOC": "malloc",  # so that the end of each object is seen
        "OPENBLAS_NUM_THREADS": "1",
    }
