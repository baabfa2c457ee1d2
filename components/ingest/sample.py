"""A rendered sample collection of serial plates, so that everything can be tried without images of one's own."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tfrecords import storage

LABELLED = 800
UNLABELLED = 400
TRUTH_NAME = "truth.tsv"

_SYMBOLS = "0123456789ABCEFHKLMNPRTUXY"
_FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf")
_FINISHED = "finished"
_TRUTH_HEADER = "path\ttext\n"


def render_sample(folder: str, seed: int = 0) -> tuple[str, str]:
    """Renders the collection once: a labelled folder, an unlabelled one, and the truth of the latter.

    Labels have 3 to 10 symbols, many with adjacent repeats; a label is the name of its
    image. `truth.tsv` beside the folders is a label table of the unlabelled images: a header
    line, `path<TAB>text`, then a row for each image, its path relative to the table.

    Args:
        folder: local; made if it does not exist.

    Returns:
        The labelled and the unlabelled folder.
    """
    labelled, unlabelled = os.path.join(folder, "labelled"), os.path.join(folder, "unlabelled")
    finished = os.path.join(folder, _FINISHED)
    if not os.path.exists(finished):
        os.makedirs(labelled, exist_ok=True)
        os.makedirs(unlabelled, exist_ok=True)
        truth = [_TRUTH_HEADER]
        chooser, noise, fonts = random.Random(seed), np.random.default_rng(seed), _find_fonts()
        for number, text in enumerate(_draw_labels(chooser, LABELLED + UNLABELLED)):
            image = _render_plate(text, chooser, noise, fonts)
            if number < LABELLED:
                image.save(os.path.join(labelled, f"{text}.png"))
            else:
                name = f"plate-{number - LABELLED:04d}.png"
                image.save(os.path.join(unlabelled, name))
                truth.append(f"{os.path.basename(unlabelled)}/{name}\t{text}\n")
        storage.write_bytes(os.path.join(folder, TRUTH_NAME), "".join(truth).encode())
        storage.write_bytes(finished, b"")
    return labelled, unlabelled


def is_sample_rendered(folder: str) -> bool:
    """Checks whether the collection is rendered, to its end."""
    return os.path.exists(os.path.join(folder, _FINISHED))


def read_truth(folder: str) -> dict[str, str]:
    """Reads the texts of the unlabelled images, by file name.

    Earlier versions wrote the table without a header, and file names in place of paths.
    """
    with open(os.path.join(folder, TRUTH_NAME), encoding="utf-8") as file:
        rows = (line.rstrip("\n").split("\t") for line in file if line != _TRUTH_HEADER)
        return {os.path.basename(path): text for path, text in rows}


def _draw_labels(chooser: random.Random, count: int) -> Iterator[str]:
    """Draws distinct labels of mixed lengths; about every third has an adjacent repeat."""
    seen: set[str] = set()
    while len(seen) < count:
        symbols = chooser.choices(_SYMBOLS, k=chooser.randint(3, 10))
        if chooser.random() < 0.3:
            position = chooser.randrange(1, len(symbols))
            symbols[position] = symbols[position - 1]
        if len(symbols) > 5 and chooser.random() < 0.4:
            symbols[chooser.randrange(2, len(symbols) - 2)] = "-"
        label = "".join(symbols)
        if label not in seen:
            seen.add(label)
            yield label


def _find_fonts() -> list[str]:
    import matplotlib

    return [os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name) for name in _FONTS]


def _render_plate(text: str, chooser: random.Random, noise: np.random.Generator, fonts: list[str]) -> Image.Image:
    """Renders one plate: dark text on a light ground, a little crooked, blurred and grainy."""
    height = chooser.randint(40, 64)
    font = ImageFont.truetype(chooser.choice(fonts), round(height * chooser.uniform(0.5, 0.65)))
    left, top, right, bottom = font.getbbox(text)
    margin = round(height * chooser.uniform(0.15, 0.4))
    ground, ink = chooser.randint(190, 245), chooser.randint(10, 80)
    image = Image.new("L", (round(right - left) + 2 * margin, height), ground)
    origin = (margin - left, (height - (bottom - top)) / 2 - top + chooser.uniform(-3, 3))
    ImageDraw.Draw(image).text(origin, text, font=font, fill=ink)
    image = image.rotate(chooser.uniform(-1.5, 1.5), Image.Resampling.BILINEAR, fillcolor=ground)
    image = image.filter(ImageFilter.GaussianBlur(chooser.uniform(0, 0.9)))
    grain = noise.normal(0, chooser.uniform(2, 10), (image.height, image.width))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
