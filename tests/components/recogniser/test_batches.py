from __future__ import annotations

import threading

import numpy as np
import pytest

from components.recogniser import batches as scoring
from components.recogniser.batches import BATCH_LINES, BATCH_PIXELS, recognise_in_batches
from components.recogniser.model import Recognition


class Recorder:
    """Reads a line as its width, and keeps the widths of every batch."""

    def __init__(self):
        self.batches: list[list[int]] = []

    def __call__(self, lines):
        self.batches.append([line.shape[1] for line in lines])
        return [Recognition(str(line.shape[1]), 1.0, ()) for line in lines]


def lines_of(widths, height: int = 8):
    return ((f"tag {i}", np.zeros((height, width), np.uint8)) for i, width in enumerate(widths))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("widths", [[], [1], [1, 2, 3, 20_000], [50] * 300, list(range(1, 700))])
def test_each_line_comes_out_once_with_its_own_reading(widths, threads):
    found = dict(recognise_in_batches(lines_of(widths), Recorder(), threads))
    assert {tag: reading.text for tag, reading in found.items()} == {f"tag {i}": str(w) for i, w in enumerate(widths)}
    assert len(list(recognise_in_batches(lines_of(widths), Recorder(), threads))) == len(widths)


def test_batches_hold_like_widths_and_respect_the_budget():
    widths = np.random.default_rng(0).integers(8, 6000, 1500).tolist()
    read = Recorder()
    assert len(list(recognise_in_batches(lines_of(widths, height=48), read))) == 1500
    for batch in read.batches:
        assert max(batch) <= 1.15 * min(batch) * (1 + 1e-9)
        assert len(batch) <= BATCH_LINES
        # What a batch costs is its widest line times its lines: padding counts.
        assert len(batch) * max(batch) * 48 <= BATCH_PIXELS * 1.15


def test_lines_of_one_width_fill_batches_to_the_last_place():
    read = Recorder()
    list(recognise_in_batches(lines_of([10] * (2 * BATCH_LINES + 5)), read))
    assert [len(batch) for batch in read.batches] == [BATCH_LINES, BATCH_LINES, 5]


def test_a_line_above_the_budget_is_a_batch_of_its_own():
    read = Recorder()
    wide = BATCH_PIXELS // 8 + 1
    assert len(list(recognise_in_batches(lines_of([wide, wide]), read))) == 2
    assert [len(batch) for batch in read.batches] == [1, 1]


def test_lines_are_scored_as_soon_as_a_batch_is_full():
    """Memory stays bounded: the source is not read to its end first."""
    taken = 0

    def source():
        nonlocal taken
        for tagged in lines_of([100] * 1000):
            taken += 1
            yield tagged

    next(recognise_in_batches(source(), Recorder()))
    assert taken == BATCH_LINES


def test_threads_score_batches_at_one_time_while_a_bounded_number_of_lines_is_ahead():
    taken, most_ahead, scored = 0, 0, 0
    together = threading.Barrier(2)  # breaks, and fails the test, unless two batches are scored at once

    def source():
        nonlocal taken
        for tagged in lines_of([100] * (20 * BATCH_LINES)):
            taken += 1
            yield tagged

    def read(lines):
        nonlocal most_ahead, scored
        together.wait(timeout=20)
        most_ahead = max(most_ahead, taken - scored)
        scored += len(lines)
        return Recorder()(lines)

    assert len(list(recognise_in_batches(source(), read, 2))) == 20 * BATCH_LINES
    assert most_ahead <= 6 * BATCH_LINES


@pytest.mark.parametrize("threads", [1, 2])
def test_a_reader_that_loses_a_line_is_an_error(threads):
    with pytest.raises(ValueError, match="shorter"):
        list(recognise_in_batches(lines_of([5, 5]), lambda lines: [Recognition("x", 1.0, ())], threads))


def test_the_budget_is_what_decides(monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_PIXELS", 3 * 8 * 10)
    read = Recorder()
    list(recognise_in_batches(lines_of([10] * 7), read))
    assert [len(batch) for batch in read.batches] == [3, 3, 1]
