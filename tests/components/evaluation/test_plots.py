"""Pictures of an evaluation are written whatever was read, and show what differs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.evaluation import plots
from components.evaluation.confusions import Confusions
from components.evaluation.lines import EvaluatedLine
from components.metrics import compute_edit_distance
from tfrecords import encode_png

GREEN, RED, MARK = (0x1B, 0x6E, 0x3C), (0xB3, 0x26, 0x1E), (0xF6, 0xC9, 0xC5)
BUCKET = {"from": 3, "to": 5, "images": 7, "exact_match": 0.5, "cer": 0.1, "mean_confidence": 0.4}


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A picture is drawn in silence: what the font lacks is a box."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def line(truth: str, text: str, *, width: int = 120) -> EvaluatedLine:
    pixels = np.random.default_rng(width).integers(0, 256, (32, width), np.uint8)
    return EvaluatedLine("/in/line.png", truth, text, 0.5, compute_edit_distance(truth, text), encode_png(pixels))


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def count_of(path: Path, colour: tuple[int, int, int]) -> int:
    return int((pixels_of(path) == colour).all(axis=2).sum())


def test_read_lines_are_drawn_right_ones_green_and_wrong_ones_red(tmp_path):
    for name, read, colours in (("right", "a", (True, False)), ("wrong", "b", (False, True))):
        path = tmp_path / f"{name}.png"
        plots.plot_predictions([line("a", read)], str(path))
        assert (count_of(path, GREEN) > 0, count_of(path, RED) > 0) == colours


@pytest.mark.parametrize(
    ("truth", "text"),
    [
        ("plain", "pla1n"),
        ("costs $5 and $6", "costs $5 und $6"),
        ("oͤſterreich ﬁnden Ge⸗", "öſterreich finden Ge-"),
        ("a\u0303b", "ab"),
        ("ab", "a\u0303b\u0303"),
        ("a b", "ab"),
        ("שלום", "שלים"),
        ("漢字", ""),
        ("a" * 500, "b" * 3),
    ],
)
def test_worst_lines_mark_what_differs_whatever_the_symbols(tmp_path, truth, text):
    plots.plot_worst_lines([line(truth, text)], str(tmp_path / "worst.png"))
    assert count_of(tmp_path / "worst.png", MARK) > 50


def test_each_differing_symbol_of_the_worst_lines_has_its_mark(tmp_path):
    marked = []
    for read in ("abcdef", "abcdex", "abcdxx"):
        plots.plot_worst_lines([line("abcdef", read)], str(tmp_path / "worst.png"))
        marked.append(count_of(tmp_path / "worst.png", MARK))
    assert marked[0] == 0
    assert marked[2] > 1.7 * marked[1] > 0


def test_a_long_line_keeps_its_width_and_a_long_label_is_continued_below(tmp_path):
    sizes = []
    for truth, width in (("ab", 300), ("ab", 1500), ("ab" * 200, 1500)):
        plots.plot_worst_lines([line(truth, "", width=width)], str(tmp_path / "worst.png"))
        sizes.append(pixels_of(tmp_path / "worst.png").shape[:2])
    assert {width for _, width in sizes} == {1210}
    assert sizes[2][0] > sizes[1][0] + 100
    # At least 1,000 columns of the page hold pixels of the line.
    plots.plot_worst_lines([line("", "", width=1500)], str(tmp_path / "worst.png"))
    grey = pixels_of(tmp_path / "worst.png").min(axis=(0, 2)) < 200
    assert grey.sum() > 1000


def test_nothing_wrong_is_drawn_too(tmp_path):
    plots.plot_worst_lines([], str(tmp_path / "worst.png"))
    plots.plot_confusions([], str(tmp_path / "confusions.png"))
    assert min(pixels_of(tmp_path / "worst.png").shape[:2]) > 50
    assert min(pixels_of(tmp_path / "confusions.png").shape[:2]) > 50


def test_confusions_are_named_by_what_can_be_seen(tmp_path, monkeypatch):
    confusions = Confusions()
    for truth, read in [("ſ", "f"), ("o\u0303", "o"), ("⸗", "-"), ("a b", "ab"), ("$", "\ue5dc"), ("b", "bb")]:
        confusions.add(truth, read, "x.png")
    named = []
    monkeypatch.setattr(
        plots, "describe_confusions", lambda *pair: named.append(describe_confusions(*pair)) or named[-1]
    )
    from components.evaluation.confusions import describe_confusions

    plots.plot_confusions(confusions.to_table().to_pylist(), str(tmp_path / "confusions.png"))
    assert sorted(named) == sorted(
        ["ſ read as f", "U+0303 left out", "U+2E17 read as -", "U+0020 left out", "$ read as U+E5DC", "b added"]
    )


def test_accuracy_is_drawn_for_any_buckets(tmp_path):
    for number, buckets in enumerate([[BUCKET], [BUCKET | {"cer": 0.0}], [BUCKET | {"to": 9, "cer": 3.5}, BUCKET]]):
        plots.plot_accuracy_by_length(buckets, str(tmp_path / f"{number}.png"))
        assert min(pixels_of(tmp_path / f"{number}.png").shape[:2]) > 300


def test_another_calibration_is_another_picture(tmp_path):
    points = [BUCKET | {"from": i / 10, "to": (i + 1) / 10} for i in range(10)]
    contents = []
    for shift in (0.0, 0.3):
        bins = [bin | {"mean_confidence": bin["to"], "exact_match": max(bin["to"] - shift, 0)} for bin in points]
        plots.plot_calibration(bins, shift, str(tmp_path / "calibration.png"))
        contents.append(pixels_of(tmp_path / "calibration.png"))
    assert contents[0].shape == contents[1].shape
    assert (contents[0] != contents[1]).any()
