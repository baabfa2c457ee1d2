"""Places of symbols: on drawn bars, in any batch, and on rendered lines whose places are known."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from components.recogniser.places import Contrast, find_symbol_edges
from components.rendering.faces import find_faces
from components.rendering.lines import render_line_with_places
from tfrecords import ImageLimits, convert_line, pad_lines

STRIDE = 4
RIGHT = 1.5  # pixels: what a time step of a strided network sees lies so far to the right of its own pixels


def draw_bars(width: int, *bars: tuple[int, int], height: int = 32) -> np.ndarray:
    """A white line with black bars, each from one column to another."""
    line = np.full((height, width), 250, np.uint8)
    for start, end in bars:
        line[5:-5, start:end] = 10
    return line


def find_spans(lines: list[np.ndarray], runs: list[list[tuple[int, int]]], steps: int | None = None) -> list[list]:
    images, widths = pad_lines(lines, STRIDE)
    time_steps = -(-widths // STRIDE) if steps is None else np.full(len(lines), steps)
    arrays = [np.array(run, np.int32).reshape(-1, 2) for run in runs]
    found = find_symbol_edges(arrays, Contrast.measure(images, widths), widths, time_steps, STRIDE)
    return [list(zip(edges[::2], edges[1::2], strict=True)) for edges in found]


def run_at(column: float) -> tuple[int, int]:
    """The time step that sees a column best."""
    step = round((column - RIGHT) / STRIDE - 0.5)
    return step, step + 1


def test_symbols_meet_in_the_white_between_them_and_the_outer_ones_end_with_their_ink():
    bars = [(30, 50), (56, 60), (64, 92)]
    ((first, second, third),) = find_spans([draw_bars(140, *bars)], [[run_at(40), run_at(58), run_at(78)]])
    assert 27 <= first[0] <= 30
    assert 50 <= first[1] == second[0] <= 56
    assert 60 <= second[1] == third[0] <= 64
    assert 92 <= third[1] <= 95


def test_a_border_without_any_white_lies_midway():
    ((first, second),) = find_spans([draw_bars(200, (0, 200))], [[(19, 20), (29, 30)]])
    left, right = 19.5 * STRIDE + RIGHT, 29.5 * STRIDE + RIGHT
    assert first[1] == second[0] == pytest.approx((left + right) / 2, abs=1)
    assert 0.3 < (left - first[0]) / (right - left) < 0.6
    assert 0.3 < (second[1] - right) / (right - left) < 0.6


def test_a_symbol_that_the_edge_of_the_image_cuts_reaches_to_the_edge():
    ((first, second),) = find_spans([draw_bars(80, (0, 36), (42, 80))], [[run_at(18), run_at(60)]])
    assert 36 <= first[1] == second[0] <= 42
    assert (first[0], second[1]) == (0, 80)


def test_a_symbol_alone_on_its_line_has_the_ink_around_it():
    ((only,),) = find_spans([draw_bars(60, (22, 36))], [[run_at(29)]])
    assert 19 <= only[0] <= 22
    assert 36 <= only[1] <= 39


def test_a_network_that_squeezes_lines_has_time_steps_of_the_width_that_they_got():
    bars = [(40, 70), (76, 110)]
    ((first, second),) = find_spans([draw_bars(200, *bars)], [[(5, 6), (8, 10)]], steps=20)
    assert 37 <= first[0] <= 40
    assert 70 <= first[1] == second[0] <= 76
    assert 110 <= second[1] <= 113


def test_places_are_in_order_inside_the_line_one_a_symbol_and_the_same_in_every_batch():
    chooser = np.random.default_rng(11)
    lines, runs = [], []
    for _ in range(60):
        width = int(chooser.integers(1, 150))
        steps = -(-width // STRIDE)
        edges = np.sort(chooser.choice(steps + 1, 2 * int(chooser.integers(0, (steps + 1) // 2 + 1)), replace=False))
        runs.append(edges.reshape(-1, 2).tolist())
        lines.append(chooser.integers(0, 256, (16, width), np.uint8) if width % 3 else draw_bars(width, height=16))
    found = find_spans(lines, runs)
    assert {len(spans) for spans in found} >= {0, 1, 2, 5}
    for line, run, spans in zip(lines, runs, found, strict=True):
        assert len(spans) == len(run)
        edges = list(itertools.chain.from_iterable(spans))
        assert edges == sorted(edges)
        assert all(0 <= edge <= line.shape[1] for edge in edges)
        assert all(left[1] == right[0] for left, right in itertools.pairwise(spans))
        assert [spans] == find_spans([line], [run])
    assert find_spans(lines[:2], [[], []]) == [[], []]


@pytest.mark.slow
def test_on_rendered_lines_places_are_right_to_a_few_pixels():
    import keras

    from components.ctc.decoding import decode_greedily
    from components.recogniser.manifest import KERAS_NAME
    from components.training.base_weights import find_base_weights
    from components.training.learner import make_logits_function

    folder, manifest = find_base_weights("ctc_conv")
    charset = manifest.read_charset(folder)
    model = keras.saving.load_model(manifest.fetch(folder, KERAS_NAME), compile=False, safe_mode=True)
    compute_logits = make_logits_function(model, manifest.height)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    texts = ["".join(np.random.default_rng(i).choice(list("ABCDEFHKLMNPRSTUXY 2345678"), 7)) for i in range(40)]
    texts = [" ".join(text.split()) for text in texts]
    faces = [face for face in find_faces(str(fonts), set("".join(texts))) if "DejaVu" in face.path]
    errors: list[float] = []
    for number, text in enumerate(texts):
        face = next(face for face in faces[number % len(faces) :] + faces if face.symbols.issuperset(text))
        picture, places = render_line_with_places(text, face, None, np.random.default_rng(number))
        line = convert_line(picture, manifest.height, ImageLimits())
        images, widths = pad_lines([line.pixels], STRIDE)
        logits, time_steps = (output.numpy() for output in compute_logits(images, widths))
        (decoded,) = decode_greedily(logits, time_steps)
        if charset.decode(decoded.ids) == text:
            (edges,) = find_symbol_edges([decoded.runs], Contrast.measure(images, widths), widths, time_steps, STRIDE)
            visible = [not symbol.isspace() for symbol in text]
            errors += np.abs(np.reshape(edges, (-1, 2)) * line.scale - places)[visible].ravel().tolist()
    assert len(errors) > 200
    assert np.median(errors) <= 2.5
    assert np.mean(np.array(errors) <= 8) > 0.85
