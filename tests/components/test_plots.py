"""Pictures are written whatever the texts and numbers are."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.plots import ShownLine, lay_out_text, plot_grid, replace_undrawable
from components.training.history import EpochRecord
from components.training.plots import plot_distortions, plot_history, plot_training_samples
from tests.written_examples import write_examples
from tfrecords import Charset, encode_png

TEXTS = ["plain", "costs $5 and $6", r"$\frac{1}$", "ſchloß", "a_b^c", "\\", "", "\ue5dc⸗\u0364", "漢字"]


def line(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (32, 40 + 20 * number), np.uint8)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def test_texts_that_look_like_formulas_or_that_the_font_lacks_are_drawn_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_grid("Lines", [ShownLine(line(i), text) for i, text in enumerate(TEXTS)], str(tmp_path / "grid.png"))
    assert min(size_of(tmp_path / "grid.png")) > 100


def test_more_lines_make_a_higher_picture_and_none_make_one_too(tmp_path):
    heights = []
    for count in (0, 2, 16):
        path = tmp_path / f"{count}.png"
        plot_grid("Lines", [ShownLine(line(1), "a")] * count, str(path))
        heights.append(size_of(path)[1])
    assert heights[0] <= heights[1] < heights[2]


def test_long_lines_are_drawn_in_one_column(tmp_path):
    heights = []
    for width in (200, 1000):
        path = tmp_path / f"{width}.png"
        plot_grid("Lines", [ShownLine(np.zeros((32, width), np.uint8), "a")] * 8, str(path))
        heights.append(size_of(path)[1])
    assert heights[1] > 1.7 * heights[0]


def test_what_the_font_lacks_is_a_box():
    assert replace_undrawable("ſchloß ﬁ ã $5 ✓\n") == "ſchloß ﬁ ã $5 ✓\n"
    assert replace_undrawable("a\ue5dcb") == "a▯b"


def test_training_samples_are_the_chosen_ones(tmp_path):
    images = [encode_png(line(i)) for i in range(3)] + [b"never drawn"]
    examples = write_examples(
        tmp_path / "dataset", Charset(tuple("$abcd")), images, [40, 60, 80, 1], ["a", "$b$", "c", "d"]
    )
    plot_training_samples(examples, [0, 1, 2], str(tmp_path / "samples.png"))
    assert min(size_of(tmp_path / "samples.png")) > 100
    for name, seed in (("once", 0), ("again", 0), ("other", 1)):
        plot_distortions(examples, [0, 2], seed, str(tmp_path / f"{name}.png"))
    assert min(size_of(tmp_path / "once.png")) > 100
    once, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("once", "again", "other"))
    assert once == again != other


@pytest.mark.parametrize("losses", [[3.0, 2.0, 1.0], [5.0], [0.0, 0.0], [math.inf, 2.0], [math.nan, math.nan]], ids=str)
def test_history_is_drawn_whatever_the_losses(tmp_path, losses):
    history = [
        EpochRecord(i + 1, i + 1, 1e-3, loss, loss, 0.5, 0.6, 0.2, 100.0, 0, 1.0, 9) for i, loss in enumerate(losses)
    ]
    plot_history(history, str(tmp_path / "curves.png"))
    assert min(size_of(tmp_path / "curves.png")) > 300


def test_drawing_imports_no_tensorflow():
    program = "import sys, components.plots; sys.exit('tensorflow' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


def test_a_text_is_drawn_in_the_order_in_which_it_is_seen():
    assert lay_out_text("שלום 12") == "12 םולש"
    assert lay_out_text("ab (12)") == "ab (12)"
