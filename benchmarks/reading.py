"""Benchmark of reading an image: processor time from a file's bytes to its grey line, the short way and by Pillow.

    python benchmarks/reading.py --images=../shared/data/captcha [--count=1000] [--height=48]

Everything runs in this process alone, in rounds in which the ways take turns; the least of the rounds counts.
`--images` is searched with the folders in it.
"""

from __future__ import annotations

import argparse
import collections
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import PIL
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from components.listing import list_images, uri_to_path
from tfrecords import ImageLimits, ImageRejected, png, read_line

ROUNDS = 7
LIMITS = ImageLimits()


def measure(function: Callable[[bytes], object], contents: list[bytes]) -> float:
    """Measures the processor time of a function, in microseconds an image."""
    began = time.process_time()
    for content in contents:
        function(content)
    return (time.process_time() - began) / len(contents) * 1e6


def decode(content: bytes) -> None:
    """Decodes an image by Pillow, and no more."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()


def read_files(folder: Path, count: int, height: int) -> list[bytes]:
    """Reads image files that are not refused, evenly spread over a folder."""
    paths = [uri_to_path(reference.uri) for reference in list_images(str(folder.resolve()))]
    contents = []
    for path in paths[:: max(1, len(paths) // count)]:
        content = Path(path).read_bytes()
        try:
            read_line(content, height, LIMITS)
        except ImageRejected:
            continue
        contents.append(content)
    return contents


def main() -> None:
    """Prints the processor time of each way."""
    parser = argparse.ArgumentParser(description="Measure the reading of images.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--count", type=int, default=1000, help="images, about (default: %(default)s)")
    parser.add_argument("--height", type=int, default=48, help="of the lines (default: %(default)s)")
    options = parser.parse_args()
    contents = read_files(Path(options.images), options.count, options.height)
    if not contents:
        sys.exit(f"error: --images={options.images} has no image")
    if png.scanlines is None:
        sys.exit(
            "error: the extension is not compiled, isal not installed, or Pillow another version: nothing to compare"
        )
    formats = collections.Counter(Image.open(io.BytesIO(content)).format for content in contents)
    short = sum(png.parse_plain_png(content) is not None for content in contents)
    kinds = ", ".join(f"{number} {name}" for name, number in formats.most_common())
    print(f"{len(contents)} images: {kinds}; {short} go the short way; Pillow {PIL.__version__}")

    def read(content: bytes) -> None:
        read_line(content, options.height, LIMITS)

    times = collections.defaultdict(list)
    for _ in range(ROUNDS):
        times["grey line"].append(measure(read, contents))
        with mock.patch.object(png, "scanlines", None):
            times["grey line, Pillow alone"].append(measure(read, contents))
        times["decode alone, Pillow"].append(measure(decode, contents))
        times["parse and check the chunks"].append(measure(png.parse_plain_png, contents))
    for name, rounds in times.items():
        print(f"{name:<30}{min(rounds):8.1f} µs of processor time an image, median {sorted(rounds)[ROUNDS // 2]:.1f}")


if __name__ == "__main__":
    main()
