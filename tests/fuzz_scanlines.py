"""Makes grey lines of scanlines by chance with an extension that is built with sanitizers, and compares some of them.

    python -m tests.fuzz_scanlines --inputs=1000000

A read or a write beside a buffer, or an undefined operation, ends it, with what gcc's sanitizers say. One in fifty is
made a PNG too, and has to be read as Pillow reads it. Every input has a number that says all about it:
`--first=4711 --inputs=1` makes it again.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from tests.fuzzing.scanlines import build_with_sanitizers, choose_scanlines
from tfrecords import ImageLimits, ImageRejected, png, read_line

_COMPARED = 50
_BUILT = "SCANLINES_WITH_SANITIZERS"
"""Variable of the environment: the folder of the extension."""


def fuzz(inputs: int, first: int = 0) -> subprocess.CompletedProcess[str]:
    """Makes lines of the inputs of these numbers in a process that has the sanitizers."""
    with tempfile.TemporaryDirectory(prefix="scanlines-") as folder:
        environment = build_with_sanitizers(Path(folder)) | {_BUILT: folder}
        command = [sys.executable, "-m", "tests.fuzz_scanlines", f"--inputs={inputs}", f"--first={first}"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)


def make_lines(inputs: int, first: int, folder: str) -> collections.Counter[str]:
    """Makes lines in this process; returns what became of the inputs.

    Raises:
        AssertionError: if a PNG is not read as Pillow reads it.
    """
    spec = importlib.util.spec_from_file_location("scanlines", os.path.join(folder, "scanlines.so"))
    assert spec is not None
    assert spec.loader is not None
    scanlines = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scanlines)
    outcomes: collections.Counter[str] = collections.Counter()
    for number in range(first, first + inputs):
        chosen = choose_scanlines(number)
        try:
            line = scanlines.make_grey_line(*chosen)
            outcomes["not plain" if line is None else "made"] += 1
        except (ValueError, OverflowError):
            outcomes["refused"] += 1
            continue
        if number % _COMPARED == 0:
            content = chosen.make_png()
            read = []
            for extension in (scanlines, None):
                with mock.patch.object(png, "scanlines", extension):
                    read.append(describe_reading(content, chosen.line[1], chosen.vertical))
            assert read[0] == read[1], f"input {number} is not read as Pillow reads it"
            outcomes["compared"] += 1
    return outcomes


def describe_reading(content: bytes, height: int, vertical: bool) -> tuple:
    """Reads an image; returns all that is known of the line, or why there is none."""
    try:
        line = read_line(content, height, ImageLimits(min_side=1), vertical)
    except ImageRejected as reject:
        return reject.reason, reject.detail
    return line.pixels.shape, line.pixels.tobytes(), line.source_width, line.source_height, line.vertical


def main() -> int:
    """Makes as many lines as are asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    arguments = parser.parse_args()
    if folder := os.environ.get(_BUILT):
        print(dict(make_lines(arguments.inputs, arguments.first, folder)))
        return 0
    done = fuzz(arguments.inputs, arguments.first)
    print(done.stdout, done.stderr, sep="", end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
