"""Benchmark of what the defaults learn: small collections of different kinds, each below its stated CER.

    python benchmarks/kinds.py [--data=../shared/data] [--only=codes,plates] [--seeds=0] [--scratch=DIR]

Most kinds are rendered here, 500 lines each. `--data` adds real ones from a folder: `captcha` and `plates`, whose names
are their labels, `vn_handwriting` with its `labels.json`, and `fraktur` with text files, split by book. All are trained
and evaluated by the command with its defaults. The exit status is 1 if a kind misses its CER.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from benchmarks.common import run_command

LINES = 500
GOALS = {
    "codes": 0.01,
    "white_on_black": 0.01,
    "both_polarities": 0.02,
    "faint": 0.02,
    "long_lines": 0.02,
    "seven_segments": 0.01,
    "dot_matrix": 0.02,
    "mixed_heights": 0.02,
    "captcha": 0.01,
    "plates": 0.05,
    "vn_handwriting": 0.09,
    "fraktur": 0.02,
}
"""The CER on held-out lines that each kind has to stay below."""
_LETTERS = "ABCDEFGHKLMNPRSTUVWXYZ0123456789"
_WORDS = "the of and to in archive ledger paid received from William Margaret pounds shillings meadow house"
_SEGMENTS = {  # a to g, as data sheets name them
    "0": "abcdef",
    "1": "bc",
    "2": "abdeg",
    "3": "abcdg",
    "4": "bcfg",
    "5": "acdfg",
    "6": "acdefg",
    "7": "abc",
    "8": "abcdefg",
    "9": "abcdfg",
}
_BARS = {
    "a": (2, 0, 14, 3),
    "b": (13, 2, 16, 14),
    "c": (13, 16, 16, 28),
    "d": (2, 27, 14, 30),
    "e": (0, 16, 3, 28),
    "f": (0, 2, 3, 14),
    "g": (2, 13, 14, 16),
}


def render_codes(chooser: random.Random) -> tuple[Image.Image, str]:
    """Renders dark codes of 4 to 8 symbols on light ground."""
    text = "".join(chooser.choices(_LETTERS, k=chooser.randint(4, 8)))
    return _render(text, chooser, chooser.randint(24, 34)), text


def render_white_on_black(chooser: random.Random) -> tuple[Image.Image, str]:
    """Renders light codes on dark ground."""
    image, text = render_codes(chooser)
    return ImageOps.invert(image), text


def render_both_polarities(chooser: random.Random) -> tuple[Image.Image, str]:
    """Renders one code of four in light on dark."""
    return (render_white_on_black if chooser.random() < 0.25 else render_codes)(chooser)


def render_faint(chooser: random.Random) -> tuple[Image.Image, str]:
    """Renders codes in weak ink, on paper of any shade, lit from one side."""
    image, text = render_codes(chooser)
    image = ImageEnhance.Contrast(image).enhance(chooser.uniform(0.2, 0.6))
    light = Image.linear_gradient("L").rotate(chooser.choice((90, 270))).resize(image.size)
    return Image.blend(image, light, chooser.uniform(0.0, 0.3)), text


def render_long_lines(chooser: random.Random) -> tuple[Image.Image, str]:
    """Renders lines of 6 to 9 words."""
    text = " ".join(chooser.choices(_WORDS.split(), k=chooser.randint(6, 9)))
    return _render(text, chooser, chooser.randint(22, 30)), text


def render_seven_segments(chooser: random.Random) -> tuple[Image.Image, str]:
    """Renders the lit digits of a meter, some segments darker than others."""
    text = "".join(chooser.choices("0123456789", k=chooser.randint(4, 7)))
    image = Image.new("L", (24 * len(text) + 16, 46), chooser.randint(0, 60))
    pen = ImageDraw.Draw(image)
    for place, digit in enumerate(text):
        for segment in _SEGMENTS[digit]:
            left, top, right, bottom = _BARS[segment]
            box = (8 + 24 * place + left, 8 + top, 8 + 24 * place + right, 8 + bottom)
            pen.rectangle(box, chooser.randint(150, 255))
    return image, text


def render_dot_matrix(chooser: random.Random) -> tuple[Image.Image, str]:
    """Renders codes in dots, as printers on production lines do."""
    text = "".join(chooser.choices(_LETTERS, k=chooser.randint(5, 9)))
    small = _render(text, random.Random(0), 14, paper=255, ink=0).point(lambda grey: 255 * (grey > 140))
    image = Image.new("L", (4 * small.width, 4 * small.height), chooser.randint(200, 255))
    pen = ImageDraw.Draw(image)
    ink = chooser.randint(0, 80)
    for x in range(small.width):
        for y in range(small.height):
            if not small.getpixel((x, y)):
                pen.ellipse((4 * x, 4 * y, 4 * x + 2, 4 * y + 2), ink)
    return image, text


def render_mixed_heights(chooser: random.Random) -> tuple[Image.Image, str]:
    """Renders codes from 12 to 60 pixels high."""
    text = "".join(chooser.choices(_LETTERS, k=chooser.randint(4, 8)))
    return _render(text, chooser, chooser.randint(12, 60)), text


RENDERED: dict[str, Callable[[random.Random], tuple[Image.Image, str]]] = {
    "codes": render_codes,
    "white_on_black": render_white_on_black,
    "both_polarities": render_both_polarities,
    "faint": render_faint,
    "long_lines": render_long_lines,
    "seven_segments": render_seven_segments,
    "dot_matrix": render_dot_matrix,
    "mixed_heights": render_mixed_heights,
}


def _render(
    text: str, chooser: random.Random, size: int, *, paper: int | None = None, ink: int | None = None
) -> Image.Image:
    """Renders a text in its own size and place."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    margin = chooser.randint(2, max(3, size // 3))
    paper = chooser.randint(190, 255) if paper is None else paper
    ink = chooser.randint(0, 90) if ink is None else ink
    image = Image.new("L", (round(right - left) + 2 * margin, round(bottom - top) + margin), paper)
    ImageDraw.Draw(image).text((margin - left, margin // 2 - top), text, ink, font)
    return image


def render_collection(kind: str, folder: Path, seed: int) -> list[str]:
    """Renders the images of a kind; returns the flags for them."""
    chooser = random.Random(f"{kind} {seed}")
    folder.mkdir(parents=True)
    for number in range(LINES):
        image, text = RENDERED[kind](chooser)
        image.save(folder / f"{number:04d}.png")
        (folder / f"{number:04d}.txt").write_text(text, encoding="utf-8")
    return [f"--images={folder}", "--label_source=sidecar"]


def find_collection(kind: str, data: Path, folder: Path) -> list[str]:
    """Finds the images of a real kind; returns the flags for them."""
    if kind == "vn_handwriting":
        folder.mkdir(parents=True)
        for name, text in json.loads((data / kind / "labels.json").read_text(encoding="utf-8")).items():
            shutil.copyfile(data / kind / "data" / name, folder / name)
            (folder / name).with_suffix(".txt").write_text(text, encoding="utf-8")
        return [f"--images={folder}", "--label_source=sidecar"]
    if kind == "fraktur":
        return [f"--images={data / kind}", "--label_source=sidecar", "--split_by=folder"]
    return [f"--images={data / kind}", "--label_source=filename"]


def main() -> None:
    """Prints a row for each kind; ends with status 1 if one misses its CER."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--scratch", default=tempfile.gettempdir())
    options = parser.parse_args()
    kinds = [kind for kind in GOALS if kind in RENDERED or options.data is not None]
    if options.only:
        asked = options.only.split(",")
        if unknown := set(asked) - set(kinds):
            sys.exit(f"error: --only={options.only}: {', '.join(sorted(unknown))} is unknown, or needs --data")
        kinds = [kind for kind in kinds if kind in asked]
    missed = False
    print(f"{'kind':<18}{'seed':>5}{'CER':>9}{'goal':>9}{'exact':>9}{'lines':>7}{'seconds':>9}{'processor s':>13}")
    for kind in kinds:
        for seed in map(int, options.seeds.split(",")):
            with tempfile.TemporaryDirectory(prefix="kinds-", dir=options.scratch) as scratch:
                folder = Path(scratch) / "images"
                flags = (
                    render_collection(kind, folder, seed)
                    if kind in RENDERED
                    else find_collection(kind, options.data.resolve(), folder)
                )
                run = run_command(
                    Path(scratch) / "workspace",
                    "--steps=ingest,train,evaluate",
                    f"--seed={seed}",
                    "--max_cer=1",
                    *flags,
                )
            cer, exact = run.figures["cer"], run.figures["exact_match"]
            missed |= cer >= GOALS[kind]
            row = f"{kind:<18}{seed:>5}{cer:>9.2%}{GOALS[kind]:>9.2%}{exact:>9.1%}{run.figures['images']:>7}"
            print(f"{row}{run.process:>9.0f}{run.processor:>13.0f}{'  MISSED' * (cer >= GOALS[kind])}", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
