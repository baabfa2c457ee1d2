"""Pictures are written whatever the texts and numbers are."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.plots import plot_history, plot_predictions, plot_training_samples
from components.training.data import Examples
from components.training.trainer import EpochRecord
from tfrecords import encode_png

TEXTS = ["plain", "costs $5 and $6", r"$\frac{1}$", "ſchloß", "a_b^c", "\\", ""]


def line(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (32, 40 + 20 * number), np.uint8)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def has_colour(path: Path, colour: tuple[int, int, int]) -> bool:
    with Image.open(path) as image:
        return (np.asarray(image.convert("RGB")) == colour).all(axis=2).any()


def test_read_lines_are_drawn_right_ones_green_and_wrong_ones_red(tmp_path):
    green, red = (0x1B, 0x6E, 0x3C), (0xB3, 0x26, 0x1E)
    for name, read, colours in (("right", "a", (True, False)), ("wrong", "b", (False, True))):
        path = tmp_path / f"{name}.png"
        plot_predictions([(line(1), "a", read, 0.5)], str(path))
        assert (has_colour(path, green), has_colour(path, red)) == colours


def test_texts_that_look_like_formulas_are_drawn_as_they_are(tmp_path):
    plot_predictions([(line(i), text, text[::-1], 0.1) for i, text in enumerate(TEXTS)], str(tmp_path / "grid.png"))
    assert min(size_of(tmp_path / "grid.png")) > 100


def test_more_lines_make_a_higher_picture_and_none_make_one_too(tmp_path):
    heights = []
    for count in (0, 2, 16):
        path = tmp_path / f"{count}.png"
        plot_predictions([(line(1), "a", "a", 1.0)] * count, str(path))
        heights.append(size_of(path)[1])
    assert heights[0] <= heights[1] < heights[2]


def test_training_samples_are_the_chosen_ones(tmp_path):
    examples = Examples(
        images=np.array([encode_png(line(i)) for i in range(3)] + [b"never drawn"], object),
        widths=np.array([40, 60, 80, 1], np.int32),
        labels=np.empty(0, np.int32),
        offsets=np.zeros(5, np.int64),
        texts=["a", "$b$", "c", "d"],
        uris=["", "", "", ""],
    )
    plot_training_samples(examples, [0, 1, 2], str(tmp_path / "samples.png"))
    assert min(size_of(tmp_path / "samples.png")) > 100


@pytest.mark.parametrize("losses", [[3.0, 2.0, 1.0], [5.0], [0.0, 0.0], [math.inf, 2.0], [math.nan, math.nan]], ids=str)
def test_history_is_drawn_whatever_the_losses(tmp_path, losses):
    history = [EpochRecord(i + 1, 1e-3, loss, loss, 0.5, 0.2, 100.0, 0, 1.0) for i, loss in enumerate(losses)]
    plot_history(history, str(tmp_path / "curves.png"))
    assert min(size_of(tmp_path / "curves.png")) > 300


def test_drawing_imports_no_tensorflow():
    program = "import sys, components.plots; sys.exit('tensorflow' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)
