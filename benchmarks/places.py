"""Benchmark of the places of symbols: rendered lines, on which they are known, and their errors in pixels.

    python benchmarks/places.py [--lines=500] [--workspace=DIR]

Two kinds of lines are drawn, in the text faces of Matplotlib: codes, and phrases out of the words of this project's
pages. Of each kind a network is trained on 3,000 lines, by default for codes and with 15 epochs for phrases. Then it
recognises other lines. The errors are those of the starts and ends of visible symbols, in pixels of the image as it was
drawn, on lines whose text is right. Milliseconds are processor time of this process.

`--workspace` keeps the models: a second call trains none.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

import matplotlib
import numpy as np

from benchmarks.common import ROOT, run_command
from components.recogniser import Recogniser, load_recogniser
from components.rendering.faces import Face, find_faces
from components.rendering.lines import render_line_with_places

CODE_SYMBOLS = "ABCDEFGHKLMNPRTUXYabcdefghkmnprtuxy0123456789-"
TEXTS, TRAINED_LINES = 1500, 3000
FLAGS: dict[str, tuple[str, ...]] = {"codes": (), "phrases": ("--epochs=15",)}
GOAL = 4.0  # pixels


def make_texts(kind: str, count: int, chooser: np.random.Generator) -> list[str]:
    """Makes codes of 4 to 10 symbols, or phrases of 3 to 8 words of the documentation."""
    if kind == "codes":
        return ["".join(chooser.choice(list(CODE_SYMBOLS), chooser.integers(4, 11))) for _ in range(count)]
    pages = " ".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    words = re.findall(r"[A-Za-z0-9][A-Za-z0-9'\-]*[.,:;]?", pages)
    starts = chooser.integers(0, len(words) - 8, count)
    lengths = chooser.integers(3, 9, count)
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def train(kind: str, workspace: Path, fonts: str) -> Recogniser:
    """Trains a network on rendered lines of a kind, unless it was trained before; returns it."""
    if not (workspace / "models" / "ACCEPTED").exists():
        workspace.mkdir(parents=True, exist_ok=True)
        texts = workspace / "texts.txt"
        texts.write_text("\n".join(make_texts(kind, TEXTS, np.random.default_rng(0))), encoding="utf-8")
        flags = (f"--texts={texts}", f"--fonts={fonts}", f"--render_count={TRAINED_LINES}")
        run_command(workspace, "--steps=render", *flags)
        (images,) = (workspace / "rendered").iterdir()
        steps = ("--steps=ingest,train,evaluate", "--init_from=none", "--max_cer=1")
        run_command(workspace, *steps, f"--images={images}", *FLAGS[kind])
    return load_recogniser(workspace, engine="onnx")


def link_fonts(folder: Path) -> str:
    """Links the fonts of Matplotlib that have plain letters and digits."""
    folder.mkdir(parents=True, exist_ok=True)
    for font in sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf")):
        if font.name.startswith(("DejaVu", "STIXGeneral")) and "Display" not in font.name:
            (folder / font.name).unlink(missing_ok=True)
            (folder / font.name).symlink_to(font)
    return str(folder)


def measure(kind: str, recogniser: Recogniser, faces: list[Face], lines: int) -> None:
    """Prints the errors on lines that were not trained on."""
    chooser = np.random.default_rng(1)
    texts = [text for text in make_texts(kind, 2 * lines, chooser) if any(map(_can_draw(text), faces))][:lines]
    drawn = []
    for text in texts:
        able = list(filter(_can_draw(text), faces))
        drawn.append(render_line_with_places(text, able[int(chooser.integers(len(able)))], None, chooser))
    started = time.process_time()
    found = list(recogniser.recognise([pixels for pixels, _ in drawn]))
    seconds = time.process_time() - started
    errors, outer, right = [], [], 0
    for text, (_, places), recognition in zip(texts, drawn, found, strict=True):
        if recognition.text == text:
            right += 1
            off = np.abs(np.array(recognition.symbol_spans) - places)
            errors += off[[not symbol.isspace() for symbol in text]].ravel().tolist()
            outer += [off[0, 0], off[-1, 1]]
    median, ninth, mean = np.median(errors), np.percentile(errors, 90), np.mean(errors)
    verdict = "met" if median <= GOAL else "missed"
    print(
        f"{kind:8} {right} of {len(texts)} lines right, {len(errors):,} starts and ends: median {median:.2f} px "
        f"(goal {GOAL:.0f}: {verdict}), mean {mean:.2f}, nine in ten within {ninth:.1f}; ends of lines: median "
        f"{np.median(outer):.2f}; {1000 * seconds / len(texts):.2f} ms a line",
        flush=True,
    )


def _can_draw(text: str):
    return lambda face: face.symbols.issuperset(text)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=500, help="lines to measure, of each kind")
    parser.add_argument("--workspace", help="folder that keeps the models; default: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="places-") as scratch:
        folder = Path(options.workspace or scratch)
        fonts = link_fonts(folder / "fonts")
        for kind in FLAGS:
            recogniser = train(kind, folder / kind, fonts)
            faces = find_faces(fonts, set().union(*make_texts(kind, TEXTS, np.random.default_rng(0))))
            measure(kind, recogniser, faces, options.lines)


if __name__ == "__main__":
    main()
